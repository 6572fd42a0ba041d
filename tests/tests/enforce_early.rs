//! Where a bind that has its port cannot be denied, as before Linux 5.18, it is denied before. On a later kernel another tool's
//! program, which denies every bind of bindwatch's own cgroup while bindwatch tries it, makes it look like that.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use rustix::process::Signal;
use scenarios::wait::Deadline;
use scenarios::{Actor, Cgroup, Finding, Folder, Log, Recording, Report, Run, bindwatch, loopback};
use serde_json::Value;

/// A cgroup in which a bind that has its port cannot be denied: no IPv4 socket can be bound there, or the kernel is that old.
struct Spoilt {
    cgroup: Cgroup,
    denier: Option<Actor>,
}

/// Whether this kernel denies a bind that has its port.
fn denies_exactly() -> bool {
    let doctor = Run::bindwatch(["doctor", "--format", "json"]).outcome().expect(0).stdout;
    let doctor: Value = serde_json::from_str(&doctor).expect("JSON");
    let checks = doctor.get("checks").and_then(Value::as_array).expect("checks");
    let text = |check: &Value, name: &str| check.get(name).and_then(Value::as_str).map(str::to_owned);
    let denying = checks.iter().find(|check| text(check, "name").as_deref() == Some("denying binds"));
    text(denying.expect("a check"), "state").as_deref() == Some("ok")
}

impl Spoilt {
    fn new() -> Self {
        let cgroup = Cgroup::new();
        let denier = denies_exactly().then(|| Actor::denier(cgroup.path(), "post_bind4"));
        Self { cgroup, denier }
    }

    /// What makes a shell start bindwatch in it.
    fn arguments<'a>(&self, arguments: &[&'a OsStr]) -> Vec<std::ffi::OsString> {
        let script = r#"echo $$ > "$0/cgroup.procs"; exec "$@""#;
        let fixed = [OsStr::new("-c"), OsStr::new(script), self.cgroup.path().as_os_str()];
        let own = fixed.into_iter().map(OsStr::to_owned).chain([bindwatch().into()]);
        own.chain(arguments.iter().map(|one: &&'a OsStr| (*one).to_owned())).collect()
    }

    /// From now on sockets can be bound.
    fn mend(&self) {
        if let Some(denier) = &self.denier {
            denier.process.signal(Signal::KILL);
            assert!(denier.process.ended(Deadline::patient()), "the denier ends");
        }
    }
}

/// What is said of a program that denies the binds of bindwatch's own cgroup.
const ANOTHER: &str = "another program denies binds in bindwatch's own cgroup";

/// A job with two strangers in it, which found that it can only deny before a bind has its port.
struct Early {
    folder: Folder,
    job: Actor,
    children: [u64; 2],
    spoilt: Spoilt,
}

impl Early {
    fn start() -> Self {
        let (spoilt, folder) = (Spoilt::new(), Folder::new());
        let log = folder.file("log.jsonl");
        let options = ["run", "--on-conflict", "deny", "--output"].map(OsStr::new);
        let (rest, actor) = (["--"].map(OsStr::new), Actor::program());
        let arguments = [&options[..], &[log.as_os_str()], &rest, &[actor.as_os_str()]].concat();
        let errors = std::fs::File::create(folder.file("stderr")).expect("a file");
        let mut job = Actor::start(Command::new("sh").args(spoilt.arguments(&arguments)).stderr(errors));
        let children = [job.ok("spawn"), job.ok("spawn")].map(|answer| answer.number("pid"));
        spoilt.mend();
        Self { folder, job, children, spoilt }
    }

    fn tell(&mut self, child: u8, command: &str) -> String {
        self.job.tell(&format!("tell {child} {command}")).to_string()
    }

    /// One stranger has an endpoint, and the other gets it when the first is done, not before.
    fn in_turn(&mut self, protocol: &str, family: u8, place: &str, port: u16) {
        let id = |answer: &str| {
            let id = answer.strip_prefix("ok id=").and_then(|rest| rest.split(' ').next());
            id.expect(answer).to_owned()
        };
        let endpoint = format!("{place}:{port}");
        let held = id(&self.tell(1, &format!("bind {protocol} {endpoint} reuseport")));
        let socket = id(&self.tell(2, &format!("socket {protocol} {family}")));
        assert_eq!(self.tell(2, &format!("opt {socket} reuseport 1")), "ok");
        assert_eq!(
            self.tell(2, &format!("rebind {socket} {endpoint}")),
            "err EPERM",
            "{protocol} {endpoint}"
        );
        let next = format!("rebind {socket} {place}:{}", port + 10);
        assert_eq!(self.tell(2, &next), "ok", "{protocol} {endpoint}");
        assert_eq!(self.tell(1, &format!("close {held}")), "ok");
        let taken = self.tell(2, &format!("bind {protocol} {endpoint} reuseport"));
        assert!(taken.starts_with("ok"), "{protocol} {endpoint}: {taken}");
    }

    /// Ends the job, which has said what it can do; gives its log.
    fn end(self) -> (Log, Folder) {
        let Self { folder, job, spoilt, .. } = self;
        job.exit();
        let said = std::fs::read_to_string(folder.file("stderr")).expect("what it said");
        // Another tool's program is no incapacity of the kernel's.
        let (who, why) = match spoilt.denier {
            Some(_) => ("it cannot be tried here whether a bind that has its port can be denied", ANOTHER),
            None => ("this kernel cannot deny a bind that has its port", ""),
        };
        assert!(said.starts_with(&format!("bindwatch: {who}")), "{said}");
        assert!(said.contains(&format!("both can get it ({why}")), "{said}");
        let log = Log::at(&folder.file("log.jsonl"));
        let header = log.lines("\"type\":\"header\"").into_iter().next().expect("a header");
        let mode = header.pointer("/enforcement/mode");
        assert_eq!(mode.and_then(Value::as_str), Some("check"), "{header}");
        (log, folder)
    }
}

/// What was denied at an address, each once.
fn denied(report: &Report, address: Ipv4Addr, children: [u64; 2]) -> usize {
    let found = report.at(IpAddr::from(address));
    let denied: Vec<_> = found.into_iter().filter(|finding| finding.kind() == "denied").collect();
    for finding in &denied {
        assert_eq!(finding.victim().text("errno"), "EPERM");
        assert!(children.contains(&finding.victim().number("pid")));
    }
    denied.len()
}

#[test]
fn a_bind_is_denied_before_it_has_a_port_where_that_is_the_only_way() {
    let address = loopback();
    let mut outside = Actor::new();
    outside.bind(&format!("tcp {address}:8000 reuseport listen"));
    let mut early = Early::start();

    // Whoever was there before, and whoever comes first; then the port is free, and the socket is of use.
    assert_eq!(early.tell(1, &format!("bind tcp {address}:8000 reuseport")), "err EPERM");
    for protocol in ["tcp", "udp"] {
        early.in_turn(protocol, 4, &address.to_string(), 8001);
        early.in_turn(protocol, 6, "[::1]", 8501);
    }
    // What overlaps, in both planes.
    assert_eq!(early.tell(1, "bind tcp 0.0.0.0:8001 reuseport"), "err EPERM");
    assert_eq!(early.tell(1, "bind tcp [::]:8001 reuseport"), "err EPERM");
    // A port that the kernel chooses is not looked at.
    assert!(early.tell(1, &format!("bind udp {address}:0 reuseport")).starts_with("ok"));
    // One lineage.
    assert!(early.tell(1, &format!("bind tcp {address}:8003 reuseport listen")).starts_with("ok"));
    assert!(early.tell(1, "fork").starts_with("ok"));
    assert!(early.tell(1, &format!("tell 1 bind tcp {address}:8003 reuseport listen")).starts_with("ok"));

    let children = early.children;
    let (log, _folder) = early.end();
    // Each is one incident: that it failed in the end is told by that.
    let at =
        |line: &Value| line.pointer("/socket/address").and_then(Value::as_str) == Some(&address.to_string());
    assert_eq!(log.lines("\"type\":\"bind-failed\"").iter().filter(|line| at(line)).count(), 0);
    let report = log.report();
    assert_eq!(denied(&report, address, children), 3, "{report}");
    // Others use that address as well.
    let is_denied =
        |finding: &Finding| finding.kind() == "denied" && finding.victim().text("errno") == "EPERM";
    assert!(report.at(Ipv6Addr::LOCALHOST).iter().any(is_denied), "{report}");
}

#[test]
fn a_bind_of_mptcp_is_denied_before_it_has_a_port() {
    let (address, mut early) = (loopback(), Early::start());
    early.in_turn("mptcp", 4, &address.to_string(), 8002);
    let children = early.children;
    let (log, _folder) = early.end();
    let report = log.report();
    assert_eq!(denied(&report, address, children), 1, "{report}");
}

#[test]
fn strict_refuses_what_is_not_exact() {
    let (spoilt, folder, other) = (Spoilt::new(), Folder::new(), Cgroup::new());
    // Before 5.11 another recording has used up what root may lock of its memory.
    let another = Recording::start();
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
        assert_eq!(outcome.stderr.contains(ANOTHER), spoilt.denier.is_some(), "{outcome}");
        assert_eq!(outcome.stderr.contains("this kernel cannot"), spoilt.denier.is_none(), "{outcome}");
        assert!(!log.exists());
    }
    drop(another.stop());
}

/// The doctor says that binds are denied before they have a port, and what is in the way: a program like that of systemd's
/// SocketBindDeny, or one that denies later, is another matter than the kernel.
#[test]
fn the_doctor_says_what_is_in_the_way() {
    for kind in ["post_bind4", "bind4"] {
        let cgroup = Cgroup::new();
        let exact = denies_exactly();
        let _denier = exact.then(|| Actor::denier(cgroup.path(), kind));
        let outcome = Run::bindwatch(["doctor"]).inside(&cgroup).outcome().expect(0);
        assert!(outcome.stdout.contains("before they have a port, with EPERM"), "{outcome}");
        assert_eq!(outcome.stdout.contains(ANOTHER), exact, "{outcome}");
        assert_eq!(outcome.stdout.contains("SocketBindDeny"), exact, "{outcome}");
        assert_eq!(outcome.stdout.contains("a newer kernel denies exactly"), !exact, "{outcome}");
    }
}

#[test]
fn strict_is_not_in_the_way_of_what_is_exact() {
    let folder = Folder::new();
    let log = folder.file("log.jsonl");
    // Without a denial it says nothing.
    let run = Run::bindwatch(["run", "--quiet", "--strict", "--on-conflict", "deny", "--output"]);
    drop(run.args([&log]).args(["--", "true"]).outcome().expect(0));
    let outcome = Run::bindwatch(["run", "--strict", "--", "true"]).outcome();
    outcome.expect_one_line(2);
}
