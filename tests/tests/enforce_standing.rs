//! Pools and allow rules hold from a program's first instruction: a worker that binds at once is not denied, and a stranger
//! that does the same is.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddrV4;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use scenarios::{Actor, Cgroup, Folder, Recording, loopback};

/// Pairs of workers for each rule. Each of the second ones has a millisecond or two from its exec to its bind.
const PAIRS: u16 = 25;

/// A program that was started by a shell, in a cgroup, and bound first of all.
struct Started {
    child: Child,
    answer: String,
}

impl Started {
    fn is_bound(&self) -> bool {
        // Before 5.18 it is EPERM.
        let is_denied = ["err EADDRINUSE\n", "err EPERM\n"].contains(&self.answer.as_str());
        assert!(self.answer.starts_with("ok") || is_denied, "{}", self.answer);
        self.answer.starts_with("ok")
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().expect("it ends with its input");
    }
}

/// How to start a worker.
struct Worker<'a> {
    program: PathBuf,
    cgroup: &'a Path,
    address: SocketAddrV4,
    /// A variable of its environment.
    variable: Option<(&'a str, String)>,
    /// An argument behind the command.
    argument: Option<&'a str>,
}

impl Worker<'_> {
    /// Starts it as a child of this process, or of a shell that is this program. It executes in the cgroup and binds.
    fn start(&self, shell: Option<&Path>) -> Started {
        // The last command, or the shell would execute it in its own place.
        let script = match shell {
            Some(_) => r#"echo $$ > "$0"; "$@"; true"#,
            None => r#"echo $$ > "$0"; exec "$@""#,
        };
        let mut command = Command::new(shell.unwrap_or(Path::new("sh")));
        // Where it is a busybox, that is what makes it a shell.
        command.arg0("sh");
        command.args(["-c", script]).arg(self.cgroup.join("cgroup.procs")).arg(&self.program);
        command.arg(format!("bind udp {} reuseport", self.address)).args(self.argument);
        command.envs(self.variable.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut answer = String::new();
        let output = child.stdout.take().expect("its output");
        BufReader::new(output).read_line(&mut answer).expect("an answer");
        Started { child, answer }
    }
}

/// Starts pairs of workers on an address each, of which both shall get their port.
fn pairs_bind(what: &str, mut worker: impl FnMut(SocketAddrV4, usize) -> Started) {
    let address = loopback();
    let denied: Vec<u16> = (0..PAIRS)
        .filter(|nth| {
            let address = SocketAddrV4::new(address, 8000 + nth);
            let pair = [2 * nth, 2 * nth + 1].map(|nth| worker(address, usize::from(nth)));
            assert!(pair[0].is_bound(), "{what}: nobody has the address of the first");
            !pair[1].is_bound()
        })
        .collect();
    assert!(denied.is_empty(), "{what}: of {PAIRS} pairs these were taken for strangers: {denied:?}");
}

/// Holds that of two strangers the second is denied.
fn strangers_do_not(what: &str, mut worker: impl FnMut(SocketAddrV4, usize) -> Started) {
    let address = SocketAddrV4::new(loopback(), 8000);
    let pair = [worker(address, 0), worker(address, 1)];
    assert_eq!(pair.each_ref().map(Started::is_bound), [true, false], "{what}: strangers");
}

fn copy_of_the_actor(folder: &Folder, name: &str) -> PathBuf {
    let copy = folder.file(name);
    std::fs::copy(Actor::program(), &copy).expect("a copy");
    copy
}

/// A plain worker in a cgroup.
fn plain(program: &Path, cgroup: &Path, address: SocketAddrV4) -> Worker<'static> {
    let cgroup: &'static Path = Box::leak(cgroup.to_owned().into_boxed_path());
    Worker { program: program.to_owned(), cgroup, address, variable: None, argument: None }
}

#[test]
fn a_rule_for_a_program() {
    let (cgroup, folder) = (Cgroup::new(), Folder::new());
    let worker = copy_of_the_actor(&folder, "swift-worker");
    let actor = Actor::program();
    for (rule, program) in [
        // Its name, which has room for fifteen bytes, then its path.
        ("swift-w?rker".to_owned(), &worker),
        (format!("{}/*-worker", folder.path().display()), &worker),
        ("act?r".to_owned(), &actor),
    ] {
        for option in ["allow", "pool"] {
            let config = folder.file("bindwatch.toml");
            std::fs::write(&config, format!("[[{option}]]\nprogram = '{rule}'\n")).expect("a file");
            let recording =
                Recording::enforcing(&cgroup, ["--config", config.to_str().expect("a plain path")]);
            let start = |program: &Path, address| plain(program, cgroup.path(), address).start(None);
            pairs_bind(&format!("{option} {rule}"), |address, _| start(program, address));
            let stranger = if program == &actor { &worker } else { &actor };
            strangers_do_not(&format!("{option} {rule}"), |address, _| start(stranger, address));
            drop(recording.stop());
        }
    }
}

#[test]
fn a_rule_for_a_cgroup_that_was_made_a_moment_ago() {
    let (cgroup, folder) = (Cgroup::new(), Folder::new());
    let name = cgroup.path().file_name().expect("a name").to_string_lossy().into_owned();
    let config = folder.file("bindwatch.toml");
    std::fs::write(&config, format!("[[pool]]\ncgroup = '/{name}/pool'\n")).expect("a file");
    let recording = Recording::enforcing(&cgroup, ["--config", config.to_str().expect("a plain path")]);
    let start = |path: &str, address| {
        let below = cgroup.path().join(path);
        std::fs::create_dir_all(&below).expect("a cgroup below");
        plain(Path::new(&Actor::program()), &below, address).start(None)
    };
    pairs_bind("a pool by its cgroup", |address, nth| start(&format!("pool/{nth}"), address));
    strangers_do_not("beside the cgroup", |address, nth| start(&format!("pool-of-others/{nth}"), address));
    // Instances of one template unit need no rule.
    pairs_bind("a template unit", |address, nth| start(&format!("x.slice/web@{nth}.service/a"), address));
    strangers_do_not("two units", |address, nth| start(&format!("x.slice/web{nth}@1.service"), address));
    drop(recording.stop());
}

#[test]
fn workers_that_their_supervisor_marks() {
    let cgroup = Cgroup::new();
    let recording = Recording::enforcing::<&str>(&cgroup, []);
    let program = Actor::program();
    let start = |address, variable: Option<(&'static str, String)>, argument| {
        let worker = plain(&program, cgroup.path(), address);
        Worker { variable, argument, ..worker }.start(None)
    };
    let numbered = |nth: usize| Some(("NODE_UNIQUE_ID", nth.to_string()));
    pairs_bind("node:cluster", |address, nth| start(address, numbered(nth), None));
    pairs_bind("multiprocessing", |address, _| start(address, None, Some("--multiprocessing-fork")));
    strangers_do_not("no number", |address, _| {
        start(address, Some(("NODE_UNIQUE_ID", "none".to_owned())), None)
    });
    strangers_do_not("likeness", |address, _| start(address, None, Some("--multiprocessing-forks")));
    drop(recording.stop());
}

#[test]
fn workers_below_one_supervisor() {
    let (cgroup, folder) = (Cgroup::new(), Folder::new());
    // A shell by another name: the actor's own children are of its own program.
    let boss = folder.file("boss");
    std::fs::copy("/bin/sh", &boss).expect("a copy of the shell");
    let worker = copy_of_the_actor(&folder, "worker");
    let config = folder.file("bindwatch.toml");
    std::fs::write(&config, "[[pool]]\nprogram = 'worker'\nparent = 'boss'\n").expect("a file");
    let recording = Recording::enforcing(&cgroup, ["--config", config.to_str().expect("a plain path")]);
    let address = loopback();
    for port in 8000..8000 + PAIRS {
        // What a shell starts beside itself has no input unless it is given one.
        let script = r#"echo $$ > "$0"; exec 3<&0; "$@" <&3 & "$@" <&3 & wait"#;
        let mut command = Command::new(&boss);
        command.arg0("sh");
        command.args(["-c", script]).arg(cgroup.path().join("cgroup.procs")).arg(&worker);
        command.arg(format!("bind udp {address}:{port} reuseport"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut output = BufReader::new(child.stdout.take().expect("its output"));
        // One line each, and both may write at once.
        let mut answers = String::new();
        while answers.matches('\n').count() < 2 {
            assert_ne!(output.read_line(&mut answers).expect("an answer"), 0, "{answers}");
        }
        drop(child.stdin.take());
        child.wait().expect("its end");
        assert_eq!(answers.matches("cookie=").count(), 2, "two below one boss: {answers:?}");
    }
    strangers_do_not("a boss each", |address, _| plain(&worker, cgroup.path(), address).start(Some(&boss)));
    strangers_do_not("no boss", |address, _| plain(&worker, cgroup.path(), address).start(None));
    drop(recording.stop());
}
