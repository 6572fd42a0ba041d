//! `run --on-conflict deny`: a bind of the command that would share a port with a stranger fails, and nothing else does.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use rustix::process::Signal;
use scenarios::wait::{Deadline, Process, SLOWNESS};
use scenarios::{Actor, Folder, Log, Report, Run, bindwatch, loopback};

/// An actor that is the command of an enforcing `run`, with two children that are strangers to each other.
struct Job {
    actor: Actor,
    folder: Folder,
}

impl Job {
    fn start(options: &[&str]) -> Self {
        let folder = Folder::new();
        let mut run = Command::new(bindwatch());
        run.args(["run", "--quiet", "--on-conflict", "deny", "--output"]).arg(folder.file("log.jsonl"));
        run.args(options).arg("--").arg(Actor::program());
        let mut actor = Actor::start(&mut run);
        actor.ok("spawn");
        actor.ok("spawn");
        Self { actor, folder }
    }

    /// What one of the children answers.
    fn tell(&mut self, child: u8, command: &str) -> String {
        self.actor.tell(&format!("tell {child} {command}")).to_string()
    }

    #[track_caller]
    fn ok(&mut self, child: u8, command: &str) -> String {
        let answer = self.tell(child, command);
        assert!(answer.starts_with("ok"), "{command}: {answer}");
        answer
    }

    #[track_caller]
    fn refused(&mut self, child: u8, command: &str) {
        assert_eq!(self.tell(child, command), "err EADDRINUSE", "{command}");
    }

    fn pid(&mut self, child: u8) -> u64 {
        let answer = self.ok(child, "pid");
        answer.rsplit('=').next().and_then(|pid| pid.parse().ok()).expect("a PID")
    }

    /// Ends the children before their parent, whose end is the job's: or they could be orphans.
    fn end(mut self) -> Report {
        for child in [1, 2] {
            let pid = u32::try_from(self.pid(child)).expect("a PID");
            let process = Process::of(pid);
            process.signal(Signal::KILL);
            assert!(process.ended(Deadline::patient()), "the child ends");
        }
        self.actor.exit();
        Log::at(&self.folder.file("log.jsonl")).report()
    }
}

/// Processes that want a tenth as many ports.
const RACERS: u64 = 500 / SLOWNESS;

#[test]
fn of_many_that_race_for_a_port_one_wins() {
    let racers = Actor::program().with_file_name("racers");
    let runs = std::env::var("BINDWATCH_RACES").ok().and_then(|runs| runs.parse().ok()).unwrap_or(1_usize);
    let v4 = std::iter::repeat_with(|| (IpAddr::from(loopback()), "tcp")).take(runs);
    for (address, kind) in v4.chain([(IpAddr::from(Ipv6Addr::LOCALHOST), "udp")]) {
        let folder = Folder::new();
        let run = Run::bindwatch(["run", "--quiet", "--on-conflict", "deny", "--output"]);
        let run = run.args([folder.file("log.jsonl")]).args(["--"]).args([&racers]);
        let (all, each) = (RACERS.to_string(), (RACERS / 10).to_string());
        let outcome = run.args([&all, &each, &address.to_string(), "20000", kind]).outcome().expect(0);
        assert_eq!(outcome.stdout, format!("won {each} lost {}\n", RACERS / 10 * 9), "{kind}");
        let report = Log::at(&folder.file("log.jsonl")).report();
        // Other tests have findings on ::1 as well.
        let mut findings = report.at(address);
        findings.retain(|finding| (20_000..20_000 + RACERS / 10).contains(&finding.number("port")));
        assert_eq!(findings.len() as u64, RACERS / 10, "{report}");
        for finding in findings {
            assert_eq!((finding.kind(), finding.number("count")), ("denied", 9));
            assert_eq!(finding.holders().len(), 1);
        }
        println!("{kind}: {}", outcome.stdout.trim_end());
    }
    // The same where nothing is enforced, beside one that is.
    let (_job, address) = (Job::start(&[]), loopback().to_string());
    let (all, each) = (RACERS.to_string(), (RACERS / 10).to_string());
    let outcome = Run::new(&racers).args([&all, &each, &address, "20000"]).outcome().expect(0);
    assert!(outcome.stdout.starts_with(&format!("won {RACERS} lost 0\n")), "{outcome}");
}

#[test]
fn of_two_that_go_for_one_port_at_one_instant_one_wins() {
    let racers = Actor::program().with_file_name("racers");
    let v4 = format!("{}:9000", loopback());
    // Fewer where each takes longer: a job that has not come to its end in time is killed, and its end is not guarded.
    let rounds = |count: u64| count / SLOWNESS;
    for (endpoint, kind, rounds) in
        [(v4, "tcp", rounds(3_000)), ("[::1]:9000".to_owned(), "udp", rounds(300))]
    {
        let folder = Folder::new();
        let run = Run::bindwatch(["run", "--quiet", "--on-conflict", "deny", "--output"]);
        let run = run.args([folder.file("log.jsonl")]).args(["--"]).args([&racers]);
        let outcome = run.args(["pair", &rounds.to_string(), &endpoint, kind]).outcome().expect(0);
        println!("{kind}: {}", outcome.stdout);
        assert_eq!(outcome.stdout, format!("one {rounds} both 0 none 0\n"), "{kind}");
    }
    // They can both win where nothing is denied, or this proves nothing.
    let endpoint = format!("{}:9000", loopback());
    let outcome = Run::new(&racers).args(["pair", "100", &endpoint, "tcp"]).outcome().expect(0);
    assert_eq!(outcome.stdout, "one 0 both 100 none 0\n");
}

#[test]
fn a_denied_socket_binds_elsewhere_and_the_port_is_free() {
    let mut job = Job::start(&[]);
    let (one, other) = (job.pid(1), job.pid(2));
    let v4 = loopback();
    for (family, protocol, place) in [
        (4, "tcp", v4.to_string()),
        (4, "udp", v4.to_string()),
        (4, "mptcp", loopback().to_string()),
        (6, "tcp", "[::1]".to_owned()),
        (6, "udp", "[::1]".to_owned()),
        (6, "mptcp", "[::1]".to_owned()),
    ] {
        let port = match protocol {
            "tcp" => 8000,
            "udp" => 8050,
            _ => 8100,
        };
        let listen = if protocol == "udp" { "" } else { "listen" };
        job.ok(1, &format!("bind {protocol} {place}:{port} reuseport {listen}"));
        let answer = job.ok(2, &format!("socket {protocol} {family}"));
        let id =
            answer.split("id=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an id").to_owned();
        job.ok(2, &format!("opt {id} reuseport 1"));
        job.refused(2, &format!("rebind {id} {place}:{port}"));
        job.ok(2, &format!("rebind {id} {place}:{}", port + 1));
        // Whose holder goes is free at once.
        let answer = job.ok(1, &format!("bind {protocol} {place}:{} reuseport", port + 2));
        let id =
            answer.split("id=").nth(1).and_then(|rest| rest.split(' ').next()).expect("an id").to_owned();
        job.refused(2, &format!("bind {protocol} {place}:{} reuseport", port + 2));
        job.ok(1, &format!("close {id}"));
        job.ok(2, &format!("bind {protocol} {place}:{} reuseport", port + 2));
    }
    let report = job.end();
    let finding = report.only(v4, 8000);
    assert_eq!((finding.kind(), finding.severity()), ("denied", "note"));
    assert_eq!(finding.pids(), [one]);
    assert_eq!((finding.victim().number("pid"), finding.victim().text("errno")), (other, "EADDRINUSE"));
    assert!(report.at(v4).iter().all(|finding| finding.kind() == "denied"), "{report}");
}

#[test]
fn whoever_was_there_before_counts_and_overlap_does() {
    let (address, wild) = (loopback(), loopback());
    let mut outside = Actor::new();
    outside.bind(&format!("tcp {address}:8000 reuseport listen"));
    let late = outside.bind(&format!("udp {address}:8001"));
    let mut job = Job::start(&[]);
    job.refused(1, &format!("bind tcp {address}:8000 reuseport"));
    // Sharing begins to be possible when the holder asks for it.
    outside.ok(&format!("opt {} reuseport 1", late.id));
    job.refused(1, &format!("bind udp {address}:8001 reuseport"));
    // What overlaps is denied as well, both ways round.
    outside.bind(&format!("tcp {wild}:8402 reuseport listen"));
    job.refused(1, "bind tcp 0.0.0.0:8402 reuseport");
    job.refused(1, "bind tcp [::]:8402 reuseport");
    job.ok(1, "bind tcp [::1]:8402 reuseport");
    job.ok(1, "bind tcp 0.0.0.0:8403 reuseport listen");
    job.refused(2, &format!("bind tcp {wild}:8403 reuseport"));
    // The stranger outside is not bound by it.
    outside.bind(&format!("tcp {wild}:8403 reuseport"));
    let report = job.end();
    assert_eq!(report.only(address, 8000).pids(), [u64::from(outside.pid())]);
}

#[test]
fn kin_pools_and_what_is_allowed_share() {
    let address = loopback();
    let mut job = Job::start(&["--allow", "port=8100-8199"]);
    // One lineage.
    job.ok(1, &format!("bind tcp {address}:8000 reuseport listen"));
    job.ok(1, "fork");
    job.ok(1, &format!("tell 1 bind tcp {address}:8000 reuseport listen"));
    // An ancestor, in both directions.
    job.actor.bind(&format!("tcp {address}:8000 reuseport listen"));
    job.actor.bind(&format!("tcp {address}:8001 reuseport listen"));
    job.ok(2, &format!("bind tcp {address}:8001 reuseport listen"));
    // A rule.
    job.ok(1, &format!("bind tcp {address}:8100 reuseport listen"));
    job.ok(2, &format!("bind tcp {address}:8100 reuseport listen"));
    job.ok(1, &format!("bind tcp {address}:8200 reuseport listen"));
    job.refused(2, &format!("bind tcp {address}:8200 reuseport listen"));
    // Multicast.
    job.ok(1, "bind udp 239.1.2.3:8300 reuseaddr");
    job.ok(2, "bind udp 239.1.2.3:8300 reuseaddr");
    job.end();
}
