//! `list` and `check` against this machine's kernel: what they say is compared with what the kernel does.

#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::wait::{self, WaitPidFlag};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde_json::Value;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const OTHER4: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const MAPPED: IpAddr = IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
const ANY4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const ANY6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

fn bindwatch(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bindwatch"));
    // No configuration file of the machine's.
    command.args(arguments).env("HOME", "/nowhere").env_remove("XDG_CONFIG_HOME").current_dir("/");
    command
}

fn run(arguments: &[&str]) -> Output {
    bindwatch(arguments).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("it was killed: {output:?}"))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stdout)))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Moves this test, which is a thread, and what it starts into a network namespace of its own: nobody else takes its
/// ports.
fn own_network() -> MutexGuard<'static, ()> {
    let turn = turn();
    assert!(nix::unistd::geteuid().is_root(), "this test makes a network namespace: run it as root");
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
    turn
}

/// The tests take turns: a process that one of them is just starting has every descriptor of all of them until it
/// executes its program, and would rightly be named as a holder.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn socket(address: IpAddr, kind: SocketType) -> OwnedFd {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None).unwrap()
}

fn port(socket: &OwnedFd) -> u16 {
    SocketAddr::try_from(rustix::net::getsockname(socket).unwrap()).unwrap().port()
}

fn asked(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// Every kind of holder against every address one can ask for: `check` says what a bind then meets.
#[test]
fn check_agrees_with_the_kernel() {
    let _turn = own_network();
    let holders = [
        (V4, None),
        (OTHER4, None),
        (ANY4, None),
        (V6, None),
        (MAPPED, None),
        (ANY6, Some(false)),
        (ANY6, Some(true)),
    ];
    let wanted = [V4, OTHER4, ANY4, V6, MAPPED, ANY6];
    let mut differences = Vec::new();
    for (kind, protocol, listens) in [
        (SocketType::STREAM, "tcp", true),
        (SocketType::STREAM, "tcp", false),
        (SocketType::DGRAM, "udp", false),
    ] {
        for (held, v6_only) in holders {
            let holder = socket(held, kind);
            if let Some(v6_only) = v6_only {
                sockopt::set_ipv6_v6only(&holder, v6_only).unwrap();
            }
            rustix::net::bind(&holder, &SocketAddr::new(held, 0)).unwrap();
            if listens {
                rustix::net::listen(&holder, 1).unwrap();
            }
            let port = port(&holder);
            let targets: Vec<String> =
                wanted.iter().map(|address| format!("{protocol}/{}", asked(*address, port))).collect();
            let mut arguments = vec!["check", "--format", "json"];
            arguments.extend(targets.iter().map(String::as_str));
            let answers = json(&run(&arguments));
            for (address, answer) in wanted.iter().zip(answers["targets"].as_array().unwrap()) {
                let newcomer = socket(*address, kind);
                if *address == ANY6 {
                    sockopt::set_ipv6_v6only(&newcomer, false).unwrap();
                }
                let free = rustix::net::bind(&newcomer, &SocketAddr::new(*address, port)).is_ok();
                if answer["free"] != free {
                    differences.push(format!(
                        "{protocol} {held} {v6_only:?} listens {listens}: {address} free {free}"
                    ));
                }
            }
        }
    }
    assert_eq!(differences, Vec::<String>::new());
}

#[test]
fn check_names_the_holder_and_its_status_is_the_answer() {
    let _turn = own_network();
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let target = listener.local_addr().unwrap();
    let held = run(&["check", &target.to_string()]);
    assert_eq!(code(&held), 1);
    let said = text(&held.stdout);
    let me = format!("PID {}, user root", std::process::id());
    assert!(said.starts_with(&format!("{target} is held\n  tcp {target} listen, by now")), "{said}");
    assert!(said.contains(&me), "{said}");

    let output = run(&["check", "--format", "json", &target.to_string()]);
    let report = json(&output);
    assert_eq!(report["schema"], "bindwatch.report/1");
    assert_eq!(report["findings"], serde_json::json!([]));
    assert_eq!(report["targets"], serde_json::json!([{"target": target.to_string(), "free": false}]));
    assert_eq!(report["sockets"][0]["pid"], std::process::id());
    assert_eq!(report["sockets"][0]["state"], "listen");
    assert_eq!(report["sockets"].as_array().unwrap().len(), 1);

    let both = run(&["check", &target.to_string(), &format!("udp/{target}")]);
    assert_eq!(code(&both), 1);
    assert!(text(&both.stdout).ends_with(&format!("udp/{target} is free\n")), "{}", text(&both.stdout));
    let quiet = run(&["check", "-q", &target.to_string()]);
    assert_eq!((code(&quiet), text(&quiet.stdout).as_str()), (1, ""));
    drop(listener);
    let free = run(&["check", &target.to_string()]);
    assert_eq!((code(&free), text(&free.stdout)), (0, format!("{target} is free\n")));
}

#[test]
fn a_bare_address_is_every_port_on_it() {
    let _turn = own_network();
    let address = IpAddr::V4(Ipv4Addr::new(127, 7, 7, 7));
    let sockets = [TcpListener::bind((address, 0)).unwrap(), TcpListener::bind((address, 0)).unwrap()];
    let output = run(&["check", "--format", "json", "tcp/127.7.7.7"]);
    assert_eq!(code(&output), 1);
    let report = json(&output);
    let all = report["sockets"].as_array().unwrap().iter();
    let mut found: Vec<u64> = all.map(|socket| socket["port"].as_u64().unwrap()).collect();
    let mut expected: Vec<u64> =
        sockets.iter().map(|socket| socket.local_addr().unwrap().port().into()).collect();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

#[test]
fn check_waits_until_it_is_free_or_time_is_over() {
    let _turn = own_network();
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let began = Instant::now();
    let output = run(&["check", &target, "--wait", "150ms"]);
    assert_eq!(code(&output), 124);
    assert!(began.elapsed() >= Duration::from_millis(150));
    assert!(text(&output.stdout).contains("is held"), "it says by whom: {}", text(&output.stdout));

    // In the way of a bind: a process that listens, a socket of a kind that nothing but its release tells of, and a
    // connection whose end a reset cuts short, which no record tells.
    let server = Server::start(free_port());
    released(&format!("127.0.0.1:{}", server.1), || drop(server));
    let udp = socket(V4, SocketType::DGRAM);
    rustix::net::bind(&udp, &SocketAddr::new(V4, 0)).unwrap();
    released(&format!("udp/127.0.0.1:{}", port(&udp)), || drop(udp));
    let client = socket(V4, SocketType::STREAM);
    rustix::net::connect(&client, &listener.local_addr().unwrap()).unwrap();
    drop(listener.accept().unwrap());
    drop(listener);
    sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    released(&target, || drop(client));
}

/// `check --wait` for what `release` frees: returns when it is free, and leaves no program behind.
fn released(target: &str, release: impl FnOnce()) {
    let mut waiting = bindwatch(&["check", target, "--wait", "1m"]).stdout(Stdio::piped()).spawn().unwrap();
    let programs = watches(&waiting);
    assert_eq!(waiting.try_wait().unwrap(), None);
    release();
    let began = Instant::now();
    let output = waiting.wait_with_output().unwrap();
    assert_eq!((code(&output), text(&output.stdout)), (0, format!("{target} is free\n")));
    assert!(began.elapsed() < Duration::from_secs(10), "it took {:?}", began.elapsed());
    gone(&programs);
}

/// Ids of the BPF programs that a process has, once it has attached those that tell of a release and waits.
fn watches(child: &Child) -> Vec<u32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let files = std::fs::read_dir(format!("/proc/{}/fdinfo", child.id())).unwrap();
        let said = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok());
        let links: Vec<u32> = said
            .filter(|said| said.contains("link_id:"))
            .filter_map(|said| {
                said.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
            })
            .collect();
        if links.len() >= 3 {
            sleeps(child);
            return links;
        }
        assert!(Instant::now() < deadline, "it has {} links", links.len());
        std::thread::yield_now();
    }
}

/// Returns when none of these programs is loaded: the kernel frees them a moment after their process.
fn gone(programs: &[u32]) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let loaded = |id: &u32| {
        aya::programs::loaded_programs().any(|loaded| loaded.is_ok_and(|loaded| loaded.id() == *id))
    };
    while programs.iter().any(loaded) {
        assert!(Instant::now() < deadline, "a program stays: {programs:?}");
        std::thread::yield_now();
    }
}

/// How often a process went to sleep so far. Also of one that has ended, until it is waited for.
fn sleeps_so_far(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    count.unwrap().trim().parse().unwrap()
}

#[test]
fn check_does_not_poll_while_it_waits() {
    /// A look every 50 ms would make it 40 in two seconds.
    const FEW: u64 = 12;
    let _turn = own_network();
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    // It is also woken when other sockets of the machine end, so others' work may disturb it; polling would disturb
    // every attempt.
    let counts: Vec<u64> = (0..5)
        .map(|_| {
            let mut waiting =
                bindwatch(&["check", "-q", &target, "--wait", "2s"]).stdout(Stdio::piped()).spawn().unwrap();
            watches(&waiting);
            let before = sleeps_so_far(&waiting);
            let id = nix::unistd::Pid::from_raw(waiting.id().try_into().unwrap());
            // Without taking its status: it can still be asked.
            wait::waitid(wait::Id::Pid(id), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
            let count = sleeps_so_far(&waiting) - before;
            assert_eq!(waiting.wait().unwrap().code(), Some(124));
            count
        })
        .take_while(|count| *count > FEW)
        .collect();
    assert!(counts.len() < 5, "it woke up too often: {counts:?}");
}

#[test]
fn check_waits_without_privileges_too() {
    let _turn = own_network();
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let unprivileged = Unprivileged::new();
    let output = unprivileged.command(&["check", "-q", &target, "--wait", "150ms"]).output().unwrap();
    assert_eq!((code(&output), text(&output.stderr)), (124, String::new()), "it does not talk about it");
    let mut waiting = unprivileged
        .command(&["check", "-v", &target, "--wait", "1m"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(waiting.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("looking every 50 ms: bindwatch needs root"), "{line}");
    drop(listener);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!((code(&output), text(&output.stdout)), (0, format!("{target} is free\n")));
}

/// Returns when a process waits for a timer or a descriptor.
fn sleeps(child: &Child) {
    let deadline = Instant::now() + Duration::from_secs(20);
    let path = format!("/proc/{}/wchan", child.id());
    let waits = |place: String| ["futex", "poll"].iter().any(|wait| place.contains(wait));
    while !waits(std::fs::read_to_string(&path).unwrap()) {
        assert!(Instant::now() < deadline, "it does not wait");
        std::thread::yield_now();
    }
}

#[test]
fn time_wait_is_in_the_way_of_a_plain_bind_only() {
    let _turn = own_network();
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let target = listener.local_addr().unwrap();
    let client = TcpStream::connect(target).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    // The side that closes first keeps the port: the server's.
    drop(accepted);
    let mut end = [0; 1];
    assert_eq!((&client).read(&mut end).unwrap(), 0);
    drop(client);
    drop(listener);
    let tcp = format!("tcp/{target}");
    let held = loop {
        let output = run(&["check", "--format", "json", &tcp]);
        let report = json(&output);
        let states: Vec<_> =
            report["sockets"].as_array().unwrap().iter().map(|s| s["tcp_state"].clone()).collect();
        // Until the last answer is through it is FIN_WAIT.
        match states.as_slice() {
            [one] if one == "time-wait" => break output,
            [one] if one == "fin-wait1" || one == "fin-wait2" => {}
            other => panic!("{other:?}"),
        }
    };
    let report = json(&held);
    assert_eq!((code(&held), &report["sockets"][0]["pid"]), (1, &Value::Null), "nobody has it");
    assert!(report["notices"][0].as_str().unwrap().contains("SO_REUSEADDR"), "{}", report["notices"]);
    let plain = text(&run(&["check", &tcp]).stdout);
    assert!(plain.contains("1 connection time-wait on tcp"), "{plain}");
    assert_eq!(code(&run(&["check", "--reuse-addr", &tcp])), 0);
}

/// A process of its own with a listener that shares its port.
struct Server(Child, u16);

impl Server {
    fn start(port: u16) -> Self {
        let script = format!(
            "import socket,sys\ns=socket.socket()\ns.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEPORT,1)\n\
             s.bind(('127.0.0.1',{port}))\ns.listen(1)\nprint('up',flush=True)\nsys.stdin.read()"
        );
        let mut child = Command::new("python3")
            .args(["-c", &script, "--password=hunter2", "\u{1b}[2J"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        Self(child, port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that nobody has now.
fn free_port() -> u16 {
    let probe = socket(V4, SocketType::STREAM);
    sockopt::set_socket_reuseport(&probe, true).unwrap();
    rustix::net::bind(&probe, &SocketAddr::new(V4, 0)).unwrap();
    port(&probe)
}

#[test]
fn list_shows_who_shares_a_port() {
    let _turn = turn();
    assert!(nix::unistd::geteuid().is_root(), "this test loads the probe: run it as root");
    let port = free_port();
    let servers = [Server::start(port), Server::start(port)];
    let filter = format!(":{port}");
    let output = run(&["list", "--format", "json", &filter]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    let report = json(&output);
    let sockets = report["sockets"].as_array().unwrap();
    assert_eq!(sockets.len(), 2);
    for (socket, server) in sockets.iter().zip(&servers) {
        assert_eq!(socket["protocol"], "tcp");
        assert_eq!((&socket["address"], &socket["port"]), (&"127.0.0.1".into(), &port.into()));
        assert_eq!(
            (&socket["state"], &socket["options"]),
            (&"listen".into(), &serde_json::json!(["SO_REUSEPORT"]))
        );
        assert_eq!((&socket["options_known"], &socket["user"]), (&true.into(), &"root".into()));
        assert!(servers.iter().any(|server| socket["pid"] == server.0.id()), "{socket}");
        assert_eq!(socket["cmdline"][3], "--password=***");
        assert_eq!(socket["parents"][0]["pid"], std::process::id(), "{}", server.0.id());
    }
    let finding = &report["findings"][0];
    assert_eq!((&finding["kind"], &finding["port"]), (&"co-bind".into(), &port.into()));
    assert_eq!(code(&run(&["list", "--fail-on", "co-bind", &filter])), 1);
    assert_eq!(code(&run(&["list", "--fail-on", "co-bind", "--allow", &format!("port={port}"), &filter])), 0);

    let table = text(&run(&["list", &filter]).stdout);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines.first().is_some_and(|head| head.starts_with("PROTO")), "{table}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("tcp!")).count(), 2, "{table}");
    assert!(lines.last().is_some_and(|line| line.starts_with("error co-bind: ")), "{table}");
    assert!(table.chars().all(|c| c == '\n' || !c.is_control()), "{table:?}");
    drop(servers);
    let table = text(&run(&["list", &filter]).stdout);
    assert_eq!(table.lines().count(), 1, "{table}");
}

/// A copy of bindwatch that another user may execute, wherever the build is.
struct Unprivileged(tempfile::TempDir);

impl Unprivileged {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_bindwatch"), folder.path().join("bindwatch")).unwrap();
        let mut open = std::fs::metadata(folder.path()).unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o755);
        std::fs::set_permissions(folder.path(), open).unwrap();
        Self(folder)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.0.path().join("bindwatch"));
        command.args(arguments).env("HOME", "/nowhere").current_dir("/").uid(65534).gid(65534);
        command
    }
}

#[test]
fn list_without_privileges_says_what_it_cannot_see() {
    let _turn = own_network();
    let listener = TcpListener::bind((V4, 0)).unwrap();
    let filter = format!(":{}", listener.local_addr().unwrap().port());
    let copy = Unprivileged::new();
    let unprivileged = |arguments: &[&str]| copy.command(arguments).output().unwrap();
    let output = unprivileged(&["list", &filter]);
    assert_eq!(code(&output), 0, "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 2, "the socket is seen: {}", text(&output.stdout));
    let said = text(&output.stderr);
    assert!(said.contains("the processes of 1 socket cannot be seen"), "{said}");
    assert!(said.contains("sudo bindwatch list"), "{said}");
    let report = json(&unprivileged(&["list", "--format", "json", &filter]));
    assert_eq!((&report["sockets"][0]["pid"], &report["sockets"][0]["user"]), (&Value::Null, &"root".into()));
    assert_eq!(report["sockets"][0]["options_known"], false);
    assert_eq!(report["window"]["complete"], false);
    let held = unprivileged(&["check", &filter]);
    assert_eq!(code(&held), 1);
    assert!(
        text(&held.stdout).contains("by a process of user root that you may not see"),
        "{}",
        text(&held.stdout)
    );
}
