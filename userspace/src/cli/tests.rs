//! The command line: what is accepted, what each value means, and how a wrong one is answered.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::time::Duration;

use clap::{CommandFactory as _, Parser as _};

use super::*;
use crate::event::Protocol;

fn parse(line: &str) -> Result<Cli, String> {
    let words = std::iter::once("bindwatch").chain(line.split_whitespace());
    Cli::try_parse_from(words).map_err(|error| error.to_string())
}

fn target(text: &str) -> Target {
    text.parse().unwrap()
}

#[test]
fn the_command_tree_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_visible_verb_ends_its_help_with_examples() {
    let root = Cli::command();
    for verb in root.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(
            help.starts_with("Examples:\n  bindwatch") || help.starts_with("Examples:\n  sudo bindwatch")
        );
        assert!(verb.get_about().is_some(), "{} says what it does", verb.get_name());
    }
}

#[test]
fn durations() {
    let good = [
        ("500ms", 500_000_000),
        ("2s", 2_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1.5s", 1_500_000_000),
        ("0s", 0),
        ("1h", 3_600_000_000_000),
        ("0.000001s", 1_000),
    ];
    for (text, ns) in good {
        assert_eq!(duration(text), Ok(Duration::from_nanos(ns)), "{text}");
    }
    for text in ["", "5", "s", "1x", "1..5s", ".5s", "5.s", "-1s", "1s2", "99999999999d", "1 s", "١s"] {
        let error = duration(text).unwrap_err();
        assert!(!error.contains('\n') && error.len() < 150, "{text:?}: {error}");
    }
    assert!(duration("5").unwrap_err().contains("5ms or 5s"));
}

#[test]
fn durations_are_told_in_two_units_at_most() {
    let cases = [
        (999, "999 ns"),
        (340_000_000, "340 ms"),
        (7_012_000_000, "7.0 s"),
        (59_990_000_000, "59.9 s"),
        (125_000_000_000, "2 min 5 s"),
        (12_000_000_000_000, "3 h 20 min"),
        (200_000_000_000_000, "2 d 7 h"),
    ];
    for (ns, text) in cases {
        assert_eq!(duration_text(ns), text);
    }
}

#[test]
fn sizes() {
    for (text, bytes) in
        [("65536", 65536), ("64K", 65536), ("16M", 16 << 20), ("1GiB", 1 << 30), ("2mb", 2 << 20)]
    {
        assert_eq!(size(text), Ok(bytes), "{text}");
    }
    for text in ["", "M", "1.5M", "-1", "16X", "99999999999T"] {
        assert!(size(text).is_err(), "{text}");
    }
    assert_eq!(ring_size("16M"), Ok(16 << 20));
    assert!(ring_size("3M").unwrap_err().contains("the nearest are 2097152 and 4194304"));
    assert!(ring_size("4K").is_err() && ring_size("4G").is_err());
}

#[test]
fn addresses() {
    let at = |protocol, address: &str, port| Target {
        protocol,
        place: Place::Only(vec![address.parse().unwrap()]),
        port,
    };
    assert_eq!(target("127.0.0.1:80"), at(None, "127.0.0.1", Some(80)));
    assert_eq!(target("[::1]:80"), at(None, "::1", Some(80)));
    assert_eq!(target("tcp/127.0.0.1"), at(Some(Protocol::Tcp), "127.0.0.1", None));
    assert_eq!(target("udp/[fe80::1]"), at(Some(Protocol::Udp), "fe80::1", None));
    assert_eq!(target("::1"), at(None, "::1", None));
    assert_eq!(target("::"), at(None, "::", None));
    assert_eq!(target("0.0.0.0:53"), at(None, "0.0.0.0", Some(53)));
    for every in ["*:80", ":80", "80"] {
        assert_eq!(target(every), Target { protocol: None, place: Place::Every, port: Some(80) });
    }
    let loopbacks = vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()];
    assert_eq!(
        target("localhost:80"),
        Target { protocol: None, place: Place::Only(loopbacks), port: Some(80) }
    );
}

#[test]
fn targets_print_as_they_are_written() {
    for text in ["127.0.0.1:80", "[::1]:80", "*:80", "localhost:80", "tcp/*:1", "udp/[::]", "10.0.0.1"] {
        assert_eq!(target(text).to_string(), text);
    }
}

#[test]
fn wrong_addresses_get_one_precise_line() {
    let cases = [
        ("", "nothing to look for"),
        ("localhos:80", "not an address"),
        ("127.0.0.1:", "\"\" is not a port"),
        ("127.0.0.1:0", "port 0 is never held"),
        ("127.0.0.1:65536", "\"65536\" is not a port"),
        ("127.0.0.1:+80", "not a port"),
        ("256.0.0.1:80", "not an address"),
        ("[::1", "no closing bracket"),
        ("[::1]80", "only :PORT can follow"),
        ("[127.0.0.1]:80", "not an IPv6 address"),
        ("::1:80", "write [::1]:80, or [::1:80]"),
        ("fe80::1%eth0", "leave out the zone"),
        ("sctp/127.0.0.1:80", "\"sctp\" is not a protocol"),
        ("http://x", "\"http:\" is not a protocol"),
        ("\x1b[2J:80", "\\u{1b}[2J"),
    ];
    for (text, expected) in cases {
        let error = text.parse::<Target>().unwrap_err();
        assert!(error.contains(expected), "{text:?} gave {error:?}");
        assert!(!error.contains(['\n', '\x1b']), "{error:?}");
    }
}

#[test]
fn report_targets_take_their_format_from_the_name_unless_it_is_given() {
    let parsed = |text: &str| text.parse::<ReportTarget>().map(|target| (target.format, target.path));
    assert_eq!(parsed("out.json"), Ok((Format::Json, "out.json".into())));
    assert_eq!(parsed("text=out.json"), Ok((Format::Text, "out.json".into())));
    assert_eq!(parsed("./a=b"), Ok((Format::Text, "./a=b".into())));
    assert_eq!(parsed("-"), Ok((Format::Text, "-".into())));
    assert!(parsed("jsno=out").unwrap_err().contains("\"jsno\" is not a format"));
    assert_eq!(parsed("html=x").unwrap().0, Format::Html);
    assert!(parsed("json=").unwrap_err().contains("missing"));
}

#[test]
fn fail_on_is_kinds_or_a_severity() {
    let kinds = |text: &str| -> Vec<bool> {
        let fail_on: FailOn = text.parse().unwrap();
        Kind::ALL.iter().map(|kind| fail_on.contains(*kind)).collect()
    };
    // co-bind, handover, shadow, refused, orphan, exhausted, denied
    assert_eq!(kinds("error"), [true, false, false, false, false, true, false]);
    assert_eq!(kinds("warning"), [true, false, true, true, true, true, false]);
    assert_eq!(kinds("error,refused"), [true, false, false, true, false, true, false]);
    assert_eq!(kinds("handover"), [false, true, false, false, false, false, false]);
    assert_eq!(kinds("none"), [false; 7]);
    for wrong in ["", "cobind", "error,", "none,error"] {
        assert!(wrong.parse::<FailOn>().is_err(), "{wrong:?}");
    }
}

#[test]
fn run_takes_the_command_as_it_is() {
    let Verb::Run(args) = parse("run -o x.jsonl --fail-on error -- make -j2 --output y").unwrap().verb else {
        panic!("not run")
    };
    assert_eq!(args.command, ["make", "-j2", "--output", "y"]);
    assert_eq!(args.recording.output.to_str(), Some("x.jsonl"));
    let Verb::Run(args) = parse("run make -q").unwrap().verb else { panic!("not run") };
    assert_eq!(args.command, ["make", "-q"]);
    assert_eq!(args.recording.output.to_str(), Some("bindwatch.jsonl"));
}

#[test]
fn inner_stages_take_anything() {
    let Verb::Launch(args) = parse("__launch --fd 3 -- sh -c x").unwrap().verb else { panic!("not launch") };
    assert_eq!(args.args, ["--fd", "3", "--", "sh", "-c", "x"]);
}

#[test]
fn wrong_lines_are_refused_and_say_why() {
    let cases = [
        ("run", "required"),
        ("run --reprot x -- y", "unexpected argument '--reprot'"),
        ("record --events some", "expected all or conflicts"),
        ("run --on-conflict wait -- x", "how long? wait=10s"),
        ("record --ring-size 5M", "not a power of two"),
        ("record --duration 5", "has no unit"),
        ("record --related-by pid", "invalid value 'pid'"),
        ("record --allow nginx", "is not KEY=VALUE"),
        ("report --kind cobind x", "is not a kind of finding: co-bind, handover"),
        ("report -q -v x", "cannot be used with"),
        ("check", "required"),
        ("top --speed 0x --replay x", "is not a speed: write 4x"),
        ("top --at 3s", "--replay <LOG>"),
        ("top -d 1ms", "less than 50 ms"),
        ("top -n 0", "0 is not in 1.."),
        ("top --once -n 3", "cannot be used with"),
        ("watch", "unrecognized subcommand"),
    ];
    for (line, expected) in cases {
        let error = parse(line).map(|_| ()).unwrap_err();
        assert!(error.contains(expected), "{line:?} gave {error:?}");
    }
}

#[test]
fn allow_rules_print_as_they_are_written() {
    let rules = ["program=nginx", "cgroup=/ci/a,port=80", "program=a,cgroup=/b,address=::1,port=1-65535"];
    for text in rules {
        let rule: crate::judge::AllowRule = text.parse().unwrap();
        assert_eq!(rule.to_string(), text);
    }
    for wrong in ["", "nginx", "port=", "port=9-1", "address=x", "cgroup=a", "port=1,port=2", "colour=red"] {
        assert!(wrong.parse::<crate::judge::AllowRule>().is_err(), "{wrong:?}");
    }
}
