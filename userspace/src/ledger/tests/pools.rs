//! Workers that share on purpose: marks, and what a user declares.

use super::super::{PoolRule, Settings};
use super::story::{check, check_with};

#[test]
fn pools_share_on_purpose() {
    check(
        "proc P
         proc A parent=P args=-c,x,--multiprocessing-fork
         proc B parent=P args=-c,x,--multiprocessing-fork
         proc C cgroup=/system.slice/web@1.service
         proc D cgroup=/system.slice/web@2.service
         bind A a udp 127.0.0.1:80 rp
         bind B b udp 127.0.0.1:80 rp
         bind C c udp 127.0.0.1:81 rp
         bind D d udp 127.0.0.1:81 rp",
        "",
    );
}

/// The workers of one `cluster`: numbers of their own, from one parent. What a server was started with by accident of
/// inheritance is no mark.
#[test]
fn workers_of_a_node_cluster_are_numbered_by_their_parent() {
    check(
        "proc P
         proc Q
         proc A parent=P mark=1
         proc B parent=P mark=2
         fork F of=B
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         bind F f tcp 127.0.0.1:80 rp
         proc C parent=P mark=1
         bind C c tcp 127.0.0.1:81 rp
         bind A d tcp 127.0.0.1:81 rp
         proc D parent=Q mark=2
         bind A e tcp 127.0.0.1:82 rp
         bind D g tcp 127.0.0.1:82 rp
         proc E parent=P
         bind A h tcp 127.0.0.1:83 rp
         bind E i tcp 127.0.0.1:83 rp",
        "co-bind tcp 127.0.0.1:81 live C[c bound] A[d bound] 6ms
         co-bind tcp 127.0.0.1:82 live A[e bound] D[g bound] 3ms
         co-bind tcp 127.0.0.1:83 live A[h bound] E[i bound] 0ms",
    );
}

#[test]
fn a_mark_that_could_not_be_read_leaves_a_doubt() {
    check(
        "proc P
         proc A parent=P mark=1 exe=/usr/bin/node
         proc B parent=P mark=? exe=/usr/bin/node
         proc C parent=P mark=? exe=/usr/bin/server
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         bind A c tcp 127.0.0.1:81 rp
         bind C d tcp 127.0.0.1:81 rp",
        "co-bind tcp 127.0.0.1:80 live A[a bound] B[b bound] uncertain 2ms
         co-bind tcp 127.0.0.1:81 live A[c bound] C[d bound] 0ms",
    );
}

#[test]
fn pools_that_a_user_declares() {
    let rule = |program: Option<&str>, cgroup: Option<&str>, parent: Option<&str>| PoolRule {
        program: program.map(str::to_owned),
        cgroup: cgroup.map(str::to_owned),
        parent: parent.map(str::to_owned),
    };
    let story = "proc S exe=/opt/supervisor
         proc T exe=/opt/supervisor
         proc X parent=S exe=/bin/sh
         proc A parent=S exe=/opt/worker cgroup=/ci/pool/1
         proc B parent=X exe=/opt/worker cgroup=/ci/pool/2
         proc C parent=T exe=/opt/worker cgroup=/ci/pool/3
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         bind A c tcp 127.0.0.1:81 rp
         bind C d tcp 127.0.0.1:81 rp";
    let one = "co-bind tcp 127.0.0.1:80 live A[a bound] B[b bound] 2ms\n";
    let other = "co-bind tcp 127.0.0.1:81 live A[c bound] C[d bound] 0ms";
    let both = format!("{one}{other}");
    for (rule, expected) in [
        (rule(None, None, Some("supervisor")), other),
        (rule(Some("worker"), None, Some("super*")), other),
        (rule(Some("/opt/*"), None, None), ""),
        (rule(None, Some("/ci/pool"), None), ""),
        (rule(Some("worker"), Some("/ci/other"), None), &both),
        (rule(Some("server"), None, Some("supervisor")), &both),
        (PoolRule::default(), &both),
    ] {
        check_with(Settings { pools: vec![rule], ..Settings::default() }, story, expected);
    }
}

/// A worker becomes known as one when it has executed the worker's program.
#[test]
fn what_a_process_executes_can_make_it_a_worker() {
    let pools = vec![PoolRule { program: Some("worker".to_owned()), ..PoolRule::default() }];
    check_with(
        Settings { pools, ..Settings::default() },
        "proc A exe=/opt/worker
         proc B exe=/bin/other
         bind A a tcp 127.0.0.1:80 rp
         bind B b tcp 127.0.0.1:80 rp
         exec B exe=/opt/worker",
        "co-bind tcp 127.0.0.1:80 A[a bound] B[b bound] 1ms",
    );
}
