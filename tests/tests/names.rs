//! Findings speak of suites: names of runs, of CI jobs and their steps, and the notes of users.

#![expect(clippy::indexing_slicing, clippy::expect_used, reason = "tests fail by panicking")]

use std::io::{Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};

use scenarios::wait::Deadline;
use scenarios::{Actor, Finished, Folder, Log, Recording, Run, bindwatch, loopback};

/// A shell script in which two actors share a port until `go` is written to, each in what `wrap` makes of its command.
fn sharing(address: std::net::Ipv4Addr, wrap: impl Fn(&str, &str) -> String) -> String {
    let actor = format!("'{}' 'bind tcp {address}:8000 reuseport listen'", Actor::program().display());
    let (first, second) = (wrap("suite_a", &actor), wrap("suite_b", &actor));
    format!(
        "mkfifo a b oa ob go; {first} < a > oa & exec 3> a; read -r x < oa; {second} < b > ob & exec 4> b; \
         read -r x < ob; read -r x < go; exec 3>&- 4>&-; wait"
    )
}

/// The jobs of those who shared the port, once all about them is in the recording; then the script ends.
fn jobs(
    recording: Recording,
    folder: &Folder,
    address: std::net::Ipv4Addr,
    run: Run,
) -> (Finished, Vec<String>) {
    let script = run.folder(folder.path()).start();
    recording.wait_for(address, "listen", 2);
    recording.fence();
    std::fs::write(folder.file("go"), "\n").expect("the script reads it");
    drop(script.outcome().expect(0));
    recording.fence();
    let finished = recording.stop();
    let finding = finished.report().only(address, 8000);
    let jobs = finding.holders().iter().map(|holder| holder.text("job").to_owned()).collect();
    (finished, jobs)
}

#[test]
fn nested_runs_name_what_they_start() {
    let (folder, address) = (Folder::new(), loopback());
    let nested = |name: &str, actor: &str| {
        let (program, folder) = (bindwatch(), folder.path());
        format!("{} run -q -o {}/{name}.jsonl --name {name} -- {actor}", program.display(), folder.display())
    };
    let script = sharing(address, nested);
    let run =
        Run::bindwatch(["run", "--quiet", "--name", "outer", "--output", "outer.jsonl", "--", "sh", "-c"]);
    let (finished, jobs) = jobs(Recording::start(), &folder, address, run.args([&script]));
    assert_eq!(jobs, ["outer / suite_a", "outer / suite_b"]);
    // Who watches from outside and the outer run say the same.
    for log in [finished.log, Log::at(&folder.file("outer.jsonl"))] {
        let finding = log.report().only(address, 8000);
        let (pids, story) = (finding.pids(), finding.text("story"));
        assert!(
            story.starts_with(&format!("suite_a (PID {}) held {address}:8000 from ", pids[0])),
            "{story}"
        );
        assert!(story.contains(&format!("; suite_b (PID {}) also held it from ", pids[1])), "{story}");
        assert!(finding.text("summary").contains(&format!("(PID {} of suite_b)", pids[1])), "{finding:#?}");
    }
    // The log of an inner run tells of its own command.
    let inner = std::fs::read_to_string(folder.file("suite_b.jsonl")).expect("a log");
    assert!(inner.contains(r#""phase":"start","name":"suite_b""#), "{inner}");
}

#[test]
fn ci_variables_name_the_job_and_its_step() {
    let (folder, address) = (Folder::new(), loopback());
    let step = |name: &str, actor: &str| {
        format!("env GITHUB_ACTIONS=true GITHUB_JOB=build GITHUB_ACTION={name} SECRET_TOKEN=hunter2 {actor}")
    };
    let run = Run::new("sh").args(["-c", &sharing(address, step)]);
    let (finished, jobs) = jobs(Recording::start(), &folder, address, run);
    assert_eq!(jobs, ["build / suite_a", "build / suite_b"]);
    let text = std::fs::read_to_string(finished.log.path()).expect("the log");
    assert!(!text.contains("\"hunter2"), "nothing else of the environment is kept");
}

fn notes(log: &Log) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(log.path()).expect("the log");
    let lines = text.lines().filter(|line| line.starts_with("{\"type\":\"note\""));
    lines.map(|line| serde_json::from_str(line).expect("a note")).collect()
}

#[test]
fn anybody_writes_notes_into_a_recording() {
    let recording = Recording::start();
    let mark = format!("suite X starts {}", std::process::id());
    let marked = Run::bindwatch(["mark"]).args(mark.split(' ')).as_nobody().outcome().expect(0);
    assert_eq!(marked.stdout, "");
    // It is in the log when the verb returns.
    let noted = notes(&recording.so_far());
    let noted: Vec<_> = noted.iter().filter(|note| note["text"] == mark.as_str()).collect();
    assert_eq!(noted.len(), 1, "{noted:#?}");
    let process = noted[0]["process"].as_str().expect("a process").to_owned();
    let text = std::fs::read_to_string(recording.log().path()).expect("the log");
    assert!(
        text.lines().any(|line| line.contains("\"type\":\"process\"")
            && line.contains(&format!("\"process\":\"{process}\""))
            && line.contains("\"uid\":65534")),
        "who wrote it is known, by what the kernel says"
    );
    let report = recording.stop().report();
    let notes = report.0["notes"].as_array().expect("notes").clone();
    assert!(notes.iter().any(|note| note["text"] == mark.as_str()), "{notes:#?}");
}

#[test]
fn hostile_notes_are_bounded_and_change_nothing_else() {
    let recording = Recording::start();
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("the list of sockets");
    let own = format!("/{}", recording.pid());
    let names = sockets.lines().filter_map(|line| line.split_once("@bindwatch/note/"));
    let name = names.map(|(_, rest)| rest.trim()).find(|rest| rest.ends_with(&own)).expect("a box");
    let name = format!("bindwatch/note/{name}");
    let connect =
        || UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name).expect("a name")).expect("a door");
    // Silent ones, as many as are served at once and more; they are let go after a second.
    let silent: Vec<UnixStream> = (0..64).map(|_| connect()).collect();
    let mark = |id: u32| format!("after {id} {}", std::process::id());
    drop(Run::bindwatch(["mark", &mark(1)]).outcome().expect(0));
    drop(silent);
    // What is no text, no line, or too long.
    let mut raw = connect();
    raw.write_all(&[b"\xff\x1b[31m\0".as_slice(), &[b'x'; 100_000]].concat()).ok();
    let mut answer = String::new();
    drop(raw.read_to_string(&mut answer));
    for text in ["", "\n"] {
        let mut empty = connect();
        empty.write_all(text.as_bytes()).ok();
        empty.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = String::new();
        drop(empty.read_to_string(&mut answer));
        assert_eq!(answer, "", "an empty note is none");
    }
    // More than are taken in a second: the rest is refused, and that is in the log.
    let deadline = Deadline::patient();
    let mut refused = 0;
    while refused == 0 && !deadline.over() {
        let mut streams: Vec<UnixStream> = (0..64).map(|_| connect()).collect();
        streams.iter_mut().for_each(|stream| stream.write_all(b"flood\n").expect("room"));
        for mut stream in streams {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).expect("an answer");
            refused += usize::from(answer == "too many\n");
        }
    }
    assert!(refused > 0, "a bound is reached");
    recording.fence();
    let finished = recording.stop();
    let log = &finished.log;
    let noted = notes(log);
    assert!(noted.iter().all(|note| note["text"].as_str().expect("text").len() <= 1024));
    assert!(
        noted.iter().any(|note| note["text"].as_str() == Some(&mark(1))),
        "those who are silent keep nobody out"
    );
    let text = std::fs::read_to_string(log.path()).expect("the log");
    assert!(text.contains(r#""bound":"notes","value":100"#), "the bound that was reached is told");
    let told = Run::bindwatch(["report"]).args([log.path()]).outcome().expect(0).stdout;
    assert!(told.contains("warning: the bound notes was reached"), "{told}");
}

#[test]
fn without_a_recording_a_note_has_no_place() {
    // A network namespace of its own: other tests record here.
    let outcome = Run::new("unshare").args(["-n"]).args([bindwatch()]).args(["mark", "x"]).outcome();
    outcome.expect_one_line(125);
    Run::bindwatch(["mark", " "]).outcome().expect_one_line(125);
}
