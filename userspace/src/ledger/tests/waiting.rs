//! Calls that wait: one wait is one finding, however it ends.

use super::story::Story;
use crate::event::{Body, Cookie, Denied, ProcessKey, WaitOutcome, Waited, Waiting, WaitingCall};
use crate::ledger::Settings;
use crate::ledger::finding::Wait;

const NS: u64 = 7_000_000;

/// A story with a holder A of the port and somebody else, V, who wants it.
fn begun() -> Story {
    let mut told = Story::new(Settings::default());
    told.tell(
        "proc A
         proc V
         bind A a tcp 127.0.0.1:80 rp
         listen a by=A",
    );
    told
}

impl Story {
    /// V's call on its socket `name` waits, for whom the kernel's own rule says or the guard does.
    fn waits(&mut self, name: &str, call: WaitingCall, blocked_by: Option<(Cookie, ProcessKey)>) -> Cookie {
        let line = format!("refuse V {name} tcp 127.0.0.1:80");
        let Body::BindFailed(failed) = self.parse(&line) else { panic!("{line}") };
        let cookie = failed.socket.cookie;
        let waiting = Waiting {
            process: failed.process,
            tid: failed.tid,
            comm: failed.comm,
            call,
            socket: failed.socket,
            holder_cookie: blocked_by.map(|(cookie, _)| cookie),
            holder: blocked_by.map(|(_, holder)| holder),
        };
        self.apply(Body::Waiting(waiting), "waiting");
        cookie
    }

    fn waited(&mut self, cookie: Cookie, outcome: WaitOutcome) {
        let process = self.key("V");
        self.tick();
        self.apply(Body::Waited(Waited { process, cookie, waited_ns: NS, outcome }), "waited");
    }

    fn waits_found(&self) -> Vec<Option<Wait>> {
        self.ledger.findings().map(|finding| finding.wait).collect()
    }
}

#[test]
fn a_wait_that_is_rewarded_is_a_note_that_says_how_long() {
    for outcome in [WaitOutcome::Done, WaitOutcome::Interrupted, WaitOutcome::Released] {
        let mut told = begun();
        let cookie = told.waits("v", WaitingCall::Bind, None);
        assert_eq!(told.waits_found(), [Some(Wait { ns: 0, outcome: None })], "it goes on");
        told.waited(cookie, outcome);
        assert_eq!(told.waits_found(), [Some(Wait { ns: NS, outcome: Some(outcome) })]);
        assert_eq!(told.findings(), ["denied tcp 127.0.0.1:80 A[a listen] victim=V listener"], "for whom");
        // An end without a beginning, and a second one, tell nothing.
        told.waited(cookie, WaitOutcome::TimedOut);
        told.waited(Cookie(4711), WaitOutcome::Done);
        assert_eq!(told.waits_found(), [Some(Wait { ns: NS, outcome: Some(outcome) })]);
    }
}

#[test]
fn a_wait_in_vain_becomes_the_failure_that_ends_it() {
    for call in [WaitingCall::Bind, WaitingCall::Listen] {
        let mut told = begun();
        let cookie = told.waits("v", call, None);
        told.waited(cookie, WaitOutcome::TimedOut);
        told.tell(match call {
            WaitingCall::Bind => "refuse V v tcp 127.0.0.1:80",
            WaitingCall::Listen => "listen-refuse V v",
        });
        let name = if call == WaitingCall::Bind { "V" } else { "V/listen" };
        assert_eq!(
            told.findings(),
            [format!("refused tcp 127.0.0.1:80 A[a listen] victim={name} listener")],
            "one, and once"
        );
        assert_eq!(told.waits_found(), [Some(Wait { ns: NS, outcome: Some(WaitOutcome::TimedOut) })]);
    }
}

#[test]
fn a_wait_for_one_who_would_share_ends_in_a_denial() {
    let mut told = begun();
    let holder = told.key("A");
    let Body::Listen(of) = told.parse("listen a by=A") else { unreachable!() };
    let cookie = told.waits("v", WaitingCall::Bind, Some((of.socket.cookie, holder)));
    told.waited(cookie, WaitOutcome::TimedOut);
    let Body::BindFailed(failed) = told.parse("refuse V v tcp 127.0.0.1:80") else { unreachable!() };
    let denied = Denied {
        process: failed.process,
        tid: failed.tid,
        comm: failed.comm,
        socket: failed.socket,
        requested_port: 80,
        holder_cookie: of.socket.cookie,
        holder,
        errno: failed.errno,
        dry_run: false,
    };
    told.apply(Body::Denied(denied), "denied");
    assert_eq!(told.findings(), ["denied tcp 127.0.0.1:80 A[a listen] victim=V"]);
    told.tell("close a");
    let holders: Vec<_> = told.ledger.findings().flat_map(|finding| finding.holders).collect();
    assert!(holders.iter().all(|holder| holder.released_at.is_some()), "it has let go: {holders:?}");
    assert_eq!(told.waits_found(), [Some(Wait { ns: NS, outcome: Some(WaitOutcome::TimedOut) })]);
}

#[test]
fn one_of_several_that_fails_is_a_finding_of_its_own() {
    let mut told = begun();
    let first = told.waits("v", WaitingCall::Bind, None);
    told.waited(first, WaitOutcome::Done);
    let second = told.waits("w", WaitingCall::Bind, None);
    told.waited(second, WaitOutcome::TimedOut);
    told.tell("refuse V w tcp 127.0.0.1:80");
    assert_eq!(
        told.findings(),
        [
            "denied tcp 127.0.0.1:80 A[a listen] victim=V listener",
            "refused tcp 127.0.0.1:80 A[a listen] victim=V listener"
        ]
    );
    let ended = |outcome| Some(Wait { ns: NS, outcome: Some(outcome) });
    assert_eq!(told.waits_found(), [ended(WaitOutcome::Done), ended(WaitOutcome::TimedOut)]);
}
