//! Many processes at once: an incident stays one finding, whatever takes part in it.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use scenarios::{Actor, Recording, loopback};

const PROCESSES: usize = 500;
const PORTS: usize = 50;

/// A program that looks whether a port is free, and then binds it with SO_REUSEPORT: `storm check ADDRESS PORT`.
struct Server(Child);

impl Server {
    fn start(address: &str, port: u64) -> Self {
        let child = Command::new(Actor::program().with_file_name("storm"))
            .args(["check", address, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("storm"))
    }

    /// What it says next: `ready`, `checked`, `bound`.
    fn says(&mut self, expected: &str) {
        let mut line = String::new();
        let read = BufReader::with_capacity(1, self.0.stdout.as_mut().expect("a pipe")).read_line(&mut line);
        assert!(read.is_ok() && line.trim() == expected, "{expected}: {line:?}");
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().expect("a pipe").write_all(b"go\n").expect("a server that lives");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

#[test]
fn five_hundred_servers_on_fifty_ports_are_fifty_findings() {
    let recording = Recording::start();
    let address = loopback();
    let port = |number: usize| 8000 + (number % PORTS) as u64;
    let mut servers: Vec<Server> =
        (0..PROCESSES).map(|number| Server::start(&address.to_string(), port(number))).collect();
    // All find their port free, and then all take it.
    for phase in ["checked", "bound"] {
        servers.iter_mut().for_each(Server::go);
        servers.iter_mut().for_each(|server| server.says(phase));
    }
    recording.fence();
    let pids: Vec<u64> = servers.iter().map(|server| server.0.id().into()).collect();
    drop(servers);
    recording.fence();
    let finished = recording.stop();
    let report = finished.report();
    let found = report.at(address);
    assert_eq!(found.len(), PORTS, "one finding a port");
    for finding in found {
        assert_eq!((finding.kind(), finding.severity()), ("co-bind", "error"));
        let on_port = |(number, _): &(usize, &u64)| port(*number) == finding.number("port");
        let expected: BTreeSet<u64> = pids.iter().enumerate().filter(on_port).map(|(_, pid)| *pid).collect();
        let holders: BTreeSet<u64> = finding.pids().into_iter().collect();
        assert_eq!((finding.pids().len(), holders), (PROCESSES / PORTS, expected));
        assert_eq!(finding.text("receives"), "split");
    }
}
