//! Servers of Node.js that share a port by `reusePort`: workers of one cluster, which mean to, and two that do not.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use scenarios::{Folder, Recording, Server, loopback, node};

const NODE_REUSE_PORT: &str = "
const cluster = require('cluster'), http = require('http');
if (cluster.isPrimary) {
    cluster.fork();
    cluster.fork();
} else {
    http.createServer((request, response) => response.end())
        .listen({ host: process.argv[2], port: 8000, reusePort: true });
}
";

#[test]
fn node_cluster_workers_that_share_by_reuse_port_are_a_pool() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let script = folder.write("cluster.js", NODE_REUSE_PORT);
    let host = address.to_string();
    let node = node();
    let _server = Server::start(folder.path(), [node.as_os_str(), script.as_os_str(), host.as_ref()]);
    recording.wait_for(address, "listen", 2);
    recording.fence();
    let finished = recording.stop();
    let found = finished.report().at(address);
    assert!(found.is_empty(), "{found:#?}");
    let strict = finished.log.report_with(&["--related-by", "process"]);
    assert_eq!(strict.only(address, 8000).kind(), "co-bind", "each worker has a socket of its own");
}

#[test]
fn two_clusters_on_one_port_are_one_co_bind() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let script = folder.write("cluster.js", NODE_REUSE_PORT);
    let host = address.to_string();
    let node = node();
    let start = || Server::start(folder.path(), [node.as_os_str(), script.as_os_str(), host.as_ref()]);
    let _servers = [start(), start()];
    recording.wait_for(address, "listen", 4);
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.holders().len()), ("co-bind", 4), "{finding:#?}");
}

const NODE_SUITE: &str = "
const http = require('http');
let served = 0;
const server = http.createServer((request, response) => response.end(String(++served)));
server.listen({ host: process.argv[2], port: 9926, reusePort: true });
";

/// The story that took days to find: two suites, each with a Node.js server of its own on one address and port, and half
/// of the requests of one answered by the other.
#[test]
fn two_suites_on_one_port_are_told_in_one_sentence() {
    const CONNECTIONS: usize = 118;
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let (script, host) = (folder.write("suite.js", NODE_SUITE), address.to_string());
    let (node, bindwatch) = (node(), scenarios::bindwatch());
    let suite = |name: &str| {
        let log = folder.file(name);
        let run = ["run", "--quiet", "--name", name, "-o"].map(std::ffi::OsStr::new);
        let mut line = vec![bindwatch.as_os_str()];
        line.extend(run);
        line.extend([log.as_os_str(), "--".as_ref(), node.as_os_str(), script.as_os_str(), host.as_ref()]);
        Server::start(folder.path(), line)
    };
    let _first = suite("Issue_135");
    recording.wait_for(address, "listen", 1);
    let second = suite("Selective_table");
    recording.wait_for(address, "listen", 2);
    let clients = (0..CONNECTIONS).filter_map(|_| std::net::TcpStream::connect((address, 9926)).ok());
    assert_eq!(clients.count(), CONNECTIONS);
    drop(second);
    recording.wait_for(address, "listen", 2);
    recording.fence();
    let finding = recording.stop().report().only(address, 9926);
    let split: Vec<u64> = finding.holders().iter().map(|holder| holder.number("accepted")).collect();
    assert_eq!((split.len(), split.iter().sum::<u64>()), (2, CONNECTIONS as u64), "{finding:#?}");
    assert!(split[1] > 0, "{split:?}");
    let (pids, story) = (finding.pids(), finding.text("story"));
    let time = |holder: usize, name: &str| match finding.holders()[holder].0[name].as_str() {
        Some(time) => time[11..19].to_owned(),
        None => "on".to_owned(),
    };
    // Where two of the times are close, they are told with their milliseconds.
    let times: Vec<String> =
        ["bound_at", "released_at"].iter().flat_map(|name| [time(0, name), time(1, name)]).collect();
    assert!(
        times.iter().filter(|time| *time != "on").all(|time| story.contains(time.as_str())),
        "{story}: {times:?}"
    );
    let start = format!("Issue_135 (PID {}) held {address}:9926 from ", pids[0]);
    let also = format!("; Selective_table (PID {}) also held it from ", pids[1]);
    let end = format!(
        ": {} of {CONNECTIONS} connections went to the second, the wrong one for whoever meant the first",
        split[1]
    );
    assert!(story.starts_with(&start) && story.contains(&also) && story.ends_with(&end), "{story}");
    println!("{story}");
}
