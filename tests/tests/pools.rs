//! Workers that a supervisor starts one by one and that share on purpose: by their marks, by `bindwatch.toml`.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;
use std::process::Command;

use scenarios::{Actor, Cgroup, Folder, Log, Recording, Run, Server, loopback};

const NODE_CLUSTER: &str = "
const cluster = require('cluster'), http = require('http');
const [mode, host] = process.argv.slice(2);
if (cluster.isPrimary) {
    cluster.fork();
    cluster.fork();
} else {
    const server = http.createServer((request, response) => response.end());
    server.on('error', () => {});
    server.listen({ host, port: 8000, exclusive: mode === 'exclusive' });
}
";

const MULTIPROCESSING: &str = "
import multiprocessing, socket, sys, threading

def serve(address):
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind((address, 8000))
    server.listen()
    threading.Event().wait()

if __name__ == '__main__':
    context = multiprocessing.get_context(sys.argv[1])
    for _ in range(2):
        context.Process(target=serve, args=(sys.argv[2],)).start()
";

/// An actor that a supervisor, this test, started as a worker of `cluster`.
fn node_worker(number: u32) -> Actor {
    Actor::start(Command::new(Actor::program()).env("NODE_UNIQUE_ID", number.to_string()))
}

fn serve(actors: &mut [Actor], address: Ipv4Addr) {
    for actor in actors {
        actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
}

/// Holds that nothing was found, and that two would have been found had they not been related.
#[track_caller]
fn shared_on_purpose(recording: Recording, address: Ipv4Addr) {
    recording.fence();
    let finished = recording.stop();
    let found = finished.report().at(address);
    assert!(found.is_empty(), "{found:#?}");
    let strict = finished.log.report_with(&["--related-by", "process"]);
    assert_eq!(strict.only(address, 8000).kind(), "co-bind", "they did share");
}

#[test]
fn node_cluster_workers_that_bind_by_themselves_are_a_pool() {
    let recording = Recording::start();
    let address = loopback();
    let mut actors = [node_worker(1), node_worker(2)];
    serve(&mut actors, address);
    shared_on_purpose(recording, address);
}

#[test]
fn a_mark_that_both_inherited_makes_no_pool() {
    let recording = Recording::start();
    let (address, other) = (loopback(), loopback());
    let (mut same, mut one) = ([node_worker(7), node_worker(7)], [node_worker(1), Actor::new()]);
    serve(&mut same, address);
    serve(&mut one, other);
    recording.fence();
    let report = recording.stop().report();
    for address in [address, other] {
        let finding = report.only(address, 8000);
        assert_eq!((finding.kind(), report.doubts(&finding)), ("co-bind", false));
    }
}

#[test]
fn node_cluster_workers_with_one_handle_are_nothing() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let script = folder.write("cluster.js", NODE_CLUSTER);
    let host = address.to_string();
    let _server =
        Server::start(folder.path(), ["node".as_ref(), script.as_os_str(), "shared".as_ref(), host.as_ref()]);
    recording.wait_for(address, "listen", 1);
    recording.fence();
    let found = recording.stop().report().at(address);
    assert!(found.is_empty(), "{found:#?}");
}

/// Without sharing each worker binds for itself, and the second is really refused.
#[test]
fn node_cluster_workers_with_exclusive_handles_refuse_each_other() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let script = folder.write("cluster.js", NODE_CLUSTER);
    let host = address.to_string();
    let server = Server::start(
        folder.path(),
        ["node".as_ref(), script.as_os_str(), "exclusive".as_ref(), host.as_ref()],
    );
    recording.wait_for(address, "bind-failed", 1);
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("listener")));
    let parent = |holder: &scenarios::Holder| holder.0["parents"][0]["pid"].as_u64();
    let supervisor = Some(u64::from(server.pid()));
    assert_eq!(parent(&finding.victim()), supervisor);
    assert_eq!(finding.holders().iter().map(parent).collect::<Vec<_>>(), [supervisor]);
}

#[test]
fn children_of_python_multiprocessing_are_a_pool() {
    for method in ["spawn", "forkserver", "fork"] {
        // The mark is an argument: it counts also where arguments are not kept.
        let recording = Recording::with(["--cmdline", "none"]);
        let (folder, address) = (Folder::new(), loopback());
        let script = folder.write("pool.py", MULTIPROCESSING);
        let host = address.to_string();
        let _server = Server::start(
            folder.path(),
            ["/usr/bin/python3".as_ref(), script.as_os_str(), method.as_ref(), host.as_ref()],
        );
        recording.wait_for(address, "listen", 2);
        shared_on_purpose(recording, address);
    }
}

#[test]
fn instances_of_one_template_unit_are_a_pool() {
    let recording = Recording::start();
    let (address, other) = (loopback(), loopback());
    let unit = |name: &str| Cgroup::named(&format!("bindwatch-test-{}-{name}", std::process::id()));
    let units = [unit("web@1.service"), unit("web@2.service"), unit("mail@1.service")];
    let mut actors = [Actor::new(), Actor::new(), Actor::new()];
    for (unit, actor) in units.iter().zip(&actors) {
        unit.enrol(actor.pid());
    }
    let [web, more_web, mail] = &mut actors;
    web.bind(&format!("tcp {address}:8000 reuseport listen"));
    more_web.bind(&format!("tcp {address}:8000 reuseport listen"));
    web.bind(&format!("tcp {other}:8000 reuseport listen"));
    mail.bind(&format!("tcp {other}:8000 reuseport listen"));
    recording.fence();
    let report = recording.stop().report();
    assert!(report.at(address).is_empty(), "{report}");
    assert_eq!(report.only(other, 8000).kind(), "co-bind");
    drop(actors);
}

#[test]
fn a_pool_of_the_configuration_file() {
    let (folder, address, other) = (Folder::new(), loopback(), loopback());
    let configuration =
        folder.write("pools.toml", "[[pool]]\nprogram = \"supervisor-*\"\nparent = \"supervisor-*\"\n");
    let recording = Recording::with([std::ffi::OsStr::new("--config"), configuration.as_os_str()]);
    // The supervisor is known by its name, which is that of its program's file.
    let program = folder.file("supervisor-1");
    let copied = Command::new("cp").arg(Actor::program()).arg(&program).status().expect("cp");
    assert!(copied.success());
    let worker = |supervisor: &mut Actor| supervisor.ok("spawn").number("child");
    let mut supervisors =
        [Actor::start(&mut Command::new(&program)), Actor::start(&mut Command::new(&program))];
    let [one, two] = &mut supervisors;
    // An actor that spawns executes its own file: these workers are named like their supervisor.
    let workers = [worker(one), worker(one), worker(two)];
    for worker in &workers[..2] {
        one.ok(&format!("tell {worker} bind tcp {address}:8000 reuseport listen"));
    }
    one.ok(&format!("tell {} bind tcp {other}:8000 reuseport listen", workers[0]));
    two.ok(&format!("tell {} bind tcp {other}:8000 reuseport listen", workers[2]));
    recording.fence();
    let finished = recording.stop();
    let report = finished.report();
    assert!(report.at(address).is_empty(), "{report}");
    assert_eq!(report.only(other, 8000).kind(), "co-bind", "workers of two supervisors");
}

#[test]
fn allow_rules_of_the_configuration_file() {
    let (folder, address, other) = (Folder::new(), loopback(), loopback());
    folder.write(
        "bindwatch.toml",
        format!("[[allow]]\nprogram = \"act*\"\naddress = \"{address}\"\nport = \"8000-8009\"\n"),
    );
    // `bindwatch.toml` of the working directory.
    let configuration = folder.file("bindwatch.toml");
    let recording = Recording::with([std::ffi::OsStr::new("--config"), configuration.as_os_str()]);
    let mut actors = [Actor::new(), Actor::new()];
    serve(&mut actors, address);
    serve(&mut actors, other);
    for actor in &mut actors {
        actor.bind(&format!("tcp {address}:8010 reuseport listen"));
    }
    recording.fence();
    let finished = recording.stop();
    let report = finished.report();
    assert!(report.on(address, 8000).is_empty(), "{report}");
    assert_eq!(report.only(address, 8010).kind(), "co-bind", "another port");
    assert_eq!(report.only(other, 8000).kind(), "co-bind", "another address");
    // The rules are in the log: whoever reads it judges alike, and can allow more.
    let run = Run::bindwatch(["report", "--format", "json", "--fail-on", "none"]).args([finished.log.path()]);
    let there = run.folder(folder.path()).outcome().expect(0);
    assert!(scenarios::Report::of(&there.stdout).on(address, 8000).is_empty());
    let more = finished.log.report_with(&["--allow", &format!("address={address}")]);
    assert!(more.at(address).is_empty(), "{more}");
    let log = Log::at(finished.log.path());
    let header = log.lines("\"type\":\"header\"");
    assert_eq!(
        header.first().map(|header| &header["rules"]["allow"]),
        Some(&serde_json::json!([format!("program=act*,address={address},port=8000-8009")]))
    );
}

#[test]
fn the_configuration_file_of_the_working_directory_counts() {
    let recording = Recording::start();
    let address = loopback();
    let mut actors = [Actor::new(), Actor::new()];
    serve(&mut actors, address);
    recording.fence();
    let finished = recording.stop();
    let found_in = |folder: &Folder| {
        let run = Run::bindwatch(["report", "--format", "json"]).args([finished.log.path()]);
        scenarios::Report::of(&run.folder(folder.path()).outcome().expect(0).stdout).on(address, 8000).len()
    };
    let (plain, allowing, pooling) = (Folder::new(), Folder::new(), Folder::new());
    allowing.write("bindwatch.toml", format!("[[allow]]\naddress = \"{address}\"\n"));
    pooling.write("bindwatch.toml", "[[pool]]\nprogram = \"actor\"\n");
    assert_eq!([found_in(&plain), found_in(&allowing), found_in(&pooling)], [1, 0, 0]);
}
