//! Many unrelated parties on one port, each on an address of its own: the guard keeps all of them apart, up to its bound.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;

use scenarios::{Actor, Cgroup, Recording, loopbacks};

/// Parties of one port that the kernel side keeps apart (docs/kernels.md).
const BOUND: usize = 64;

/// A party on each address, and one who wants them all.
fn parties<const N: usize>(cgroup: &Cgroup) -> (Vec<(Actor, Ipv4Addr)>, Actor) {
    let actor = || {
        let actor = Actor::new();
        cgroup.enrol(actor.pid());
        actor
    };
    (loopbacks::<N>().into_iter().map(|address| (actor(), address)).collect(), actor())
}

#[test]
fn forty_parties_of_one_port_have_it_to_themselves() {
    let cgroup = Cgroup::new();
    let (mut all, mut intruder) = parties::<40>(&cgroup);
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    for round in 0..2 {
        let bind = |party: &mut Actor, address: &Ipv4Addr| {
            party.ok(&format!("bind tcp {address}:27111 reuseport listen")).number("id")
        };
        let first: Vec<u64> = all.iter_mut().map(|(party, address)| bind(party, address)).collect();
        for (_, address) in &all {
            let answer = intruder.tell(&format!("bind tcp {address}:27111 reuseport")).to_string();
            assert_eq!(answer, "err EADDRINUSE", "{address}, round {round}");
        }
        // Who wants all of them meets each.
        assert_eq!(intruder.tell("bind tcp 0.0.0.0:27111 reuseport").to_string(), "err EADDRINUSE");
        // A party may go on where it is, and what it gives up is free.
        for ((party, address), first) in all.iter_mut().zip(first) {
            let second = bind(party, address);
            party.ok(&format!("close {first}"));
            party.ok(&format!("close {second}"));
        }
        let (_, address) = all.first().expect("forty");
        let free = intruder.ok(&format!("bind tcp {address}:27111 reuseport")).number("id");
        intruder.ok(&format!("close {free}"));
    }
    recording.fence();
    let finished = recording.stop();
    assert!(!finished.outcome.stderr.contains("guard"), "{}", finished.outcome.stderr);
}

#[test]
fn one_more_than_are_kept_is_let_through_and_counted() {
    let cgroup = Cgroup::new();
    let (mut all, mut intruder) = parties::<{ BOUND + 1 }>(&cgroup);
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    for (party, address) in &mut all {
        party.bind(&format!("tcp {address}:27112 reuseport listen"));
    }
    let (_, last) = all.last().expect("sixty-five");
    intruder.bind(&format!("tcp {last}:27112 reuseport listen"));
    recording.fence();
    let finished = recording.stop();
    let lost = finished.log.lines("\"type\":\"lost\"");
    assert!(lost.iter().any(|line| line.to_string().contains("\"guard\"")), "{lost:?}");
    let report = finished.report();
    assert!(report.at(*last).iter().any(|finding| finding.kind() == "co-bind"), "{report}");
}

/// All through its start and its end, when the programs of both stand in one row and the kernel changes that row.
#[test]
fn another_bindwatch_that_comes_and_goes_opens_no_port() {
    let cgroup = Cgroup::new();
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    let actor = || {
        let actor = Actor::new();
        cgroup.enrol(actor.pid());
        actor
    };
    let (mut holder, mut stranger) = (actor(), actor());
    holder.bind("tcp 0.0.0.0:27113 reuseport listen");
    std::thread::scope(|scope| {
        let other = scope.spawn(|| drop(Recording::enforcing::<&str>(&Cgroup::new(), []).stop()));
        let mut tries = 0_u32;
        while !other.is_finished() {
            let answer = stranger.tell("bind tcp 0.0.0.0:27113 reuseport").to_string();
            assert_eq!(answer, "err EADDRINUSE", "after {tries} tries");
            tries += 1;
        }
        assert!(tries > 10, "{tries}");
    });
    drop(recording.stop());
}
