//! The live screen in a real terminal, and the same without one.
#![expect(clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

use std::time::{Duration, Instant};

use scenarios::wait::{Deadline, Process, Signal};
use scenarios::{Actor, Recording, Report, Run, Terminal, bindwatch, loopback};

/// Wide enough for every column that is looked at.
const SIZE: (u16, u16) = (130, 40);

fn golden(name: &str) -> String {
    format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A terminal in which `bindwatch top` with these arguments has begun.
#[track_caller]
fn top(arguments: &str) -> (Terminal, String) {
    let terminal = Terminal::start(SIZE.0, SIZE.1);
    let before = terminal.state();
    terminal.run(&format!("{} top {arguments}", bindwatch().display()));
    terminal.sees("1 Findings");
    (terminal, before)
}

/// It has ended, and nothing of it is left on the terminal.
#[track_caller]
fn restored(terminal: &Terminal, before: &str) {
    let screen = terminal.prompt();
    assert!(!screen.contains("1 Findings"), "{screen}");
    assert_eq!(terminal.state(), before);
}

#[test]
fn a_session() {
    let address = loopback();
    let (terminal, before) = top(&format!("--filter {address}"));
    let (mut one, mut other) = (Actor::new(), Actor::new());
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    other.bind(&format!("tcp {address}:8000 reuseport listen"));
    // What happened is there by itself.
    let row = format!("co-bind   tcp {address}:8000");
    let screen = terminal.sees(&row);
    assert!(screen.contains("live"), "{screen}");

    // The whole story, with both of them on a line of time.
    terminal.keys(&["Enter"]);
    let screen = terminal.sees("timeline");
    for pid in [one.pid(), other.pid()] {
        assert!(screen.contains(&format!("actor ({pid})")), "{screen}");
    }
    assert!(screen.contains("overlap"), "{screen}");

    // It ends, and the screen says so.
    other.exit();
    terminal.shows(|screen| !screen.lines().any(|line| line.contains(&row) && line.contains("live")));
    terminal.keys(&["Escape"]);
    terminal.shows(|screen| !screen.contains("timeline"));

    // A filter that fits nothing, and one that does.
    terminal.keys(&["2", "/", " ", "!", "actor"]);
    terminal.sees("Nothing that the filter wants");
    terminal.keys(&["C-u", &format!("{address}:8000"), "Enter"]);
    terminal.sees(&format!("tcp   {address}:8000"));

    // Time stands still: what is bound now comes later.
    // Alone: with another key right behind it, it would be that key with Alt.
    terminal.keys(&["Escape"]);
    terminal.shows(|screen| !screen.contains(&format!("/{address}:8000 ")));
    terminal.keys(&["Space"]);
    terminal.sees("FROZEN");
    terminal.keys(&["/", &address.to_string(), "Enter"]);
    one.bind(&format!("tcp {address}:8001 listen"));
    terminal.shows(|screen| screen.contains("wait") && !screen.contains("FROZEN, 0 events"));
    assert!(!terminal.screen().contains(":8001"));
    terminal.keys(&["Space"]);
    terminal.sees(":8001");

    // Any size.
    terminal.resize(60, 14);
    let screen = terminal.shows(|screen| {
        screen.lines().all(|line| line.chars().count() <= 60)
            && screen.contains("1/2")
            && screen.contains(":8001")
    });
    assert!(screen.contains("1 Findings"), "{screen}");
    terminal.resize(40, 10);
    terminal.sees("1 Find ");
    terminal.resize(SIZE.0, SIZE.1);
    terminal.shows(|screen| screen.contains("NETNS") && screen.contains(":8001"));

    terminal.keys(&["q"]);
    restored(&terminal, &before);
}

#[test]
fn the_split_of_connections_is_there_while_it_goes_on() {
    const CONNECTIONS: u64 = 40;
    let address = loopback();
    let (terminal, _) = top(&format!("--filter {address}"));
    let mut servers = [Actor::new(), Actor::new()];
    let bound = format!("tcp {address}:8000 reuseport listen");
    let sockets: Vec<_> = servers.iter_mut().map(|server| server.bind(&bound)).collect();
    terminal.sees("co-bind");
    terminal.keys(&["Enter"]);
    terminal.sees("timeline");
    let clients: Vec<_> =
        (0..CONNECTIONS).filter_map(|_| std::net::TcpStream::connect((address, 8000)).ok()).collect();
    assert_eq!(clients.len() as u64, CONNECTIONS);
    for (server, socket) in servers.iter_mut().zip(&sockets) {
        let got = server.ok(&format!("accept-all {}", socket.id)).number("count");
        let pid = server.pid();
        terminal.shows(|screen| {
            let of_it = |line: &&str| line.contains(&format!("actor ({pid})"));
            screen.lines().filter(of_it).any(|line| line.contains(&format!(", {got} acc.")))
        });
    }
    terminal.keys(&["q"]);
}

#[test]
fn a_conflict_is_seen_at_once() {
    let address = loopback();
    let (terminal, _) = top(&format!("--filter {address}"));
    let (mut one, mut other) = (Actor::new(), Actor::new());
    // A busy machine can be slow; that it is slow every time is no accident.
    let mut shortest = Duration::MAX;
    for port in 8000..8020 {
        one.bind(&format!("tcp {address}:{port} reuseport listen"));
        other.bind(&format!("tcp {address}:{port} reuseport listen"));
        let bound = Instant::now();
        terminal.sees(&format!("{address}:{port}"));
        shortest = shortest.min(bound.elapsed());
        if shortest <= Duration::from_millis(200) {
            return;
        }
    }
    panic!("at best after {shortest:?}");
}

#[test]
fn a_stopped_program_gives_the_terminal_back_until_it_goes_on() {
    let (terminal, before) = top(&format!("--replay {} --at 15s", golden("co-bind.jsonl")));
    terminal.sees("co-bind");
    terminal.keys(&["C-z"]);
    let screen = terminal.prompt();
    assert!(screen.contains("Stopped"), "{screen}");
    assert_eq!(terminal.state(), before);
    terminal.run("fg");
    terminal.sees("1 Findings");
    terminal.keys(&["?"]);
    terminal.sees("this list");
    // From outside as well.
    terminal.program().signal(Signal::TSTP);
    terminal.prompt();
    assert_eq!(terminal.state(), before);
    terminal.run("fg");
    terminal.sees("this list");
    terminal.keys(&["q"]);
    restored(&terminal, &before);
}

#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (terminal, before) = top(&format!("--replay {}", golden("co-bind.jsonl")));
        terminal.program().signal(signal);
        restored(&terminal, &before);
    }
}

#[test]
fn a_panic_is_told_on_a_terminal_as_it_was() {
    let terminal = Terminal::start(80, 24);
    let before = terminal.state();
    let program = Actor::program().with_file_name("panics");
    terminal.run(&program.display().to_string());
    terminal.sees("taken over");
    assert_ne!(terminal.state(), before);
    terminal.keys(&["x"]);
    let screen =
        terminal.shows(|screen| screen.contains("this was to be") && screen.trim_end().ends_with('$'));
    assert!(!screen.contains("taken over"), "{screen}");
    assert_eq!(terminal.state(), before);
}

#[test]
fn without_its_terminal_it_ends() {
    let (terminal, _) = top("");
    let program = terminal.program();
    terminal.lose();
    assert!(program.ended(Deadline::patient()));
}

#[test]
fn a_process_is_asked_to_end_only_after_a_yes() {
    let address = loopback();
    let (terminal, _) = top(&format!("--view endpoints --filter {address}"));
    let mut victim = Actor::new();
    victim.bind(&format!("tcp {address}:8000 listen"));
    let process = Process::of(victim.pid());
    terminal.sees(&format!("{address}:8000"));
    terminal.keys(&["k"]);
    terminal.sees(&format!("Send SIGTERM to actor (PID {})?", victim.pid()));
    terminal.keys(&["n"]);
    terminal.shows(|screen| !screen.contains("Send SIGTERM"));
    assert!(!process.ended(Deadline::after(Duration::ZERO)), "a no is a no");
    terminal.keys(&["k"]);
    terminal.sees("Send SIGTERM");
    terminal.keys(&["y"]);
    terminal.sees("sent SIGTERM");
    assert!(process.ended(Deadline::patient()));
    terminal.sees("Nothing that the filter wants");
    terminal.keys(&["q"]);
}

#[test]
fn what_is_on_the_screen_is_written_and_copied() {
    let (terminal, _) = top(&format!("--replay {} --at 15s", golden("co-bind.jsonl")));
    terminal.sees("co-bind");
    terminal.keys(&["y"]);
    terminal.sees("copied");
    // OSC 52: the story in base64, whose first line names the finding.
    let written = terminal.written();
    let copied = written.windows(7).any(|bytes| bytes == b"\x1b]52;c;");
    assert!(copied, "no OSC 52");
    terminal.keys(&["Enter", "w"]);
    let screen = terminal.sees("wrote");
    let name = screen.split_whitespace().find(|word| word.contains("bindwatch-top-")).expect("a file");
    let report = std::fs::read_to_string(name).expect("the report");
    for part in ["co-bind", "tcp 127.0.0.3:9926", "timeline", "SO_REUSEPORT"] {
        assert!(report.contains(part), "{report}");
    }
    assert!(!report.contains("hunter2") && !report.contains('\u{1b}'), "{report}");
    terminal.keys(&["q"]);
}

#[test]
fn a_log_is_played() {
    let (terminal, before) = top(&format!("--replay {} --at 1s --speed 8x", golden("co-bind.jsonl")));
    let screen = terminal.shows(|screen| screen.contains("12:30:11.000") && screen.contains("12:30:30"));
    assert!(screen.contains("Nothing wrong so far") && screen.contains("8x"), "{screen}");
    // To the finding, and there is no later one.
    terminal.keys(&["n"]);
    terminal.shows(|screen| screen.contains("live") && screen.contains("12:30:21.000"));
    terminal.keys(&["n"]);
    terminal.sees("no later finding");
    // Back to before it, by time.
    terminal.keys(&["Left"]);
    terminal.sees("Nothing wrong so far");
    // To the end: it is over.
    terminal.keys(&["}"]);
    terminal.shows(|screen| screen.contains("7.0 s") && !screen.contains("live"));
    terminal.keys(&["p"]);
    terminal.sees("live");
    // And by itself.
    terminal.keys(&["{"]);
    terminal.sees("Nothing wrong so far");
    terminal.keys(&["Space"]);
    terminal.sees("7.0 s");
    terminal.keys(&["q"]);
    restored(&terminal, &before);
}

#[test]
fn hostile_names_change_nothing_of_the_terminal() {
    let (terminal, before) = top(&format!("--replay {}", golden("top/hostile.jsonl")));
    let title = terminal.about("#{pane_title}");
    terminal.keys(&["}"]);
    for view in ["1", "2", "3", "4", "5"] {
        terminal.keys(&[view, "Enter"]);
    }
    terminal.sees("ports have not been counted");
    assert_eq!(terminal.about("#{pane_title}"), title);
    terminal.keys(&["q"]);
    restored(&terminal, &before);
}

#[test]
fn without_a_terminal_it_prints() {
    let address = loopback();
    let (mut one, mut other) = (Actor::new(), Actor::new());
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    other.bind(&format!("tcp {address}:8000 reuseport listen"));
    let said = Run::bindwatch(["top", "--once", "--filter", &address.to_string()]).outcome().expect(0).stdout;
    assert!(said.contains(&format!("co-bind  tcp {address}:8000")), "{said}");
    assert!(!said.contains('\u{1b}'), "{said}");
    let rows = said.lines().filter(|line| line.starts_with("!  tcp")).count();
    assert_eq!(rows, 1, "{said}");

    let outcome = Run::bindwatch(["top", "--once", "--format", "json", "--fail-on", "co-bind"]).outcome();
    let finding = Report::of(&outcome.expect(1).stdout).only(address, 8000);
    assert_eq!(finding.kind(), "co-bind");

    // A port of the kernel's choice is counted for who has it.
    let mut chosen = Actor::new();
    chosen.bind(&format!("tcp {address}:0 listen"));
    let pid = chosen.pid();
    let said = Run::bindwatch(["top", "--once", "--view", "ports"]).args(["--filter", &format!("pid:{pid}")]);
    let said = said.outcome().expect(0).stdout;
    assert!(said.lines().any(|line| line.contains(&format!("actor ({pid})"))), "{said}");

    let filter = ["--filter", &address.to_string()];
    let said = Run::bindwatch(["top", "-b", "-n", "3", "-d", "0.05"]).args(filter).outcome().expect(0).stdout;
    assert_eq!(said.matches("co-bind").count(), 3, "{said}");
}

#[test]
fn a_replay_knows_the_ports() {
    let address = loopback();
    let recording = Recording::start();
    let mut chosen = Actor::new();
    chosen.bind(&format!("tcp {address}:0 listen"));
    let pid = chosen.pid();
    recording.fence();
    let finished = recording.stop();
    let log = finished.log.path().display().to_string();
    let ports = ["--view", "ports"];
    let said = Run::bindwatch(["top", "--once", "--replay", &log]).args(ports).outcome().expect(0).stdout;
    assert!(said.lines().any(|line| line.contains(&format!("actor ({pid})"))), "{said}");
    // At the beginning too, when it was not there.
    let said = Run::bindwatch(["top", "--once", "--at", "0s", "--replay", &log]).args(ports);
    let said = said.outcome().expect(0).stdout;
    assert!(said.contains("network namespace") && !said.contains(&format!("actor ({pid})")), "{said}");
}

#[test]
fn what_cannot_be_is_said_in_one_line() {
    Run::bindwatch(["top", "--replay", "no-such.jsonl"]).outcome().expect_one_line(125);
    Run::bindwatch(["top", "--replay", "-"]).outcome().expect_one_line(2);
    Run::bindwatch(["top", "--format", "html"]).outcome().expect_one_line(2);
    Run::bindwatch(["top"]).as_nobody().outcome().expect_one_line(125);
}

/// A process that is ended when this is dropped.
struct Ended(Process);

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.0.ended(Deadline::after(Duration::ZERO)) {
            self.0.signal(Signal::KILL);
        }
    }
}

/// A terminal that nobody reads from: after some KiB it takes nothing more.
#[test]
fn a_terminal_that_takes_nothing_holds_nothing_up() {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let address = loopback();
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).expect("a pseudoterminal");
    grantpt(&master).and_then(|()| unlockpt(&master)).expect("a pseudoterminal");
    let name = ptsname(&master, Vec::new()).expect("its name").into_string().expect("a path");
    let size = rustix::termios::Winsize { ws_row: 60, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size).expect("a size");
    let end = || std::fs::File::options().read(true).write(true).open(&name).expect("a terminal");
    let mut child = std::process::Command::new(bindwatch())
        .args(["top", "--view", "events", "--filter", &address.to_string()])
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .expect("bindwatch");
    let process = Process::of(child.id());
    // Whatever becomes of the test, nothing of it stays.
    let _ended = Ended(Process::of(child.id()));
    let until = |wanted: &str| {
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let ready = scenarios::wait::readable([std::os::fd::AsFd::as_fd(&master)], Deadline::patient());
            assert!(ready.is_some(), "{wanted} does not come");
            let read = rustix::io::read(&master, &mut buffer).expect("what is drawn");
            seen.extend_from_slice(buffer.get(..read).expect("as much as was read"));
        }
    };
    until("Findings");
    // Another view with each key: far more to draw than the terminal takes. And binds meanwhile.
    let flood = || {
        rustix::io::write(&master, "42".repeat(200).as_bytes()).expect("keys");
        for _ in 0..20_000 {
            drop(std::net::UdpSocket::bind((address, 0)).expect("a port"));
        }
    };
    flood();
    // Nothing of that is lost: what comes last is seen when the terminal takes something again.
    let (mut one, mut other) = (Actor::new(), Actor::new());
    one.bind(&format!("tcp {address}:8000 reuseport listen"));
    other.bind(&format!("tcp {address}:8000 reuseport listen"));
    rustix::io::write(&master, b"1").expect("a key");
    until("co-bind");
    // And it ends though nobody reads what it has to say last.
    flood();
    process.signal(Signal::TERM);
    assert!(process.ended(Deadline::patient()));
    assert_eq!(child.wait().expect("a child").code(), Some(0));
}
