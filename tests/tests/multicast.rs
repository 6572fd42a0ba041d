//! Members of a multicast group share a port on purpose, also where they join after their bind.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use scenarios::{Actor, Folder, Recording, Report, Run, Server, python};
use serde_json::Value;

/// A network namespace that ends with its actor, with an interface that multicast goes through.
struct Net {
    actor: Actor,
    inum: u64,
}

impl Net {
    fn new() -> Self {
        let mut actor = Actor::new();
        actor.ok("unshare-net");
        let net = format!("/proc/{}/ns/net", actor.pid());
        let inum = std::fs::metadata(&net).expect("a network namespace").ino();
        let net = Self { actor, inum };
        net.run(&["ip", "link", "add", "one", "type", "veth", "peer", "name", "other"]);
        net.run(&["ip", "address", "add", "10.99.0.1/24", "dev", "one"]);
        net.run(&["ip", "link", "set", "one", "up"]);
        net.run(&["ip", "link", "set", "other", "up"]);
        net.run(&["ip", "route", "add", "224.0.0.0/4", "dev", "one"]);
        net
    }

    fn enter(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.actor.pid())]
    }

    fn actor(&self) -> Actor {
        let [nsenter, net] = self.enter();
        Actor::start(Command::new(nsenter).arg(net).arg(Actor::program()))
    }

    fn run(&self, command: &[&str]) {
        let [nsenter, net] = self.enter();
        let _ran = Run::new(nsenter).args([net]).args(command).outcome().expect(0);
    }

    fn start(&self, folder: &Folder, command: &[&str]) -> Server {
        let enter = self.enter();
        Server::start(folder.path(), enter.iter().map(String::as_str).chain(command.iter().copied()))
    }

    /// Waits until so many sockets of the process on the port have joined a group.
    fn joined(&self, recording: &Recording, port: u64, process: u32, count: usize) {
        let prefix = format!("{process}@");
        let here = |line: &Value| {
            line["type"] == "bind"
                && line["socket"]["netns"] == self.inum
                && line["socket"]["port"] == port
                && line["process"].as_str().is_some_and(|process| process.starts_with(&prefix))
        };
        let binds = recording.wait_for_lines("\"type\":\"bind\"", count, here);
        let cookies: Vec<&Value> = binds.iter().map(|bind| &bind["socket"]["cookie"]).collect();
        let mut joined = Vec::new();
        recording.wait_for_lines("multicast", count, |line| {
            let cookie = &line["cookie"];
            let new = line["type"] == "option" && cookies.contains(&cookie) && !joined.contains(cookie);
            if new {
                joined.push(cookie.clone());
            }
            new
        });
    }

    fn found(&self, report: &Report) -> Vec<scenarios::Finding> {
        report.findings().into_iter().filter(|finding| finding.0["netns"] == self.inum).collect()
    }
}

#[test]
fn avahi_and_zeroconf_share_mdns_on_purpose() {
    let recording = Recording::start();
    let (folder, net) = (Folder::new(), Net::new());
    folder.write(
        "avahi.conf",
        "[server]
use-ipv4=yes
use-ipv6=no
allow-interfaces=one
enable-dbus=no
disallow-other-stacks=no
[publish]
disable-publishing=yes
",
    );
    folder.write(
        "browse.py",
        "import threading
from zeroconf import IPVersion, Zeroconf
browser = Zeroconf(interfaces=['10.99.0.1'], ip_version=IPVersion.V4Only)
threading.Event().wait()
",
    );
    // Its PID file is the machine's: a /run of its own keeps it out of the way of another avahi.
    let avahi = net.start(
        &folder,
        &[
            "unshare",
            "--mount",
            "sh",
            "-c",
            "mount -t tmpfs none /run && exec avahi-daemon --file=avahi.conf --no-drop-root --no-chroot --no-rlimits",
        ],
    );
    net.joined(&recording, 5353, avahi.pid(), 1);
    let python = python("python3");
    let zeroconf = net.start(&folder, &[&python.to_string_lossy(), "browse.py"]);
    net.joined(&recording, 5353, zeroconf.pid(), 1);
    recording.fence();
    let finished = recording.stop();
    let found = net.found(&finished.report());
    assert!(found.is_empty(), "{found:#?}");
    // Nor was anything told in between, and taken back.
    let told = finished.log.lines("\"type\":\"finding\"");
    assert!(told.iter().all(|line| line["netns"] != net.inum), "{told:#?}");
}

/// Who is a member is asked of the sockets themselves.
#[test]
fn members_that_are_older_than_the_recording_share_on_purpose() {
    let net = Net::new();
    let mut actors = [net.actor(), net.actor()];
    for actor in &mut actors {
        let joined = actor.bind("udp 0.0.0.0:5353 reuseaddr").id;
        actor.ok(&format!("join {joined} 224.0.0.251"));
        // These two are no members of any group.
        actor.bind("udp 0.0.0.0:5300 reuseaddr");
    }
    let recording = Recording::start();
    recording.fence();
    let finished = recording.stop();
    let listed = Run::bindwatch(["list", "--format", "json"]).outcome().expect(0);
    for report in [finished.report(), Report::of(&listed.stdout)] {
        let found = net.found(&report);
        let ports: Vec<u64> = found.iter().map(|finding| finding.number("port")).collect();
        assert_eq!(ports, [5300], "{found:#?}");
        assert_eq!(found[0].kind(), "co-bind");
    }
    let told = finished.log.lines("\"type\":\"finding\"");
    assert!(told.iter().all(|line| line["netns"] != net.inum || line["port"] == 5300), "{told:#?}");
}

#[test]
fn members_that_joined_before_they_bound_share_on_purpose() {
    let recording = Recording::start();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let mut port = 0;
    for actor in [&mut one, &mut other] {
        actor.ok("socket udp 4");
        actor.ok("opt 1 reuseaddr 1");
        actor.ok("join 1 239.255.77.2");
        actor.ok(&format!("rebind 1 0.0.0.0:{port}"));
        port = actor.ok("port 1").number("port");
    }
    recording.fence();
    let found = recording.stop().report().on(std::net::Ipv4Addr::UNSPECIFIED, port);
    assert!(found.is_empty(), "{found:#?}");
}
