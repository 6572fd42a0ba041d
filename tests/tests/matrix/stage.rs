//! Where the pairs are played: two processes that have nothing to do with each other, and one that knocks.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use scenarios::wait::Deadline;
use scenarios::{Actor, Answer};

/// Connections, or datagrams, by which is found out who receives. Where two share, that one of them gets none of so many
/// happens once in 2^23 times.
const KNOCKS: u64 = 24;

/// Two processes that have nothing to do with each other, and one that knocks, in a network namespace of their own.
pub(crate) struct Stage {
    pub(crate) a: Actor,
    pub(crate) b: Actor,
    pub(crate) client: Actor,
    pub(crate) netns: u64,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let mut a = Actor::new();
        a.ok("unshare-net");
        // So that every refused datagram is answered.
        a.ok("sysctl net/ipv4/icmp_ratemask 0");
        let namespace = format!("/proc/{}/ns/net", a.pid());
        let inside = || {
            let mut command = Command::new("nsenter");
            Actor::start(command.arg(format!("--net={namespace}")).arg(Actor::program()))
        };
        let (b, client) = (inside(), inside());
        let netns = std::fs::metadata(&namespace).expect("a network namespace").ino();
        Self { a, b, client, netns }
    }

    /// Who gets what is sent there: one letter, all of it; several, each some; `.` nobody. The sockets are A's, B's and
    /// the client's.
    pub(crate) fn receivers(&mut self, protocol: &str, target: &str, sockets: [Option<u64>; 3]) -> String {
        let knock = if protocol == "mptcp" { "tcp" } else { protocol };
        let mut refused = self.client.ok(&format!("knock {knock} {target} {KNOCKS}")).number("refused");
        let mut taken = [0; 3];
        let deadline = Deadline::patient();
        while taken.iter().sum::<u64>() + refused < KNOCKS && !deadline.over() {
            let actors = [&mut self.a, &mut self.b, &mut self.client];
            for ((actor, socket), taken) in actors.into_iter().zip(sockets).zip(&mut taken) {
                *taken += socket.map_or(0, |socket| take(actor, socket));
            }
            if protocol == "udp" {
                refused += self.client.ok("unreached").number("refused");
            }
        }
        self.client.ok("hang-up");
        let got: String =
            "ABC".chars().zip(taken).filter(|(_, taken)| *taken > 0).map(|(who, _)| who).collect();
        match refused {
            0 => got,
            KNOCKS => ".".to_owned(),
            _ => format!("{got}, {refused} refused"),
        }
    }
}

/// Takes what waits; nothing can wait in a socket that does not listen.
fn take(actor: &mut Actor, id: u64) -> u64 {
    let answer = actor.tell(&format!("take {id}"));
    if answer.is_ok() { answer.number("taken") } else { 0 }
}

pub(crate) fn failure(answer: &Answer, letter: &str) -> String {
    match answer.to_string().as_str() {
        _ if answer.is_ok() => String::new(),
        "err EADDRINUSE" => letter.to_owned(),
        other => other.to_owned(),
    }
}
