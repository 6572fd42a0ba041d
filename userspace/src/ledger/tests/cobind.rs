//! `co-bind` and `handover`.

use super::super::{RelatedBy, Settings};
use super::story::{check, check_with};

#[test]
fn two_unrelated_processes_on_one_endpoint() {
    check(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80 rp
         listen a
         bind B b tcp 127.0.0.1:80 rp
         listen b
         @1100 close b",
        "co-bind tcp 127.0.0.1:80 A[a listen] B[b closed] -> split 95ms",
    );
}

#[test]
fn while_it_lasts_it_is_live() {
    check(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         @1100 exit B",
        "co-bind tcp 127.0.0.1:80 live A[a bound] B[b bound] 96ms",
    );
}

#[test]
fn forks_and_ancestors_are_related() {
    check(
        "proc A
         fork B of=A
         fork C of=A
         proc D parent=B
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         bind C c tcp 127.0.0.1:80 rp
         close c
         bind D d tcp 127.0.0.1:80 rp",
        "",
    );
}

#[test]
fn siblings_are_not() {
    check(
        "proc R
         proc A parent=R exe=/bin/s uid=7 cgroup=/c session=3
         proc B parent=R exe=/bin/s uid=7 cgroup=/c session=3
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 0ms",
    );
}

#[test]
fn reparenting_does_not_erase_ancestry() {
    check(
        "proc G
         proc P parent=G
         proc B parent=P
         exit P
         bind G g udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp",
        "",
    );
}

#[test]
fn exec_makes_siblings_strangers_and_parents_not() {
    check(
        "proc R
         fork A of=R
         fork B of=R
         bind R r udp 127.0.0.1:90 rp
         bind A x udp 127.0.0.1:90 rp
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         exec A exe=/bin/server
         exec B exe=/bin/server",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 1ms",
    );
}

#[test]
fn what_is_learnt_later_does_not_take_away() {
    check(
        "proc P
         proc A parent=P
         exec A parent=-
         proc B parent=P nameless
         bind P p udp 127.0.0.1:80 rp
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:81 rp
         bind P q udp 127.0.0.1:81 rp
         proc B nameless",
        "",
    );
}

#[test]
fn other_rules_of_kinship() {
    let story = "proc A exe=/bin/s uid=7 cgroup=/c session=3
         proc B exe=/bin/s uid=7 cgroup=/c session=3
         fork F of=A
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         bind A c udp 127.0.0.1:81 rp
         bind F d udp 127.0.0.1:81 rp";
    let with = |related_by| Settings { related_by, ..Settings::default() };
    for rule in [RelatedBy::Session, RelatedBy::Cgroup, RelatedBy::User] {
        check_with(with(rule), story, "");
    }
    check_with(
        with(RelatedBy::Process),
        story,
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 2ms
         co-bind udp 127.0.0.1:81 live A[c bound] F[d bound] -> A 0ms",
    );
    // Unknown sessions and cgroups are not equal.
    let unknown = "proc A
         proc B uid=1
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp";
    for rule in [RelatedBy::Cgroup, RelatedBy::User] {
        check_with(with(rule), unknown, "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 0ms");
    }
}

#[test]
fn session_0_is_a_session_like_any_other() {
    let by_session = |story: &str, expected: &str| {
        check_with(Settings { related_by: RelatedBy::Session, ..Settings::default() }, story, expected);
    };
    let story = |b: &str| {
        format!(
            "proc A exe=/bin/a session=0
             proc B exe=/bin/b {b}
             bind A a udp 127.0.0.1:80 rp
             bind B b udp 127.0.0.1:80 rp"
        )
    };
    let apart = "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 0ms";
    by_session(&story("session=0"), "");
    by_session(&story("session=7"), apart);
    // Gone before anybody could look: no session is known of it.
    let unknown = "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split uncertain 0ms";
    by_session(&story("nameless"), unknown);
}

#[test]
fn one_incident_grows_and_shrinks_and_a_later_one_is_new() {
    check(
        "proc A
         proc B
         proc C
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         bind C c tcp 127.0.0.1:80 rp
         bind C d tcp 127.0.0.1:80 rp
         close b
         close a
         @1500 bind B e tcp 127.0.0.1:80 rp
         @1600 close e",
        "co-bind tcp 127.0.0.1:80 A[a closed] B[b closed] C[c,d bound] 4ms
         co-bind tcp 127.0.0.1:80 C[c,d bound] B[e closed] 100ms",
    );
}

#[test]
fn a_common_parent_that_shares_is_listed_too() {
    check(
        "proc P
         proc A parent=P
         proc B parent=P
         bind P p tcp 127.0.0.1:80 rp
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         close b",
        "co-bind tcp 127.0.0.1:80 P[p bound] A[a bound] B[b closed] 1ms",
    );
}

#[test]
fn what_is_not_shared_is_no_cobind() {
    for story in [
        // SO_REUSEADDR alone: only one TCP socket can listen.
        "bind A a tcp 127.0.0.1:80 ra
         bind B b tcp 127.0.0.1:80 ra
         listen b",
        "bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.2:80 rp",
        "bind A a tcp 127.0.0.1:80 rp
         bind B b tcp [::1]:80 rp",
        "bind A a tcp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp",
        "bind A a udp 127.0.0.1:80 rp
         bind B b udplite 127.0.0.1:80 rp",
        "bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:81 rp",
        "bind A a tcp 127.0.0.1:80 rp ns=1
         bind B b tcp 127.0.0.1:80 rp ns=2",
        "bind A a udp 127.0.0.1:80 rp dev=2
         bind B b udp 127.0.0.1:80 rp dev=3",
        "bind A a udp 224.0.0.251:5353 rp
         bind B b udp 224.0.0.251:5353 rp",
        "bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 ra",
        // Many holders of one socket.
        "bind A a udp 127.0.0.1:80 rp
         holders a A,B",
    ] {
        check(&format!("proc A\nproc B\n{story}"), "");
    }
}

#[test]
fn devices_meet_when_one_is_none() {
    check(
        "proc A
         proc B
         bind A a udp 127.0.0.1:80 rp dev=2
         bind B b udp 127.0.0.1:80 rp",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] 0ms",
    );
    check(
        "proc A
         proc B
         bind A a udp 127.0.0.1:80 rp dev=2
         bind B b udp 127.0.0.1:80 rp dev=3
         set b dev=2
         set b dev=3",
        "co-bind udp 127.0.0.1:80 A[a bound] B[b bound] -> split 1ms",
    );
}

#[test]
fn a_third_on_another_device_is_not_in_it() {
    check(
        "proc A
         proc B
         proc C
         bind A a udp 127.0.0.1:80 rp dev=2
         bind C c udp 127.0.0.1:80 rp dev=3
         bind B b udp 127.0.0.1:80 rp dev=2",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 0ms",
    );
}

#[test]
fn mapped_and_plain_are_one_address_and_the_plain_one_gets_all() {
    check(
        "proc A
         proc B
         bind A a udp [::ffff:127.0.0.1]:80 rp
         bind B b udp 127.0.0.1:80 rp",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> B 0ms",
    );
}

#[test]
fn an_option_set_late_begins_it_and_switching_it_off_does_not_end_it() {
    check(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80
         set a rp=1
         bind B b tcp 127.0.0.1:80 rp
         set a rp=0
         set b rp=0",
        "co-bind tcp 127.0.0.1:80 live A[a bound] B[b bound] 2ms",
    );
    check(
        "proc A
         proc B
         bind A a udp 127.0.0.1:80 ra
         bind B b udp 127.0.0.1:80 rp ra
         set a rp=1",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 1ms",
    );
}

#[test]
fn udp_reuseaddr_goes_to_the_last_binder() {
    check(
        "proc A
         proc B
         proc C
         bind A a udp 127.0.0.1:80 ra
         bind C c udp 127.0.0.1:80 ra
         bind B b udp 127.0.0.1:80 ra
         close b",
        "co-bind udp 127.0.0.1:80 live A[a bound] C[c bound] B[b closed] -> C 2ms",
    );
}

#[test]
fn of_tcp_only_listeners_receive() {
    check(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         listen b",
        "co-bind tcp 127.0.0.1:80 live A[a bound] B[b listen] -> B 1ms",
    );
}

#[test]
fn joining_a_multicast_group_takes_it_back() {
    check(
        "proc A
         proc B
         bind A a udp 0.0.0.0:5353 ra
         set a multicast
         bind B b udp 0.0.0.0:5353 ra",
        "",
    );
    check(
        "proc A
         proc B
         bind A a udp 0.0.0.0:5353 ra
         bind B b udp 0.0.0.0:5353 ra
         set b multicast",
        "",
    );
    // Two others stay: it was no mistake about them.
    check(
        "proc A
         proc B
         proc C
         bind A a udp 0.0.0.0:5353 ra
         bind B b udp 0.0.0.0:5353 ra
         bind C c udp 0.0.0.0:5353 ra
         set c multicast",
        "co-bind udp 0.0.0.0:5353 live A[a bound] B[b bound] -> B 2ms",
    );
    check(
        "proc A
         proc B
         proc C
         bind A a udp 0.0.0.0:5353 ra
         bind B b udp 0.0.0.0:5353 ra
         bind C c udp 0.0.0.0:5353 ra
         close b
         set c multicast",
        "co-bind udp 0.0.0.0:5353 A[a bound] B[b closed] -> C 3ms",
    );
}

#[test]
fn a_rebound_socket_leaves_where_it_was() {
    check(
        "proc A
         proc B
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:81 rp",
        "co-bind udp 127.0.0.1:80 A[a bound] B[b closed] -> split 1ms",
    );
}

#[test]
fn a_reload_is_a_handover() {
    let reload = |end: &str| {
        format!(
            "proc M
             proc O parent=M exe=/bin/haproxy uid=5
             proc N parent=M exe=/bin/haproxy uid=5
             @1000 bind O o tcp 127.0.0.1:80 rp
             listen o
             bind O p tcp 127.0.0.1:80 rp
             @2000 bind N n tcp 127.0.0.1:80 rp
             listen n
             {end}"
        )
    };
    let quick = "@2400 close o state=listen\n@3000 close p state=listen";
    check(&reload(quick), "handover tcp 127.0.0.1:80 O[o,p closed] N[n listen] -> N 1000ms");
    // As long as it lasts it could become anything.
    check(
        &reload("@2400 close o state=listen"),
        "co-bind tcp 127.0.0.1:80 live O[o,p bound] N[n listen] -> N 400ms",
    );
    let late = "@2400 close o state=listen\n@3001 close p state=listen";
    check(&reload(late), "co-bind tcp 127.0.0.1:80 O[o,p closed] N[n listen] -> N 1001ms");
    let lossy = "@2400 close o state=listen backlog=1\n@2500 close p state=listen";
    check(&reload(lossy), "co-bind tcp 127.0.0.1:80 O[o,p closed] N[n listen] -> N 500ms");
    // Shut down first, closed when the last client is gone.
    let drained = "@2400 close p\n@2500 unlisten o\n@9000 close o";
    check(&reload(drained), "handover tcp 127.0.0.1:80 O[o,p closed] N[n listen] -> split 500ms");
    let lossy = "@2400 close p\n@2500 unlisten o backlog=3";
    check(&reload(lossy), "co-bind tcp 127.0.0.1:80 O[o,p bound] N[n listen] -> split 500ms");
    // Both ended together: nothing was handed over, and until then both answered.
    let together = "@2400 close o state=listen\n@2500 close p state=listen\n@3500 close n state=listen";
    check(&reload(together), "co-bind tcp 127.0.0.1:80 O[o,p closed] N[n closed] -> N 500ms");
    let stayed = "@2400 close o state=listen\n@2500 close p state=listen\n@3501 close n state=listen";
    check(&reload(stayed), "handover tcp 127.0.0.1:80 O[o,p closed] N[n closed] -> N 500ms");
    // The newcomer gave up: nothing was handed over, however soon.
    check(
        "proc O exe=/bin/x
         proc N exe=/bin/x
         bind O o udp 127.0.0.1:80 rp
         bind N n udp 127.0.0.1:80 rp
         close n",
        "co-bind udp 127.0.0.1:80 O[o bound] N[n closed] -> split 1ms",
    );
    let gave_up = "@2400 close n state=listen";
    check(&reload(gave_up), "co-bind tcp 127.0.0.1:80 O[o,p listen] N[n closed] -> split 400ms");
}

#[test]
fn another_program_or_user_takes_over_nothing() {
    for newcomer in ["exe=/bin/other uid=5", "exe=/bin/haproxy uid=6"] {
        check(
            &format!(
                "proc O exe=/bin/haproxy uid=5
                 proc N {newcomer}
                 bind O o udp 127.0.0.1:80 rp
                 @2000 bind N n udp 127.0.0.1:80 rp
                 @2100 close o"
            ),
            "co-bind udp 127.0.0.1:80 O[o closed] N[n bound] -> split 100ms",
        );
    }
}

#[test]
fn the_time_for_a_handover_can_be_set() {
    let settings = Settings { handover_ns: 50_000_000, ..Settings::default() };
    check_with(
        settings,
        "proc O exe=/bin/x
         proc N exe=/bin/x
         bind O o udp 127.0.0.1:80 rp
         @2000 bind N n udp 127.0.0.1:80 rp
         @2100 close o",
        "co-bind udp 127.0.0.1:80 O[o closed] N[n bound] -> split 100ms",
    );
}

#[test]
fn a_listen_that_fails_is_no_listener_that_was_shut_down() {
    // The kernel lets it listen first: nobody stopped, for a reload or a restart.
    check(
        "proc A exe=/bin/x
         proc B exe=/bin/x
         proc C exe=/bin/x
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         @2000 listen a
         @2000 listen-refuse A a
         @2000 refuse C c tcp 127.0.0.1:80",
        "co-bind tcp 127.0.0.1:80 live A[a bound] B[b bound] 995ms
         refused tcp 127.0.0.1:80 victim=A/listen
         refused tcp 127.0.0.1:80 A[a bound] B[b bound] victim=C bound",
    );
}

#[test]
fn a_change_of_device_can_put_two_on_one_endpoint() {
    check(
        "proc A exe=/bin/a
         proc B exe=/bin/b
         bind A a tcp 127.0.0.1:80 dev=1
         listen a
         bind B b tcp 127.0.0.1:80 dev=2
         listen b
         bind A c udp 127.0.0.1:80 dev=1
         bind B d udp 127.0.0.1:80 dev=2
         set b dev=1
         set d dev=0",
        "co-bind tcp 127.0.0.1:80 live A[a listen] B[b listen] -> B 1ms
         co-bind udp 127.0.0.1:80 live A[c bound] B[d bound] 0ms",
    );
}

#[test]
fn a_port_that_the_kernel_chose_goes_with_the_listening() {
    check(
        "proc A exe=/bin/a
         proc B exe=/bin/b
         bind A a tcp 127.0.0.1:80 rp asked=0
         listen a
         unlisten a
         bind B b tcp 127.0.0.1:80 rp
         listen b
         close a",
        "",
    );
}

/// Listeners are counted while they share: the last count is the evidence, not each of them.
#[test]
fn connections_so_far_replace_each_other() {
    let mut told = super::story::Story::new(Settings::default());
    told.tell(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80 rp
         listen a
         bind B b tcp 127.0.0.1:80 rp
         listen b",
    );
    let first = told.ledger.findings().next().unwrap().evidence;
    for count in 1..=100 {
        told.tell(&format!("accepted a n={count}\naccepted b n={}", 2 * count));
    }
    let finding = told.ledger.findings().next().unwrap();
    let accepted: Vec<_> = finding.holders.iter().map(|holder| holder.accepted).collect();
    assert_eq!(accepted, [Some(100), Some(200)]);
    assert_eq!(finding.evidence.len(), first.len() + 2, "{:?}", finding.evidence);
    assert_eq!(finding.evidence.last(), Some(&crate::event::Seq(told.seq)));
}
