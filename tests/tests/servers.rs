//! Real servers: what they do on purpose is no finding, what happens to them by accident is.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use rustix::process::Signal;
use scenarios::wait::{Deadline, PATIENCE, Process};
use scenarios::{Folder, Recording, Server, loopback};

fn nginx(folder: &Folder, address: Ipv4Addr) -> Server {
    let configuration = format!(
        "daemon off;
         worker_processes 4;
         pid nginx.pid;
         error_log stderr;
         events {{}}
         http {{
             access_log off;
             client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
             uwsgi_temp_path uwsgi; scgi_temp_path scgi;
             server {{ listen {address}:8080 reuseport; return 204; }}
         }}"
    );
    folder.write("nginx.conf", configuration);
    let prefix = format!("{}/", folder.path().display());
    Server::start(folder.path(), ["nginx", "-e", "stderr", "-p", &prefix, "-c", "nginx.conf"])
}

/// Returns once a worker has answered a request.
fn ask(address: Ipv4Addr) -> String {
    let mut stream = TcpStream::connect((address, 8080)).expect("a server that listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// The processes that a process has started and that live.
fn children(pid: u32) -> Vec<u32> {
    let list =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process that lives");
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[test]
fn nginx_workers_share_a_port_on_purpose() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let server = nginx(&folder, address);
    recording.wait_for(address, "listen", 4);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    assert_eq!(children(server.pid()).len(), 4, "four workers");
    recording.fence();
    let found = recording.stop().report().at(address);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn two_nginx_on_one_port_are_one_co_bind() {
    let recording = Recording::start();
    let (folders, address) = ([Folder::new(), Folder::new()], loopback());
    let one = nginx(&folders[0], address);
    recording.wait_for(address, "listen", 4);
    let other = nginx(&folders[1], address);
    recording.wait_for(address, "listen", 8);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    recording.fence();
    let report = recording.stop().report();
    assert_eq!(report.at(address).len(), 1, "{report}");
    let finding = report.only(address, 8080);
    assert_eq!(finding.kind(), "co-bind");
    let mut masters = [one.pid(), other.pid()].map(u64::from);
    let mut named: Vec<u64> = finding.pids().into_iter().filter(|pid| masters.contains(pid)).collect();
    masters.sort_unstable();
    named.sort_unstable();
    assert_eq!(named, masters, "both masters are named: {finding:#?}");
    assert!(finding.holders().iter().all(|holder| holder.text("comm") == "nginx"));
}

#[test]
fn gunicorn_workers_share_a_port_on_purpose() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    folder.write("app.py", "def app(environ, start):\n    start('204 No Content', [])\n    return []\n");
    let bind = format!("{address}:8080");
    let _server = Server::start(
        folder.path(),
        ["gunicorn", "--reuse-port", "--workers", "3", "--bind", &bind, "app:app"],
    );
    recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.0 204"));
    recording.fence();
    let found = recording.stop().report().at(address);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_reload_of_haproxy_is_at_most_a_note() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    folder.write(
        "haproxy.cfg",
        format!(
            "global
    maxconn 64
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend one
    bind {address}:8080
    http-request return status 200
"
        ),
    );
    let server = Server::start(folder.path(), ["haproxy", "-W", "-db", "-f", "haproxy.cfg"]);
    recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    let old: Vec<Process> = children(server.pid()).into_iter().map(Process::of).collect();
    assert!(!old.is_empty(), "a worker");
    server.started.process.signal(Signal::USR2);
    for worker in old {
        assert!(worker.ended(Deadline::patient()), "the old worker goes");
    }
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    recording.fence();
    let found = recording.stop().report().at(address);
    assert!(found.iter().all(|finding| finding.severity() == "note"), "{found:#?}");
}
