//! What every format shows.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::notices::Unseen;
use super::*;
use crate::event::{Ancestor, Cookie, Errno, Inum, Options, ProcessKey, Protocol, Rest, Seq, TcpState, Uid};
use crate::event::{Body, Event, Hook, Inventory, InventoryPhase};
use crate::ledger::finding::{
    Cause, FindingId, Holder, HolderState, Kind, PortRange, PortUser, Receives, Victim,
};
use crate::log::{End, Ending, Torn};

/// Boot was at 12:30:00, and the log began ten seconds later.
const CLOCK: Anchors = Anchors { boot_ns: 10_000_000_000, wall_ns: 1_763_641_810_000_000_000 };

const fn s(seconds: u64) -> BootTime {
    BootTime(seconds * 1_000_000_000)
}

fn holder(pid: u32, comm: &str) -> Holder {
    let process = ProcessKey { tgid: pid, start: 1500 };
    Holder {
        process,
        comm: comm.to_owned(),
        exe: format!("/usr/bin/{comm}"),
        cmdline: vec![comm.to_owned(), "server.js".to_owned(), "--password=hunter2".to_owned()],
        cmdline_cut: false,
        uid: Uid(1001),
        cgroup: "/ci/job-1".to_owned(),
        container: None,
        job: None,
        lineage: process,
        parents: vec![Ancestor { pid: 4000, comm: "bash".to_owned() }],
        socket_cookie: Cookie(4097),
        sockets: vec![Cookie(4097)],
        address: "127.0.0.3".parse().unwrap(),
        port: 9926,
        peer: None,
        outgoing: false,
        options: Options { reuse_port: true, ..Options::default() },
        state: HolderState::Listen,
        bound_unseen: false,
        bound_at: Some(s(20)),
        released_at: Some(s(27)),
        accepted: Some(61),
        inherited_from: None,
    }
}

fn finding(kind: Kind) -> Finding {
    Finding {
        id: FindingId(1),
        kind,
        protocol: Protocol::Tcp,
        address: "127.0.0.3".parse().unwrap(),
        port: 9926,
        netns: Inum(4_026_531_840),
        first_seen: s(20),
        last_seen: s(27),
        overlap: None,
        live: false,
        cause: None,
        tcp_state: None,
        destination: None,
        holders: vec![holder(4711, "node"), holder(4803, "node")],
        victim: None,
        last_owner: None,
        removed_cgroup: None,
        range: None,
        users: vec![],
        others: Rest::default(),
        wait: None,
        count: 1,
        dry_run: false,
        would_deny: 0,
        uncertain: false,
        receives: None,
        evidence: vec![Seq(17), Seq(42)],
    }
}

pub(super) fn co_bind() -> Finding {
    Finding { overlap: Some(7_012_000_000), receives: Some(Receives::Split), ..finding(Kind::CoBind) }
}

pub(super) fn refused(cause: Cause) -> Finding {
    let asked = Holder { address: "127.0.0.1".parse().unwrap(), port: 8080, ..holder(900, "python3") };
    let victim = Victim { holder: asked, errno: Errno::EADDRINUSE, call: "bind" };
    let nginx = Holder {
        address: "127.0.0.1".parse().unwrap(),
        port: 8080,
        bound_at: Some(s(460)),
        released_at: None,
        ..holder(812, "nginx")
    };
    Finding {
        address: "127.0.0.1".parse().unwrap(),
        port: 8080,
        cause: Some(cause),
        holders: vec![nginx],
        victim: Some(victim),
        ..finding(Kind::Refused)
    }
}

fn connected(cause: Cause, outgoing: bool) -> Finding {
    let mut finding = refused(cause);
    finding.holders[0].peer = Some("10.0.0.1:443".parse().unwrap());
    finding.holders[0].outgoing = outgoing;
    finding
}

/// Exhausted, with users as PID, open sockets, TIME_WAIT entries, ended.
fn counted(users: &[(u32, u32, u32, bool)], others: u32) -> Finding {
    let user = |(pid, sockets, time_wait, ended): &(u32, u32, u32, bool)| PortUser {
        process: ProcessKey { tgid: *pid, start: 1500 },
        comm: "curl".to_owned(),
        exe: "/usr/bin/curl".to_owned(),
        ended: *ended,
        sockets: *sockets,
        time_wait: *time_wait,
    };
    Finding {
        victim: refused(Cause::Bound).victim,
        destination: Some("10.0.0.1:443".parse().unwrap()),
        holders: vec![],
        range: Some(PortRange { low: 40_000, high: 40_019, ports: 20, used: Some(17) }),
        users: users.iter().map(user).collect(),
        others: Rest { sockets: 0, time_wait: others },
        ..finding(Kind::Exhausted)
    }
}

/// One finding for each sentence there is, and the sentence.
fn table() -> Vec<(Finding, &'static str)> {
    let nobody = |cause| Finding { holders: vec![], last_owner: Some(holder(700, "ruby")), ..refused(cause) };
    let wide = |pid| Holder { address: "::".parse().unwrap(), ..holder(pid, "java") };
    let many = Finding { holders: (1..=10).map(|pid| holder(pid, "w")).collect(), ..co_bind() };
    let four =
        Finding { holders: (1..=4).map(|pid| holder(pid, "w")).collect(), receives: None, ..co_bind() };
    let lineage = holder(4803, "node").lineage;
    let to_one = Finding { receives: Some(Receives::One(lineage)), protocol: Protocol::Udp, ..co_bind() };
    let left_over = {
        let mut finding = refused(Cause::Orphan);
        finding.holders[0].inherited_from = Some(holder(700, "nginx").process);
        finding
    };
    let mut elsewhere = refused(Cause::Listener);
    elsewhere.holders[0].address = "0.0.0.0".parse().unwrap();
    elsewhere.holders[0].bound_at = None;
    let mut unseen = elsewhere.clone();
    unseen.holders[0].bound_unseen = true;
    let mut listen = refused(Cause::Listener);
    listen.count = 12;
    if let Some(victim) = &mut listen.victim {
        victim.call = "listen";
    }
    let shadow = Finding {
        holders: vec![wide(1), holder(4711, "node")],
        overlap: Some(7_000_000_000),
        receives: Some(Receives::One(holder(4711, "node").lineage)),
        ..finding(Kind::Shadow)
    };
    let exhausted = Finding {
        victim: refused(Cause::Bound).victim,
        destination: Some("10.0.0.1:443".parse().unwrap()),
        holders: vec![holder(5, "wrk")],
        count: 20,
        ..finding(Kind::Exhausted)
    };
    vec![
        (
            co_bind(),
            "tcp 127.0.0.3:9926 was shared by 2 unrelated processes for 7.0 s: node server.js (PID 4711) and node server.js (PID 4803); connections went to either of them",
        ),
        (
            Finding { live: true, ..co_bind() },
            "tcp 127.0.0.3:9926 is shared by 2 unrelated processes since 12:30:20: node server.js (PID 4711) and node server.js (PID 4803); connections go to either of them",
        ),
        (
            many,
            "tcp 127.0.0.3:9926 was shared by 10 unrelated processes for 7.0 s: w (PID 1), w (PID 2), w (PID 3) and 7 more; connections went to any of them",
        ),
        (
            four,
            "tcp 127.0.0.3:9926 was shared by 4 unrelated processes for 7.0 s: w (PID 1), w (PID 2), w (PID 3) and w (PID 4)",
        ),
        (
            to_one,
            "udp 127.0.0.3:9926 was shared by 2 unrelated processes for 7.0 s: node server.js (PID 4711) and node server.js (PID 4803); all datagrams went to node server.js (PID 4803)",
        ),
        (
            Finding { uncertain: true, receives: None, ..co_bind() },
            "tcp 127.0.0.3:9926 was shared by 2 unrelated processes for 7.0 s: node server.js (PID 4711) and node server.js (PID 4803) (uncertain: events were lost, or a process could not be identified)",
        ),
        (
            Finding { overlap: Some(120_000_000), ..finding(Kind::Handover) },
            "node server.js (PID 4803) took tcp 127.0.0.3:9926 over from node server.js (PID 4711) within 120 ms, and nothing was lost",
        ),
        (
            shadow,
            "node server.js (PID 4711) held tcp 127.0.0.3:9926 for 7.0 s while java server.js (PID 1), unrelated, held [::]:9926; connections to 127.0.0.3:9926 went to node server.js (PID 4711)",
        ),
        (
            refused(Cause::Listener),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) listens there since 12:37:40",
        ),
        (
            elsewhere,
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) listens on 0.0.0.0:8080 since before the recording",
        ),
        (
            unseen,
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) listens on 0.0.0.0:8080 since an unknown time",
        ),
        (
            listen,
            "python3 server.js (PID 900) could not listen on tcp 127.0.0.1:8080 in 12 attempts: nginx (PID 812) listens there since 12:37:40",
        ),
        (
            refused(Cause::Bound),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) holds it since 12:37:40, without listening",
        ),
        (
            nobody(Cause::TimeWait),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: no process holds it, but ended connections of ruby server.js (PID 700) are still in TIME_WAIT there",
        ),
        (
            refused(Cause::HalfClosed),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) holds a connection there that is not wholly closed",
        ),
        (
            nobody(Cause::HalfClosed),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: a connection of ruby server.js (PID 700) there that no process has open is not wholly closed",
        ),
        (
            Finding { tcp_state: Some(TcpState::CloseWait), ..refused(Cause::HalfClosed) },
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) holds a connection there that is not wholly closed, in CLOSE_WAIT: the other side has closed it, this one has not",
        ),
        (
            Finding { tcp_state: Some(TcpState::FinWait2), ..nobody(Cause::HalfClosed) },
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: a connection of ruby server.js (PID 700) there that no process has open is not wholly closed, in FIN_WAIT2: this side has closed it, the other has not",
        ),
        (
            connected(Cause::Bound, true),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) holds it as the source of an outgoing connection to 10.0.0.1:443",
        ),
        (
            connected(Cause::Bound, false),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) holds a connection with 10.0.0.1:443 there",
        ),
        (
            connected(Cause::LostRace, true),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: it had this port and released it, and nginx (PID 812) was given it as the source of an outgoing connection to 10.0.0.1:443, in between",
        ),
        (
            refused(Cause::Orphan),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) still holds it since 12:37:40, though the job it belonged to has ended",
        ),
        (
            left_over,
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) still holds it since 12:37:40, though PID 700, which made the socket, has ended",
        ),
        (
            refused(Cause::Restart),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: the previous instance, nginx (PID 812), had not let go of it yet",
        ),
        (
            nobody(Cause::Restart),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: the previous instance of ruby server.js (PID 700) had not let go of it yet",
        ),
        (
            refused(Cause::LostRace),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: it had this port and released it, and nginx (PID 812) took it at 12:37:40, in between",
        ),
        (
            refused(Cause::Exclusive),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) holds it since 12:37:40 and did not agree to share",
        ),
        (
            refused(Cause::OtherUser),
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: nginx (PID 812) of user 1001 holds it since 12:37:40, and SO_REUSEPORT shares within one user only (python3 is of user 1001)",
        ),
        (
            Finding { cause: None, holders: vec![], ..refused(Cause::Bound) },
            "python3 server.js (PID 900) could not bind tcp 127.0.0.1:8080: it is in use, and by whom is not known",
        ),
        (
            finding(Kind::Orphan),
            "node server.js (PID 4711) and node server.js (PID 4803) still held tcp 127.0.0.3:9926 for 7.0 s after what they belonged to had ended",
        ),
        (
            Finding {
                live: true,
                holders: vec![holder(77, "sleep")],
                last_owner: Some(holder(812, "nginx")),
                ..finding(Kind::Orphan)
            },
            "sleep (PID 77) still holds tcp 127.0.0.3:9926, inherited from nginx (PID 812), which had ended",
        ),
        (
            exhausted,
            "python3 server.js (PID 900) found no free local port to connect to tcp 10.0.0.1:443 in 20 attempts: wrk (PID 5) uses up the range",
        ),
        (
            Finding { holders: vec![], ..finding(Kind::Exhausted) },
            "a process found no free tcp port on 127.0.0.3; who has them is not known",
        ),
        (
            counted(&[(5, 0, 9, true), (6, 3, 0, false), (7, 1, 1, false), (8, 1, 0, false)], 2),
            "python3 server.js (PID 900) found no free local port to connect to tcp 10.0.0.1:443: 17 of the 20 ports from 40000 to 40019 were in use, by curl (PID 5, ended: 9 in TIME_WAIT), curl (PID 6: 3 open), curl (PID 7: 1 open and 1 in TIME_WAIT) and 3 sockets of others",
        ),
        (
            counted(&[], 17),
            "python3 server.js (PID 900) found no free local port to connect to tcp 10.0.0.1:443: 17 of the 20 ports from 40000 to 40019 were in use, by 17 sockets that nobody is known to own",
        ),
        (
            Finding { victim: refused(Cause::Bound).victim, ..finding(Kind::Denied) },
            "python3 server.js (PID 900) was denied tcp 127.0.0.3:9926: node server.js (PID 4711) and node server.js (PID 4803) hold it",
        ),
    ]
}

pub(super) fn report(findings: Vec<Finding>, show_secrets: bool) -> Report {
    let host = Host { hostname: "ci-7".to_owned(), kernel: "6.1.0".to_owned(), boot_id: "b".to_owned() };
    let window = Window { start: s(10), end: s(40), complete: true };
    let stats = Stats { events: 90, lost: 0, sockets: 12, binds: 30, binds_failed: 2 };
    Report::new(host, CLOCK, window, stats, show_secrets).with_findings(findings, 0)
}

fn written(report: &Report, format: Format, style: text::Style) -> String {
    let mut out = Vec::new();
    report.write(format, style, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn as_text(report: &Report) -> String {
    written(report, Format::Text, text::Style::default())
}

fn as_json(report: &Report) -> serde_json::Value {
    serde_json::from_str(&written(report, Format::Json, text::Style::default())).unwrap()
}

#[test]
fn sentences() {
    for (finding, sentence) in table() {
        assert_eq!(words::summary(&finding, CLOCK), sentence);
    }
}

#[test]
fn hints_name_what_to_do() {
    let cases = [
        (co_bind(), "--allow program=node,port=9926"),
        (refused(Cause::TimeWait), "set SO_REUSEADDR before bind()"),
        (refused(Cause::Restart), "bindwatch check tcp/127.0.0.1:8080 --wait 30s"),
        (refused(Cause::LostRace), "bind port 0, keep that socket"),
        (refused(Cause::Listener), "stop nginx (PID 812)"),
    ];
    for (finding, part) in cases {
        assert!(words::hint(&finding).contains(part), "{}", words::hint(&finding));
    }
}

#[test]
fn the_rule_a_hint_proposes_can_be_used_as_it_is() {
    let hint = words::hint(&co_bind());
    let rule = hint.rsplit_once("--allow ").unwrap().1;
    assert_eq!(rule.parse::<crate::judge::AllowRule>().unwrap().program.as_deref(), Some("node"));
}

#[test]
fn text_tells_all_of_a_finding() {
    let text = as_text(&report(vec![refused(Cause::Listener), co_bind()], false));
    let expected = [
        "ci-7 (Linux 6.1.0), 2025-11-20T12:30:10.000Z to 2025-11-20T12:30:40.000Z (30.0 s)\n2 findings: 1 error, 1 warning\n",
        "\nerror co-bind: tcp 127.0.0.3:9926 was shared",
        "  holder  node server.js (PID 4711), user 1001, cgroup /ci/job-1\n          $ node server.js '--password=***'\n          /usr/bin/node, started 2025-11-20T12:30:15.000Z by bash (PID 4000)\n          listened on 127.0.0.3:9926, SO_REUSEPORT, 61 connections accepted, from 2025-11-20T12:30:20.000Z until 2025-11-20T12:30:27.000Z (7.0 s)\n",
        "  victim  python3 server.js (PID 900), user 1001",
        "          bind() failed with EADDRINUSE at 2025-11-20T12:30:27.000Z\n",
        "  cause   listener: somebody listens there\n",
        "  events  17, 42; network namespace 4026531840\n",
        ", still so at the end\n",
    ];
    for part in expected {
        assert!(text.contains(part), "{part:?} is missing in\n{text}");
    }
    assert!(text.find("error co-bind") < text.find("warning refused"), "worst first");
}

#[test]
fn loss_is_in_the_first_lines_and_never_clean() {
    let mut lossy = report(vec![], false);
    lossy.notice("12 events were lost\n\u{1b}[2J");
    let text = as_text(&lossy);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[1], "warning: 12 events were lost\\n\\x1b[2J");
    assert_eq!(
        lines[2],
        "No findings in what could be seen: 32 binds (2 failed) in 30.0 s; 12 sockets were open at the end"
    );
    assert_eq!(as_json(&lossy)["notices"][0], "12 events were lost\\n\\x1b[2J");
    let clean = as_text(&report(vec![], false));
    assert!(
        clean.ends_with("No findings: 32 binds (2 failed) in 30.0 s; 12 sockets were open at the end\n"),
        "{clean}"
    );
}

#[test]
fn loss_bounds_and_blind_spots_are_told() {
    let lost = BTreeMap::from([("bind".to_owned(), 2), ("close".to_owned(), 9)]);
    let told = notices::of_loss(&lost).unwrap();
    assert!(told.starts_with("11 events were lost (2 bind, 9 close): "), "{told}");
    assert_eq!(notices::of_loss(&BTreeMap::new()), None);
    let bounds: Vec<_> = notices::of_limits(&["findings".to_owned()]).collect();
    assert_eq!(bounds, ["the bound findings was reached: what was beyond it is missing"]);

    let mut blind = Unseen::default();
    assert_eq!(blind.sentence(), None);
    let unseen = (1..=5).map(|number| format!("net:[{number}]")).collect();
    let body = Body::Inventory(Inventory { phase: InventoryPhase::End, unseen });
    blind.event(&Event { seq: Seq(2), at: s(1), hook: Hook::Bindwatch, body });
    let told = blind.sentence().unwrap();
    assert!(told.ends_with("where it could not look (net:[1], net:[2], net:[3], 2 more)"), "{told}");
}

#[test]
fn how_a_log_ended_is_told() {
    let told = |ending: Ending| notices::of_ending(&ending).join("; ");
    let end = End { dropped: 1, ..End::default() };
    let torn = Some(Torn { line: 7, reason: "the line is cut off".to_owned() });
    assert_eq!(told(Ending { end: Some(End::default()), ..Ending::default() }), "");
    assert!(told(Ending { end: Some(end), ..Ending::default() }).starts_with("1 event is not in the log"));
    assert!(told(Ending::default()).starts_with("the log has no last line"));
    let ending = Ending { torn, unknown: 2, ..Ending::default() };
    assert_eq!(
        told(ending),
        "the log is cut short at line 7: the line is cut off; 2 lines were skipped: a newer bindwatch wrote them, and can read them"
    );
}

#[test]
fn every_format_says_what_enforcement_would_have_done() {
    let made = report(vec![Finding { would_deny: 1, ..co_bind() }], true);
    let said = |report: &Report, format: Format| {
        let mut out = Vec::new();
        report.write(format, text::Style { colored: false, whole: true }, &mut out).unwrap();
        String::from_utf8(out)
            .unwrap()
            .replace('\\', "")
            .replace("<code class=\"option\">", "")
            .replace("</code>", "")
    };
    let sentence = "--on-conflict deny would have refused 1 of these 2 the bind";
    let without = report(vec![co_bind()], true);
    for format in Format::ALL {
        let told = |text: &str| text.contains(sentence) || text.contains("\"would_deny\": 1");
        assert!(told(&said(&made, format)), "{format:?}: {}", said(&made, format));
        assert!(!told(&said(&without, format)), "{format:?}");
    }
}

#[test]
fn findings_left_out_are_counted() {
    let report = report(vec![co_bind(), refused(Cause::Listener)], false)
        .keeping(|finding| finding.kind == Kind::Denied);
    assert!(as_text(&report).contains("; 2 findings left out by the options\n"));
    assert!(report.findings().is_empty());
}

#[test]
fn colours_are_on_severities_only_and_only_when_asked_for() {
    let colored =
        written(&report(vec![co_bind()], false), Format::Text, text::Style { colored: true, whole: false });
    assert_eq!(colored.matches("\x1b[1;31merror\x1b[0m").count(), 1);
    assert_eq!(
        colored.replace("\x1b[1;31m", "").replace("\x1b[0m", ""),
        as_text(&report(vec![co_bind()], false))
    );
}

#[test]
fn json_has_the_shape_of_the_contract() {
    let json = as_json(&report(vec![co_bind(), refused(Cause::Listener)], false));
    let finding = &json["findings"][0];
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(json["schema"], "bindwatch.report/1");
    assert_eq!(json["host"], serde_json::json!({"hostname": "ci-7", "kernel": "6.1.0", "boot_id": "b"}));
    let window = serde_json::json!({"start": "2025-11-20T12:30:10.000Z", "end": "2025-11-20T12:30:40.000Z", "complete": true});
    assert_eq!(json["window"], window);
    let of_a_finding = "kind severity protocol address port netns first_seen last_seen overlap_ms live cause destination \
                        summary hint holders victim last_owner count uncertain receives evidence";
    for key in of_a_finding.split_whitespace() {
        assert!(keys(finding).contains(&key.to_owned()), "{key}");
    }
    let of_a_holder = "pid comm exe cmdline uid cgroup container started lineage parents socket_cookie address port \
                       options state bound_at released_at accepted inherited_from";
    for key in of_a_holder.split_whitespace() {
        assert!(keys(&finding["holders"][0]).contains(&key.to_owned()), "{key}");
        assert!(keys(&json["findings"][1]["victim"]).contains(&key.to_owned()), "{key}");
    }
    assert_eq!(json["findings"][1]["victim"]["errno"], "EADDRINUSE");
    assert_eq!(json["findings"][1]["holders"][0]["released_at"], serde_json::Value::Null);
    assert_eq!(finding["holders"][0]["options"], serde_json::json!(["SO_REUSEPORT"]));
    assert_eq!(finding["holders"][0]["parents"], serde_json::json!([{"pid": 4000, "comm": "bash"}]));
    assert_eq!(finding["holders"][0]["state"], "listen");
    assert_eq!((&finding["receives"], &finding["evidence"]), (&"split".into(), &serde_json::json!([17, 42])));
    assert_eq!(
        json["stats"],
        serde_json::json!({"events": 90, "lost": 0, "sockets": 12, "binds": 30, "binds_failed": 2})
    );
    assert_eq!(json.get("sockets"), None);
}

#[test]
fn secrets_are_masked_in_every_format_unless_asked_for() {
    let everybody = Finding { last_owner: Some(holder(1, "x")), ..refused(Cause::Orphan) };
    for format in Format::ALL {
        let style = text::Style { colored: false, whole: true };
        let masked = written(&report(vec![everybody.clone()], false), format, style);
        let shown = written(&report(vec![everybody.clone()], true), format, style);
        assert!(!masked.contains("hunter2"), "{}", format.name());
        // Annotations have no room for arguments.
        let places = if matches!(format, Format::Github | Format::Sarif) { 0 } else { 3 };
        assert_eq!(shown.matches("hunter2").count(), places, "{}", format.name());
    }
}

#[test]
fn what_people_wait_for_is_short() {
    let findings: Vec<_> = (1..=30).map(|id| Finding { id: FindingId(id), ..co_bind() }).collect();
    let mut out = Vec::new();
    text::brief(&report(findings, false), "bindwatch.jsonl", text::Style::default(), &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(
        text.starts_with("bindwatch: 30 findings: 30 errors\n  error co-bind: tcp 127.0.0.3:9926 was shared"),
        "{text}"
    );
    assert!(text.ends_with("  and 10 more\n  more: bindwatch report bindwatch.jsonl\n"), "{text}");
}

proptest! {
    #[test]
    fn no_text_of_a_process_reaches_anybody_unescaped(text in any::<String>(), number in 0..30_usize) {
        let hostile = |holder: &mut Holder| {
            holder.comm.clone_from(&text);
            holder.exe.clone_from(&text);
            holder.cgroup.clone_from(&text);
            holder.container = Some(text.clone());
            holder.cmdline = vec![text.clone(), text.clone()];
            holder.parents[0].comm.clone_from(&text);
        };
        let table = table();
        let mut finding = table[number % table.len()].0.clone();
        finding.holders.iter_mut().for_each(hostile);
        finding.victim.iter_mut().for_each(|victim| hostile(&mut victim.holder));
        finding.last_owner.iter_mut().for_each(hostile);
        let mut report = report(vec![finding.clone()], true);
        report.host.hostname.clone_from(&text);
        report.notice(&text);
        for sentence in [words::summary(&finding, CLOCK), words::hint(&finding)] {
            prop_assert!(sentence.chars().all(escape::is_seen));
        }
        for format in Format::ALL {
            for whole in [false, true] {
                let written = written(&report, format, text::Style { colored: false, whole });
                prop_assert!(written.chars().all(|c| c == '\n' || escape::is_seen(c)));
            }
        }
        let json = as_json(&report);
        if let Some(holder) = finding.holders.first() {
            prop_assert_eq!(json["findings"][0]["holders"][0]["comm"].as_str(), Some(holder.comm.as_str()));
        }
    }
}

#[test]
fn what_an_interpreter_runs_is_named() {
    let named = |exe: &str, arguments: &str| {
        let comm = exe.rsplit('/').next().unwrap();
        let cmdline = arguments.split(' ').map(str::to_owned).collect();
        words::process(&Holder { exe: exe.to_owned(), cmdline, ..holder(7, comm) })
    };
    assert_eq!(named("/usr/bin/node", "node /srv/app/server.js --port 80"), "node server.js (PID 7)");
    assert_eq!(
        named("/usr/bin/python3.11", "python3 -u -m http.server 80"),
        "python3.11 http.server (PID 7)"
    );
    assert_eq!(named("/usr/bin/java", "java -jar /opt/shop.jar"), "java shop.jar (PID 7)");
    assert_eq!(named("/usr/bin/python3.11", "python3 -c import"), "python3.11 (PID 7)");
    assert_eq!(named("/usr/sbin/nginx", "nginx -c /etc/nginx.conf"), "nginx (PID 7)");
    assert_eq!(named("/usr/bin/node", "node"), "node (PID 7)");
    assert_eq!(named("/bin/bash", "bash a\u{1b}[31mb.sh"), "bash a\\x1b[31mb.sh (PID 7)");
}
