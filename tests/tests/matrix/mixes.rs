//! Pairs beside the table: options that differ or change after the bind, devices, connections as holders.

use std::collections::BTreeMap;

use scenarios::{Actor, Finding, Recording};

use super::here;
use super::stage::{Stage, failure};

/// One thing after another, as a word each; see [`Scene::step`].
struct Mix {
    name: &'static str,
    protocol: &'static str,
    steps: &'static [&'static str],
    /// The kernel's answers to the steps that fail, in their order, then who receives what is sent to
    /// 127.0.0.1.
    kernel: &'static str,
    /// What is found: `KIND HOLDERS RECEIVES-OR-CAUSE`, in the order in which it was found.
    found: &'static [&'static str],
}

const fn mix(
    name: &'static str,
    protocol: &'static str,
    steps: &'static [&'static str],
    kernel: &'static str,
    found: &'static [&'static str],
) -> Mix {
    Mix { name, protocol, steps, kernel, found }
}

/// Measured on Linux 6.18.
#[rustfmt::skip]
const MIXES: &[Mix] = &[
    mix("both and reuseport", "tcp", &["A+ra+rp", "B+rp", "A!", "B!"], "AB", &["co-bind AB ="]),
    mix("both and reuseport", "udp", &["A+ra+rp", "B+rp"], "AB", &["co-bind AB ="]),
    mix("both and reuseaddr", "tcp", &["A+ra+rp", "B+ra", "B!", "A!"], "EADDRINUSE B", &["refused B exclusive"]),
    mix("both listening and reuseaddr", "tcp", &["A+ra+rp", "A!", "B+ra"], "EADDRINUSE A", &["refused A listener"]),
    mix("both and reuseaddr", "udp", &["A+ra+rp", "B+ra"], "B", &["co-bind AB B"]),
    mix("reuseport and reuseaddr", "tcp", &["A+rp", "A!", "B+ra"], "EADDRINUSE A", &["refused A listener"]),
    mix("reuseport and reuseaddr", "udp", &["A+rp", "B+ra"], "EADDRINUSE A", &["refused A exclusive"]),
    mix("reuseport and both", "tcp", &["A+rp", "A!", "B+ra+rp", "B!"], "AB", &["co-bind AB ="]),
    mix("reuseport and both", "udp", &["A+rp", "B+ra+rp"], "AB", &["co-bind AB ="]),
    mix("nothing and both", "tcp", &["A", "A!", "B+ra+rp"], "EADDRINUSE A", &["refused A exclusive"]),
    mix("nothing and both", "udp", &["A", "B+ra+rp"], "EADDRINUSE A", &["refused A exclusive"]),
    mix("reuseaddr and nothing", "tcp", &["A+ra", "A!", "B"], "EADDRINUSE A", &["refused A listener"]),
    mix("reuseport and nothing", "tcp", &["A+rp", "A!", "B"], "EADDRINUSE A", &["refused A listener"]),
    mix("reuseport and nothing", "udp", &["A+rp", "B"], "EADDRINUSE A", &["refused A bound"]),
    mix("reuseport set late", "tcp", &["A", "A=rp", "B+rp", "A!", "B!"], "AB", &["co-bind AB ="]),
    mix("reuseport set late", "udp", &["A", "A=rp", "B+rp"], "AB", &["co-bind AB ="]),
    mix("reuseaddr set late", "udp", &["A", "A=ra", "B+ra"], "B", &["co-bind AB B"]),
    mix("reuseaddr cleared", "tcp", &["A+ra", "A-ra", "B+ra"], "EADDRINUSE .", &["refused A bound"]),
    mix("reuseaddr cleared", "udp", &["A+ra", "A-ra", "B+ra"], "EADDRINUSE A", &["refused A exclusive"]),
    mix("reuseport cleared", "tcp", &["A+rp", "A-rp", "B+rp", "B!"], "B", &["co-bind AB B"]),
    mix("reuseport cleared, both listen", "tcp", &["A+rp", "A-rp", "B+rp", "A!", "B!"], "EADDRINUSE B", &["co-bind AB B", "refused B bound"]),
    mix("reuseport cleared", "udp", &["A+rp", "A-rp", "B+rp"], "EADDRINUSE A", &["refused A exclusive"]),
    mix("cleared beside another", "udp", &["A+rp", "B+rp", "A-rp", "C+rp"], "ABC", &["co-bind ABC ="]),
    mix("listening only one", "tcp", &["A+rp", "B+rp", "B!"], "B", &["co-bind AB B"]),
    mix("different addresses", "tcp", &["A", "A!", "B/127.0.0.2", "B!"], "A", &[]),
    mix("one on lo", "tcp", &["A@lo", "A!", "B"], "EADDRINUSE A", &["refused A listener"]),
    mix("one on lo", "udp", &["A@lo", "B"], "EADDRINUSE A", &["refused A bound"]),
    mix("different devices", "tcp", &["A@lo", "A!", "B@v0", "B!"], "A", &[]),
    mix("different devices", "udp", &["A@lo", "B@v0"], "A", &[]),
    mix("lo and any, reuseport", "udp", &["A+rp@lo", "B+rp"], "B", &["co-bind AB nobody knows"]),
    mix("moved to the same device", "tcp", &["A@lo", "A!", "B@v0", "B!", "B>lo"], "B", &["co-bind AB B"]),
    mix("moved to the same device", "udp", &["A@lo", "B@v0", "B>lo"], "B", &["co-bind AB B"]),
    mix("moved away", "udp", &["A+rp@lo", "B+rp@lo", "B>v0"], "A", &["co-bind AB =, over"]),
    mix("moved to any", "udp", &["A@lo", "B@v0", "A>-", "B>-"], "B", &["co-bind AB B"]),
];

/// What a mix has on its port.
struct Scene<'a> {
    stage: &'a mut Stage,
    protocol: &'static str,
    port: u16,
    sockets: BTreeMap<char, u64>,
    answers: Vec<String>,
}

impl Scene<'_> {
    fn actor(&mut self, who: char) -> &mut Actor {
        match who {
            'A' => &mut self.stage.a,
            'B' => &mut self.stage.b,
            _ => &mut self.stage.client,
        }
    }

    /// `A+ra+rp@lo/127.0.0.2` binds with these options, on this device, to another address than 127.0.0.1; `A!` listens;
    /// `A=rp` and `A-rp` set and clear an option; `A>lo` moves to a device, `A>-` to none.
    fn step(&mut self, step: &str) {
        let who = step.chars().next().expect("who");
        let rest = &step[1..];
        let long = |option: &str| if option == "rp" { "reuseport" } else { "reuseaddr" };
        let id = self.sockets.get(&who).copied();
        let command = match (rest.chars().next(), id) {
            (Some('!'), Some(id)) => format!("listen {id}"),
            (Some('='), Some(id)) => format!("opt {id} {} 1", long(&rest[1..])),
            (Some('-'), Some(id)) => format!("opt {id} {} 0", long(&rest[1..])),
            (Some('>'), Some(id)) => format!("opt {id} ifindex {}", index(&rest[1..])),
            _ => {
                let (rest, address) = rest.split_once('/').unwrap_or((rest, "127.0.0.1"));
                let (rest, device) = rest.split_once('@').unwrap_or((rest, ""));
                let device = if device.is_empty() { String::new() } else { format!(" dev={device}") };
                let options: Vec<&str> = rest.split('+').skip(1).map(long).collect();
                format!("bind {} {address}:{} {}{device}", self.protocol, self.port, options.join(" "))
            }
        };
        let answer = self.actor(who).tell(&command);
        if !answer.is_ok() {
            self.answers.push(failure(&answer, "EADDRINUSE"));
        } else if id.is_none() {
            self.sockets.insert(who, answer.number("id"));
        }
    }
}

/// In the stage's namespace: lo is the first, and the pair is made next to it, its far end before its near one.
fn index(device: &str) -> u32 {
    match device {
        "-" => 0,
        "lo" => 1,
        _ => 3,
    }
}

fn said(finding: &Finding, names: &BTreeMap<u64, char>) -> String {
    let name = |pid: u64| names.get(&pid).copied().unwrap_or('?');
    let holders: String = finding.pids().into_iter().map(name).collect();
    let about = match finding.cause() {
        Some(cause) => cause.to_owned(),
        None => match finding.0["receives"].as_str() {
            Some("split") => "=".to_owned(),
            Some(lineage) => finding
                .holders()
                .iter()
                .filter(|holder| holder.text("lineage") == lineage)
                .map(|holder| name(holder.number("pid")))
                .collect(),
            None => "nobody knows".to_owned(),
        },
    };
    let over = if finding.cause().is_none() && finding.0["live"] == false { ", over" } else { "" };
    format!("{} {holders} {about}{over}", finding.kind())
}

#[test]
fn options_that_differ_or_change_and_devices() {
    let recording = Recording::start();
    let mut stage = Stage::new();
    stage.a.ok("ip link add v0 type veth peer name v1");
    stage.a.ok("ip link set v0 up");
    let mut kernel = Vec::new();
    for (port, mix) in (20_000..).zip(MIXES) {
        let mut scene = Scene {
            stage: &mut stage,
            protocol: mix.protocol,
            port,
            sockets: BTreeMap::new(),
            answers: Vec::new(),
        };
        for step in mix.steps {
            scene.step(step);
        }
        let (sockets, mut answers) = (scene.sockets, scene.answers);
        let target = format!("127.0.0.1:{port}");
        let who = ['A', 'B', 'C'].map(|who| sockets.get(&who).copied());
        answers.push(stage.receivers(mix.protocol, &target, who));
        kernel.push(answers.join(" "));
    }
    recording.fence();
    let report = recording.stop().report();
    let found = here(&report, stage.netns);
    let names = [(&stage.a, 'A'), (&stage.b, 'B'), (&stage.client, 'C')]
        .map(|(actor, name)| (u64::from(actor.pid()), name));
    let names = BTreeMap::from(names);
    let mut differences = Vec::new();
    for ((port, mix), kernel) in (20_000..).zip(MIXES).zip(&kernel) {
        let said: Vec<String> = found
            .get(&port)
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|finding| said(finding, &names))
            .collect();
        if kernel != mix.kernel || said != mix.found {
            differences.push(format!(
                "{} ({} {:?}): the kernel {kernel}, not {}; found {said:?}, not {:?}",
                mix.name, mix.protocol, mix.steps, mix.kernel, mix.found
            ));
        }
    }
    eprintln!("{} mixes, {} differences", MIXES.len(), differences.len());
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
