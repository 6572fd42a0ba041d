//! Sockets that outlive what they belong to, with real shells, daemons and leaked descriptors.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;

use scenarios::wait::{Deadline, Process, TERM};
use scenarios::{Actor, Cgroup, Folder, Log, Recording, Report, Run, loopback};

/// A server that binds, then says so with its PID through `fifo`, and stays; `$1` is its endpoint.
fn server(start: &str) -> String {
    format!(
        "{start} '{}' stay \"bind tcp $1 listen\" pid < /dev/null > fifo & \
         exec 4< fifo; read -r a <&4; read -r b <&4; read -r pid <&4; echo \"$pid\"",
        Actor::program().display()
    )
}

/// Starts the server by a shell of its own, and stops it well after that has ended.
const LATER: &str = "pid=$(sh server.sh $1); pid=${pid#*=}; sleep 1.5; kill $pid; \
                     while [ -e /proc/$pid/fd/0 ]; do sleep 0.02; done; true";

/// Runs a script as a job, and gives what was found with the PIDs that it wrote. `$1` is the endpoint, and the server's
/// script is in `server.sh`.
struct Job {
    folder: Folder,
    report: Report,
    pids: Vec<u32>,
}

impl Job {
    fn run(script: &str, address: Ipv4Addr, start: &str) -> Self {
        let folder = Folder::new();
        folder.write("server.sh", server(start));
        let endpoint = format!("{address}:8000");
        let output = folder.file("log.jsonl");
        let run = Run::bindwatch(["run", "--quiet", "--output"]).args([&output]);
        let command = format!("mkfifo fifo; {script}");
        let run = run.args(["--", "sh", "-c", &command, "sh", &endpoint]).folder(folder.path());
        let outcome = run.outcome().expect(0);
        let answers =
            outcome.stdout.lines().filter_map(|line| line.rsplit("pid=").next()?.trim().parse().ok());
        let pids = answers.collect();
        let report = Log::at(&output).report();
        Self { folder, report, pids }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        for orphan in self.pids.iter().filter_map(|pid| Process::find(*pid)) {
            orphan.signal(TERM);
            assert!(orphan.ended(Deadline::patient()), "in {}", self.folder.path().display());
        }
    }
}

/// The test that left it is over, and the next one has begun.
#[test]
fn a_server_that_outlives_the_shell_of_its_test_is_an_orphan() {
    let address = loopback();
    let job = Job::run("sh server.sh $1; sleep 1.5; true", address, "");
    let finding = job.report.only(address, 8000);
    assert_eq!((finding.kind(), finding.severity()), ("orphan", "warning"));
    assert_eq!(finding.pids(), job.pids.iter().copied().map(u64::from).collect::<Vec<_>>());
    // Its shell is among its ancestors, although that is gone.
    let parents = finding.holders()[0].0["parents"].as_array().expect("parents").clone();
    let names: Vec<&str> = parents.iter().filter_map(|parent| parent["comm"].as_str()).collect();
    assert_eq!(names.get(..2), Some(&["sh", "sh"][..]), "{names:?}");
}

#[test]
fn a_server_that_is_stopped_later_was_an_orphan_until_then() {
    let address = loopback();
    let job = Job::run(LATER, address, "");
    let finding = job.report.only(address, 8000);
    assert_eq!((finding.kind(), finding.0["live"].as_bool()), ("orphan", Some(false)), "{finding:#?}");
    assert!(finding.holders()[0].0["released_at"].is_string(), "{finding:#?}");
}

#[test]
fn a_daemon_may_outlive_who_started_it_while_its_job_goes_on() {
    let address = loopback();
    let job = Job::run(LATER, address, "setsid");
    let found = job.report.at(address);
    assert!(found.is_empty(), "{found:#?}");
}

/// In a job or not: the server is gone, and its port is not free.
#[test]
fn a_listener_that_a_sleep_inherited_is_an_orphan() {
    let recording = Recording::start();
    let address = loopback();
    let (mut server, cgroup) = (Actor::new(), Cgroup::new());
    let socket = server.bind(&format!("tcp {address}:8000 listen"));
    let child = server.ok(&format!("leak {} sleep 1000", socket.id)).number("pid");
    cgroup.enrol(u32::try_from(child).expect("a PID"));
    let pid = u64::from(server.pid());
    server.exit();
    let found = recording.wait_for(address, "finding", 1);
    assert_eq!(found[0]["kind"], "orphan");
    recording.fence();
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.pids()), ("orphan", vec![child]));
    let holder = &finding.holders()[0];
    assert_eq!(holder.text("comm"), "sleep");
    assert!(holder.text("inherited_from").starts_with(&format!("{pid}@")), "{holder:#?}");
    assert_eq!(finding.0["last_owner"]["pid"].as_u64(), Some(pid));
    assert!(finding.text("summary").contains("inherited from actor"), "{}", finding.text("summary"));
}

/// The job ends right after the server: who has the socket is looked up before the job is judged.
#[test]
fn a_listener_that_is_leaked_at_the_very_end_of_a_job_is_an_orphan() {
    let address = loopback();
    let folder = Folder::new();
    let program = Actor::program();
    let output = folder.file("log.jsonl");
    let (bind, leak) = (format!("bind tcp {address}:8000 listen"), "leak 1 sleep 1000");
    let run = Run::bindwatch(["run", "--quiet", "--output"]).args([&output]).args(["--"]).args([&program]);
    let outcome = run.args([&bind, leak]).folder(folder.path()).outcome().expect(0);
    let pid: u32 =
        outcome.stdout.rsplit("pid=").next().and_then(|pid| pid.trim().parse().ok()).expect("a PID");
    let finding = Log::at(&output).report().only(address, 8000);
    let sleep = Process::of(pid);
    sleep.signal(TERM);
    assert!(sleep.ended(Deadline::patient()));
    assert_eq!((finding.kind(), finding.pids()), ("orphan", vec![u64::from(pid)]));
}

/// A step of another runner: its cgroup goes, what left it stays.
#[test]
fn a_listener_that_outlives_the_cgroup_it_was_bound_in_is_an_orphan() {
    let recording = Recording::start();
    let address = loopback();
    let (mut server, step, elsewhere) = (Actor::new(), Cgroup::new(), Cgroup::new());
    let name = format!("/{}", step.path().file_name().expect("a name").to_string_lossy());
    step.enrol(server.pid());
    server.bind(&format!("tcp {address}:8000 listen"));
    elsewhere.enrol(server.pid());
    drop(step);
    let found = recording.wait_for(address, "finding", 1);
    assert_eq!(found[0]["kind"], "orphan");
    let finding = recording.stop().report().only(address, 8000);
    assert_eq!((finding.kind(), finding.severity()), ("orphan", "warning"));
    assert_eq!(finding.pids(), vec![u64::from(server.pid())]);
    assert_eq!(finding.text("removed_cgroup"), name);
    assert!(finding.text("summary").contains(&name), "{}", finding.text("summary"));
}

/// It left the cgroup of its job, which is removed, before it bound.
#[test]
fn who_left_the_cgroup_of_its_job_is_an_orphan_of_it_by_descent() {
    let (address, elsewhere) = (loopback(), Cgroup::new());
    let leave = format!("echo $$ > {}/cgroup.procs; . ./server.sh", elsewhere.path().display());
    let job = Job::run(&format!("sh -c '{leave}' sh $1"), address, "setsid");
    let finding = job.report.only(address, 8000);
    assert_eq!(finding.kind(), "orphan");
    let cgroup = finding.holders()[0].text("cgroup").to_owned();
    assert!(elsewhere.path().ends_with(cgroup.trim_start_matches('/')), "{cgroup}");
}
