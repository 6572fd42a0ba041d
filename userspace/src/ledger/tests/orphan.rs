//! Sockets that outlive what they belong to.

use super::story::check;

#[test]
fn what_outlives_its_job_is_orphaned() {
    check(
        "proc R cgroup=/ci
         proc A parent=R cgroup=/ci/job
         proc B parent=A cgroup=/ci/job/sub
         proc C parent=A cgroup=/elsewhere
         proc D parent=R cgroup=/ci/job-2
         job start /ci/job
         bind A a tcp 127.0.0.1:80
         bind A a2 tcp 127.0.0.1:80 rp dev=4
         bind B b tcp 127.0.0.1:81
         bind C c tcp 127.0.0.1:82
         bind D d tcp 127.0.0.1:83
         bind B e tcp 127.0.0.1:84
         holders e B,D
         bind A f tcp 127.0.0.1:85
         found g tcp 127.0.0.1:86 established B
         bind B h tcp 127.0.0.1:87
         holders h
         exit A
         job end /ci/job left=B,C
         close b",
        "orphan tcp 127.0.0.1:81 B[b closed]
         orphan tcp 127.0.0.1:82 live C[c bound]",
    );
}

#[test]
fn an_orphan_stays_one_while_anybody_has_it() {
    check(
        "proc A cgroup=/ci/job
         fork B of=A
         bind A a tcp 127.0.0.1:80
         listen a
         job end /ci/job left=A
         unlisten a
         holders a A,B
         exit A
         listen a",
        "orphan tcp 127.0.0.1:80 live A[a closed] B<A[a listen]",
    );
}

/// It left the job's cgroup, but not its ancestors.
#[test]
fn who_leaves_the_cgroup_of_its_job_stays_its_descendant() {
    check(
        "proc J cgroup=/ci/job
         job start /ci/job first=J
         proc S parent=J cgroup=/ci/job
         proc A parent=S cgroup=/elsewhere
         bind A a tcp 127.0.0.1:80
         listen a
         exit S
         exit J
         job end /ci/job first=J",
        "orphan tcp 127.0.0.1:80 live A[a listen]",
    );
}

const LEAK: &str = "proc A exe=/bin/server
    bind A a tcp 127.0.0.1:80
    listen a
    fork B of=A
    exec B exe=/bin/sleep parent=A
    exit A
    ";

#[test]
fn a_socket_that_another_program_inherited_is_orphaned() {
    check(&format!("{LEAK} holders a B"), "orphan tcp 127.0.0.1:80 live B<A[a listen] last=A[a listen]");
    // It is over when the socket is closed.
    check(&format!("{LEAK} holders a B\n close a"), "orphan tcp 127.0.0.1:80 B<A[a closed] last=A[a listen]");
    // Its server had closed it when it was looked for, and ends later.
    check(
        "proc A exe=/bin/server
         bind A a tcp 127.0.0.1:80
         fork B of=A
         exec B exe=/bin/sleep parent=A
         holders a B
         exit A",
        "orphan tcp 127.0.0.1:80 live B<A[a bound] last=A[a bound]",
    );
    // The child executes its program only after it was looked for.
    check(
        "proc A exe=/bin/server
         bind A a tcp 127.0.0.1:80
         fork B of=A
         exit A
         holders a B
         exec B exe=/bin/sleep parent=A",
        "orphan tcp 127.0.0.1:80 live B<A[a bound] last=A[a bound]",
    );
}

#[test]
fn a_job_that_ends_later_adds_to_the_same_finding() {
    check(
        &format!("{LEAK} holders a B\n job end /ci/job left=B"),
        "orphan tcp 127.0.0.1:80 live B<A[a listen] last=A[a listen]",
    );
}

/// A worker, a new binary of the same program, somebody it was handed to, a socket older than the recording.
#[test]
fn who_goes_on_serving_is_no_orphan() {
    let serving = |who: &str| {
        check(
            &format!(
                "proc A exe=/bin/server
                 proc X exe=/bin/other
                 bind A a tcp 127.0.0.1:80
                 fork B of=A
                 {who}"
            ),
            "",
        );
    };
    serving("exit A\n holders a B");
    serving("exec B exe=/bin/server parent=A\n exit A\n holders a B");
    serving("holders a A,X\n exit A");
    serving("exec B exe=/bin/sleep parent=A\n holders a A,B");
    serving("exec B exe=/bin/sleep parent=A\n exit A\n holders a B,X");
    check(
        "proc A exe=/bin/server
         found a tcp 127.0.0.1:80 listen A
         fork B of=A
         exec B exe=/bin/sleep parent=A
         exit A
         holders a B",
        "",
    );
}

/// A test's shell that ends without its server, which is in `session`.
fn outlives_its_shell(session: u32, meanwhile: &str, expected: &str) {
    check(
        &format!(
            "proc R session=9
             proc J cgroup=/ci/job session=9 parent=R
             job start /ci/job first=J
             proc S parent=J cgroup=/ci/job session=9
             proc A parent=S cgroup=/ci/job session={session}
             bind A a tcp 127.0.0.1:80
             bind A b tcp 127.0.0.1:80 rp dev=4
             listen a
             @2000 exit S
             @2500 {meanwhile}
             @3000 proc X
             @3100 proc X"
        ),
        expected,
    );
}

#[test]
fn what_outlives_the_parent_that_started_it_in_a_job_is_orphaned() {
    outlives_its_shell(9, "proc X", "orphan tcp 127.0.0.1:80 live A[a,b listen]");
    // It was only slower than its parent.
    outlives_its_shell(9, "exit A", "");
    outlives_its_shell(9, "close a\n close b", "");
    // It is a daemon: it wants to.
    outlives_its_shell(10, "proc X", "");
    // The end of the job finds it again.
    outlives_its_shell(
        9,
        "proc X\n @3300 exit J\n @3400 job end /ci/job first=J left=A",
        "orphan tcp 127.0.0.1:80 live A[a,b listen]",
    );
}

/// A CI agent that PID 1 started and that never called setsid(2).
#[test]
fn session_0_is_a_session() {
    let story = |session: u32| {
        format!(
            "proc J cgroup=/ci/job
             job start /ci/job first=J
             proc S parent=J cgroup=/ci/job
             proc A parent=S cgroup=/ci/job session={session}
             bind A a tcp 127.0.0.1:80
             @2000 exit S
             @4000 proc X"
        )
    };
    check(&story(0), "orphan tcp 127.0.0.1:80 live A[a bound]");
    check(&story(7), "");
}

/// `(cd server && ./serve &)`: the script goes on, or its fork that supervises.
#[test]
fn a_subshell_that_ends_is_not_the_script_that_started_a_server() {
    let story = |script: &str, end: &str| {
        format!(
            "proc R session=9
             proc J cgroup=/ci/job session=9 parent=R
             job start /ci/job first=J
             proc S parent=J cgroup=/ci/job session=9
             fork F of={script}
             proc A parent=F cgroup=/ci/job session=9
             bind A a tcp 127.0.0.1:80
             @2000 exit {end}
             @4000 proc X"
        )
    };
    check(&story("J", "F"), "");
    check(&story("S", "F"), "");
    check(&story("S", "S"), "");
    check(
        &format!("{}\n exit F\n exit S\n @9000 proc X", story("S", "R")),
        "orphan tcp 127.0.0.1:80 live A[a bound]",
    );
}

#[test]
fn outside_of_a_job_a_server_may_outlive_who_started_it() {
    check(
        "proc S session=9
         proc A parent=S session=9
         bind A a tcp 127.0.0.1:80
         exit S
         @9000 proc X",
        "",
    );
}

#[test]
fn what_was_bound_in_a_cgroup_that_is_removed_is_orphaned() {
    check(
        "proc A cgroup=/ci/step
         proc B cgroup=/ci/step/sub
         proc C cgroup=/ci/step-2
         proc D cgroup=/ci/step
         proc E cgroup=/ci/step
         bind A a tcp 127.0.0.1:80
         bind B b tcp 127.0.0.1:81
         bind C c tcp 127.0.0.1:82
         bind D d tcp 127.0.0.1:83
         bind E e tcp 127.0.0.1:84
         holders e C
         exit D
         rmdir /ci/step",
        "orphan tcp 127.0.0.1:80 live A[a bound]
         orphan tcp 127.0.0.1:81 live B[b bound]",
    );
}

/// The cgroup that counts is the one that it was in when it bound.
#[test]
fn who_moved_before_it_bound_is_no_orphan_of_its_former_cgroup() {
    check(
        "proc A cgroup=/ci/step
         proc A cgroup=/elsewhere
         bind A a tcp 127.0.0.1:80
         rmdir /ci/step",
        "",
    );
    check(
        "proc A cgroup=/ci/step
         bind A a tcp 127.0.0.1:80
         proc A cgroup=/elsewhere
         listen a
         rmdir /ci/step",
        "orphan tcp 127.0.0.1:80 live A[a listen]",
    );
}

#[test]
fn the_cgroup_of_a_job_that_ended_adds_to_the_same_finding() {
    let story = |last: &str| {
        check(
            &format!("proc A cgroup=/ci/job\n bind A a tcp 127.0.0.1:80\n {last}"),
            "orphan tcp 127.0.0.1:80 live A[a bound]",
        );
    };
    story("job end /ci/job left=A\n rmdir /ci/job");
    story("rmdir /ci/job\n job end /ci/job left=A");
}

#[test]
fn a_server_that_closed_in_time_is_no_orphan_though_another_event_was_told_before() {
    let story = |close: &str| {
        format!(
            "proc J cgroup=/j
             job start /j first=J
             proc S parent=J cgroup=/j
             proc A parent=S cgroup=/j
             bind A a tcp 127.0.0.1:80
             listen a by=A
             @2000 exit S
             @3500 accepted a n=1
             {close}"
        )
    };
    check(&story("@2500 close a"), "");
    check(&story("@3600 close a"), "orphan tcp 127.0.0.1:80 A[a closed]");
}
