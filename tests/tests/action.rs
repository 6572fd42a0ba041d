//! The GitHub action, in an environment such as the runner makes: files for state and summary, and a service for artifacts.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use scenarios::wait::Process;
use scenarios::{Actor, Folder, Outcome, Run, bindwatch, loopback};

/// What the runner's token looks like: only its scope matters.
const CLAIMS: &str = "eyJzY3AiOiJBY3Rpb25zLlJlc3VsdHM6cnVuLTE6am9iLTEifQ";

struct Runner {
    folder: Folder,
    service: String,
    inputs: Vec<(&'static str, String)>,
}

impl Runner {
    fn new(inputs: &[(&'static str, &str)]) -> Self {
        let folder = Folder::new();
        let mut given = vec![
            ("INPUT_BINDWATCH", bindwatch().display().to_string()),
            ("INPUT_OUTPUT", "log.jsonl.zst".to_owned()),
            ("INPUT_NAME", "bindwatch".to_owned()),
            ("INPUT_FAIL-ON", "none".to_owned()),
            ("INPUT_REQUIRED", "false".to_owned()),
        ];
        for (name, value) in inputs {
            given.retain(|(known, _)| known != name);
            given.push((name, (*value).to_owned()));
        }
        for file in ["state", "summary"] {
            folder.write(file, "");
        }
        Self { service: artifacts(&folder), folder, inputs: given }
    }

    fn half(&self, script: &str) -> Outcome {
        let path =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/actions/bindwatch/scripts").join(script);
        // Inputs are variables with a dash in their names, which a shell could not set.
        let mut run = Run::new("node").args([path]).folder(self.folder.path());
        for (name, value) in &self.inputs {
            run = run.env(name, value);
        }
        for line in self.read("state").lines() {
            let (name, value) = line.split_once('=').expect("NAME=VALUE");
            run = run.env(&format!("STATE_{name}"), value);
        }
        run.env("GITHUB_ACTIONS", "true")
            .env("GITHUB_STATE", self.folder.file("state"))
            .env("GITHUB_STEP_SUMMARY", self.folder.file("summary"))
            .env("GITHUB_WORKSPACE", self.folder.path())
            .env("RUNNER_TEMP", self.folder.path())
            .env("ACTIONS_RUNTIME_TOKEN", format!("x.{CLAIMS}.x"))
            .env("ACTIONS_RESULTS_URL", &self.service)
            .outcome()
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.folder.file(file)).expect("a file of the runner")
    }

    fn saved(&self, name: &str) -> String {
        let state = self.read("state");
        let value = state.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.expect("a saved value").to_owned()
    }

    fn artifact(&self) -> PathBuf {
        self.folder.file("artifact.zip")
    }
}

/// The artifact service: takes one file, and puts it and the order of the calls into the folder.
fn artifacts(folder: &Folder) -> String {
    let listener = TcpListener::bind((loopback(), 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    let (artifact, calls) = (folder.file("artifact.zip"), folder.file("calls"));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.extend(byte);
            }
            let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            stream.read_exact(&mut body).expect("a body");
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let said = std::fs::read_to_string(&calls).unwrap_or_default();
            std::fs::write(
                &calls,
                format!("{said}{path} {}\n", String::from_utf8_lossy(&body).replace('\n', " ")),
            )
            .expect("the calls");
            if path == "/blob" {
                std::fs::write(&artifact, &body).expect("the artifact");
            }
            let answer = format!("{{\"ok\":true,\"signed_upload_url\":\"http://{address}/blob\"}}");
            drop(write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
                answer.len()
            ));
        }
    });
    format!("http://{address}/")
}

#[test]
fn a_job_is_recorded_annotated_and_its_log_uploaded() {
    let runner = Runner::new(&[("INPUT_FAIL-ON", "co-bind")]);
    drop(runner.half("start.js").expect(0));
    let address = loopback();
    let mut servers = [Actor::new(), Actor::new()];
    for server in &mut servers {
        server.bind(&format!("tcp {address}:8000 reuseport listen"));
    }
    let ended = runner.half("stop.js").expect(1);
    let line = ended.stdout.lines().find(|line| line.contains(&address.to_string())).expect("an annotation");
    assert!(
        line.starts_with(&format!("::error title=bindwatch co-bind%3A tcp {address}%3A8000::")),
        "{line}"
    );
    let summary = runner.read("summary");
    assert!(summary.contains(&format!("### error co-bind: tcp {address}:8000")), "{summary}");
    // What was uploaded is the log.
    let listed = Run::new("python3")
        .args(["-c", "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); print(z.testzip(), *z.namelist()); z.extractall(sys.argv[2])"])
        .args([runner.artifact(), runner.folder.file("unpacked")])
        .outcome()
        .expect(0);
    assert_eq!(listed.stdout, "None log.jsonl.zst\n");
    let stored =
        std::fs::read(runner.folder.file("unpacked").join("log.jsonl.zst")).expect("the uploaded log");
    assert_eq!(stored, std::fs::read(runner.saved("log")).expect("the log"));
    let calls = runner.read("calls");
    let methods: Vec<&str> =
        calls.lines().filter_map(|line| line.split(' ').next()?.rsplit('/').next()).collect();
    assert_eq!(methods, ["createartifact", "blob", "finalizeartifact"], "{calls}");
    assert!(
        calls.contains(r#""workflow_run_backend_id":"run-1","workflow_job_run_backend_id":"job-1""#),
        "{calls}"
    );
}

#[test]
fn a_cancelled_job_keeps_what_there_is() {
    // The recording is killed with everything else; the log has no last line.
    let runner = Runner::new(&[]);
    drop(runner.half("start.js").expect(0));
    let pid: u32 = runner.saved("pid").parse().expect("a PID");
    Process::of(pid).signal(scenarios::wait::Signal::KILL);
    let ended = runner.half("stop.js").expect(0);
    assert!(ended.stdout.contains("::warning title=bindwatch::the log "), "{ended}");
    assert!(runner.read("summary").starts_with("## bindwatch: "));
    assert!(runner.artifact().exists(), "the log is uploaded as it is");
    // Cancelled before anything was started: nothing to do.
    let runner = Runner::new(&[]);
    assert_eq!(runner.half("stop.js").expect(0).stdout, "");
}

/// The runner calls the second half whatever became of the job, and of the first.
#[test]
fn what_the_action_says_of_itself_is_so() {
    let action = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.github/actions/bindwatch");
    let said = std::fs::read_to_string(action.join("action.yml")).expect("the action");
    let value = |key: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix(": "));
        line.expect(key).to_owned()
    };
    assert_eq!((value("post-if"), value("using")), ("always()".to_owned(), "node20".to_owned()));
    for half in ["main", "post"] {
        assert!(action.join(value(half)).is_file(), "{half}");
    }
}

#[test]
fn a_job_that_fails_is_told_all_the_same() {
    let runner = Runner::new(&[]);
    drop(runner.half("start.js").expect(0));
    let address = loopback();
    let mut first = Actor::new();
    first.bind(&format!("tcp {address}:8000 listen"));
    // The step that fails, and with it the job: its server does not get its port.
    let step = format!("import socket; socket.socket().bind(('{address}', 8000))");
    drop(Run::new("python3").args(["-c", &step]).outcome().expect(1));
    let ended = runner.half("stop.js").expect(0);
    // At most ten are told, and others are refused something as well.
    assert!(ended.stdout.lines().any(|line| line.starts_with("::warning title=bindwatch")), "{ended}");
    assert!(runner.read("summary").contains(&format!("warning refused: tcp {address}:8000")));
    assert!(runner.artifact().exists());
    let report = scenarios::Log::at(Path::new(&runner.saved("log"))).report();
    assert_eq!(report.0["window"]["complete"], true, "in order");
}

#[test]
fn a_log_that_is_none_is_a_warning() {
    let (empty, broken) = (Runner::new(&[]), Runner::new(&[("INPUT_REQUIRED", "true")]));
    for (runner, text, code) in [(&empty, "", 0), (&broken, "{\"type\":\"header\",\n", 1)] {
        drop(runner.half("start.js").expect(0));
        let pid: u32 = runner.saved("pid").parse().expect("a PID");
        let process = Process::of(pid);
        process.signal(scenarios::wait::Signal::KILL);
        assert!(process.ended(scenarios::wait::Deadline::patient()));
        std::fs::write(runner.saved("log"), text).expect("the log");
        let ended = runner.half("stop.js").expect(code);
        assert!(ended.stdout.starts_with("::warning title=bindwatch::"), "{ended}");
        assert_eq!(runner.read("summary"), "");
    }
    assert!(!empty.artifact().exists(), "nothing to keep");
    assert!(broken.artifact().exists(), "whoever looks into it");
}

#[test]
fn a_verdict_that_cannot_be_had_fails_the_job_and_says_why() {
    let runner = Runner::new(&[("INPUT_FAIL-ON", "collision")]);
    drop(runner.half("start.js").expect(0));
    let ended = runner.half("stop.js").expect(1);
    let last = ended.stdout.lines().last().expect("a line");
    assert!(last.starts_with("::error title=bindwatch::") && last.contains("collision"), "{ended}");
}

#[test]
fn a_recording_that_cannot_be_made_is_a_warning_unless_it_is_required() {
    let missing = [("INPUT_BINDWATCH", "/nowhere/bindwatch")];
    let runner = Runner::new(&missing);
    let started = runner.half("start.js").expect(0);
    assert!(started.stdout.starts_with("::warning title=bindwatch::nothing is recorded: "), "{started}");
    assert_eq!(runner.half("stop.js").expect(0).stdout, "");
    let runner = Runner::new(&[missing[0], ("INPUT_REQUIRED", "true")]);
    let started = runner.half("start.js").expect(1);
    assert!(started.stdout.starts_with("::error title=bindwatch::nothing is recorded: "), "{started}");
}

#[test]
fn a_service_that_is_not_there_costs_the_artifact_only() {
    let mut runner = Runner::new(&[]);
    runner.service = "http://127.0.0.1:1/".to_owned();
    drop(runner.half("start.js").expect(0));
    let ended = runner.half("stop.js").expect(0);
    assert!(ended.stdout.contains("::warning title=bindwatch::the log was not uploaded: "), "{ended}");
    assert!(runner.read("summary").starts_with("## bindwatch: "));
}
