//! Options that are set on sockets that are bound already.

#![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

use jiff::{SignedDuration, Timestamp};
use scenarios::{Actor, Recording, loopback};

/// How far the times of a report may be from the test's clock: they are rounded to milliseconds.
const SLACK: SignedDuration = SignedDuration::from_millis(2);

#[test]
fn a_device_that_is_bound_late_ends_and_begins_overlaps() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    one.ok("unshare-net");
    one.ok("link bw0");
    other.ok(&format!("enter-net {}", one.pid()));
    let first = one.bind(&format!("udp {address}:8000 reuseport"));
    one.ok(&format!("device {} lo", first.id));
    // Until it is looked at, findings go by the device before.
    recording.wait_for_lines("\"type\":\"changed\"", 1, |line| {
        line["socket"]["cookie"] == first.cookie && line["socket"]["options"]["device"] == 1
    });
    // On another device than the first: the kernel lets it in whatever its options are.
    let second = other.ok("socket udp 4").number("id");
    other.ok(&format!("opt {second} reuseport 1"));
    other.ok(&format!("device {second} bw0"));
    other.ok(&format!("rebind {second} {address}:8000"));
    let apart = Timestamp::now();
    other.ok(&format!("device {second} lo"));
    // Of the other one: the first may be looked at more than once.
    recording.wait_for_lines("\"type\":\"changed\"", 1, |line| {
        let is_other = line["socket"]["cookie"] != first.cookie;
        is_other
            && line["socket"]["address"] == address.to_string()
            && line["socket"]["options"]["device"] == 1
    });
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.0["live"].as_bool()), ("co-bind", Some(true)));
    assert_eq!(finding.pids(), [u64::from(one.pid()), u64::from(other.pid())]);
    // While they were on different devices there was none.
    assert!(finding.time("first_seen") >= apart - SLACK, "{finding:?}");
}

#[test]
fn options_that_could_not_be_set_are_not_believed() {
    let recording = Recording::start();
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    let socket = one.bind(&format!("udp {address}:8000"));
    assert_eq!(one.err(&format!("short-opt {} reuseport", socket.id)), "EINVAL");
    assert_eq!(other.err(&format!("bind udp {address}:8000 reuseport")), "EADDRINUSE");
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.cause()), ("refused", Some("exclusive")));
}
