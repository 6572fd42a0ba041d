//! Real programs that are large to install: selected by `cargo xtask test --real`.

#![expect(clippy::expect_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::path::{Path, PathBuf};

use scenarios::{Folder, Recording, Run, Server, loopback, real};

const GO_SERVER: &str = "
package main

import (
	\"net\"
	\"os\"
)

func main() {
	listener, err := net.Listen(\"tcp\", os.Args[1])
	if err != nil {
		panic(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			panic(err)
		}
		connection.Close()
	}
}
";

fn go_server(folder: &Folder) -> PathBuf {
    folder.write("server.go", GO_SERVER);
    folder.write("go.mod", "module server\n\ngo 1.24\n");
    let program = folder.file("server");
    let go = real("go/bin/go");
    let cache = |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let build = Run::new(go).args(["build", "-o"]).args([&program]).args(["."]);
    let build = build.env("GOCACHE", cache("go-cache")).env("GOPATH", cache("go-path"));
    let build = build.env("GOTOOLCHAIN", "local").env("CGO_ENABLED", "0").folder(folder.path());
    let _built = build.within(std::time::Duration::from_secs(300)).outcome().expect(0);
    program
}

/// Go has listened by MPTCP since 1.24: the socket that is held and the one that has the port are one.
#[test]
fn a_go_server_is_one_holder_and_the_second_learns_who() {
    let (folder, address) = (Folder::new(), loopback());
    let program = go_server(&folder);
    let endpoint = format!("{address}:8000");
    let recording = Recording::start();
    let one = Server::start(folder.path(), [program.as_os_str(), endpoint.as_ref()]);
    recording.wait_for(address, "listen", 1);
    let listed = Run::bindwatch(["list", "--format", "json"]).outcome().expect(0);
    let listed = scenarios::Report::of(&listed.stdout);
    let sockets = listed.0["sockets"].as_array().expect("sockets").iter();
    let here = sockets.filter(|socket| socket["address"].as_str() == Some(&address.to_string())).count();
    assert_eq!(here, 1, "one socket, not a socket and its subflow");
    let other = Server::start(folder.path(), [program.as_os_str(), endpoint.as_ref()]);
    recording.wait_for(address, "bind-failed", 1);
    recording.fence();
    let report = recording.stop().report();
    let finding = report.only(address, 8000);
    assert_eq!((finding.kind(), finding.text("protocol")), ("refused", "tcp"));
    assert_eq!(finding.pids(), [u64::from(one.pid())]);
    assert_eq!(finding.victim().number("pid"), u64::from(other.pid()));
}
