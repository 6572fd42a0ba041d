//! `run --on-conflict deny`: a bind of the command that would share a port with a stranger fails, and nothing else does.

#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;

use rustix::process::Signal;
use scenarios::wait::{Deadline, Process, SLOWNESS};
use scenarios::{Actor, Cgroup, Finding, Folder, Log, Recording, Report, Run, bindwatch, loopback};

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

/// Where a socket can be bound, of which family it is then, and where its port is reached.
const PLACES: [(&str, u8, &[&str]); 5] = [
    ("127.0.0.1", 4, &["127.0.0.1"]),
    ("0.0.0.0", 4, &["127.0.0.1"]),
    ("[::1]", 6, &["[::1]"]),
    ("[::]", 6, &["[::1]", "127.0.0.1"]),
    ("[::ffff:127.0.0.1]", 6, &["127.0.0.1"]),
];
const PROTOCOLS: [&str; 3] = ["tcp", "udp", "mptcp"];

/// The socket of a process is of use: what is sent to its port arrives.
#[track_caller]
fn serves(process: &mut Actor, id: u64, protocol: &str, target: &str) {
    let mut client = Actor::beside(process);
    if protocol == "udp" {
        client.ok(&format!("knock udp {target} 1"));
        process.ok(&format!("receive {id}"));
    } else {
        client.ok(&format!("connect {protocol} {target}"));
        process.ok(&format!("accept {id}"));
    }
}

#[test]
fn a_denied_socket_binds_elsewhere_and_the_port_is_free_at_once() {
    let cgroup = Cgroup::new();
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    // Nobody else has a port in their network.
    let mut holder = Actor::new();
    holder.ok("unshare-net");
    let (mut denied, mut inside, mut outside) =
        (Actor::beside(&holder), Actor::beside(&holder), Actor::beside(&holder));
    for enrolled in [&holder, &denied, &inside] {
        cgroup.enrol(enrolled.pid());
    }
    let rounds = PROTOCOLS.iter().flat_map(|protocol| PLACES.map(|place| (*protocol, place)));
    for ((protocol, (place, family, reached)), port) in rounds.clone().zip((8000..).step_by(10)) {
        let listen = if protocol == "udp" { "" } else { "listen" };
        let held = holder.bind(&format!("{protocol} {place}:{port} reuseport {listen}"));
        let socket = denied.ok(&format!("socket {protocol} {family}")).number("id");
        denied.ok(&format!("opt {socket} reuseport 1"));
        let rebind = format!("rebind {socket} {place}:{port}");
        assert_eq!(denied.err(&rebind), "EADDRINUSE", "{protocol} {place}");
        // It is open, and has no port that it could hand out.
        assert_eq!(denied.ok(&format!("port {socket}")).number("port"), 0, "{protocol} {place}");
        holder.ok(&format!("close {}", held.id));
        // Others have the port for themselves, at once: they do not agree to share it.
        for other in [&mut outside, &mut inside] {
            let taken = other.bind(&format!("{protocol} {place}:{port} {listen}"));
            assert_eq!(denied.err(&rebind), "EADDRINUSE", "{protocol} {place}");
            other.ok(&format!("close {}", taken.id));
        }
        // And the socket that was denied goes elsewhere, and is of use there.
        denied.ok(&format!("rebind {socket} {place}:{}", port + 1));
        if protocol != "udp" {
            denied.ok(&format!("listen {socket}"));
        }
        for target in reached {
            serves(&mut denied, socket, protocol, &format!("{target}:{}", port + 1));
        }
        // It keeps nothing where it was denied.
        inside.bind(&format!("{protocol} {place}:{port} {listen}"));
    }
    recording.fence();
    let report = recording.stop().report();
    let findings = report.in_netns(holder.netns());
    for ((protocol, (place, ..)), port) in rounds.zip((8000..).step_by(10)) {
        let on = |finding: &&Finding| finding.number("port") == port && finding.kind() == "denied";
        let found: Vec<_> = findings.iter().filter(on).collect();
        let [finding] = found.as_slice() else { panic!("{protocol} {place}: {findings:#?}") };
        assert_eq!(finding.severity(), "note");
        assert_eq!(finding.pids(), [u64::from(holder.pid())], "{protocol} {place}");
        let victim = finding.victim();
        assert_eq!(victim.number("pid"), u64::from(denied.pid()), "{protocol} {place}");
        assert_eq!(victim.text("errno"), "EADDRINUSE");
        let hint = "give it another port; sharing that is meant is allowed with --allow";
        assert_eq!(finding.text("hint"), hint, "{protocol} {place}");
    }
}

#[test]
fn a_port_that_the_kernel_chose_is_its_holders() {
    let cgroup = Cgroup::new();
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    let mut boss = Actor::new();
    boss.ok("unshare-net");
    cgroup.enrol(boss.pid());
    let child = boss.ok("fork").number("child");
    let mut stranger = Actor::beside(&boss);
    cgroup.enrol(stranger.pid());
    let mut denied = 0;
    for protocol in PROTOCOLS {
        for (place, ..) in PLACES {
            let chosen = boss.ok(&format!("tell {child} bind {protocol} {place}:0 reuseport"));
            let (id, port) = (chosen.number("id"), chosen.number("port"));
            let bind = format!("bind {protocol} {place}:{port} reuseport");
            assert_eq!(stranger.err(&bind), "EADDRINUSE", "{protocol} {place}");
            denied += 1;
            // It is no stranger's to its own party, and free after it.
            let also = boss.ok(&bind).number("id");
            boss.ok(&format!("tell {child} close {id}"));
            assert_eq!(stranger.err(&bind), "EADDRINUSE", "{protocol} {place}");
            denied += 1;
            boss.ok(&format!("close {also}"));
            let id = stranger.ok(&bind).number("id");
            stranger.ok(&format!("close {id}"));
        }
    }
    recording.fence();
    let finished = recording.stop();
    let report = finished.report();
    let findings = report.in_netns(boss.netns());
    assert!(findings.iter().all(|finding| finding.kind() == "denied"), "{findings:#?}");
    // Where the kernel chose one port twice it is one incident.
    assert_eq!(findings.iter().map(|finding| finding.number("count")).sum::<u64>(), denied);
}

/// Ports that the kernel may choose: a party shares half of them.
const CHOICE: std::ops::Range<u64> = 30_000..30_010;

#[test]
fn port_0_never_leads_to_a_port_that_strangers_share() {
    let cgroup = Cgroup::new();
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    let mut holder = Actor::new();
    holder.ok("unshare-net");
    holder.ok(&format!("sysctl net/ipv4/ip_local_port_range {} {}", CHOICE.start, CHOICE.end - 1));
    cgroup.enrol(holder.pid());
    let mut stranger = Actor::beside(&holder);
    cgroup.enrol(stranger.pid());
    for protocol in PROTOCOLS {
        for (place, ..) in PLACES {
            let bind = |port: u64| format!("{protocol} {place}:{port} reuseport");
            let (shared, free): (Vec<u64>, Vec<u64>) = CHOICE.partition(|port| port % 4 < 2);
            let held: Vec<u64> = shared.iter().map(|port| holder.bind(&bind(*port)).id).collect();
            let (mut got, mut ids) = (BTreeSet::new(), Vec::new());
            for tries in 1.. {
                assert!(tries < 2_000, "{protocol} {place}: {got:?}");
                let answer = stranger.tell(&format!("bind {}", bind(0)));
                if answer.is_ok() {
                    got.insert(answer.number("port"));
                    ids.push(answer.number("id"));
                    if got.len() == free.len() {
                        break;
                    }
                } else {
                    // Of UDP the kernel also chooses ports that others share: then it is denied, and may ask again.
                    assert_eq!((protocol, answer.to_string()), ("udp", "err EADDRINUSE".to_owned()));
                }
            }
            assert!(got.iter().eq(&free), "{protocol} {place}: {got:?}");
            for id in ids {
                stranger.ok(&format!("close {id}"));
            }
            for id in held {
                holder.ok(&format!("close {id}"));
            }
        }
    }
    recording.fence();
    let report = recording.stop().report();
    let findings = report.in_netns(holder.netns());
    let of_udp = |finding: &Finding| finding.kind() == "denied" && finding.text("protocol") == "udp";
    assert!(findings.iter().all(of_udp), "{findings:#?}");
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
fn whoever_was_there_before_counts_for_every_protocol_and_place() {
    let (cgroup, mut outside) = (Cgroup::new(), Actor::new());
    outside.ok("unshare-net");
    let (mut inside, mut stranger) = (Actor::beside(&outside), Actor::beside(&outside));
    cgroup.enrol(inside.pid());
    cgroup.enrol(stranger.pid());
    let mut held = Vec::new();
    let rounds = PROTOCOLS.iter().flat_map(|protocol| PLACES.map(|(place, ..)| (*protocol, place)));
    for ((protocol, place), port) in rounds.zip((8000_u64..).step_by(10)) {
        let listen = if protocol == "udp" { "" } else { "listen" };
        // Some outside of what will be enforced, and some within.
        for (is_inside, port) in [(false, port), (true, port + 1)] {
            let holder = if is_inside { &mut inside } else { &mut outside };
            let bind = format!("{protocol} {place}:{port} reuseport {listen}");
            held.push((is_inside, holder.bind(&bind).id, bind, port));
        }
    }
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    for (_, _, bind, _) in &held {
        assert_eq!(stranger.err(&format!("bind {bind}")), "EADDRINUSE", "{bind}");
    }
    for (is_inside, id, bind, _) in &held {
        let holder = if *is_inside { &mut inside } else { &mut outside };
        holder.ok(&format!("close {id}"));
        stranger.bind(bind);
    }
    recording.fence();
    let report = recording.stop().report();
    let findings = report.in_netns(outside.netns());
    assert_eq!(findings.len(), held.len(), "{report}");
    for (is_inside, _, bind, port) in held {
        let finding = findings.iter().find(|finding| finding.number("port") == port);
        let finding = finding.unwrap_or_else(|| panic!("{bind}: {report}"));
        let holder = if is_inside { &inside } else { &outside };
        assert_eq!((finding.kind(), finding.pids()), ("denied", vec![u64::from(holder.pid())]), "{bind}");
    }
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
