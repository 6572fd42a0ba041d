//! `refused`, its causes and its victims.

use super::story::check;

#[test]
fn the_holder_is_named_by_what_it_does() {
    check(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80
         refuse B b tcp 127.0.0.1:80
         listen a
         refuse B c tcp 0.0.0.0:80
         close a",
        "refused tcp 127.0.0.1:80 A[a bound released] victim=B bound
         refused tcp 0.0.0.0:80 A[a listen released] victim=B listener",
    );
}

#[test]
fn only_sockets_in_the_way_are_holders() {
    // Another address, another device, another namespace, and pairs that the kernel lets be.
    check(
        "proc A
         proc B
         proc V
         bind A a tcp 127.0.0.2:80
         bind A b tcp 127.0.0.1:80 dev=3
         bind A c tcp 127.0.0.1:80 ns=2
         bind A d tcp [::]:80 v6only
         bind A e udp 127.0.0.1:80
         bind A f tcp 127.0.0.1:80 rp ra dev=2
         bind B g tcp 127.0.0.1:80 ra dev=2
         listen g
         refuse V v tcp 127.0.0.1:80 rp ra dev=2",
        "refused tcp 127.0.0.1:80 B[g listen] victim=V exclusive",
    );
    check(
        "proc A
         proc V
         bind A a tcp 127.0.0.1:80 ra
         refuse V v tcp 127.0.0.1:80 ra
         bind A b udp 127.0.0.1:80 ra
         refuse V w udp 127.0.0.1:80 ra",
        "refused tcp 127.0.0.1:80 victim=V
         refused udp 127.0.0.1:80 victim=V",
    );
}

#[test]
fn options_that_one_side_lacks() {
    check(
        "proc A
         proc V
         bind A a tcp 127.0.0.1:80
         listen a
         refuse V v tcp 127.0.0.1:80 rp
         bind A b tcp 127.0.0.1:81 rp owner=0
         refuse V w tcp 127.0.0.1:81 rp owner=5
         bind A c udp 127.0.0.1:82
         refuse V x udp 127.0.0.1:82 ra
         refuse V y tcp 127.0.0.1:80 ra",
        "refused tcp 127.0.0.1:80 A[a listen] victim=V exclusive x2
         refused tcp 127.0.0.1:81 A[b bound] victim=V other-user
         refused udp 127.0.0.1:82 A[c bound] victim=V exclusive",
    );
}

#[test]
fn listen_fails_against_who_listens_first() {
    check(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80 ra
         bind B b tcp 127.0.0.1:80 ra
         listen a
         listen-refuse B b
         close b",
        "refused tcp 127.0.0.1:80 A[a listen] victim=B/listen listener",
    );
}

#[test]
fn the_listening_socket_itself_is_not_in_its_way() {
    check(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80 ra
         bind B b tcp 127.0.0.1:80 ra
         listen a
         set b ra=0
         listen-refuse B b",
        "refused tcp 127.0.0.1:80 A[a listen] victim=B/listen listener",
    );
}

#[test]
fn the_latest_state_of_a_holder_shows() {
    check(
        "proc H
         proc V
         bind H h tcp 127.0.0.1:80
         listen h
         refuse V v tcp 127.0.0.1:80
         close h
         bind H i tcp 127.0.0.1:80
         refuse V w tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 H[h,i bound] victim=V listener x2",
    );
}

#[test]
fn a_victim_that_tries_again_is_one_finding() {
    check(
        "proc P
         proc H
         proc A parent=P exe=/bin/node args=--x,server.js
         proc B parent=P exe=/bin/node args=server.js
         fork C of=B
         proc D parent=P exe=/bin/node args=other.js
         proc E exe=/bin/node args=server.js
         bind H h tcp 127.0.0.1:80
         refuse A a tcp 127.0.0.1:80
         refuse A b tcp 127.0.0.1:80
         exit A
         refuse B c tcp 127.0.0.1:80
         refuse C d tcp 127.0.0.1:80
         refuse D e tcp 127.0.0.1:80
         refuse E f tcp 127.0.0.1:80
         close h
         bind H i tcp 127.0.0.1:80
         refuse C g tcp 127.0.0.1:80
         close i
         bind E j tcp 127.0.0.1:80
         refuse C k tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 H[h,i bound released] victim=C bound x5
         refused tcp 127.0.0.1:80 H[h bound released] victim=D bound
         refused tcp 127.0.0.1:80 H[h bound released] victim=E bound
         refused tcp 127.0.0.1:80 E[j bound] victim=C bound",
    );
}

#[test]
fn a_previous_instance_on_its_way_out() {
    let story = |leaving: &str| {
        format!(
            "proc R
             proc O parent=R exe=/bin/node args=server.js
             proc N parent=R exe=/bin/node args=server.js
             proc X parent=R exe=/bin/node args=other.js
             bind O o tcp 127.0.0.1:80
             listen o
             {leaving}
             refuse N n tcp 127.0.0.1:80
             refuse X x tcp 127.0.0.1:80"
        )
    };
    for leaving in ["signal O", "exit O"] {
        check(
            &story(leaving),
            "refused tcp 127.0.0.1:80 O[o listen] victim=N restart
             refused tcp 127.0.0.1:80 O[o listen] victim=X listener",
        );
    }
    check(
        &story("unlisten o"),
        "refused tcp 127.0.0.1:80 O[o bound] victim=N restart
         refused tcp 127.0.0.1:80 O[o bound] victim=X bound",
    );
    check(
        &story("# nothing"),
        "refused tcp 127.0.0.1:80 O[o listen] victim=N listener
         refused tcp 127.0.0.1:80 O[o listen] victim=X listener",
    );
    // It leaves while the new one tries again.
    check(
        "proc O exe=/bin/x
         proc N exe=/bin/x
         bind O o tcp 127.0.0.1:80
         listen o
         refuse N n tcp 127.0.0.1:80
         signal O
         refuse N m tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 O[o listen] victim=N restart x2",
    );
}

#[test]
fn modules_and_scripts_tell_programs_apart() {
    check(
        "proc R
         proc O exe=/bin/python args=-m,http.server,80
         proc N exe=/bin/python args=-m,pytest
         bind O o tcp 127.0.0.1:80
         signal O
         refuse N n tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 O[o bound] victim=N bound",
    );
}

#[test]
fn check_then_bind_loses_the_race() {
    let story = |prober: &str, release: &str, taker: &str| {
        format!(
            "proc R
             proc V parent=R
             proc T
             fork F of=V
             bind {prober} p tcp 127.0.0.1:8080
             {release}
             {taker}
             refuse V v tcp 127.0.0.1:8080"
        )
    };
    let taken = "@2000 bind T t tcp 0.0.0.0:8080";
    let lost = "refused tcp 127.0.0.1:8080 T[t bound] victim=V lost-race";
    let held = "refused tcp 127.0.0.1:8080 T[t bound] victim=V bound";
    check(&story("V", "close p", taken), lost);
    check(&story("R", "close p", taken), lost);
    // Not an ancestor.
    check(&story("F", "close p", taken), held);
    // Too long ago.
    check(&story("V", "close p", "@61100 bind T t tcp 0.0.0.0:8080"), held);
    // Taken before it was released.
    check(
        "proc V
         proc T
         bind V p tcp 127.0.0.1:80 rp
         bind T t tcp 127.0.0.1:80 rp
         close p
         refuse V v tcp 127.0.0.1:80",
        "co-bind tcp 127.0.0.1:80 V[p closed] T[t bound] 1ms
         refused tcp 127.0.0.1:80 T[t bound] victim=V bound",
    );
}

#[test]
fn tables_explain_what_no_event_showed() {
    for (rows, expected) in [
        ("row f x tcp 127.0.0.1:80 time-wait", "time-wait"),
        ("row f x tcp 127.0.0.1:80 time-wait last=O", "time-wait last=O[x time-wait]"),
        ("row f x tcp 127.0.0.1:80 fin-wait2", "half-closed"),
        ("row f x tcp 127.0.0.1:80 last-ack last=O", "half-closed last=O[x closed]"),
        ("row f x tcp 127.0.0.1:80 close-wait", "half-closed"),
    ] {
        let story = format!("proc O\nproc V\nrefuse V v tcp 127.0.0.1:80 as=f\n{rows}");
        check(&story, &format!("refused tcp 127.0.0.1:80 victim=V {expected}"));
    }
    for (rows, expected) in [
        ("row f x tcp 127.0.0.1:80 fin-wait2 O", "O[x connected] victim=V half-closed"),
        ("row f x tcp 127.0.0.1:80 close-wait O", "O[x connected] victim=V half-closed"),
        ("row f x tcp 127.0.0.1:80 established O", "O[x connected] victim=V bound"),
        ("row f x tcp 127.0.0.1:80 close O", "O[x bound] victim=V bound"),
        ("row f x tcp 0.0.0.0:80 listen O", "O[x listen] victim=V listener"),
        // The firmest hold is the reason.
        (
            "row f w tcp 127.0.0.1:80 time-wait last=P
             row f x tcp 127.0.0.1:80 established P
             row f y tcp 127.0.0.1:80 listen O
             row f z tcp 127.0.0.1:80 time-wait last=P",
            "O[y listen] victim=V listener",
        ),
        // Not in the way: another address, another port.
        (
            "row f w tcp 127.0.0.9:80 listen P
             row f u tcp 127.0.0.1:81 listen P
             row f x tcp 127.0.0.1:80 listen O",
            "O[x listen] victim=V listener",
        ),
    ] {
        let story = format!("proc O\nproc P\nproc V\nrefuse V v tcp 127.0.0.1:80 as=f\n{rows}");
        check(&story, &format!("refused tcp 127.0.0.1:80 {expected}"));
    }
}

#[test]
fn tables_do_not_override_events() {
    check(
        "proc A
         proc B
         proc V
         bind A a tcp 127.0.0.1:80
         refuse V v tcp 127.0.0.1:80 as=f
         row f b tcp 127.0.0.1:80 listen B",
        "refused tcp 127.0.0.1:80 A[a bound] victim=V bound",
    );
}

#[test]
fn a_race_lost_to_an_automatic_bind() {
    check(
        "proc V
         proc T
         bind V p tcp 127.0.0.1:40000
         close p
         refuse V v tcp 127.0.0.1:40000 as=f
         row f x tcp 127.0.0.1:40000 established T",
        "refused tcp 127.0.0.1:40000 T[x connected] victim=V lost-race",
    );
}

#[test]
fn a_row_that_is_told_again_with_its_holder_counts() {
    for first in ["established last=T", "time-wait last=T"] {
        let story = format!(
            "proc V
             proc T
             bind V p tcp 127.0.0.1:40000
             close p
             refuse V v tcp 127.0.0.1:40000 as=f
             row f x tcp 127.0.0.1:40000 {first}
             row f x tcp 127.0.0.1:40000 established T"
        );
        check(&story, "refused tcp 127.0.0.1:40000 T[x connected] victim=V lost-race");
    }
}

#[test]
fn closed_sockets_with_connections_keep_the_port() {
    check(
        "proc A
         proc V
         bind A a tcp 127.0.0.1:80
         close a state=established
         refuse V v tcp 127.0.0.1:80 as=f
         row f a tcp 127.0.0.1:80 time-wait
         gone a
         refuse V w tcp 127.0.0.2:80",
        "refused tcp 127.0.0.1:80 victim=V half-closed last=A[a closed]
         refused tcp 127.0.0.2:80 victim=V",
    );
    // Destroyed before: only TIME_WAIT is left, whose cookie tells the owner.
    check(
        "proc A
         proc V
         bind A a tcp 127.0.0.1:80
         close a state=established
         gone a
         refuse V v tcp 127.0.0.1:80 as=f
         row f a tcp 127.0.0.1:80 time-wait",
        "refused tcp 127.0.0.1:80 victim=V time-wait last=A[a time-wait]",
    );
    // Listeners and unconnected sockets are gone at once.
    check(
        "proc A
         proc V
         bind A a tcp 127.0.0.1:80
         close a state=listen
         refuse V v tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 victim=V",
    );
}

#[test]
fn other_errors_are_counted_only() {
    let mut told = super::story::Story::new(super::super::Settings::default());
    told.tell(
        "proc V
         refuse V v tcp 127.0.0.1:80 errno=EACCES
         refuse V v tcp 127.0.0.1:80 errno=EADDRNOTAVAIL",
    );
    assert_eq!(told.findings(), Vec::<String>::new());
    assert_eq!(told.ledger.stats().binds_failed, 2);
}

#[test]
fn a_process_can_be_in_its_own_way() {
    check(
        "proc A
         bind A a tcp 127.0.0.1:80
         refuse A b tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 A[a bound] victim=A bound",
    );
}

#[test]
fn only_another_process_is_a_previous_instance() {
    check(
        "proc A
         bind A a tcp 127.0.0.1:80
         signal A
         refuse A b tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 A[a bound] victim=A bound",
    );
}

#[test]
fn no_race_is_lost_to_kin_nor_by_a_connection() {
    check(
        "proc V
         proc T parent=V
         bind V p tcp 127.0.0.1:80
         close p
         bind T t tcp 127.0.0.1:80
         refuse V v tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 T[t bound] victim=V bound",
    );
    check(
        "proc V
         proc T
         found p tcp 127.0.0.1:80 established V
         close p
         bind T t tcp 127.0.0.1:80
         refuse V v tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 T[t bound] victim=V bound",
    );
    // Whoever had it before the recording did not take it.
    check(
        "proc V
         proc T
         bind V p tcp 127.0.0.1:80 rp
         close p
         found t tcp 127.0.0.1:80 listen T rp
         refuse V v tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 T[t listen] victim=V listener",
    );
}

#[test]
fn an_inventory_settles_what_lingers() {
    let story = |listed: &str| {
        format!(
            "proc A
             proc V
             bind A a tcp 127.0.0.1:80
             close a state=established
             inventory begin
             {listed}
             inventory end
             refuse V v tcp 127.0.0.1:80"
        )
    };
    check(&story("# nothing"), "refused tcp 127.0.0.1:80 victim=V");
    check(
        &story("found a tcp 127.0.0.1:80 fin-wait2"),
        "refused tcp 127.0.0.1:80 victim=V half-closed last=A[a closed]",
    );
    check(&story("found b tcp 127.0.0.1:80 last-ack"), "refused tcp 127.0.0.1:80 victim=V half-closed");
}

#[test]
fn time_wait_is_in_the_way_whatever_its_options() {
    check(
        "proc V
         refuse V v tcp 127.0.0.1:80 ra as=f
         row f x tcp 127.0.0.1:80 time-wait ra",
        "refused tcp 127.0.0.1:80 victim=V time-wait",
    );
}

#[test]
fn what_lingers_does_not_outweigh_a_row() {
    check(
        "proc A
         proc O
         proc V
         refuse V v tcp 127.0.0.1:80 as=f
         row f x tcp 127.0.0.1:80 listen O
         bind A a tcp 127.0.0.1:80
         close a state=established
         refuse V w tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 O[x listen] victim=V listener x2",
    );
}

#[test]
fn tables_know_who_inherited() {
    let story = |row: &str| {
        format!(
            "proc A
             fork K of=A
             proc V
             bind A a tcp 127.0.0.1:80
             listen a
             exit A
             refuse V v tcp 127.0.0.1:80 as=f
             {row}"
        )
    };
    let before = "refused tcp 127.0.0.1:80 A[a listen] victim=V listener";
    check(&story("# nothing"), before);
    check(&story("row f x tcp 127.0.0.1:80 time-wait"), before);
    check(
        &story("row f a tcp 127.0.0.1:80 listen K"),
        "refused tcp 127.0.0.1:80 K<A[a listen] victim=V orphan",
    );
}

#[test]
fn what_was_there_before_the_recording_won_no_race() {
    check(
        "proc V
         proc T
         found t tcp 127.0.0.1:80 listen
         bind V p tcp 127.0.0.1:80 rp
         close p
         refuse V v tcp 127.0.0.1:80 as=f
         row f t tcp 127.0.0.1:80 listen T",
        "refused tcp 127.0.0.1:80 T[t listen] victim=V listener",
    );
}

#[test]
fn a_connection_that_was_given_the_port() {
    let story = |range: &str, row: &str| {
        format!(
            "proc C
             proc V
             range {range}
             refuse V v tcp 127.0.0.1:40001 as=f
             row f x tcp 127.0.0.1:40001 {row}"
        )
    };
    let held = "refused tcp 127.0.0.1:40001 C[x connected] victim=V bound";
    let ranged = format!("{held} range=40000-40009");
    check(&story("40000 40009", "established C peer=10.0.0.1:80 outgoing"), &ranged);
    // It chose the port itself, or accepted the connection there.
    check(&story("40000 40009", "established C peer=10.0.0.1:80"), held);
    check(&story("40002 40009", "established C peer=10.0.0.1:80 outgoing"), held);
    check(&story("40000 40009 reserved=40001", "established C peer=10.0.0.1:80 outgoing"), held);
    check(
        &story("40000 40009", "time-wait last=C peer=10.0.0.1:80 outgoing"),
        "refused tcp 127.0.0.1:40001 victim=V time-wait last=C[x time-wait] range=40000-40009",
    );
}

#[test]
fn who_outlived_what_it_belonged_to() {
    let story = |holder: &str| {
        format!(
            "proc A
             {holder}
             proc V
             bind A a tcp 127.0.0.1:80
             listen a
             exit A
             holders a K
             refuse V v tcp 127.0.0.1:80"
        )
    };
    let left = "refused tcp 127.0.0.1:80 K<A[a listen] victim=V orphan";
    let heir = "refused tcp 127.0.0.1:80 K<A[a listen] victim=V listener";
    check(&story("fork K of=A"), left);
    check(
        &story("proc K parent=A exe=/bin/sleep args=60"),
        &format!("orphan tcp 127.0.0.1:80 live K<A[a listen] last=A[a listen]\n{left}"),
    );
    // A server that replaced itself, and one that the socket was handed to.
    check(&story("proc K parent=A exe=/bin/a"), heir);
    check(
        "proc A
         fork K of=A
         proc V
         bind A a tcp 127.0.0.1:80
         listen a
         holders a A,K
         refuse V v tcp 127.0.0.1:80",
        "refused tcp 127.0.0.1:80 A[a listen] K<A[a listen] victim=V listener",
    );
    check(
        "proc J cgroup=/ci/1
         proc A parent=J cgroup=/ci/1
         proc V
         bind A a tcp 127.0.0.1:80
         listen a
         job end /ci/1 left=A
         refuse V v tcp 127.0.0.1:80",
        "orphan tcp 127.0.0.1:80 live A[a listen]
         refused tcp 127.0.0.1:80 A[a listen] victim=V orphan",
    );
}

#[test]
fn who_came_after_the_failure_is_not_to_blame() {
    check(
        "proc A
         proc V
         refuse V v tcp 127.0.0.1:80 as=f
         row f a tcp 127.0.0.1:80 listen A
         bind A a tcp 127.0.0.1:80
         listen a",
        "refused tcp 127.0.0.1:80 victim=V",
    );
}
