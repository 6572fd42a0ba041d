//! The commonest events, written without asking each of their fields how it wants to be written.
//!
//! Of what a recording does for a bind, the line was three quarters. What comes out is, byte for byte, what serde makes of
//! the event; whatever is not usual, a name to be escaped included, is left to serde.

use std::io::Write as _;
use std::net::IpAddr;

use crate::event::{
    Accepted, Bind, Body, Close, Door, Event, Family, Hook, Listen, Options, ProcessKey, Protocol,
    SocketFacts, TcpState,
};

/// Appends the line of a usual event. False: it is not one, and nothing was appended.
pub(super) fn encode(event: &Event, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let (name, hook) = match (&event.body, event.hook) {
        (Body::Bind(_), Hook::PostBind4) => ("bind", "post_bind4"),
        (Body::Bind(_), Hook::PostBind6) => ("bind", "post_bind6"),
        (Body::Close(_), Hook::SockRelease) => ("close", "sock_release"),
        (Body::Listen(_), Hook::InetSockSetState) => ("listen", "inet_sock_set_state"),
        (Body::Accepted(_), Hook::SockOps) => ("accepted", "sock_ops"),
        _ => return false,
    };
    let mut line = Line(out);
    line.text("{\"type\":\"").text(name);
    line.text("\",\"seq\":").number(event.seq.0);
    line.text(",\"at\":").number(event.at.0);
    line.text(",\"hook\":\"").text(hook);
    let is_written = match &event.body {
        Body::Bind(bind) => line.bind(bind),
        Body::Listen(listen) => line.listen(listen),
        Body::Close(close) => line.close(close),
        Body::Accepted(accepted) => line.accepted(accepted),
        _ => false,
    };
    if is_written {
        out.extend_from_slice(b"}\n");
    } else {
        out.truncate(start);
    }
    is_written
}

/// A line being written.
struct Line<'a>(&'a mut Vec<u8>);

impl Line<'_> {
    fn text(&mut self, text: &str) -> &mut Self {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    fn number(&mut self, number: impl itoa::Integer) -> &mut Self {
        self.text(itoa::Buffer::new().format(number))
    }

    fn bind(&mut self, bind: &Bind) -> bool {
        let Bind { process, tid, comm, socket, requested_port, door } = bind;
        if !is_plain(comm) {
            return false;
        }
        self.text("\",\"process\":").process(*process);
        self.text(",\"tid\":").number(tid.0);
        self.text(",\"comm\":\"").text(comm);
        self.text("\",\"socket\":").socket(socket);
        self.text(",\"requested_port\":").number(*requested_port);
        self.text(match door {
            Door::Syscall => ",\"door\":\"syscall\"",
            Door::IoUring => ",\"door\":\"io-uring\"",
            Door::Compat => ",\"door\":\"compat\"",
        });
        true
    }

    fn listen(&mut self, listen: &Listen) -> bool {
        self.text("\",\"process\":").process(listen.process);
        self.text(",\"socket\":").socket(&listen.socket);
        true
    }

    fn close(&mut self, close: &Close) -> bool {
        let state = match close.state {
            TcpState::Close => "close",
            TcpState::Listen => "listen",
            TcpState::Established => "established",
            TcpState::CloseWait => "close-wait",
            _ => return false,
        };
        self.text("\",\"cookie\":").number(close.cookie.0);
        self.text(",\"state\":\"").text(state);
        self.text("\",\"backlog\":").number(close.backlog);
        true
    }

    fn accepted(&mut self, accepted: &Accepted) -> bool {
        self.text("\",\"cookie\":").number(accepted.cookie.0);
        self.text(",\"connections\":").number(accepted.connections);
        true
    }

    fn process(&mut self, process: ProcessKey) -> &mut Self {
        self.text("\"").number(process.tgid).text("@").number(process.start).text("\"")
    }

    fn socket(&mut self, socket: &SocketFacts) -> &mut Self {
        let SocketFacts { cookie, netns, netns_cookie, family, protocol, address, port, options, uid } =
            socket;
        self.text("{\"cookie\":").number(cookie.0);
        self.text(",\"netns\":").number(netns.0);
        self.text(",\"netns_cookie\":").number(netns_cookie.0);
        self.text(match family {
            Family::Inet => ",\"family\":\"inet\"",
            Family::Inet6 => ",\"family\":\"inet6\"",
        });
        self.text(match protocol {
            Protocol::Tcp => ",\"protocol\":\"tcp\"",
            Protocol::Udp => ",\"protocol\":\"udp\"",
            Protocol::Udplite => ",\"protocol\":\"udplite\"",
        });
        self.text(",\"address\":\"").address(*address);
        self.text("\",\"port\":").number(*port);
        self.text(",\"options\":{").options(*options);
        self.text("},\"uid\":").number(uid.0).text("}")
    }

    fn address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                self.number(a).text(".").number(b).text(".").number(c).text(".").number(d)
            }
            IpAddr::V6(address) => {
                // Into memory, which takes everything.
                drop(write!(self.0, "{address}"));
                self
            }
        }
    }

    fn options(&mut self, options: Options) -> &mut Self {
        let Options { reuse_addr, reuse_port, v6_only, device } = options;
        let mut comma = "";
        let flags = [
            (reuse_addr, "\"reuse_addr\":true"),
            (reuse_port, "\"reuse_port\":true"),
            (v6_only, "\"v6_only\":true"),
        ];
        for (_, flag) in flags.into_iter().filter(|(set, _)| *set) {
            self.text(comma).text(flag);
            comma = ",";
        }
        if device.0 != 0 {
            self.text(comma).text("\"device\":").number(device.0);
        }
        self
    }
}

/// Whether JSON has it as it is, and no log viewer takes a part of it for a command (`##`).
fn is_plain(text: &str) -> bool {
    let mut before = 0;
    text.bytes().all(|byte| {
        let is_mark = byte == b'#' && before == b'#';
        before = byte;
        (0x20..0x7f).contains(&byte) && byte != b'"' && byte != b'\\' && !is_mark
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use proptest::prelude::*;

    use super::super::{line, samples};
    use super::*;
    use crate::event::{BootTime, Cookie, Ifindex, Inum, NetnsCookie, Seq, Tid, Uid};

    fn both(event: &Event) -> (Option<String>, String) {
        let (mut usual, mut any) = (b"before".to_vec(), b"before".to_vec());
        let is_usual = encode(event, &mut usual);
        line::encode_any(event, &mut any).unwrap();
        assert!(is_usual || usual == b"before");
        (is_usual.then(|| String::from_utf8(usual).unwrap()), String::from_utf8(any).unwrap())
    }

    #[test]
    fn samples_are_written_as_serde_writes_them() {
        let hooks =
            [Hook::PostBind4, Hook::PostBind6, Hook::SockRelease, Hook::InetSockSetState, Hook::SockOps];
        let mut usual = 0;
        for text in ["x", "a\"b", "a\\b", "a#b", "a##b", "é", "\u{7f}", ""] {
            for event in samples::events(text) {
                for hook in hooks {
                    let (fast, any) = both(&Event { hook, ..event.clone() });
                    usual += usize::from(fast.is_some());
                    assert!(fast.is_none_or(|fast| fast == any), "{any}");
                }
            }
        }
        assert!(usual > 20, "{usual}");
    }

    fn socket() -> impl Strategy<Value = SocketFacts> {
        let numbers = (any::<u64>(), any::<u32>(), any::<u64>(), any::<u16>(), any::<u32>());
        let family = prop_oneof![Just(Family::Inet), Just(Family::Inet6)];
        let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Udplite)];
        let options = (any::<[bool; 3]>(), prop_oneof![Just(0), any::<u32>()]);
        (numbers, family, protocol, any::<IpAddr>(), options).prop_map(
            |((cookie, netns, netns_cookie, port, uid), family, protocol, address, (flags, device))| {
                let [reuse_addr, reuse_port, v6_only] = flags;
                SocketFacts {
                    cookie: Cookie(cookie),
                    netns: Inum(netns),
                    netns_cookie: NetnsCookie(netns_cookie),
                    family,
                    protocol,
                    address,
                    port,
                    options: Options { reuse_addr, reuse_port, v6_only, device: Ifindex(device) },
                    uid: Uid(uid),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn binds_are_written_as_serde_writes_them(
            socket in socket(),
            (seq, at, start) in any::<(u64, u64, u64)>(),
            (tgid, tid, requested_port) in any::<(u32, u32, u16)>(),
            comm in ".{0,15}|[ -~]{0,15}",
            door in prop_oneof![Just(Door::Syscall), Just(Door::IoUring), Just(Door::Compat)],
        ) {
            let process = ProcessKey { tgid, start };
            let event = |hook, body| Event { seq: Seq(seq), at: BootTime(at), hook, body };
            let bind = Bind { process, tid: Tid(tid), comm, socket: socket.clone(), requested_port, door };
            let (fast, any) = both(&event(Hook::PostBind6, Body::Bind(bind)));
            prop_assert!(fast.is_none_or(|fast| fast == any));
            let (fast, any) = both(&event(Hook::InetSockSetState, Body::Listen(Listen { process, socket })));
            prop_assert_eq!(fast, Some(any));
        }
    }
}
