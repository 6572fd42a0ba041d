//! Servers that share a port on purpose, in a cgroup where sharing by accident is denied: they run as ever.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::Path;

use rustix::process::Signal;
use scenarios::servers::{
    HAPROXY_MASTER, ask, children, haproxy_config, listens_again, nginx_config, reload, reload_haproxy,
};
use scenarios::wait::Deadline;
use scenarios::{Cgroup, Folder, Recording, Server, loopback, node};

/// A cgroup that is enforced, with room for the servers' own.
struct Enforced {
    recording: Recording,
    folder: Folder,
    address: Ipv4Addr,
    // Last: those of the servers are in it.
    top: Cgroup,
}

impl Enforced {
    fn new() -> Self {
        Self::with(&[])
    }

    fn with(options: &[&str]) -> Self {
        let top = Cgroup::new();
        let recording = Recording::enforcing(&top, options);
        Self { recording, folder: Folder::new(), address: loopback(), top }
    }

    fn start(&self, name: &str, folder: &Path, command: &[&str]) -> Server {
        Server::start_in(self.top.inner(name), folder, command)
    }

    /// Ends it; nothing was denied.
    fn nothing_was_denied(self, server: Server) {
        self.recording.fence();
        let found = self.recording.stop().report().at(self.address);
        assert!(
            found.iter().all(|finding| finding.severity() == "note" && finding.kind() != "denied"),
            "{found:#?}"
        );
        drop(server);
    }
}

fn nginx(enforced: &Enforced, name: &str, folder: &Folder) -> Server {
    nginx_config(folder, enforced.address, "off");
    let prefix = format!("{}/", folder.path().display());
    enforced.start(name, folder.path(), &["nginx", "-e", "stderr", "-p", &prefix, "-c", "nginx.conf"])
}

#[test]
fn nginx_and_its_reload() {
    let enforced = Enforced::new();
    let server = nginx(&enforced, "nginx", &enforced.folder);
    enforced.recording.wait_for(enforced.address, "listen", 4);
    assert!(ask(enforced.address).starts_with("HTTP/1.1 204"));
    reload(&server, Signal::HUP);
    assert!(ask(enforced.address).starts_with("HTTP/1.1 204"));
    // Another one is a stranger, and does not come up.
    let folder = Folder::new();
    let other = nginx(&enforced, "other", &folder);
    let outcome = other.started.outcome();
    assert_eq!(outcome.code(), 1, "{outcome}");
    assert!(outcome.stderr.contains("Address already in use"), "{outcome}");
    enforced.recording.fence();
    let report = enforced.recording.stop().report();
    assert!(report.at(enforced.address).iter().all(|finding| finding.kind() == "denied"), "{report}");
    drop(server);
}

#[test]
fn gunicorn_and_its_reload() {
    let enforced = Enforced::new();
    let (folder, address) = (&enforced.folder, enforced.address);
    folder.write("app.py", "def app(environ, start):\n    start('204 No Content', [])\n    return []\n");
    let configure = |bind: &str| {
        folder.write("gunicorn.conf.py", format!("bind = {bind}\nworkers = 3\nreuse_port = True\n"))
    };
    configure(&format!("['{address}:8080']"));
    let server = enforced.start("gunicorn", folder.path(), &["gunicorn", "app:app"]);
    enforced.recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.0 204"));
    // Its workers are replaced, and it keeps its socket.
    reload(&server, Signal::HUP);
    assert!(ask(address).starts_with("HTTP/1.0 204"));
    // With another port beside it the first process binds both anew, while its old workers still have the port.
    configure(&format!("['{address}:8080', '{address}:8081']"));
    reload(&server, Signal::HUP);
    assert!(ask(address).starts_with("HTTP/1.0 204"));
    let binds = enforced.recording.wait_for(address, "bind", 3);
    let on = |port: u64| binds.iter().filter(|line| line["socket"]["port"] == port).count();
    assert_eq!((on(8080), on(8081)), (2, 1), "{binds:?}");
    enforced.nothing_was_denied(server);
}

#[test]
fn haproxy_and_its_reload() {
    let enforced = Enforced::new();
    let address = enforced.address;
    haproxy_config(&enforced.folder, address);
    let mut command = vec!["haproxy", "-db", "-f", "haproxy.cfg"];
    command.extend(HAPROXY_MASTER);
    let server = enforced.start("haproxy", enforced.folder.path(), &command);
    enforced.recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    reload_haproxy(&server, &enforced.folder);
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    enforced.nothing_was_denied(server);
}

/// Without a master the successor is a stranger. It binds before its predecessor goes, and that this will go nobody can know:
/// it is denied, and the predecessor goes on. Where the sharing is declared it takes over.
#[test]
fn a_successor_of_haproxy_needs_a_rule() {
    for options in [&[][..], &["--allow", "program=haproxy,port=8080"]] {
        let enforced = Enforced::with(options);
        let address = enforced.address;
        haproxy_config(&enforced.folder, address);
        let command = ["haproxy", "-db", "-f", "haproxy.cfg"];
        let old = enforced.start("old", enforced.folder.path(), &command);
        enforced.recording.wait_for(address, "listen", 1);
        let pid = old.pid().to_string();
        let command = [&command[..], &["-sf", &pid]].concat();
        let new = enforced.start("new", enforced.folder.path(), &command);
        if options.is_empty() {
            let outcome = new.started.outcome();
            assert_eq!(outcome.code(), 1, "{outcome}");
            assert!(outcome.stderr.contains("Address already in use"), "{outcome}");
            // While the other tried to bind it was asked to pause, and goes on by itself.
            listens_again(address);
            assert!(ask(address).starts_with("HTTP/1.1 200"));
            enforced.recording.fence();
            let finding = enforced.recording.stop().report().only(address, 8080);
            assert_eq!(finding.kind(), "denied");
            assert_eq!(finding.pids(), [u64::from(old.pid())]);
        } else {
            assert!(old.started.process.ended(Deadline::patient()), "the old process goes");
            assert!(ask(address).starts_with("HTTP/1.1 200"));
            enforced.nothing_was_denied(new);
        }
    }
}

#[test]
fn node_cluster() {
    let enforced = Enforced::new();
    let address = enforced.address;
    enforced.folder.write(
        "cluster.js",
        format!(
            "const cluster = require('cluster'), http = require('http');
             if (cluster.isPrimary) {{ cluster.fork(); cluster.fork(); }}
             else http.createServer((_, answer) => {{ answer.statusCode = 204; answer.end(); }}).listen(8080, '{address}');"
        ),
    );
    let server = enforced.start("node", enforced.folder.path(), &["node", "cluster.js"]);
    enforced.recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    enforced.nothing_was_denied(server);
}

/// Each worker binds for itself; whoever is killed is replaced, and whoever fails ends all of them.
const NODE_REUSE_PORT: &str = "
const cluster = require('cluster'), http = require('http');
if (cluster.isPrimary) {
    cluster.on('exit', (worker, code, signal) => signal ? cluster.fork() : process.exit(code));
    cluster.fork();
    cluster.fork();
} else {
    http.createServer((request, answer) => { answer.statusCode = 204; answer.end(); })
        .listen({ host: process.argv[2], port: 8080, reusePort: true });
}
";

#[test]
fn node_cluster_whose_workers_bind_for_themselves() {
    let enforced = Enforced::new();
    let (folder, address) = (enforced.folder.path(), enforced.address);
    enforced.folder.write("cluster.js", NODE_REUSE_PORT);
    let (node, host) = (node().display().to_string(), address.to_string());
    let command = [&*node, "cluster.js", &host];
    let server = enforced.start("node", folder, &command);
    let workers = |count: usize| {
        let listens = enforced.recording.wait_for(address, "listen", count);
        let who = |name: &str| listens.iter().map(|line| line[name].to_string()).collect::<BTreeSet<_>>();
        assert_eq!(who("process").len(), count, "a process each: {listens:?}");
        let cookies: BTreeSet<_> = listens.iter().map(|line| line["socket"]["cookie"].as_u64()).collect();
        assert_eq!(cookies.len(), count, "a socket each: {listens:?}");
    };
    workers(2);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    let first = children(server.pid()).into_iter().next().expect("a worker");
    first.signal(Signal::KILL);
    workers(3);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    // Workers of another cluster are strangers.
    let other = enforced.start("other", folder, &command).started.outcome();
    assert_ne!(other.code(), 0, "{other}");
    assert!(other.stderr.contains("EADDRINUSE"), "{other}");
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    enforced.recording.fence();
    let finding = enforced.recording.stop().report().only(address, 8080);
    assert_eq!(finding.kind(), "denied", "{finding:#?}");
    let pool = server.processes();
    assert!(finding.pids().iter().all(|pid| pool.iter().any(|one| u64::from(*one) == *pid)), "{finding:#?}");
    drop(server);
}
