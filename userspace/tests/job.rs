//! The command of a `run`, for real: processes, cgroups, users and signals of this machine.
//!
//! The tests start this program again as an actor, which does with a [`Job`] what `bindwatch run` does; so signals and
//! a SIGKILL can be sent to it alone.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bindwatch::job::{Account, Job, Left};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Set for the actor: its command, arguments separated by this.
const COMMAND: &str = "BINDWATCH_TEST_COMMAND";
const SEPARATOR: char = '\u{1f}';
/// Set for the actor: the user its command runs as.
const USER: &str = "BINDWATCH_TEST_USER";
/// How long something that must happen may take, at most.
const PATIENCE: Duration = Duration::from_secs(20);

/// Not a test by itself: the process that the tests start.
#[test]
fn actor() {
    let Ok(command) = std::env::var(COMMAND) else { return };
    let command: Vec<OsString> = command.split(SEPARATOR).map(OsString::from).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let status = runtime.block_on(async {
        let named = std::env::var(USER).ok();
        let user = Account::resolve(named.as_deref(), |_| None).unwrap();
        let job = Job::create_with(Path::new(env!("CARGO_BIN_EXE_bindwatch"))).unwrap();
        say(&format!("@cgroup {} {}", job.directory().display(), job.cgroup()));
        let mut running = job.spawn(&command, user.as_ref(), None).unwrap();
        say(&format!("@pid {}", running.process().tgid));
        let status = running.wait().await.unwrap();
        let directory = job.directory().to_owned();
        let left: Vec<String> = job.processes().iter().map(|process| process.tgid.to_string()).collect();
        let removed = job.end(Left::LiveOn);
        say(&format!("@end {status} removed={} left={}", removed && !directory.exists(), left.join(",")));
        status
    });
    std::process::exit(status);
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// An actor that runs.
struct Actor {
    child: Child,
    stdin: Option<ChildStdin>,
    out: BufReader<ChildStdout>,
    /// Lines that were read and nobody asked for yet: the actor's and its command's come in any order.
    unasked: Vec<String>,
    directory: PathBuf,
    cgroup: String,
}

/// How an actor ended.
struct Ended {
    /// What its command wrote to standard output after the lines that were read.
    out: String,
    /// What was written to standard error.
    err: String,
    status: i32,
    left: Vec<i32>,
}

impl Actor {
    fn start(command: &[&str]) -> Self {
        Self::start_with(Command::new(std::env::current_exe().unwrap()), command, None)
    }

    /// With a `program` that ends in becoming this one.
    fn start_with(mut program: Command, command: &[&str], user: Option<&str>) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make cgroups and change users: run them as root"
        );
        program.env(COMMAND, command.join(&SEPARATOR.to_string())).args(["--exact", "actor", "--nocapture"]);
        if let Some(user) = user {
            program.env(USER, user);
        }
        let mut child =
            program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut actor =
            Self { child, stdin, out, unasked: Vec::new(), directory: PathBuf::new(), cgroup: String::new() };
        let said = actor.until("@cgroup ");
        let (directory, cgroup) = said.split_once(' ').unwrap();
        (actor.directory, actor.cgroup) = (directory.into(), cgroup.into());
        actor
    }

    /// Reads until there is a line that begins so; returns the rest of that line.
    fn until(&mut self, prefix: &str) -> String {
        loop {
            if let Some(at) = self.unasked.iter().position(|line| line.starts_with(prefix)) {
                return self.unasked.remove(at).split_off(prefix.len());
            }
            let line = self.line();
            self.unasked.push(line);
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let read = self.out.read_line(&mut line).unwrap();
        if read == 0 {
            let mut err = String::new();
            let _ = self.child.stderr.take().unwrap().read_to_string(&mut err);
            panic!("the actor ended early: {err}");
        }
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    /// Waits for the end; standard input is closed.
    fn end(mut self) -> Ended {
        drop(self.stdin.take());
        let ended = self.until("@end ");
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        let mut fields = ended.split(' ');
        let status: i32 = fields.next().unwrap().parse().unwrap();
        assert_eq!(fields.next(), Some("removed=true"), "the cgroup is gone");
        let left = fields.next().and_then(|field| field.strip_prefix("left=")).unwrap();
        let left = left.split(',').filter(|pid| !pid.is_empty()).map(|pid| pid.parse().unwrap()).collect();
        assert_eq!(self.child.wait().unwrap().code(), Some(status));
        // The test program's own two lines precede the actor's.
        let commands =
            |line: &&String| !line.starts_with("@pid ") && !line.is_empty() && *line != "running 1 test";
        let out = self.unasked.iter().filter(commands).map(String::as_str).collect::<Vec<_>>().join("\n");
        Ended { out, err, status, left }
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

fn cgroup_of(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

#[test]
fn the_status_is_the_commands() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/nowhere/interpreter\n").unwrap();
    let mut mode = std::fs::metadata(&script).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(&script, mode).unwrap();
    let script = script.to_str().unwrap();
    for (command, status, err) in [
        (&["true"][..], 0, ""),
        (&["sh", "-c", "exit 3"], 3, ""),
        (&["sh", "-c", "exit 125"], 125, ""),
        (&["sh", "-c", "kill -KILL $$"], 128 + 9, ""),
        (&["sh", "-c", "kill -TERM $$"], 128 + 15, ""),
        (
            &["no-such-command-here"],
            127,
            "bindwatch: cannot execute no-such-command-here: not found in PATH\n",
        ),
        (
            &["/no/such\ncommand"],
            127,
            "bindwatch: cannot execute /no/such\\ncommand: there is no such file\n",
        ),
        (&["/etc/passwd"], 126, "bindwatch: cannot execute /etc/passwd: Permission denied (os error 13)\n"),
        (&["/"], 126, "bindwatch: cannot execute /: Permission denied (os error 13)\n"),
    ] {
        let ended = Actor::start(command).end();
        assert_eq!((ended.status, ended.err.as_str()), (status, err), "{command:?}");
        assert!(ended.left.is_empty());
    }
    let ended = Actor::start(&[script]).end();
    assert_eq!(ended.status, 126);
    assert!(ended.err.contains("the interpreter in its first line"), "{}", ended.err);
}

#[test]
fn the_command_has_the_callers_streams_and_a_cgroup_of_its_own() {
    let mut actor =
        Actor::start(&["sh", "-c", "echo \"$@\"; cat; cat /proc/self/cgroup; echo e >&2", "-", "a b", "--"]);
    assert!(actor.cgroup.contains("/bindwatch-"), "{}", actor.cgroup);
    assert!(actor.directory.is_dir());
    actor.stdin.as_mut().unwrap().write_all(b"through stdin\n").unwrap();
    let (cgroup, directory) = (actor.cgroup.clone(), actor.directory.clone());
    let ended = actor.end();
    let (first, cgroups) = ended.out.split_once("\nthrough stdin\n").expect("stdin came out");
    assert_eq!((first, ended.err.as_str()), ("a b --", "e\n"));
    assert!(cgroups.lines().any(|line| line == format!("0::{cgroup}")), "{cgroups}");
    assert!(!directory.exists());
}

#[test]
fn privileges_are_dropped_for_good() {
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let script = "id -u; id -g; id -G; echo $HOME $USER $LOGNAME; grep -E '^(Uid|Gid|CapEff):' /proc/self/status; \
                  cat /proc/self/cgroup";
    let program = Command::new(std::env::current_exe().unwrap());
    let actor = Actor::start_with(program, &["sh", "-c", script], Some("nobody"));
    let cgroup = actor.cgroup.clone();
    let ended = actor.end();
    assert_eq!((ended.status, ended.err.as_str()), (0, ""));
    let (uid, gid, home) = (nobody.uid.as_raw(), nobody.gid.as_raw(), nobody.dir.display());
    let expected = format!(
        "{uid}\n{gid}\n{gid}\n{home} nobody nobody\n\
         Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{gid}\t{gid}\t{gid}\t{gid}\nCapEff:\t0000000000000000\n"
    );
    assert!(ended.out.starts_with(&expected), "{}", ended.out);
    assert!(
        ended.out.lines().any(|line| line == format!("0::{cgroup}")),
        "it joined before it lost the right to"
    );
}

#[test]
fn who_is_left_is_named_and_moved_out() {
    let script = "sleep 1000 >/dev/null 2>&1 & echo $!; mkdir \"$1/inner\" \"$1/inner/most\"; \
                  setsid sleep 1000 >/dev/null 2>&1 & echo $!; echo $! > \"$1/inner/most/cgroup.procs\"";
    // Its directory is known only once it runs.
    let mut actor = Actor::start(&["sh", "-c", &format!("read -r dir; set -- \"$dir\"; {script}")]);
    let line = format!("{}\n", actor.directory.display());
    actor.stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    let parent = actor.cgroup.rsplit_once('/').unwrap().0.to_owned();
    let directory = actor.directory.clone();
    let ended = actor.end();
    let mut expected: Vec<i32> = ended.out.lines().map(|pid| pid.parse().unwrap()).collect();
    expected.sort_unstable();
    assert_eq!((ended.status, expected.len()), (0, 2));
    assert_eq!(ended.left, expected);
    for pid in expected {
        assert_eq!(cgroup_of(pid).trim_end_matches('/'), parent, "it lives on in bindwatch's cgroup");
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }
    assert!(!directory.exists(), "with the cgroups that the job made");
}

#[test]
fn signals_reach_the_command() {
    for signal in
        [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT]
    {
        let name = signal.as_str().trim_start_matches("SIG");
        // The shell runs its trap between the reads of its standard input.
        let script = format!("trap 'echo got; exit 7' {name}; echo up; while :; do read -r x || :; done");
        // Without a terminal: in a session of its own. Whoever runs the tests in the background, or under nohup, ignores some.
        let mut program = Command::new("env");
        program
            .args(["--default-signal=HUP,INT,QUIT", "setsid", "--wait"])
            .arg(std::env::current_exe().unwrap());
        let mut actor = Actor::start_with(program, &["bash", "-c", &script], None);
        let command: i32 = actor.until("@pid ").parse().unwrap();
        actor.until("up");
        let bindwatch = parent_of(command);
        kill(Pid::from_raw(bindwatch), signal).unwrap();
        let ended = actor.end();
        assert_eq!((ended.status, ended.out.as_str()), (7, "got"), "{signal}");
    }
}

fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn ignored_signals_stay_ignored() {
    let mut program = Command::new("bash");
    let exe = std::env::current_exe().unwrap();
    program.args(["-c", "trap '' HUP; exec \"$@\"", "-", exe.to_str().unwrap()]);
    let mut actor =
        Actor::start_with(program, &["sh", "-c", "grep ^SigIgn /proc/self/status; echo up; read -r x"], None);
    let ignored = actor.until("SigIgn:\t");
    assert_eq!(u64::from_str_radix(&ignored, 16).unwrap() & 1, 1, "SIGHUP: {ignored}");
    actor.until("up");
    actor.signal(Signal::SIGHUP);
    let ended = actor.end();
    assert_eq!(ended.status, 1, "the command lived on until its standard input ended");
}

#[test]
fn a_killed_bindwatch_leaves_no_cgroup() {
    let mut actor = Actor::start(&["sh", "-c", "echo up; read -r x; exit 0"]);
    let command: i32 = actor.until("@pid ").parse().unwrap();
    actor.until("up");
    // The command keeps running, its standard input is ours.
    actor.signal(Signal::SIGKILL);
    assert_eq!(actor.child.wait().unwrap().signal(), Some(9));
    assert_eq!(cgroup_of(command), actor.cgroup);
    assert!(actor.directory.is_dir());
    drop(actor.stdin.take());
    // The pipe ends: nothing that stays keeps the caller's standard output open.
    let mut rest = String::new();
    actor.out.read_to_string(&mut rest).unwrap();
    until("the janitor removed the cgroup", || !actor.directory.exists());
}

#[test]
fn cgroups_of_dead_bindwatches_are_removed() {
    let actor = Actor::start(&["true"]);
    let parent = actor.directory.parent().unwrap().to_owned();
    actor.end();
    let mut dead = Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    let stale = parent.join(format!("bindwatch-{}", dead.id()));
    let alive = parent.join(format!("bindwatch-{}-of-test", std::process::id()));
    for directory in [&stale, &alive] {
        std::fs::create_dir(directory).unwrap();
    }
    std::fs::create_dir(stale.join("inner")).unwrap();
    Actor::start(&["true"]).end();
    let (stale, kept) = (stale.exists(), alive.exists());
    std::fs::remove_dir(&alive).unwrap();
    assert!(!stale, "its maker is dead and it is empty");
    assert!(kept, "its maker lives");
}

#[test]
fn the_janitor_waits_for_the_last_process() {
    let actor = Actor::start(&["true"]);
    let mut inside = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    // As if it had made it: this test's own PID is in the names of other tests.
    let directory = actor.directory.with_file_name(format!("bindwatch-{}", inside.id()));
    actor.end();
    std::fs::create_dir_all(directory.join("inner")).unwrap();
    std::fs::write(directory.join("inner/cgroup.procs"), inside.id().to_string()).unwrap();
    let mut janitor = Command::new(env!("CARGO_BIN_EXE_bindwatch"))
        .arg("__janitor")
        .arg(directory.parent().unwrap())
        .arg(inside.id().to_string())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    drop(janitor.stdin.take());
    // It sleeps in poll() on cgroup.events, and not before its standard input ended.
    let (pid, wchan) = (janitor.id(), |pid| std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap());
    until("the janitor waits", || wchan(pid).contains("poll"));
    assert!(directory.exists() && janitor.try_wait().unwrap().is_none());
    drop(inside.stdin.take());
    inside.wait().unwrap();
    assert!(janitor.wait().unwrap().success());
    assert!(!directory.exists());
}
