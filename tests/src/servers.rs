//! Real servers of HTTP: their configuration, a request, and their reload.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::wait::{Deadline, PATIENCE, Process, readable};
use crate::{Folder, Server};

/// haproxy's master listens here ([`HAPROXY_MASTER`]).
const MASTER: &str = "master.sock";

/// Options of a haproxy with a master and a worker, for [`reload_haproxy`].
pub const HAPROXY_MASTER: [&str; 3] = ["-W", "-S", "unix@master.sock"];

/// Returns what port 8080 answers to a request.
///
/// # Panics
/// When nobody answers in time.
#[must_use]
#[track_caller]
pub fn ask(address: Ipv4Addr) -> String {
    let mut stream = TcpStream::connect((address, 8080)).expect("a server that listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Waits until a server on port 8080 takes connections again that it paused: no event tells when.
///
/// # Panics
/// When it does not in time.
#[track_caller]
pub fn listens_again(address: Ipv4Addr) {
    let deadline = Deadline::patient();
    while TcpStream::connect((address, 8080)).is_err() {
        assert!(!deadline.over(), "nobody listens again");
        assert_eq!(readable([], Deadline::after(Duration::from_millis(10))), None);
    }
}

/// The processes that a process has started and that live.
///
/// # Panics
/// When it is gone.
#[must_use]
#[track_caller]
pub fn children(pid: u32) -> Vec<Process> {
    let list =
        std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("a process that lives");
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Process::of).collect()
}

/// Tells a server's first process to reload, and waits until its old workers are gone.
///
/// # Panics
/// When it has no workers, or they stay.
#[track_caller]
pub fn reload(server: &Server, signal: Signal) {
    let old = children(server.pid());
    assert!(!old.is_empty(), "it has workers");
    server.started.process.signal(signal);
    for worker in old {
        assert!(worker.ended(Deadline::patient()), "the old worker goes");
    }
}

/// [`reload`] of a haproxy that was started with [`HAPROXY_MASTER`]. Its worker may answer before its master listens to
/// signals, so the master is asked something first.
///
/// # Panics
/// As [`reload`].
#[track_caller]
pub fn reload_haproxy(server: &Server, folder: &Folder) {
    let deadline = Deadline::patient();
    // Its socket has a name before it listens, and it executes itself meanwhile: no event tells when that is over.
    while !master_answers(folder) {
        assert!(!deadline.over(), "the master does not answer");
        assert_eq!(readable([], Deadline::after(Duration::from_millis(10))), None);
    }
    reload(server, Signal::USR2);
}

fn master_answers(folder: &Folder) -> bool {
    let Ok(mut master) = UnixStream::connect(folder.file(MASTER)) else { return false };
    master.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // It keeps the connection open.
    master.write_all(b"show proc\n").is_ok() && master.read(&mut [0; 4096]).is_ok_and(|bytes| bytes > 0)
}

/// Writes a `haproxy.cfg` of a server on port 8080.
pub fn haproxy_config(folder: &Folder, address: Ipv4Addr) {
    folder.write(
        "haproxy.cfg",
        format!(
            "global\n    maxconn 64\ndefaults\n    mode http\n    timeout connect 5s\n    timeout client 5s\n    \
             timeout server 5s\nfrontend one\n    bind {address}:8080\n    http-request return status 200\n"
        ),
    );
}

/// Writes an `nginx.conf` of a server with four workers on port 8080, which share it by SO_REUSEPORT.
pub fn nginx_config(folder: &Folder, address: Ipv4Addr, daemon: &str) {
    let configuration = format!(
        "daemon {daemon};
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
}
