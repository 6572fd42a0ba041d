//! Real servers: what they do on purpose is no finding, what happens to them by accident is.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;

use rustix::process::Signal;
use scenarios::servers::{
    HAPROXY_MASTER, ask, children, haproxy_config, nginx_config, reload, reload_haproxy,
};
use scenarios::wait::{Deadline, Process};
use scenarios::{Folder, Recording, Run, Server, loopback};

fn nginx(folder: &Folder, address: Ipv4Addr) -> Server {
    start_nginx(folder, address, "off")
}

fn start_nginx(folder: &Folder, address: Ipv4Addr, daemon: &str) -> Server {
    nginx_config(folder, address, daemon);
    let prefix = format!("{}/", folder.path().display());
    // For an upgrade it executes itself again by the name it was started with, which must be a path.
    let program = Run::new("sh").args(["-c", "command -v nginx"]).outcome().expect(0).stdout;
    Server::start(folder.path(), [program.trim(), "-e", "stderr", "-p", &prefix, "-c", "nginx.conf"])
}

#[test]
fn nginx_workers_share_a_port_on_purpose() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let server = nginx(&folder, address);
    recording.wait_for(address, "listen", 4);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    assert!(!children(server.pid()).is_empty(), "it has workers");
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

/// An old process that is told to go and its successor, both seen.
#[test]
fn a_reload_of_nginx_is_nothing() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let server = nginx(&folder, address);
    recording.wait_for(address, "listen", 4);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    reload(&server, Signal::HUP);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    nothing_was_found(recording, address);
}

/// Two masters that share the sockets for a while, of which the new one executed its program (USR2, then QUIT).
#[test]
fn a_binary_upgrade_of_nginx_is_nothing() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    // In the foreground nginx refuses to be upgraded.
    let server = start_nginx(&folder, address, "on");
    recording.wait_for(address, "listen", 4);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    let pid = |name: &str| -> u32 {
        let text = std::fs::read_to_string(folder.appears(name)).expect("a file with a PID");
        text.trim().parse().expect("a PID")
    };
    let old = pid("nginx.pid");
    let old_master = Process::of(old);
    old_master.signal(Signal::USR2);
    assert_eq!(pid("nginx.pid.oldbin"), old);
    let new = pid("nginx.pid");
    assert_ne!(new, old);
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    recording.fence();
    old_master.signal(Signal::QUIT);
    assert!(old_master.ended(Deadline::patient()), "the old master goes");
    assert!(ask(address).starts_with("HTTP/1.1 204"));
    assert!(server.processes().contains(&new));
    nothing_was_found(recording, address);
}

#[track_caller]
fn nothing_was_found(recording: Recording, address: Ipv4Addr) {
    recording.fence();
    let found = recording.stop().report().at(address);
    assert!(found.is_empty(), "{found:#?}");
}

fn haproxy(folder: &Folder, address: Ipv4Addr, options: &[&str]) -> Server {
    haproxy_config(folder, address);
    Server::start(folder.path(), ["haproxy", "-db", "-f", "haproxy.cfg"].iter().chain(options))
}

#[test]
fn a_reload_of_haproxy_is_at_most_a_note() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let server = haproxy(&folder, address, &HAPROXY_MASTER);
    recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    reload_haproxy(&server, &folder);
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    recording.fence();
    let found = recording.stop().report().at(address);
    assert!(found.iter().all(|finding| finding.severity() == "note"), "{found:#?}");
}

/// The successor binds while the old process still listens, and then asks it to go (`-sf`).
#[test]
fn a_successor_of_haproxy_is_a_note() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    let old = haproxy(&folder, address, &[]);
    recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    let new = haproxy(&folder, address, &["-sf", &old.pid().to_string()]);
    assert!(old.started.process.ended(Deadline::patient()), "the old process goes");
    assert!(ask(address).starts_with("HTTP/1.1 200"));
    recording.fence();
    let report = recording.stop().report();
    let finding = report.only(address, 8080);
    assert_eq!((finding.kind(), finding.severity()), ("handover", "note"), "{finding:#?}");
    assert_eq!(finding.pids(), [old.pid(), new.pid()].map(u64::from));
    assert_eq!(report.at(address).len(), 1, "{report}");
}

#[test]
fn two_haproxies_on_one_port_are_one_co_bind() {
    let recording = Recording::start();
    let (folders, address) = ([Folder::new(), Folder::new()], loopback());
    let one = haproxy(&folders[0], address, &[]);
    recording.wait_for(address, "listen", 1);
    let other = haproxy(&folders[1], address, &[]);
    recording.wait_for(address, "listen", 2);
    recording.fence();
    let report = recording.stop().report();
    let finding = report.only(address, 8080);
    assert_eq!((finding.kind(), finding.text("receives")), ("co-bind", "split"));
    assert_eq!(finding.pids(), [one.pid(), other.pid()].map(u64::from));
}

/// The socket is made by one program and served by another, which it becomes.
#[test]
fn a_server_that_is_activated_by_its_socket_is_nothing() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    folder.write(
        "server.py",
        "import socket
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    connection.recv(100)
    connection.sendall(b'HTTP/1.0 204 No Content\\r\\n\\r\\n')
    connection.close()
",
    );
    let listen = format!("--listen={address}:8080");
    let server =
        Server::start(folder.path(), ["systemd-socket-activate", &listen, "/usr/bin/python3", "server.py"]);
    recording.wait_for(address, "listen", 1);
    assert!(ask(address).starts_with("HTTP/1.0 204"));
    // What became of it is who is named when another wants the port.
    assert!(std::net::TcpListener::bind((address, 8080)).is_err());
    recording.fence();
    let finding = recording.stop().report().only(address, 8080);
    assert_eq!((finding.kind(), finding.pids()), ("refused", vec![u64::from(server.pid())]));
    assert!(finding.holders()[0].text("comm").starts_with("python3"), "{finding:#?}");
}

/// Both set SO_REUSEADDR, which is enough for UDP: the one that came last takes all queries.
#[test]
fn two_resolvers_on_one_port_are_a_co_bind() {
    let recording = Recording::start();
    let (folder, address) = (Folder::new(), loopback());
    folder.write(
        "unbound.conf",
        format!(
            "server:
    interface: {address}@5300
    do-tcp: no
    so-reuseport: yes
    num-threads: 2
    chroot: \"\"
    username: \"\"
    pidfile: \"\"
    directory: \"{}\"
    use-syslog: no
remote-control:
    control-enable: no
",
            folder.path().display()
        ),
    );
    // A copy: Ubuntu's AppArmor lets the installed one read its own folder only.
    let _copied = Run::new("sh")
        .args(["-c", "cp \"$(command -v unbound)\" ."])
        .folder(folder.path())
        .outcome()
        .expect(0);
    let unbound = Server::start(folder.path(), ["./unbound", "-d", "-c", "unbound.conf"]);
    recording.wait_for(address, "bind", 2);
    let listen = format!("--listen-address={address}");
    let dnsmasq = Server::start(
        folder.path(),
        [
            "dnsmasq",
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--port=5300",
            "--bind-interfaces",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            &listen,
        ],
    );
    recording.wait_for(address, "listen", 1);
    recording.fence();
    let report = recording.stop().report();
    let finding = report.only(address, 5300);
    assert_eq!((finding.kind(), finding.text("protocol")), ("co-bind", "udp"), "{finding:#?}");
    assert_eq!(finding.pids(), [unbound.pid(), dnsmasq.pid()].map(u64::from), "threads are one holder");
    assert_eq!(finding.text("receives"), finding.holders()[1].text("lineage"), "the last takes all");
}
