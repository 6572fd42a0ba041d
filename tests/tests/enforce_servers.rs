//! Servers that share a port on purpose, in a cgroup where sharing by accident is denied: they run as ever.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;

use rustix::process::Signal;
use scenarios::wait::{Deadline, PATIENCE, Process};
use scenarios::{Cgroup, Folder, Recording, Server, loopback};

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
        let top = Cgroup::new();
        let recording = Recording::enforcing::<&str>(&top, []);
        Self { recording, folder: Folder::new(), address: loopback(), top }
    }

    fn start(&self, name: &str, folder: &Path, command: &[&str]) -> Server {
        let own = self.top.path().file_name().expect("a name").to_string_lossy().into_owned();
        Server::start_in(Cgroup::named(&format!("{own}/{name}")), folder, command)
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

/// Returns once the server has answered a request.
fn ask(address: Ipv4Addr) -> String {
    let mut stream = TcpStream::connect((address, 8080)).expect("a server that listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// The processes that a process has started and that live.
fn children(pid: u32) -> Vec<Process> {
    let list =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process that lives");
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Process::of).collect()
}

/// Tells the first process to reload, and waits until its old workers are gone.
fn reload(server: &Server, signal: Signal) {
    let old = children(server.pid());
    assert!(!old.is_empty(), "it has workers");
    server.started.process.signal(signal);
    for worker in old {
        assert!(worker.ended(Deadline::patient()), "the old worker goes");
    }
}

fn nginx(enforced: &Enforced, name: &str, folder: &Folder) -> Server {
    let address = enforced.address;
    folder.write(
        "nginx.conf",
        format!(
            "daemon off; worker_processes 4; pid nginx.pid; error_log stderr; events {{}}
             http {{ access_log off;
                 client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
                 uwsgi_temp_path uwsgi; scgi_temp_path scgi;
                 server {{ listen {address}:8080 reuseport; return 204; }} }}"
        ),
    );
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
fn gunicorn() {
    let enforced = Enforced::new();
    enforced
        .folder
        .write("app.py", "def app(environ, start):\n    start('204 No Content', [])\n    return []\n");
    let bind = format!("{}:8080", enforced.address);
    let command = ["gunicorn", "--reuse-port", "--workers", "3", "--bind", &bind, "app:app"];
    let server = enforced.start("gunicorn", enforced.folder.path(), &command);
    enforced.recording.wait_for(enforced.address, "listen", 1);
    assert!(ask(enforced.address).starts_with("HTTP/1.0 204"));
    enforced.nothing_was_denied(server);
}

#[test]
fn haproxy_and_its_reload() {
    let enforced = Enforced::new();
    let address = enforced.address;
    enforced.folder.write(
        "haproxy.cfg",
        format!(
            "global\n    maxconn 64\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 5s\n    \
             timeout server 5s\nfrontend one\n    bind {address}:8080\n    http-request return status 200\n"
        ),
    );
    let command = ["haproxy", "-db", "-W", "-f", "haproxy.cfg"];
    let server = enforced.start("haproxy", enforced.folder.path(), &command);
    enforced.recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    reload(&server, Signal::USR2);
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    enforced.nothing_was_denied(server);
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
