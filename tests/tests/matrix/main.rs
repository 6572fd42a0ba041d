//! Every pair of sockets that two processes can put on one port: what the kernel does with it, and what bindwatch says.
//!
//! `cells.txt` has the kernel's answers. Each cell is made with real sockets under one recording; the kernel has to
//! answer as the table says, and bindwatch has to find what follows from the kernel's answers: nothing of bindwatch's own
//! rules is used here.

#![expect(clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "tests fail by panicking")]

mod mixes;
mod stage;

use scenarios::{Finding, Recording, Report};
use std::collections::BTreeMap;

use stage::{Stage, failure};

/// The first cell's port; below the range from which the kernel takes ports for itself.
const FIRST_PORT: u16 = 10_000;
/// Another user than the test's.
const OTHER_USER: u32 = 4242;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    V4Spec,
    V4Any,
    V6Spec,
    V6Dual,
    V6Only,
    Mapped,
}

impl Form {
    /// In the order of the table's columns.
    const ALL: [Self; 6] =
        [Self::V4Spec, Self::V4Any, Self::V6Spec, Self::V6Dual, Self::V6Only, Self::Mapped];

    fn named(name: &str) -> Self {
        let names = ["v4spec", "v4any", "v6spec", "v6dual", "v6only", "mapped"];
        let at = names.iter().position(|known| *known == name).unwrap_or_else(|| panic!("form {name}"));
        Self::ALL[at]
    }

    fn address(self) -> &'static str {
        match self {
            Self::V4Spec => "127.0.0.1",
            Self::V4Any => "0.0.0.0",
            Self::V6Spec => "::1",
            Self::V6Dual | Self::V6Only => "::",
            Self::Mapped => "::ffff:127.0.0.1",
        }
    }

    fn socket(self, port: u16) -> String {
        match self {
            Self::V4Spec | Self::V4Any => format!("{}:{port}", self.address()),
            Self::V6Only => format!("[::]:{port} v6only"),
            _ => format!("[{}]:{port}", self.address()),
        }
    }

    /// Whether one alone is reached at 127.0.0.1, and at ::1.
    fn reached(self) -> [bool; 2] {
        match self {
            Self::V4Spec | Self::V4Any | Self::Mapped => [true, false],
            Self::V6Spec | Self::V6Only => [false, true],
            Self::V6Dual => [true, true],
        }
    }

    /// What it is called in a report: a v4-mapped address is the IPv4 one.
    fn endpoint(self) -> &'static str {
        if self == Self::Mapped { Self::V4Spec.address() } else { self.address() }
    }
}

/// A cell of the table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Cell {
    protocol: String,
    options: String,
    listening: bool,
    a: Form,
    b: Form,
}

impl Cell {
    fn flags(&self) -> (String, String) {
        let (a, b) = match self.options.as_str() {
            "none" => ("", ""),
            "reuseaddr" => ("reuseaddr", "reuseaddr"),
            "reuseport" | "reuseport_uid" => ("reuseport", "reuseport"),
            "ra_rp" => ("reuseaddr", "reuseport"),
            other => panic!("options {other}"),
        };
        let owner =
            if self.options == "reuseport_uid" { format!(" uid={OTHER_USER}") } else { String::new() };
        (a.to_owned(), format!("{b}{owner}"))
    }
}

fn table() -> Vec<(Cell, String)> {
    let mut cells = Vec::new();
    for line in include_str!("cells.txt").lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [protocol, options, state, a, answers @ ..] = words.as_slice() else { panic!("{line}") };
        assert_eq!(answers.len(), Form::ALL.len(), "{line}");
        let protocols: &[&str] = if *protocol == "tcp" { &["tcp", "mptcp"] } else { &["udp"] };
        for protocol in protocols {
            for (b, answer) in Form::ALL.into_iter().zip(answers) {
                let cell = Cell {
                    protocol: (*protocol).to_owned(),
                    options: (*options).to_owned(),
                    listening: *state == "listening",
                    a: Form::named(a),
                    b,
                };
                cells.push((cell, (*answer).to_owned()));
            }
        }
    }
    cells
}

/// Makes the sockets of a cell and leaves them open. Gives the kernel's answer in the table's letters.
fn play(stage: &mut Stage, cell: &Cell, port: u16) -> String {
    let (a_flags, b_flags) = cell.flags();
    let (tcp, protocol) = (cell.protocol != "udp", &cell.protocol);
    let listen = if cell.listening { " listen" } else { "" };
    let a = stage.a.bind(&format!("{protocol} {} {a_flags}{listen}", cell.a.socket(port))).id;
    let bound = stage.b.tell(&format!("bind {protocol} {} {b_flags}", cell.b.socket(port)));
    if !bound.is_ok() {
        return failure(&bound, "-");
    }
    let b = bound.number("id");
    let mut late = String::new();
    if tcp {
        stage.b.ok(&format!("listen {b}"));
        if !cell.listening {
            late = failure(&stage.a.tell(&format!("listen {a}")), "!");
        }
    }
    let mut receiver = |target: &str| {
        let who = stage.receivers(protocol, &format!("{target}:{port}"), [Some(a), Some(b), None]);
        if who == "AB" { "=".to_owned() } else { who }
    };
    let (v4, v6) = (receiver("127.0.0.1"), receiver("[::1]"));
    format!("{v4}{v6}{late}")
}

/// What has to be found: kind, severity, address, the holders' ids, and the cause or who receives.
type Verdict = Option<(&'static str, &'static str, &'static str, Vec<char>, String)>;

/// What follows from the kernel's answer. `exclude` says whether the two forms keep each other out when no option is set.
fn expected(cell: &Cell, answer: &str, exclude: bool) -> Verdict {
    let udp = cell.protocol == "udp";
    if answer == "-" {
        let cause = match cell.options.as_str() {
            "reuseport_uid" => "other-user",
            "ra_rp" => "exclusive",
            _ if cell.listening => "listener",
            _ => "bound",
        };
        return Some(("refused", "warning", cell.b.address(), vec!['A'], cause.to_owned()));
    }
    if answer.ends_with('!') {
        return Some(("refused", "warning", cell.a.address(), vec!['B'], "listener".to_owned()));
    }
    if !exclude {
        return None;
    }
    assert!(udp || cell.options == "reuseport", "{cell:?}: how can both be there?");
    // What both would get, were they alone.
    let [a, b] = [cell.a.reached(), cell.b.reached()];
    let mut receivers: Vec<char> =
        (0..2).filter(|at| a[*at] && b[*at]).filter_map(|at| answer.chars().nth(at)).collect();
    receivers.dedup();
    assert_eq!(receivers.len(), 1, "{cell:?}: {answer}");
    let same = cell.a == cell.b || (cell.a.endpoint(), cell.b.endpoint()) == ("127.0.0.1", "127.0.0.1");
    let (kind, severity) = if same { ("co-bind", "error") } else { ("shadow", "warning") };
    // A specific address is narrower than a wildcard, a wildcard of one family than that of both.
    let width = |form: Form| (form.endpoint() == "0.0.0.0" || form.endpoint() == "::", form == Form::V6Dual);
    let narrower = if width(cell.b) < width(cell.a) { cell.b } else { cell.a };
    Some((kind, severity, narrower.endpoint(), vec!['A', 'B'], receivers.into_iter().collect()))
}

/// What was found.
fn verdict(found: &[Finding], a: u64, b: u64) -> Result<Verdict, String> {
    let one = match found {
        [] => return Ok(None),
        [one] => one,
        more => return Err(format!("{} findings", more.len())),
    };
    let name = |pid: u64| {
        if pid == a {
            'A'
        } else if pid == b {
            'B'
        } else {
            '?'
        }
    };
    let holders: Vec<char> = one.pids().into_iter().map(name).collect();
    let words = |text: &str, known: &[&'static str]| {
        known.iter().find(|word| **word == text).copied().unwrap_or("something else")
    };
    let kind = words(one.kind(), &["co-bind", "shadow", "refused"]);
    let severity = words(one.severity(), &["error", "warning"]);
    let address = words(one.text("address"), &Form::ALL.map(Form::address));
    let about = if kind == "refused" {
        if name(one.victim().number("pid")) == holders[0] || one.victim().text("errno") != "EADDRINUSE" {
            return Err(format!("victim {:#}", one.victim().0));
        }
        one.cause().unwrap_or("no cause").to_owned()
    } else {
        if one.0["live"] != true {
            return Err("it is over".to_owned());
        }
        match one.0["receives"].as_str() {
            Some("split") => "=".to_owned(),
            Some(lineage) => one
                .holders()
                .iter()
                .filter(|holder| holder.text("lineage") == lineage)
                .map(|holder| name(holder.number("pid")))
                .collect(),
            None => "nobody knows".to_owned(),
        }
    };
    if one.0["uncertain"] != false || one.number("count") != 1 {
        return Err("it is uncertain, or counted more than once".to_owned());
    }
    Ok(Some((kind, severity, address, holders, about)))
}

pub(crate) fn here(report: &Report, netns: u64) -> BTreeMap<u64, Vec<Finding>> {
    let mut found: BTreeMap<u64, Vec<Finding>> = BTreeMap::new();
    for finding in report.findings().into_iter().filter(|finding| finding.number("netns") == netns) {
        found.entry(finding.number("port")).or_default().push(finding);
    }
    found
}

#[test]
fn the_verdict_on_every_pair_is_what_the_kernel_does() {
    let cells = table();
    let recording = Recording::start();
    let mut stage = Stage::new();
    let mut played = Vec::new();
    for (port, (cell, wanted)) in (FIRST_PORT..).zip(&cells) {
        played.push((port, cell, wanted, play(&mut stage, cell, port)));
    }
    recording.fence();
    let report = recording.stop().report();
    let found = here(&report, stage.netns);
    let (a, b) = (u64::from(stage.a.pid()), u64::from(stage.b.pid()));

    // Which forms keep each other out is what the kernel does when no option is set.
    let exclude: BTreeMap<(&str, Form, Form), bool> = played
        .iter()
        .filter(|(_, cell, ..)| cell.options == "none")
        .map(|(_, cell, _, answer)| ((cell.protocol.as_str(), cell.a, cell.b), answer == "-"))
        .collect();
    let mut differences = Vec::new();
    for (port, cell, wanted, answer) in &played {
        if answer != *wanted {
            differences.push(format!("{cell:?}: the kernel answers {answer}, not {wanted}"));
            continue;
        }
        let expected = expected(cell, answer, exclude[&(cell.protocol.as_str(), cell.a, cell.b)]);
        let found = found.get(&u64::from(*port)).map_or(&[][..], Vec::as_slice);
        let said = verdict(found, a, b);
        if said.as_ref() != Ok(&expected) {
            differences.push(format!("{cell:?}: the kernel answers {answer}: {expected:?}, found {said:?}"));
        }
    }
    eprintln!("{} cells, {} differences", cells.len(), differences.len());
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
    assert_eq!(cells.len(), 900, "all of them");
}
