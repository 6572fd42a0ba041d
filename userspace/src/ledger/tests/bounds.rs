//! Bounds that are reached, numbers that nobody counts to, and what is not known for certain.

use std::fmt::Write as _;

use super::super::Settings;
use super::super::finding::{Holder, Kind};
use super::story::{Story, check};
use crate::event::{
    Accepted, Body, Cookie, Denied, Errno, Limit, Omitted, ProcessKey, Tid, WaitOutcome, Waited, Waiting,
    WaitingCall,
};

/// Twenty victims that try again and again are twenty findings.
#[test]
fn many_victims_that_retry_are_one_finding_each() {
    let mut text = String::from("proc H\nbind H h tcp 127.0.0.1:80\nlisten h by=H\n");
    for n in 0..20 {
        writeln!(text, "proc V{n}").unwrap();
    }
    for round in 0..5 {
        for n in 0..20 {
            writeln!(text, "refuse V{n} s{round}x{n} tcp 127.0.0.1:80").unwrap();
        }
    }
    let mut told = Story::new(Settings::default());
    told.tell(&text);
    assert_eq!(told.ledger.findings().count(), 20);
}

fn denied(told: &mut Story, victim: &str, port: u16, holder: Cookie) {
    let socket = format!("d{port}x{}", told.seq);
    deny(told, &format!("refuse {victim} {socket} tcp 127.0.0.1:{port}"), holder);
}

/// A bind of this line is denied, for a socket of A.
fn deny(told: &mut Story, line: &str, holder: Cookie) {
    let Body::BindFailed(failed) = told.parse(line) else { panic!("{line}") };
    let holder_key: ProcessKey = told.key("A");
    let body = Body::Denied(Denied {
        process: failed.process,
        tid: Tid(1),
        comm: failed.comm,
        requested_port: failed.socket.port,
        socket: failed.socket,
        holder_cookie: holder,
        holder: holder_key,
        errno: Errno::EADDRINUSE,
        dry_run: false,
    });
    told.apply(body, line);
}

#[test]
fn the_latest_denials_are_remembered_whatever_their_port() {
    let mut told = Story::new(Settings::default());
    told.tell("proc A\nproc V\nbind A a tcp 127.0.0.1:80 rp");
    for port in 2_000..3_024 {
        denied(&mut told, "V", port, Cookie(7));
    }
    let before = told.ledger.findings().count();
    for _ in 0..5 {
        denied(&mut told, "V", 80, Cookie(1));
    }
    assert_eq!(told.ledger.findings().count() - before, 1);
}

/// A look at the tables while a bind is being refused shows its socket there.
#[test]
fn a_socket_that_was_listed_within_its_denied_bind_never_shared() {
    for others in ["", "proc C\nbind C c tcp 127.0.0.1:80 rp\nlisten c by=C"] {
        let mut told = Story::new(Settings::default());
        told.tell("proc A\nproc V\nbind A a tcp 127.0.0.1:80 rp\nlisten a by=A");
        told.tell(others);
        let before = told.findings();
        told.tell("found v tcp 127.0.0.1:80 close V rp");
        assert_ne!(told.findings(), before);
        let holder = told.socket("a");
        deny(&mut told, "refuse V v tcp 127.0.0.1:80 rp", holder);
        let now: Vec<_> = told.ledger.findings().map(|finding| (finding.kind, finding.live)).collect();
        let shared = before.iter().map(|_| (Kind::CoBind, true));
        assert_eq!(now, shared.chain([(Kind::Denied, false)]).collect::<Vec<_>>());
        let names_victim = |holders: &[Holder]| holders.iter().any(|one| one.process == told.key("V"));
        assert!(!told.ledger.findings().any(|finding| names_victim(&finding.holders)));
        // It has another port next.
        told.tell("bind V v tcp 127.0.0.1:81 rp");
        assert_eq!(told.ledger.findings().count(), now.len());
    }
}

/// The same of a bind that succeeds: it shares from its bind on, and is told once.
#[test]
fn a_socket_that_was_listed_within_its_bind_shares_since_then() {
    let mut told = Story::new(Settings::default());
    told.tell("proc A\nproc B\nfound b tcp 127.0.0.1:80 close B rp\nbind A a tcp 127.0.0.1:80 rp");
    assert_eq!(told.ledger.findings().count(), 1);
    told.tell("bind B b tcp 127.0.0.1:80 rp");
    let findings: Vec<_> = told.ledger.findings().collect();
    let [shared] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!((shared.kind, shared.live), (Kind::CoBind, true));
    let came: Vec<_> =
        shared.holders.iter().map(|holder| (holder.process, holder.bound_at.is_some())).collect();
    assert_eq!(came, [(told.key("A"), true), (told.key("B"), true)]);
    // What was shared for long was shared.
    let mut told = Story::new(Settings::default());
    told.tell("proc A\nproc B\nfound b tcp 127.0.0.1:80 close B rp\nbind A a tcp 127.0.0.1:80 rp");
    told.tell("@9000 bind B b tcp 127.0.0.1:80 rp");
    assert_eq!(told.ledger.findings().count(), 2);
}

#[test]
fn a_denial_is_not_put_to_a_wait_that_ended_in_a_refusal() {
    let mut told = Story::new(Settings::default());
    told.tell("proc A\nproc V\nproc W\nbind A a tcp 127.0.0.1:80 rp\nlisten a by=A");
    let line = "refuse V v tcp 127.0.0.1:80 rp";
    let Body::BindFailed(failed) = told.parse(line) else { panic!() };
    let (process, cookie) = (failed.process, failed.socket.cookie);
    let holder = told.key("A");
    told.apply(
        Body::Waiting(Waiting {
            process,
            tid: Tid(1),
            comm: "v".to_owned(),
            call: WaitingCall::Bind,
            socket: failed.socket,
            holder_cookie: Some(Cookie(1)),
            holder: Some(holder),
        }),
        "waiting",
    );
    told.tick();
    let waited = Waited { process, cookie, waited_ns: 1, outcome: WaitOutcome::TimedOut };
    told.apply(Body::Waited(waited), "waited");
    // Meanwhile it stopped sharing: the kernel itself refuses.
    told.tell("set a rp=0\nrefuse V v tcp 127.0.0.1:80 rp\nset a rp=1");
    denied(&mut told, "W", 80, Cookie(1));
    let kinds: Vec<_> = told.ledger.findings().map(|finding| (finding.kind.name(), finding.count)).collect();
    assert_eq!(kinds, [("refused", 1), ("denied", 1)]);
}

#[test]
fn who_is_not_known_is_not_certainly_a_stranger() {
    check(
        "inventory begin
         inventory end
         proc A
         lost process=3
         inventory begin
         inventory end
         proc P nameless
         bind A a udp 127.0.0.1:80 rp
         bind P p udp 127.0.0.1:80 rp",
        "co-bind udp 127.0.0.1:80 live A[a bound] P[p bound] -> split uncertain 0ms",
    );
}

#[test]
fn who_came_while_events_were_lost_may_have_won_a_race() {
    check(
        "proc P
         proc Q
         inventory begin
         inventory end
         bind P p tcp 127.0.0.1:80
         close p
         lost bind=1
         inventory begin
         found q tcp 127.0.0.1:80 listen Q
         inventory end
         refuse P p2 tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 Q[q listen] victim=P lost-race",
    );
}

#[test]
fn a_port_that_listen_chose_is_watched_as_one_that_was_bound() {
    let story = |how: &str| {
        let mut told = Story::new(Settings::default());
        told.tell(&format!(
            "proc J cgroup=/j
             job start /j first=J
             proc S parent=J cgroup=/j
             proc A parent=S cgroup=/j
             {how}
             @2000 exit S
             @4000 lost option=1"
        ));
        told.ledger.findings().count()
    };
    assert_eq!(story("bind A a tcp 127.0.0.1:4000\nlisten a by=A"), 1, "bound");
    assert_eq!(story("listen a tcp 0.0.0.0:0 by=A\nlisten a tcp 0.0.0.0:4000 by=A"), 1, "listen");
    assert_eq!(story("listen a tcp 0.0.0.0:0 by=A\nnow a tcp 0.0.0.0:4000 by=A state=listen"), 1, "changed");
}

/// After its last event a log with a size says nothing more.
#[test]
fn what_lives_where_a_log_was_full_is_uncertain() {
    let mut told = Story::new(Settings::default());
    told.tell("proc A\nproc B\nbind A a udp 127.0.0.1:80 rp\nbind B b udp 127.0.0.1:80 rp");
    let uncertain = |told: &Story| told.ledger.findings().map(|found| found.uncertain).collect::<Vec<_>>();
    let limit =
        |bound: &str| Body::Limit(Limit { bound: bound.to_owned(), value: 1, unit: "bytes".to_owned() });
    told.apply(limit("table-rows"), "another bound");
    assert_eq!(uncertain(&told), [false]);
    told.apply(limit(Limit::LOG_SIZE), "full");
    assert_eq!(uncertain(&told), [true]);
}

#[test]
fn hostile_numbers_do_not_overflow() {
    let mut told = Story::new(Settings::default());
    told.tell("proc A\nproc B\nbind A a tcp 127.0.0.1:80 rp\nbind A a2 tcp 127.0.0.1:80 rp\nbind B b tcp 127.0.0.1:80 rp");
    for cookie in [1, 2, 3] {
        told.tick();
        told.apply(Body::Accepted(Accepted { cookie: Cookie(cookie), connections: u64::MAX }), "accepted");
    }
    assert_eq!(told.ledger.findings().count(), 1);
}

#[test]
fn hostile_counts_do_not_overflow() {
    let mut told = Story::new(Settings::default());
    told.tell("proc A");
    let omitted = Omitted { events: u64::MAX, binds: u64::MAX, binds_failed: u64::MAX, ..Omitted::default() };
    told.apply(Body::Omitted(omitted), "omitted");
    told.tell("bind A a tcp 127.0.0.1:80\nrefuse A b tcp 127.0.0.1:81");
    assert_eq!(told.ledger.stats().binds, u64::MAX);
}

/// Of a process that binds again and again what is listed is what it has, and not what it had.
#[test]
fn a_holder_of_many_sockets_is_not_released_while_it_has_one() {
    let mut told = Story::new(Settings::default());
    let mut text = String::from("proc A\nproc B\nbind B b tcp 127.0.0.1:80 rp\nlisten b by=B\n");
    // It never has less than one.
    for n in 0..300 {
        writeln!(text, "bind A a{n} tcp 127.0.0.1:80 rp\nlisten a{n} by=A").unwrap();
        if n > 0 {
            writeln!(text, "close a{}", n - 1).unwrap();
        }
    }
    told.tell(&text);
    let holder = |told: &Story| {
        let finding = told.ledger.findings().next().unwrap();
        assert!(finding.live);
        finding.holders.into_iter().find(|holder| holder.process == told.key("A")).unwrap()
    };
    let busy = holder(&told);
    assert_eq!((busy.released_at, busy.sockets.len()), (None, 256));
    assert!(busy.sockets.contains(&told.socket("a299")));
    assert_eq!(busy.socket_cookie, told.socket("a0"), "the one it came in with");
    assert!(told.ledger.stats().limits.contains_key("holder-sockets"));
    // Of many at once, those that have no place come in as others leave.
    let mut text = String::new();
    for n in 300..580 {
        writeln!(text, "bind A a{n} tcp 127.0.0.1:80 rp").unwrap();
    }
    for n in 299..579 {
        writeln!(text, "close a{n}").unwrap();
    }
    told.tell(&text);
    let busy = holder(&told);
    assert_eq!(busy.released_at, None);
    assert!(busy.sockets.contains(&told.socket("a579")));
    told.tell("close a579");
    let finding = told.ledger.findings().next().unwrap();
    assert!(!finding.live);
    assert!(finding.holders.iter().any(|holder| holder.released_at.is_some()));
}
