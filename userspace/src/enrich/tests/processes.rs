use std::os::unix::fs::MetadataExt;

use super::*;
use crate::enrich::processes::{ENDED_MAX, ENDED_PARENTS_MAX};
use crate::event::{Known, Mark};
use crate::ledger::LIVE_MAX;

#[test]
fn one_that_is_gone_has_its_program_and_its_ancestors() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/runner", &["runner"]);
    bench.fork(1, 2);
    bench.fork(2, 3);
    assert_eq!(bench.exec(3, "/nowhere/server", &["server", "--port=80"]), []);
    let facts = bench.bind(3, 70);
    assert_eq!(types(&facts), ["process", "process", "process", "bind"]);
    assert_eq!(keys(&facts), [process(1), process(2), process(3)]);
    let server = told(&facts)[2];
    assert_eq!(
        *server,
        Process {
            process: process(3),
            parent: Some(process(2)),
            lineage: process(3),
            known: Known::Exec,
            comm: "comm-3".to_owned(),
            exe: "/nowhere/server".to_owned(),
            cmdline: vec!["server".to_owned(), "--port=80".to_owned()],
            cmdline_cut: false,
            uid: Uid(1000),
            session: 9,
            cgroup: String::new(),
            container: None,
            mark: Some(Mark::Unknown),
            job: None,
        }
    );
    // Told once, and its ancestors too.
    assert_eq!(types(&bench.bind(3, 71)), ["bind"]);
    bench.fork(2, 4);
    assert_eq!(keys(&bench.bind(4, 72)), [process(4)]);
    assert_eq!(bench.feed(Record::Exit(process(3))), [Body::Exit(Exit { process: process(3) })]);
    // One that nothing named ends without a word.
    bench.fork(1, 5);
    assert_eq!(bench.feed(Record::Exit(process(5))), []);
}

#[test]
fn forks_share_a_lineage_and_an_exec_begins_one() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/pool", &["pool"]);
    bench.fork(1, 2);
    bench.fork(2, 3);
    let facts = bench.bind(3, 70);
    for worker in told(&facts) {
        assert_eq!((worker.lineage, worker.exe.as_str()), (process(1), "/nowhere/pool"));
        assert_eq!(worker.cmdline, ["pool"]);
    }
    assert_eq!(told(&facts)[2].known, Known::Fork);
    // Known already: told again with its new program, in place.
    let again = bench.exec(3, "/nowhere/other", &["other"]);
    assert_eq!(keys(&again), [process(3)]);
    assert_eq!((told(&again)[0].lineage, told(&again)[0].known), (process(3), Known::Exec));
    let again = bench.exec(3, "/nowhere/third", &["third"]);
    assert_eq!((told(&again)[0].lineage, told(&again)[0].exe.as_str()), (process(3), "/nowhere/third"));
    // What was forked before keeps what it was forked with.
    bench.fork(1, 4);
    bench.exec(1, "/nowhere/new", &["new"]);
    let worker = bench.bind(4, 71);
    assert_eq!((told(&worker)[0].exe.as_str(), told(&worker)[0].lineage), ("/nowhere/pool", process(1)));
}

#[test]
fn what_a_record_says_of_a_process_now_counts() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/server", &[]);
    bench.bind(1, 70);
    let mut call = call(1, 71);
    call.task.uid = Uid(33);
    let facts = bench.feed(Record::Bind(call.clone()));
    assert_eq!(told(&facts)[0].uid, Uid(33));
    // The name of a thread is not the name of its process.
    call.task.comm = "worker-7".to_owned();
    call.task.tid = Tid(1);
    assert_eq!(types(&bench.feed(Record::Bind(call.clone()))), ["bind"]);
    call.task.tid = Tid(call.task.process.tgid);
    assert_eq!(told(&bench.feed(Record::Bind(call)))[0].comm, "worker-7");
}

#[test]
fn one_that_is_only_named() {
    let mut bench = Bench::new();
    let facts = bench.bind(8, 70);
    let unknown = told(&facts)[0];
    assert_eq!((unknown.known, unknown.comm.as_str(), unknown.uid), (Known::Name, "comm-8", Uid(1000)));
    assert_eq!((unknown.parent, unknown.lineage, unknown.exe.as_str()), (None, process(8), ""));
    // Nothing at all is known of one that no record shows.
    assert_eq!(bench.name(process(9)), []);
}

fn own_key() -> ProcessKey {
    crate::proc::Proc::open().unwrap().key(std::process::id()).unwrap()
}

fn assert_is_this_process(facts: &[Body]) {
    let own = told(facts).pop().unwrap();
    assert_eq!((own.process, own.known), (own_key(), Known::Scan));
    assert_eq!(own.exe, std::env::current_exe().unwrap().to_string_lossy());
    let parent = own.parent.unwrap();
    assert_eq!(parent.tgid, std::os::unix::process::parent_id());
    assert!(keys(facts).contains(&parent), "ancestors come first");
}

#[test]
fn one_that_is_older_than_the_recording() {
    let mut processes = Processes::new(Cmdline::Full, |_| {});
    processes.scan();
    let mut bench = Bench::with(processes);
    assert_is_this_process(&bench.name(own_key()));
    assert_eq!(bench.name(own_key()), []);
}

#[test]
fn one_whose_fork_was_lost() {
    assert_is_this_process(&Bench::new().name(own_key()));
}

#[test]
fn one_whose_parents_fork_was_lost() {
    let mut bench = Bench::new();
    let fork = Fork { parent: process(1), child: own_key(), session: 9 };
    bench.feed(Record::Fork(fork));
    let facts = bench.name(own_key());
    let own = told(&facts)[0];
    assert_eq!((own.process, own.parent), (own_key(), Some(process(1))));
    assert_eq!(own.exe, std::env::current_exe().unwrap().to_string_lossy());
}

/// A look at the machine is ahead of the records: its parent had ended by then, and was told to have made it after.
#[test]
fn one_that_was_found_with_the_parent_it_was_given_to() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/server", &[]);
    assert_is_this_process(&bench.name(own_key()));
    let fork = Fork { parent: process(1), child: own_key(), session: 9 };
    let facts = bench.feed(Record::Fork(fork));
    assert_eq!(keys(&facts), [process(1), own_key()]);
    let own = told(&facts).pop().unwrap();
    assert_eq!((own.parent, own.lineage), (Some(process(1)), process(1)));
    assert_eq!(bench.name(own_key()), [], "it is told");
}

#[test]
fn ended_ones_are_forgotten_in_their_order() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/make", &[]);
    let first = 10;
    let last = first + u32::try_from(ENDED_MAX).unwrap();
    for number in first..=last {
        bench.fork(1, number);
        bench.feed(Record::Exit(process(number)));
    }
    assert_eq!(bench.name(process(first)), []);
    assert_eq!(keys(&bench.name(process(first + 1))), [process(1), process(first + 1)]);
    assert_eq!(keys(&bench.name(process(last))), [process(last)]);
}

#[test]
fn an_ended_parent_is_remembered_for_its_child() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/launcher", &[]);
    bench.fork(1, 2);
    bench.feed(Record::Exit(process(1)));
    for number in 10..10 + 2 * u32::try_from(ENDED_MAX).unwrap() {
        bench.fork(3, number);
        bench.feed(Record::Exit(process(number)));
    }
    assert_eq!(keys(&bench.bind(2, 70)), [process(1), process(2)]);
    bench.feed(Record::Exit(process(2)));
    for number in 10_000..10_001 + u32::try_from(ENDED_MAX).unwrap() {
        bench.fork(3, number);
        bench.feed(Record::Exit(process(number)));
    }
    assert_eq!(bench.enricher.processes.len(), ENDED_MAX);
    assert_eq!(bench.name(process(1)), []);
}

#[test]
fn memory_is_bounded() {
    let mut bench = Bench::new();
    bench.exec(1, "/nowhere/make", &[]);
    for number in 2..100_000 {
        bench.fork(1, number);
        bench.feed(Record::Exit(process(number)));
    }
    assert_eq!(bench.enricher.processes.len(), ENDED_MAX + 1);
    // Each forked by the one before, which ends: the living one has a hundred thousand ancestors.
    for number in 100_000..200_000 {
        bench.fork(number - 1, number);
        bench.feed(Record::Exit(process(number - 1)));
    }
    // The living one, its parent that is not told yet to be gone, and what is remembered.
    assert_eq!(bench.enricher.processes.len(), ENDED_MAX + ENDED_PARENTS_MAX + 2);
    let facts = bench.bind(199_999, 70);
    assert_eq!(keys(&facts).last(), Some(&process(199_999)));
    assert!(keys(&facts).len() > 8);
}

/// Where exits are lost nothing tells that a process is gone.
#[test]
fn processes_whose_exits_were_lost_are_bounded() {
    let mut bench = Bench::new();
    let fork = |parent, child, start| {
        let key = |number, start| ProcessKey { tgid: NOWHERE + number, start };
        Record::Fork(Fork { parent: key(parent, 700), child: key(child, start), session: 9 })
    };
    bench.exec(1, "/nowhere/runner", &["runner"]);
    bench.fork(1, 2);
    bench.exec(2, "/nowhere/server", &["server"]);
    bench.bind(2, 70);
    bench.exec(3, "/nowhere/make", &["make"]);
    let mut limits = Vec::new();
    for number in 0..3 * u32::try_from(LIVE_MAX).unwrap() {
        limits.extend(bench.feed(fork(3, 10 + number, 1_000 + u64::from(number))));
        // Beside those that stay for the socket, and for what they made.
        assert!(bench.enricher.processes.len() <= LIVE_MAX + 4);
    }
    assert!(!limits.is_empty());
    assert!(limits.iter().all(|fact| matches!(fact, Body::Limit(limit) if limit.bound == "live-processes")));
    // Who holds a socket is known still, as it was, with its ancestors; and so is who was made last.
    assert!(bench.enricher.processes.ancestors(process(2)).contains(&process(1)));
    assert_eq!(keys(&bench.bind(2, 71)), []);
    assert_eq!(bench.enricher.processes.children_of(process(3)), Some(3 * LIVE_MAX as u64));
    assert_eq!(types(&bench.feed(Record::Exit(process(2)))), ["exit"]);
}

#[test]
fn arguments_as_they_are_wanted() {
    let mask: fn(&mut [String]) = |args| {
        if let Some(last) = args.last_mut() {
            "***".clone_into(last);
        }
    };
    for (cmdline, exe, args, cut) in [
        (Cmdline::Full, "/nowhere/server", &["server", "***"][..], true),
        (Cmdline::Exe, "/nowhere/server", &[], false),
        (Cmdline::None, "", &[], false),
    ] {
        let mut bench = Bench::with(Processes::new(cmdline, mask));
        let Record::Exec(mut exec) = exec(2, "/nowhere/server", &["server", "secret"]) else {
            unreachable!()
        };
        exec.args_cut = true;
        bench.feed(Record::Exec(exec));
        let facts = bench.bind(2, 70);
        let server = told(&facts)[0];
        assert_eq!(
            (server.exe.as_str(), &server.cmdline[..]),
            (exe, &args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>()[..])
        );
        assert_eq!(server.cmdline_cut, cut, "arguments that are withheld are not cut");
        assert_eq!(server.comm, "comm-2");
        // A fork of it does not have what was hidden either.
        bench.fork(2, 3);
        assert!(!told(&bench.bind(3, 71))[0].cmdline.contains(&"secret".to_owned()));
    }
}

#[test]
fn signals_name_their_sender() {
    let mut bench = Bench::new();
    bench.exec(2, "/nowhere/timeout", &[]);
    let signal = || Record::Signal { target: process(3), sender: Some(process(2)), signal: 15 };
    assert_eq!(bench.feed(signal()), [], "nothing named the one that is asked to end");
    bench.fork(1, 3);
    bench.bind(3, 70);
    let facts = bench.feed(signal());
    assert_eq!(types(&facts), ["process", "signal"]);
    assert_eq!(keys(&facts), [process(2)]);
    let by_kernel = bench.feed(Record::Signal { target: process(3), sender: None, signal: 9 });
    assert_eq!(by_kernel, [Body::Signal(Signal { process: process(3), sender: None, signal: 9 })]);
}

/// Makes a cgroup, as far as names go. Its id.
fn cgroup(bench: &Bench, path: &str) -> u64 {
    let directory = bench.cgroups.path().join(path);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::metadata(directory).unwrap().ino()
}

fn bind_in(bench: &mut Bench, number: u32, cgroup: u64) -> Vec<Body> {
    let mut call = call(number, 70);
    call.task.cgroup = cgroup;
    bench.feed(Record::Bind(call))
}

#[test]
fn cgroups_by_their_ids() {
    let mut bench = Bench::new();
    let (job, root) = (cgroup(&bench, "ci/job"), cgroup(&bench, ""));
    assert_eq!(told(&bind_in(&mut bench, 2, job))[0].cgroup, "/ci/job");
    assert_eq!(types(&bind_in(&mut bench, 2, job)), ["bind"]);
    assert_eq!(told(&bind_in(&mut bench, 2, root))[0].cgroup, "/", "it was moved");
    assert_eq!(types(&bind_in(&mut bench, 2, u64::MAX)), ["bind"], "what cannot be named says nothing new");
    assert_eq!(told(&bind_in(&mut bench, 3, u64::MAX))[0].cgroup, "");
    // Made and removed before anybody looked.
    bench.feed(Record::Cgroup { id: u64::MAX - 1, path: "/ci/brief".to_owned() });
    assert_eq!(told(&bind_in(&mut bench, 4, u64::MAX - 1))[0].cgroup, "/ci/brief");
}

#[test]
fn the_innermost_container_counts() {
    let mut bench = Bench::new();
    let (outer, inner) = ("a".repeat(64), "b".repeat(64));
    let outside = cgroup(&bench, &format!("docker/{outer}"));
    let inside = cgroup(&bench, &format!("docker/{outer}/docker/{inner}"));
    let facts = bind_in(&mut bench, 2, outside);
    assert_eq!(told(&facts)[0].container.as_ref(), Some(&outer));
    // Forked in the outer one, then moved into one of its own.
    bench.fork(2, 3);
    let facts = bind_in(&mut bench, 3, inside);
    assert_eq!(told(&facts)[0].container, Some(inner));
}
