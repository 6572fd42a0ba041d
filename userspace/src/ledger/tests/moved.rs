//! Sockets that come, go and move without a bind or a close.

use super::story::check;

#[test]
fn a_port_that_was_given_up_is_nobody_s() {
    check(
        "proc A
         proc B
         proc V
         bind A a udp 127.0.0.1:80 rp
         now a udp 127.0.0.1:0
         bind B b udp 127.0.0.1:80 rp
         refuse V v udp 127.0.0.1:80",
        "refused udp 127.0.0.1:80 B[b bound] victim=V bound",
    );
}

#[test]
fn a_port_that_came_by_itself_is_held() {
    check(
        "proc A
         proc V
         now a tcp 0.0.0.0:4000 by=A state=listen
         refuse V v tcp 127.0.0.1:4000",
        "refused tcp 127.0.0.1:4000 A[a listen] victim=V listener",
    );
}

#[test]
fn a_socket_that_connects_leaves_the_wildcard() {
    check(
        "proc A
         proc B
         bind A a udp 0.0.0.0:80 rp
         now a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.2:80 rp",
        "",
    );
    check(
        "proc A
         proc B
         bind A a udp 0.0.0.0:80 rp
         now a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 0ms",
    );
}

#[test]
fn a_device_begins_and_ends_an_overlap() {
    check(
        "proc A
         proc B
         bind A a udp 127.0.0.1:80 rp dev=1
         bind B b udp 127.0.0.1:80 rp dev=2
         now b udp 127.0.0.1:80 rp dev=1",
        "co-bind udp 127.0.0.1:80 live A[a bound] B[b bound] -> split 0ms",
    );
}

#[test]
fn a_bind_that_ended_unseen_is_refused_where_a_holder_is_in_the_way() {
    check(
        "proc A
         proc V
         bind A a tcp 127.0.0.1:80
         listen a
         unended V v tcp 127.0.0.1:80
         unended V w tcp 127.0.0.1:81
         unended V x tcp 127.0.0.1:0",
        "refused tcp 127.0.0.1:80 A[a listen] victim=V listener uncertain",
    );
}

/// Nobody else could have been bound there, and both get traffic.
#[test]
fn a_socket_that_is_seen_on_another_device_was_moved_there() {
    check(
        "proc A
         proc B
         bind A a tcp 127.0.0.1:80 dev=1
         listen a
         bind B b tcp 127.0.0.1:80 dev=3
         listen b
         now b tcp 127.0.0.1:80 state=listen dev=1",
        "co-bind tcp 127.0.0.1:80 live A[a listen] B[b listen] -> B 0ms",
    );
}
