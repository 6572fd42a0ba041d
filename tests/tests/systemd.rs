//! A real systemd, of a user's session as far as it knows, with services that it starts and reloads.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::net::Ipv4Addr;
use std::os::unix::net::UnixDatagram;

use scenarios::wait::PATIENCE;
use scenarios::{Folder, Recording, Run, Server, loopback};

/// What systemd wants to see of the machine, in a mount namespace of its own: of the cgroups those below its own only, as
/// it takes what it finds at the top for its own.
const START: &str = "mount -t cgroup2 none /sys/fs/cgroup && mkdir -p /run/systemd && \
                     mount -t tmpfs none /run/systemd && mkdir /run/systemd/system && \
                     exec /lib/systemd/systemd --user";
/// A service that is succeeded by another process of it: that binds, tells systemd whom to look after, and asks its
/// predecessor to go.
const SERVER: &str = "
import os, signal, socket, sys

ready, tell = os.pipe()
if os.fork():
    os.close(tell)
    sys.exit(len(os.read(ready, 1)) == 0)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind((sys.argv[1], 8080))
listener.listen()
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
try:
    predecessor = int(open('server.pid').read())
except FileNotFoundError:
    predecessor = None
with open('server.new', 'w') as file:
    file.write(str(os.getpid()))
os.rename('server.new', 'server.pid')
if predecessor:
    os.kill(predecessor, signal.SIGTERM)
os.write(tell, b'.')
os.close(tell)
while True:
    listener.accept()[0].close()
";

struct Systemd {
    folder: Folder,
    _server: Server,
}

impl Systemd {
    fn start(address: Ipv4Addr) -> Self {
        let folder = Folder::new();
        let here = folder.path().display().to_string();
        folder.write("server.py", SERVER);
        folder.write("default.target", "[Unit]\nDefaultDependencies=no\n");
        let run = format!("/usr/bin/python3 {here}/server.py {address}");
        let service = format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nType=forking\nPIDFile={here}/server.pid\n\
             WorkingDirectory={here}\nExecStart={run}\nExecReload={run}\n"
        );
        folder.write("server.service", service);
        let (units, runtime) = (format!("SYSTEMD_UNIT_PATH={here}"), format!("XDG_RUNTIME_DIR={here}"));
        let ready = UnixDatagram::bind(folder.file("ready")).expect("a socket");
        ready.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let notify = format!("NOTIFY_SOCKET={here}/ready");
        let inside = ["unshare", "--mount", "--cgroup", "sh", "-c", START];
        let server = Server::start(folder.path(), ["env", &units, &runtime, &notify].iter().chain(&inside));
        // sd_notify(3)
        let mut said = [0; 4096];
        while !std::str::from_utf8(&said).is_ok_and(|said| said.contains("READY=1")) {
            said = [0; 4096];
            ready.recv(&mut said).expect("systemd that starts");
        }
        Self { folder, _server: server }
    }

    fn ctl(&self, what: &str) -> String {
        let run = Run::new("systemctl").args(["--user", what, "server"]);
        run.env("XDG_RUNTIME_DIR", self.folder.path()).outcome().expect(0).stdout
    }

    fn main(&self) -> u64 {
        let pid = std::fs::read_to_string(self.folder.file("server.pid")).expect("a server");
        pid.parse().expect("a PID")
    }
}

#[test]
fn a_reload_by_systemd_is_a_note_and_a_restart_is_nothing() {
    let recording = Recording::start();
    let address = loopback();
    let systemd = Systemd::start(address);
    systemd.ctl("start");
    let first = systemd.main();
    systemd.ctl("reload");
    let second = systemd.main();
    recording.wait_for(address, "finding", 1);
    recording.fence();
    let report = recording.so_far().report();
    let finding = report.only(address, 8080);
    assert_eq!((finding.kind(), finding.severity()), ("handover", "note"), "{finding:#?}");
    assert_eq!(finding.pids(), [first, second]);
    assert_eq!(report.at(address).len(), 1, "{report}");
    // The old one ends before the new one is started.
    systemd.ctl("restart");
    assert_ne!(systemd.main(), second);
    recording.fence();
    assert_eq!(recording.stop().report().at(address).len(), 1, "{report}");
}
