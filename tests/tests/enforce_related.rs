//! What the kernel denies is what the report finds: one rule of kinship and of what is allowed, held against each other on
//! real sockets. `--dry-run` lets everything through, so that both have something to say.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::collections::BTreeSet;

use scenarios::{Actor, Cgroup, Finding, Finished, Recording, loopback};

/// A recording that tells what would be denied in a cgroup.
fn dry_run(cgroup: &Cgroup, options: &[&str]) -> Recording {
    Recording::enforcing(cgroup, ["--dry-run"].iter().chain(options))
}

/// An actor in a cgroup, with two children.
fn family(cgroup: &Cgroup) -> (Actor, [u64; 2]) {
    let mut boss = Actor::new();
    cgroup.enrol(boss.pid());
    let children = [boss.ok("spawn"), boss.ok("spawn")].map(|answer| answer.number("pid"));
    (boss, children)
}

/// Addresses and ports of the sockets that would have been denied. From the log: no rule hides them there.
fn denied(finished: &Finished) -> BTreeSet<(String, u64)> {
    let lines = finished.log.lines("\"type\":\"denied\"");
    let place = |line: &serde_json::Value| {
        let socket = &line["socket"];
        let address = socket["address"].as_str().expect("an address").to_owned();
        (address, socket["port"].as_u64().expect("a port"))
    };
    lines.iter().map(place).collect()
}

fn is_shared(finding: &Finding) -> bool {
    ["co-bind", "shadow", "handover"].contains(&finding.kind())
}

#[test]
fn whoever_is_related_by_the_rule_of_the_findings_is_so_to_the_kernel() {
    // Which rules find two processes unrelated.
    let situations: [(&str, &[&str]); 6] = [
        ("forked", &["process"]),
        ("spawned", &["process"]),
        ("siblings", &["process", "lineage"]),
        ("other session", &["process", "lineage", "session"]),
        ("other cgroup", &["process", "lineage", "cgroup"]),
        ("other user", &["process", "lineage", "user"]),
    ];
    for rule in ["process", "lineage", "session", "cgroup", "user"] {
        let cgroup = Cgroup::new();
        let below = cgroup.path().join("below");
        std::fs::create_dir(&below).expect("a cgroup below");
        let recording = dry_run(&cgroup, &["--related-by", rule]);
        let mut expected = Vec::new();
        for ((situation, apart), port) in situations.into_iter().zip(26_101_u64..) {
            let address = loopback();
            let (mut boss, [_, second]) = family(&cgroup);
            let bind = format!("bind udp {address}:{port} reuseaddr");
            match situation {
                "forked" => {
                    boss.ok(&bind);
                    let child = boss.ok("fork").number("child");
                    boss.ok(&format!("tell {child} {bind}"));
                }
                "spawned" => {
                    boss.ok(&bind);
                    boss.ok(&format!("tell 1 {bind}"));
                }
                situation => {
                    match situation {
                        "other session" => drop(boss.ok("tell 2 setsid")),
                        "other user" => drop(boss.ok("tell 2 setuid 65534")),
                        "other cgroup" => std::fs::write(below.join("cgroup.procs"), second.to_string())
                            .expect("a process to move"),
                        _ => {}
                    }
                    boss.ok(&format!("tell 1 {bind}"));
                    boss.ok(&format!("tell 2 {bind}"));
                }
            }
            expected.push((situation, (address, port), apart.contains(&rule), boss));
        }
        recording.fence();
        let finished = recording.stop();
        let (denied, report) = (denied(&finished), finished.report());
        for (situation, (address, port), apart, _) in &expected {
            let found = report.at(*address).iter().any(is_shared);
            assert_eq!(found, *apart, "found, by {rule}: {situation}\n{report}");
            let is_denied = denied.contains(&(address.to_string(), *port));
            assert_eq!(is_denied, *apart, "denied, by {rule}: {situation}");
        }
    }
}

#[test]
fn what_a_rule_allows_in_the_findings_is_not_denied() {
    const PLACES: [(&str, &str); 6] = [
        ("127.0.0.1", ""),
        ("0.0.0.0", ""),
        ("[::1]", ""),
        ("[::]", ""),
        ("[::]", " v6only"),
        ("[::ffff:127.0.0.1]", ""),
    ];
    const RULES: [&str; 10] = [
        "address=192.0.2.1",
        "port=8003-8011",
        "address=0.0.0.0",
        "address=::",
        "address=127.0.0.1",
        "address=::1",
        "address=::ffff:127.0.0.1",
        "address=0.0.0.0,port=8000-8019",
        "program=actor,address=::",
        "program=nobody,port=1-65535",
    ];
    for rule in RULES {
        let cgroup = Cgroup::new();
        let mut one = Actor::new();
        one.ok("unshare-net");
        let netns = one.netns();
        let mut other = Actor::beside(&one);
        cgroup.enrol(one.pid());
        cgroup.enrol(other.pid());
        let recording = dry_run(&cgroup, &["--allow", rule]);
        let mut port = 8000;
        for (first, only) in PLACES {
            for (second, also_only) in PLACES {
                one.ok(&format!("bind udp {first}:{port} reuseport{only}"));
                other.ok(&format!("bind udp {second}:{port} reuseport{also_only}"));
                port += 1;
            }
        }
        recording.fence();
        let finished = recording.stop();
        let denied: BTreeSet<u64> = denied(&finished)
            .into_iter()
            .map(|(_, port)| port)
            .filter(|port| (8000..8036).contains(port))
            .collect();
        let report = finished.report();
        let found: BTreeSet<u64> = report
            .in_netns(netns)
            .iter()
            .filter(|finding| is_shared(finding))
            .map(|finding| finding.number("port"))
            .collect();
        let pairs = |ports: &BTreeSet<u64>| -> Vec<String> {
            let pair = |port: &u64| {
                let nth = usize::try_from(port - 8000).expect("a small number");
                format!("{port}: {:?} then {:?}", PLACES[nth / 6], PLACES[nth % 6])
            };
            ports.iter().map(pair).collect()
        };
        assert_eq!(pairs(&denied), pairs(&found), "{rule}");
        let all = 24;
        match rule {
            "address=192.0.2.1" | "program=nobody,port=1-65535" => assert_eq!(found.len(), all, "{rule}"),
            _ => assert!((1..all).contains(&found.len()), "{rule}: {found:?}"),
        }
    }
}
