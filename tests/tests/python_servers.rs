//! Python's servers and test runners: workers with one socket, workers with a port each, workers that collide.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use scenarios::wait::PATIENCE;
use scenarios::{Folder, Recording, Server, loopback, python};

const APP: &str = "
async def app(scope, receive, send):
    if scope['type'] == 'lifespan':
        while True:
            message = await receive()
            await send({'type': message['type'] + '.complete'})
            if message['type'] == 'lifespan.shutdown':
                return
    await send({'type': 'http.response.start', 'status': 204, 'headers': []})
    await send({'type': 'http.response.body'})
";

/// Each worker runs it, and keeps its port until it is killed.
const TESTS: &str = "
import os, socket, threading

def test_server():
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(os.environ['SHARED']))
    server.bind((os.environ['HOST'], int(os.environ['PORT'])))
    server.listen()
    threading.Event().wait()
";

fn ask(address: Ipv4Addr) -> String {
    let mut stream = TcpStream::connect((address, 8000)).expect("a server that listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Two workers, both started, of which one has answered.
#[track_caller]
fn workers_are_nothing(command: &[&OsStr], folder: &Folder, recording: Recording, address: Ipv4Addr) {
    folder.write("app.py", APP);
    let server = Server::start(folder.path(), command);
    recording.wait_for(address, "listen", 1);
    // The connection waits in the queue until a worker has come up.
    let answer = ask(address);
    assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
    recording.fence();
    let finished = recording.stop();
    assert!(server.processes().len() >= 3, "a supervisor and two workers");
    let found = finished.report().at(address);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn uvicorn_workers_have_the_socket_of_their_supervisor() {
    let (recording, folder, address) = (Recording::start(), Folder::new(), loopback());
    let (program, host) = (python("uvicorn"), address.to_string());
    let arguments = ["--workers", "2", "--port", "8000", "--host", &host, "app:app"];
    let command: Vec<&OsStr> =
        std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsStr::new)).collect();
    workers_are_nothing(&command, &folder, recording, address);
}

#[test]
fn hypercorn_workers_have_the_socket_of_their_supervisor() {
    let (recording, folder, address) = (Recording::start(), Folder::new(), loopback());
    let (program, bind) = (python("hypercorn"), format!("{address}:8000"));
    let arguments = ["--workers", "2", "--bind", &bind, "app:app"];
    let command: Vec<&OsStr> =
        std::iter::once(program.as_os_str()).chain(arguments.iter().map(OsStr::new)).collect();
    workers_are_nothing(&command, &folder, recording, address);
}

/// pytest with two workers of which each runs the test.
fn pytest(folder: &Folder, address: Ipv4Addr, port: u16, shared: bool) -> Server {
    folder.write("test_server.py", TESTS);
    let python = python("python3");
    let environment =
        [format!("HOST={address}"), format!("PORT={port}"), format!("SHARED={}", i32::from(shared))];
    let runner = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--dist=each", "--tx=2*popen"];
    let command = ["env"].map(OsStr::new).into_iter();
    let command = command.chain(environment.iter().map(OsStr::new)).chain([python.as_os_str()]);
    Server::start(folder.path(), command.chain(runner.map(OsStr::new)))
}

#[test]
fn workers_of_pytest_xdist_with_random_ports_are_nothing() {
    let (recording, folder, address) = (Recording::start(), Folder::new(), loopback());
    let _tests = pytest(&folder, address, 0, true);
    recording.wait_for(address, "listen", 2);
    recording.fence();
    let found = recording.stop().report().at(address);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn workers_of_pytest_xdist_with_a_fixed_port_are_found() {
    for (shared, kind) in [(true, "co-bind"), (false, "refused")] {
        let (recording, folder, address) = (Recording::start(), Folder::new(), loopback());
        let tests = pytest(&folder, address, 8000, shared);
        let (event, count) = if shared { ("listen", 2) } else { ("bind-failed", 1) };
        recording.wait_for(address, event, count);
        recording.fence();
        let finding = recording.stop().report().only(address, 8000);
        assert_eq!(finding.kind(), kind);
        let workers = finding.holders();
        assert_eq!(workers.len(), count, "{finding:#?}");
        for worker in &workers {
            let parents = worker.0["parents"].as_array().expect("parents");
            let runner = parents.iter().any(|parent| parent["pid"] == tests.pid());
            assert!(runner, "a worker of the runner: {worker:#?}");
        }
    }
}
