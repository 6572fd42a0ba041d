//! Where a bind that has its port cannot be denied, as before Linux 5.17, it is denied before. Here another tool's program,
//! which denies every bind of bindwatch's own cgroup while bindwatch tries it, makes the kernel look like that.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use rustix::process::Signal;
use scenarios::wait::Deadline;
use scenarios::{Actor, Cgroup, Finding, Folder, Log, Run, bindwatch, loopback};

/// A cgroup in which no IPv4 socket can be bound.
struct Spoilt {
    cgroup: Cgroup,
    denier: Actor,
}

impl Spoilt {
    fn new() -> Self {
        let cgroup = Cgroup::new();
        let mut denier = Command::new(Actor::program().with_file_name("denier"));
        let mut denier = Actor::start(denier.arg(cgroup.path()).arg("post_bind4"));
        denier.ok("there");
        Self { cgroup, denier }
    }

    /// What makes a shell start bindwatch in it.
    fn arguments<'a>(&self, arguments: &[&'a OsStr]) -> Vec<std::ffi::OsString> {
        let script = r#"echo $$ > "$0/cgroup.procs"; exec "$@""#;
        let fixed = [OsStr::new("-c"), OsStr::new(script), self.cgroup.path().as_os_str()];
        let own = fixed.into_iter().map(OsStr::to_owned).chain([bindwatch().into()]);
        own.chain(arguments.iter().map(|one: &&'a OsStr| (*one).to_owned())).collect()
    }

    /// From now on they can.
    fn mend(&mut self) {
        self.denier.process.signal(Signal::KILL);
        assert!(self.denier.process.ended(Deadline::patient()), "the denier ends");
    }
}

#[test]
fn a_bind_is_denied_before_it_has_a_port_where_that_is_the_only_way() {
    let (mut spoilt, folder, address) = (Spoilt::new(), Folder::new(), loopback());
    let mut outside = Actor::new();
    outside.bind(&format!("tcp {address}:8000 reuseport listen"));
    let log = folder.file("log.jsonl");
    let options = ["run", "--on-conflict", "deny", "--output"].map(OsStr::new);
    let (rest, actor) = (["--"].map(OsStr::new), Actor::program());
    let arguments = [&options[..], &[log.as_os_str()], &rest, &[actor.as_os_str()]].concat();
    let errors = std::fs::File::create(folder.file("stderr")).expect("a file");
    let mut job = Actor::start(Command::new("sh").args(spoilt.arguments(&arguments)).stderr(errors));
    let children = [job.ok("spawn"), job.ok("spawn")].map(|answer| answer.number("pid"));
    spoilt.mend();
    let mut tell = |child: u8, command: &str| job.tell(&format!("tell {child} {command}")).to_string();

    // Whoever was there before, and whoever comes first; then the port is free, and the socket is of use.
    assert_eq!(tell(1, &format!("bind tcp {address}:8000 reuseport")), "err EPERM");
    for (protocol, family, place, port) in [
        ("tcp", 4, address.to_string(), 8001),
        ("udp", 4, address.to_string(), 8001),
        ("mptcp", 4, address.to_string(), 8002),
        ("tcp", 6, "[::1]".to_owned(), 8501),
        ("udp", 6, "[::1]".to_owned(), 8501),
    ] {
        let endpoint = format!("{place}:{port}");
        let held = tell(1, &format!("bind {protocol} {endpoint} reuseport"));
        let held =
            held.strip_prefix("ok id=").and_then(|rest| rest.split(' ').next()).expect(&held).to_owned();
        let socket = tell(2, &format!("socket {protocol} {family}"));
        let id =
            socket.strip_prefix("ok id=").and_then(|rest| rest.split(' ').next()).expect(&socket).to_owned();
        assert_eq!(tell(2, &format!("opt {id} reuseport 1")), "ok");
        assert_eq!(tell(2, &format!("rebind {id} {endpoint}")), "err EPERM", "{protocol} {endpoint}");
        assert_eq!(tell(2, &format!("rebind {id} {place}:{}", port + 10)), "ok", "{protocol} {endpoint}");
        assert_eq!(tell(1, &format!("close {held}")), "ok");
        let taken = tell(2, &format!("bind {protocol} {endpoint} reuseport"));
        assert!(taken.starts_with("ok"), "{protocol} {endpoint}: {taken}");
    }
    // What overlaps, in both planes.
    assert_eq!(tell(1, "bind tcp 0.0.0.0:8001 reuseport"), "err EPERM");
    assert_eq!(tell(1, "bind tcp [::]:8001 reuseport"), "err EPERM");
    // A port that the kernel chooses is nobody else's.
    assert!(tell(1, &format!("bind udp {address}:0 reuseport")).starts_with("ok"));
    // One lineage.
    assert!(tell(1, &format!("bind tcp {address}:8003 reuseport listen")).starts_with("ok"));
    assert!(tell(1, "fork").starts_with("ok"));
    assert!(tell(1, &format!("tell 1 bind tcp {address}:8003 reuseport listen")).starts_with("ok"));
    job.exit();

    let said = std::fs::read_to_string(folder.file("stderr")).expect("what it said");
    assert!(said.starts_with("bindwatch: this kernel cannot deny a bind that has its port"), "{said}");
    assert!(said.contains("both can get it (a socket to try it with cannot be had"), "{said}");
    let log = Log::at(&log);
    let header = log.lines("\"type\":\"header\"").into_iter().next().expect("a header");
    let mode = header.pointer("/enforcement/mode");
    assert_eq!(mode.and_then(serde_json::Value::as_str), Some("check"), "{header}");
    // Each is one incident: that it failed in the end is told by that.
    let at = |line: &serde_json::Value| {
        line.pointer("/socket/address").and_then(serde_json::Value::as_str) == Some(&address.to_string())
    };
    assert_eq!(log.lines("\"type\":\"bind-failed\"").iter().filter(|line| at(line)).count(), 0);
    let report = log.report();
    let denied: Vec<_> =
        report.at(IpAddr::from(address)).into_iter().filter(|finding| finding.kind() == "denied").collect();
    assert_eq!(denied.len(), 4, "{report}");
    for finding in &denied {
        assert_eq!(finding.victim().text("errno"), "EPERM");
        assert!(children.contains(&finding.victim().number("pid")));
    }
    // Others use that address as well.
    let is_denied =
        |finding: &Finding| finding.kind() == "denied" && finding.victim().text("errno") == "EPERM";
    assert!(report.at(Ipv6Addr::LOCALHOST).iter().any(is_denied), "{report}");
}

#[test]
fn strict_refuses_what_is_not_exact() {
    let (spoilt, folder, other) = (Spoilt::new(), Folder::new(), Cgroup::new());
    let log = folder.file("log.jsonl");
    let job = ["run", "--strict", "--on-conflict", "deny", "--output"].map(OsStr::new);
    let job = [&job[..], &[log.as_os_str(), OsStr::new("--"), OsStr::new("true")]].concat();
    let cgroup = [OsStr::new("--cgroup"), other.path().as_os_str()];
    let service = ["enforce", "--strict", "--output"].map(OsStr::new);
    let service = [&service[..], &[log.as_os_str()], &cgroup].concat();
    for arguments in [job, service] {
        let outcome = Run::bindwatch(arguments).inside(&spoilt.cgroup).outcome();
        outcome.expect_one_line(125);
        assert!(outcome.stderr.contains("--strict refuses that"), "{outcome}");
        assert!(!log.exists());
    }
    // Where it is exact it is not in the way, and without a denial it says nothing.
    let run = Run::bindwatch(["run", "--quiet", "--strict", "--on-conflict", "deny", "--output"]);
    drop(run.args([&log]).args(["--", "true"]).outcome().expect(0));
    let outcome = Run::bindwatch(["run", "--strict", "--", "true"]).outcome();
    outcome.expect_one_line(2);
}
