//! Holders that change, inventories, loss, jobs, exhausted ports, allow rules, numbers.

use super::super::{AllowRule, Settings};
use super::story::{Story, check, check_with};

#[test]
fn holders_replace_the_binder() {
    check(
        "proc A
         proc B
         proc C
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         holders a C
         close a",
        "co-bind udp 127.0.0.1:80 A[a closed] B[b bound] C<A[a closed] -> split 2ms",
    );
}

#[test]
fn kinship_with_the_binder_or_any_holder_counts() {
    check(
        "proc A
         proc B
         proc C
         bind A a udp 127.0.0.1:80 rp
         holders a C
         exit A
         bind C c udp 127.0.0.1:80 rp
         holders c B
         bind A d udp 127.0.0.1:81 rp
         holders d A,B
         bind B e udp 127.0.0.1:81 rp",
        "",
    );
}

#[test]
fn an_ended_holder_is_named_until_more_is_known() {
    check(
        "proc A
         fork K of=A
         proc B
         bind A a udp 127.0.0.1:80 rp
         exit A
         bind B b udp 127.0.0.1:80 rp
         holders a K",
        "co-bind udp 127.0.0.1:80 live A[a closed] B[b bound] K<A[a bound] -> split 1ms",
    );
    check(
        "proc A
         fork K of=A
         proc B
         bind A a udp 127.0.0.1:80 rp
         holders a A,K
         bind B b udp 127.0.0.1:80 rp
         exit A",
        "co-bind udp 127.0.0.1:80 live A[a closed] K<A[a bound] B[b bound] -> split 1ms",
    );
}

#[test]
fn sockets_of_an_inventory_count() {
    check(
        "proc P
         proc A parent=P
         proc B
         inventory begin
         found a tcp 127.0.0.1:80 listen A,P rp
         found b tcp 127.0.0.1:80 listen B rp
         found c tcp 127.0.0.1:80 established B rp
         found d tcp 127.0.0.1:80 time-wait
         inventory end",
        "co-bind tcp 127.0.0.1:80 live A<P[a listen] P[a listen] B[b listen] -> split 3ms",
    );
}

/// What a later inventory lists came while nobody looked, not before the recording.
#[test]
fn when_a_socket_was_bound_whose_record_was_lost_is_not_known() {
    let mut told = Story::new(Settings::default());
    told.tell(
        "proc A
         proc V
         inventory begin
         found a tcp 127.0.0.1:80 listen A
         inventory end
         lost bind=1
         inventory begin
         found a tcp 127.0.0.1:80 listen A
         found b tcp 127.0.0.1:81 listen A
         found d tcp 127.0.0.1:83 listen A
         inventory end
         now d tcp 127.0.0.2:83 state=listen
         refuse V y tcp 127.0.0.2:83
         refuse V v tcp 127.0.0.1:80 as=f
         row f a tcp 127.0.0.1:80 listen A
         refuse V w tcp 127.0.0.1:81 as=g
         row g b tcp 127.0.0.1:81 listen A
         refuse V x tcp 127.0.0.1:82 as=h
         row h c tcp 127.0.0.1:82 listen A",
    );
    let findings = told.ledger.findings().flat_map(|found| found.holders);
    let starts: Vec<_> = findings.map(|holder| (holder.port, holder.bound_at, holder.bound_unseen)).collect();
    assert_eq!(starts, [(83, None, true), (80, None, false), (81, None, true), (82, None, true)]);
}

#[test]
fn what_an_inventory_does_not_list_is_closed() {
    check(
        "proc A
         proc B
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         bind A c udp 127.0.0.1:81 rp
         bind B d udp 127.0.0.1:81 rp
         inventory begin
         found a udp 127.0.0.1:80 close A rp
         found c udp 127.0.0.1:81 close A rp
         found d udp 127.0.0.1:81 close B rp
         bind B e udp 127.0.0.1:80 rp
         inventory end",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b,e bound] -> split 8ms
         co-bind udp 127.0.0.1:81 live A[c bound] B[d bound] -> split 6ms",
    );
    // Where an inventory could not look, it says nothing.
    check(
        "proc A
         proc B
         bind A a udp 127.0.0.1:80 rp ns=7
         bind B b udp 127.0.0.1:80 rp ns=7
         inventory begin
         inventory end unseen=7",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 2ms",
    );
}

#[test]
fn sockets_that_nobody_is_known_to_hold_prove_nothing() {
    check(
        "proc A
         proc B
         found a udp 127.0.0.1:80 close rp
         bind B b udp 127.0.0.1:80 rp
         bind B c tcp 127.0.0.1:80
         found d tcp 127.0.0.1:81 listen
         refuse B e tcp 127.0.0.1:81 as=f
         row f d tcp 127.0.0.1:81 listen A",
        "refused tcp 127.0.0.1:81 A[d listen] victim=B listener",
    );
    check(
        "proc A
         proc B
         found a udp 127.0.0.1:80 close rp
         bind B b udp 127.0.0.1:80 rp
         holders a A",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 0ms",
    );
}

#[test]
fn a_socket_that_listens_without_a_bind_has_its_port_later() {
    check(
        "proc A
         proc B
         listen a tcp 0.0.0.0:0 rp by=A
         bind B b tcp 0.0.0.0:40000 rp
         found a tcp 0.0.0.0:40000 listen A rp",
        "co-bind tcp 0.0.0.0:40000 live B[b bound] A[a listen] -> A 0ms",
    );
}

#[test]
fn loss_makes_uncertain_until_the_next_whole_inventory() {
    check(
        "proc A
         proc B
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         bind A z udp 127.0.0.1:79 rp
         bind B y udp 127.0.0.1:79 rp
         close y
         lost bind=3 close=1
         refuse A r tcp 127.0.0.1:80
         inventory begin
         found a udp 127.0.0.1:80 close A rp
         found b udp 127.0.0.1:80 close B rp
         found z udp 127.0.0.1:79 close A rp
         inventory end unseen=x
         refuse A r tcp 127.0.0.1:81
         inventory begin
         found a udp 127.0.0.1:80 close A rp
         found b udp 127.0.0.1:80 close B rp
         found z udp 127.0.0.1:79 close A rp
         inventory end
         refuse A r tcp 127.0.0.1:82",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split uncertain 17ms
         co-bind udp 127.0.0.1:79 A[z bound] B[y closed] -> split 1ms
         refused tcp 127.0.0.1:80 victim=A uncertain
         refused tcp 127.0.0.1:81 victim=A uncertain
         refused tcp 127.0.0.1:82 victim=A",
    );
    // A loss during the inventory is not made up by it.
    check(
        "proc A
         lost bind=1
         inventory begin
         lost bind=1
         inventory end
         refuse A r tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 victim=A uncertain",
    );
}

#[test]
fn what_changes_after_a_loss_is_uncertain() {
    check(
        "proc A
         refuse A r tcp 127.0.0.1:80
         refuse A r tcp 127.0.0.1:81
         lost bind=1
         refuse A r tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 victim=A x2 uncertain
         refused tcp 127.0.0.1:81 victim=A",
    );
}

#[test]
fn ports_that_run_out() {
    check(
        "proc A
         proc B
         proc V exe=/bin/v
         proc W exe=/bin/v
         proc X
         bind A a tcp 127.0.0.1:80
         bind B b tcp 127.0.0.1:81
         bind B c tcp 127.0.0.1:82
         bind B d tcp 127.0.0.1:83 ns=2
         bind B e udp 127.0.0.1:83
         no-port V tcp 10.0.0.1:443
         no-port W tcp 10.0.0.1:443
         no-port W tcp 10.0.0.2:443
         no-port X udp 10.0.0.1:53 errno=EAGAIN
         no-port X udp 0.0.0.0:0 errno=EAGAIN
         no-port X tcp 10.0.0.1:53 errno=EAGAIN
         refuse X f tcp 127.0.0.1:0
         refuse X g tcp 127.0.0.1:0
         close b",
        "exhausted tcp 0.0.0.0:0 B[b,c bound] A[a bound] victim=W/connect to=10.0.0.1:443 x2
         exhausted tcp 0.0.0.0:0 B[b,c bound] A[a bound] victim=W/connect to=10.0.0.2:443
         exhausted udp 0.0.0.0:0 B[e bound] victim=X/connect to=10.0.0.1:53
         exhausted udp 0.0.0.0:0 B[e bound] victim=X/send
         exhausted tcp 127.0.0.1:0 B[b,c bound] A[a bound] victim=X x2",
    );
}

#[test]
fn allowed_findings_are_left_out() {
    let story = "proc A cgroup=/ci/a
         proc B cgroup=/ci/b
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         refuse A c udp 127.0.0.1:80";
    let cobind = "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 1ms";
    let refused = "refused udp 127.0.0.1:80 A[a bound] B[b bound] victim=A bound";
    let both = format!("{cobind}\n{refused}");
    let rule = |rule: AllowRule| Settings { allow: vec![rule], ..Settings::default() };
    let port = |range| rule(AllowRule { port: Some(range), ..AllowRule::default() });
    check_with(port(80..=90), story, "");
    check_with(port(81..=90), story, &both);
    let program = |glob: &str| rule(AllowRule { program: Some(glob.to_owned()), ..AllowRule::default() });
    check_with(program("/bin/*"), story, "");
    check_with(program("?"), story, "");
    check_with(program("a"), story, &both);
    check_with(rule(AllowRule { cgroup: Some("/ci".to_owned()), ..AllowRule::default() }), story, "");
    check_with(rule(AllowRule { cgroup: Some("/ci/a".to_owned()), ..AllowRule::default() }), story, &both);
    let address = |address: &str| rule(AllowRule { address: address.parse().ok(), ..AllowRule::default() });
    check_with(address("::ffff:127.0.0.1"), story, "");
    check_with(address("127.0.0.2"), story, &both);
    check_with(rule(AllowRule::default()), story, &both);
}

#[test]
fn a_finding_that_outgrows_its_rule_shows() {
    let allow = vec![AllowRule { cgroup: Some("/ci".to_owned()), ..AllowRule::default() }];
    check_with(
        Settings { allow, ..Settings::default() },
        "proc A cgroup=/ci/a
         proc B cgroup=/ci/b
         proc C cgroup=/else
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         bind C c udp 127.0.0.1:80 rp",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] C[c bound] -> split 1ms",
    );
    // And is told of when the rule covers it again.
    let allow = vec![AllowRule { cgroup: Some("/ci".to_owned()), ..AllowRule::default() }];
    check_with(
        Settings { allow, ..Settings::default() },
        "proc A cgroup=/ci/a
         proc B cgroup=/ci/b
         proc C cgroup=/else
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         bind C c udp 127.0.0.1:80 rp
         set c multicast",
        "",
    );
}

#[test]
fn numbers_are_counted() {
    let mut told = Story::new(Settings::default());
    told.tell(
        "proc A
         bind A a tcp 127.0.0.1:80
         bind A b tcp 127.0.0.1:81
         refuse A c tcp 127.0.0.1:80
         close b
         lost bind=3 close=1
         @900 lost bind=1",
    );
    let stats = told.ledger.stats();
    assert_eq!((stats.events, stats.sockets, stats.binds, stats.binds_failed), (7, 1, 2, 1));
    assert_eq!(stats.lost, 5);
    assert_eq!(stats.lost_by_kind.get("bind"), Some(&4));
    assert_eq!(stats.end.since(stats.start), 5_000_000);
    assert!(stats.limits.is_empty());
}

#[test]
fn the_view_shows_what_is_held() {
    let mut told = Story::new(Settings::default());
    told.tell(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:81
         bind B b tcp [::ffff:127.0.0.1]:80 rp
         bind B c tcp 127.0.0.1:82
         close c
         listen b
         holders b A,B",
    );
    let view = told.ledger.view();
    let shown: Vec<String> = view
        .sockets()
        .map(|socket| {
            let holders: Vec<&str> = socket.processes().iter().map(|process| told.name(*process)).collect();
            format!("{}:{} {:?} {}", socket.address(), socket.port(), socket.state(), holders.join(","))
        })
        .collect();
    assert_eq!(shown, ["::ffff:127.0.0.1:80 Listen A,B", "127.0.0.1:81 Bound A"]);
    assert_eq!(view.process(told.key("A")).map(|process| process.comm.as_str()), Some("a"));
    let inherited: Vec<_> =
        view.sockets().flat_map(|socket| socket.holders().map(|holder| holder.inherited_from)).collect();
    assert_eq!(inherited, [Some(told.key("B")), None, None]);
    // Who inherits holds from then on: bound with event 4, passed on with event 8.
    let held: Vec<_> =
        view.sockets().flat_map(|socket| socket.holders().map(|holder| holder.bound_at)).collect();
    let at = |event: u64| Some(crate::event::BootTime((1_000 + event) * 1_000_000));
    assert_eq!(held, [at(8), at(4), at(3)]);
}

#[test]
fn evidence_is_what_proves_it() {
    let mut told = Story::new(Settings::default());
    told.tell(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80 rp
         listen a
         proc C
         bind B b tcp 127.0.0.1:80 rp
         listen b
         close a
         refuse C c tcp 127.0.0.1:80",
    );
    let evidence: Vec<Vec<u64>> =
        told.ledger.findings().map(|finding| finding.evidence.iter().map(|seq| seq.0).collect()).collect();
    assert_eq!(evidence, [vec![3, 4, 6, 7, 8], vec![6, 7, 9]]);
}

#[test]
fn a_mere_name_does_not_replace_what_is_known() {
    let mut told = Story::new(Settings::default());
    told.tell(
        "proc A exe=/bin/real
         proc A exe=/bin/guess nameless",
    );
    let exe = told.ledger.view().process(told.key("A")).map(|process| process.exe.clone());
    assert_eq!(exe.as_deref(), Some("/bin/real"));
}

#[test]
fn the_tables_say_who_used_up_the_range() {
    check(
        "proc A
         proc B
         proc V
         range 40000 40009 reserved=40005
         no-port V tcp 10.0.0.1:443 as=f
         ports f 9/9 A,2,0 B!,0,6 rest=1
         no-port V tcp 10.0.0.1:443 as=g
         no-port V tcp 10.0.0.1:443 as=h
         ports h 8/9 B!,0,8",
        "exhausted tcp 0.0.0.0:0 victim=V/connect last=B[? time-wait] range=40000-40009 used=8/9 user=B(0+8 ended) to=10.0.0.1:443 x3",
    );
    check(
        "proc A
         proc B
         proc V
         range 40000 40009
         refuse V v tcp 127.0.0.1:0 as=f
         ports f 10/10 A,2,0,listen B,1,7,connected",
        "exhausted tcp 127.0.0.1:0 A[? listen] B[? connected] victim=V last=B[? time-wait] range=40000-40009 used=10/10 user=A(2+0) user=B(1+7)",
    );
}

#[test]
fn what_only_looks_like_a_shortage() {
    // A pair of addresses that is in use, and datagrams that have no way.
    check(
        "proc V
         bind V b tcp 127.0.0.1:5000
         no-port V tcp 10.0.0.1:443 on=b
         no-port V udp [2001:db8::1]:53",
        "",
    );
    // IPv6 that has no address to connect from.
    let story = |count: &str| format!("proc V\nrange 1 100\nno-port V tcp [2001:db8::1]:443 as=f\n{count}");
    check(&story("# the tables were not asked"), "");
    check(&story("ports f 50/100"), "");
    check(
        &story("ports f 51/100"),
        "exhausted tcp [::]:0 victim=V/connect range=1-100 used=51/100 to=[2001:db8::1]:443",
    );
    check(
        &story("ports f 100/100\nno-port V tcp [2001:db8::1]:443"),
        "exhausted tcp [::]:0 victim=V/connect range=1-100 used=100/100 to=[2001:db8::1]:443 x2",
    );
    check(
        &story("no-port V tcp [::ffff:10.0.0.1]:443"),
        "exhausted tcp [::]:0 victim=V/connect to=[::ffff:10.0.0.1]:443",
    );
}
