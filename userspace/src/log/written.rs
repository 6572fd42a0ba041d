//! The commonest events, read in exactly the form in which they are written, into memory that is there already.
//!
//! A log of ten million events is mostly binds and closes. A parser that takes fields in any order spends most of its
//! time on finding out that they come in the usual one, and on memory for each event; this one insists on the order and
//! is several times as fast. Whatever is not as expected, an escape in a name included, is left to serde: None here is
//! never an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::line::hook_named;
use crate::event::{
    Accepted, Bind, Body, BootTime, Changed, Close, Cookie, Door, Event, Exit, Family, Gone, Hook, Ifindex,
    Inum, Listen, NetnsCookie, OptionSet, Options, ProcessKey, Protocol, Seq, Setting, SocketFacts, TcpState,
    Tid, Uid, Unlisten,
};

/// The head of an event's line.
pub(super) struct Head<'a> {
    pub(super) kind: &'a [u8],
    pub(super) seq: Seq,
    pub(super) at: BootTime,
    pub(super) hook: Hook,
    /// The body's fields, from the comma before them to the closing brace.
    pub(super) fields: &'a [u8],
}

/// Reads the head where it has the form in which it is written; None for any other line.
pub(super) fn head(line: &[u8]) -> Option<Head<'_>> {
    let mut scanner = Scanner(line);
    let kind = scanner.text_after(b"{\"type\":\"")?;
    let seq = Seq(scanner.number_after(b",\"seq\":")?);
    let at = BootTime(scanner.number_after(b",\"at\":")?);
    let hook = scanner.text_after(b",\"hook\":\"")?;
    let hook = match (kind, hook) {
        // As they nearly always are.
        (b"bind", b"post_bind4") => Hook::PostBind4,
        (b"close", b"sock_release") => Hook::SockRelease,
        (b"listen", b"inet_sock_set_state") => Hook::InetSockSetState,
        (b"accepted", b"sock_ops") => Hook::SockOps,
        (b"bind", b"post_bind6") => Hook::PostBind6,
        (b"exit", b"sched_process_exit") => Hook::SchedProcessExit,
        _ => hook_named(std::str::from_utf8(hook).ok()?),
    };
    (scanner.0.first() == Some(&b',')).then_some(Head { kind, seq, at, hook, fields: scanner.0 })
}

/// Room for one event of each common kind, to be overwritten by the next of its kind.
pub(super) struct Room {
    bind: Event,
    close: Event,
    listen: Event,
    accepted: Event,
    changed: Event,
    exit: Event,
    gone: Event,
    option: Event,
    unlisten: Event,
    /// What is not read here is kept here all the same.
    pub(super) other: Event,
}

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Bind,
    Close,
    Listen,
    Accepted,
    Changed,
    Exit,
    Gone,
    Option,
    Unlisten,
    Other,
}

impl Room {
    pub(super) fn new() -> Self {
        let event = |body| Event { seq: Seq(0), at: BootTime(0), hook: Hook::Bindwatch, body };
        let (cookie, process) = (Cookie(0), ProcessKey { tgid: 0, start: 0 });
        let socket = SocketFacts {
            cookie,
            netns: Inum(0),
            netns_cookie: NetnsCookie(0),
            family: Family::Inet,
            protocol: Protocol::Tcp,
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            port: 0,
            options: Options::default(),
            uid: Uid(0),
        };
        let bind = Bind {
            process,
            tid: Tid(0),
            comm: String::new(),
            socket: socket.clone(),
            requested_port: 0,
            door: Door::Syscall,
        };
        Self {
            bind: event(Body::Bind(bind)),
            close: event(Body::Close(Close { cookie, state: TcpState::Close, backlog: 0 })),
            listen: event(Body::Listen(Listen { process, socket: socket.clone() })),
            accepted: event(Body::Accepted(Accepted { cookie, connections: 0 })),
            changed: event(Body::Changed(Changed { process: None, socket, state: TcpState::Close })),
            exit: event(Body::Exit(Exit { process })),
            gone: event(Body::Gone(Gone { cookie })),
            option: event(Body::Option(OptionSet { cookie, setting: Setting::Multicast })),
            unlisten: event(Body::Unlisten(Unlisten { cookie, backlog: 0 })),
            other: event(Body::Gone(Gone { cookie })),
        }
    }

    /// Reads a line that is exactly as it would be written and of a common kind.
    pub(super) fn read(&mut self, line: &[u8]) -> Option<Which> {
        let head = head(line)?;
        let which = match head.kind {
            b"bind" => Which::Bind,
            b"close" => Which::Close,
            b"listen" => Which::Listen,
            b"accepted" => Which::Accepted,
            b"changed" => Which::Changed,
            b"exit" => Which::Exit,
            b"gone" => Which::Gone,
            b"option" => Which::Option,
            b"unlisten" => Which::Unlisten,
            _ => return None,
        };
        let event = self.event_mut(which);
        (event.seq, event.at, event.hook) = (head.seq, head.at, head.hook);
        let mut scanner = Scanner(head.fields);
        match &mut event.body {
            Body::Bind(bind) => scanner.bind(bind)?,
            Body::Close(close) => *close = scanner.close()?,
            Body::Listen(listen) => {
                *listen = Listen { process: scanner.process()?, socket: scanner.socket()? };
            }
            Body::Accepted(accepted) => {
                let cookie = scanner.cookie()?;
                *accepted = Accepted { cookie, connections: scanner.number_after(b",\"connections\":")? };
            }
            Body::Changed(changed) => *changed = scanner.changed()?,
            Body::Exit(exit) => exit.process = scanner.process()?,
            Body::Gone(gone) => gone.cookie = scanner.cookie()?,
            Body::Option(option) => {
                *option = OptionSet { cookie: scanner.cookie()?, setting: scanner.setting()? };
            }
            Body::Unlisten(unlisten) => {
                let cookie = scanner.cookie()?;
                *unlisten = Unlisten { cookie, backlog: scanner.number_after(b",\"backlog\":")? };
            }
            _ => return None,
        }
        (scanner.0 == b"}").then_some(which)
    }

    pub(super) const fn event(&self, which: Which) -> &Event {
        match which {
            Which::Bind => &self.bind,
            Which::Close => &self.close,
            Which::Listen => &self.listen,
            Which::Accepted => &self.accepted,
            Which::Changed => &self.changed,
            Which::Exit => &self.exit,
            Which::Gone => &self.gone,
            Which::Option => &self.option,
            Which::Unlisten => &self.unlisten,
            Which::Other => &self.other,
        }
    }

    const fn event_mut(&mut self, which: Which) -> &mut Event {
        match which {
            Which::Bind => &mut self.bind,
            Which::Close => &mut self.close,
            Which::Listen => &mut self.listen,
            Which::Accepted => &mut self.accepted,
            Which::Changed => &mut self.changed,
            Which::Exit => &mut self.exit,
            Which::Gone => &mut self.gone,
            Which::Option => &mut self.option,
            Which::Unlisten => &mut self.unlisten,
            Which::Other => &mut self.other,
        }
    }
}

/// What is still to be read.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// The length is known to the compiler, which compares a few words then.
    fn skip<const N: usize>(&mut self, expected: &[u8; N]) -> Option<()> {
        let (start, rest) = self.0.split_first_chunk::<N>()?;
        if start != expected {
            return None;
        }
        self.0 = rest;
        Some(())
    }

    /// Skips `expected` if it is there.
    fn has<const N: usize>(&mut self, expected: &[u8; N]) -> bool {
        self.skip(expected).is_some()
    }

    /// A number as JSON writes it, without a sign or fraction.
    fn number(&mut self) -> Option<u64> {
        let Some(eight) = self.0.first_chunk::<8>() else { return self.any_number() };
        let (count, value) = digits(*eight);
        // JSON has no leading zeros.
        if eight.first() == Some(&b'0') && count > 1 {
            return None;
        }
        if count == 8 {
            return self.long_number(value);
        }
        self.0 = self.0.get(count..)?;
        (count > 0).then_some(value)
    }

    /// The same when it begins with eight digits that make `first`.
    fn long_number(&mut self, first: u64) -> Option<u64> {
        const POWERS: [u64; 8] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];
        let Some(second) = self.0.get(8..).and_then(<[u8]>::first_chunk::<8>) else {
            return self.any_number();
        };
        let (count, value) = digits(*second);
        let Some(power) = POWERS.get(count) else { return self.any_number() };
        self.0 = self.0.get(8 + count..)?;
        Some(first * power + value)
    }

    /// The same of any length, digit by digit.
    fn any_number(&mut self) -> Option<u64> {
        let length = self.0.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (digits, rest) = self.0.split_at_checked(length)?;
        if digits.is_empty() || (length > 1 && digits.first() == Some(&b'0')) {
            return None;
        }
        self.0 = rest;
        digits.iter().try_fold(0_u64, |value, digit| {
            value.checked_mul(10)?.checked_add(u64::from(digit.wrapping_sub(b'0')))
        })
    }

    fn number_after<T: TryFrom<u64>, const N: usize>(&mut self, key: &[u8; N]) -> Option<T> {
        self.skip(key)?;
        self.number()?.try_into().ok()
    }

    /// The text up to the next quote; None when there is an escape in it.
    fn text_after<const N: usize>(&mut self, key: &[u8; N]) -> Option<&'a [u8]> {
        self.skip(key)?;
        let end = self.0.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20))?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.strip_prefix(b"\"")?;
        Some(text)
    }

    fn cookie(&mut self) -> Option<Cookie> {
        self.number_after(b",\"cookie\":").map(Cookie)
    }

    fn process(&mut self) -> Option<ProcessKey> {
        let tgid = self.number_after(b",\"process\":\"")?;
        let start = self.number_after(b"@")?;
        self.skip(b"\"")?;
        Some(ProcessKey { tgid, start })
    }

    fn options(&mut self) -> Option<Options> {
        self.skip(b",\"options\":{")?;
        let mut options = Options::default();
        if self.has(b"}") {
            return Some(options);
        }
        let mut more = true;
        if self.has(b"\"reuse_addr\":true") {
            options.reuse_addr = true;
            more = self.has(b",");
        }
        if more && self.has(b"\"reuse_port\":true") {
            options.reuse_port = true;
            more = self.has(b",");
        }
        if more && self.has(b"\"v6_only\":true") {
            options.v6_only = true;
            more = self.has(b",");
        }
        if more {
            options.device = Ifindex(self.number_after(b"\"device\":")?);
        }
        self.skip(b"}")?;
        Some(options)
    }

    fn address(&mut self) -> Option<IpAddr> {
        self.skip(b",\"address\":\"")?;
        let start = self.0;
        let mut octet = |end| {
            let octet = u8::try_from(self.number()?).ok()?;
            let (first, rest) = self.0.split_first()?;
            self.0 = rest;
            (*first == end).then_some(octet)
        };
        let mut octets = || Some([octet(b'.')?, octet(b'.')?, octet(b'.')?, octet(b'"')?]);
        if let Some(octets) = octets() {
            return Some(IpAddr::from(octets));
        }
        self.0 = start;
        if self.has(b"::\"") {
            return Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        }
        std::str::from_utf8(self.text_after(b"")?).ok()?.parse().ok()
    }

    fn socket(&mut self) -> Option<SocketFacts> {
        let cookie = self.number_after(b",\"socket\":{\"cookie\":").map(Cookie)?;
        let netns = Inum(self.number_after(b",\"netns\":")?);
        let netns_cookie = NetnsCookie(self.number_after(b",\"netns_cookie\":")?);
        let family = match self.text_after(b",\"family\":\"")? {
            b"inet" => Family::Inet,
            b"inet6" => Family::Inet6,
            _ => return None,
        };
        let protocol = match self.text_after(b",\"protocol\":\"")? {
            b"tcp" => Protocol::Tcp,
            b"udp" => Protocol::Udp,
            b"udplite" => Protocol::Udplite,
            _ => return None,
        };
        let address = self.address()?;
        let port = self.number_after(b",\"port\":")?;
        let options = self.options()?;
        let uid = Uid(self.number_after(b",\"uid\":")?);
        self.skip(b"}")?;
        Some(SocketFacts { cookie, netns, netns_cookie, family, protocol, address, port, options, uid })
    }

    fn bind(&mut self, bind: &mut Bind) -> Option<()> {
        bind.process = self.process()?;
        bind.tid = Tid(self.number_after(b",\"tid\":")?);
        let comm = self.text_after(b",\"comm\":\"")?;
        if bind.comm.as_bytes() != comm {
            bind.comm.clear();
            bind.comm.push_str(std::str::from_utf8(comm).ok()?);
        }
        bind.socket = self.socket()?;
        bind.requested_port = self.number_after(b",\"requested_port\":")?;
        bind.door = match self.text_after(b",\"door\":\"")? {
            b"syscall" => Door::Syscall,
            b"io-uring" => Door::IoUring,
            b"compat" => Door::Compat,
            _ => return None,
        };
        Some(())
    }

    fn state(&mut self) -> Option<TcpState> {
        Some(match self.text_after(b",\"state\":\"")? {
            b"listen" => TcpState::Listen,
            b"close" => TcpState::Close,
            b"established" => TcpState::Established,
            b"syn-sent" => TcpState::SynSent,
            b"fin-wait1" => TcpState::FinWait1,
            b"fin-wait2" => TcpState::FinWait2,
            b"close-wait" => TcpState::CloseWait,
            b"last-ack" => TcpState::LastAck,
            b"closing" => TcpState::Closing,
            _ => return None,
        })
    }

    fn close(&mut self) -> Option<Close> {
        let (cookie, state) = (self.cookie()?, self.state()?);
        Some(Close { cookie, state, backlog: self.number_after(b",\"backlog\":")? })
    }

    fn changed(&mut self) -> Option<Changed> {
        let process = if self.0.starts_with(b",\"process\":") { Some(self.process()?) } else { None };
        Some(Changed { process, socket: self.socket()?, state: self.state()? })
    }

    fn setting(&mut self) -> Option<Setting> {
        if self.has(b",\"setting\":\"multicast\"") {
            return Some(Setting::Multicast);
        }
        self.skip(b",\"setting\":{\"")?;
        let setting = if self.has(b"reuse_addr\":") {
            Setting::ReuseAddr(self.flag()?)
        } else if self.has(b"reuse_port\":") {
            Setting::ReusePort(self.flag()?)
        } else {
            Setting::Device(Ifindex(self.number_after(b"device\":")?))
        };
        self.skip(b"}")?;
        Some(setting)
    }

    fn flag(&mut self) -> Option<bool> {
        if self.has(b"true") { Some(true) } else { self.skip(b"false").map(|()| false) }
    }
}

/// How many of these bytes, from the first, are digits, and the number that they make. All eight at once: a line has
/// seventy digits.
fn digits(bytes: [u8; 8]) -> (usize, u64) {
    const ZEROS: u64 = 0x3030_3030_3030_3030;
    /// What makes the high bit of every byte that is 10 or more.
    const ABOVE_9: u64 = 0x7676_7676_7676_7676;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_le_bytes(bytes) ^ ZEROS;
    // A carry goes into bytes behind the first that is no digit, where it does not matter.
    let other = (word.wrapping_add(ABOVE_9) | word) & HIGH;
    let count = other.trailing_zeros() / 8;
    if count == 0 {
        return (0, 0);
    }
    // The digits to the end, zeros before them; then pairs, fours and the eight are joined.
    let value = word << (64 - 8 * count);
    let value = (value.wrapping_mul(10) + (value >> 8)) & 0x00ff_00ff_00ff_00ff;
    let value = (value.wrapping_mul(100) + (value >> 16)) & 0x0000_ffff_0000_ffff;
    let value = (value.wrapping_mul(10_000) + (value >> 32)) & 0xffff_ffff;
    (count as usize, value)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;
    use crate::log::samples::events;
    use crate::log::{Line, decode, encode};

    fn written(event: &Event) -> Vec<u8> {
        let mut line = Vec::new();
        encode(event, &mut line).unwrap();
        assert_eq!(line.pop(), Some(b'\n'));
        line
    }

    /// What is read here.
    fn by_hand(line: &[u8]) -> Option<Event> {
        let mut room = Room::new();
        let which = room.read(line)?;
        Some(room.event(which).clone())
    }

    /// What serde makes of the same line: a space makes sure that it is asked.
    fn by_serde(line: &[u8]) -> Option<Event> {
        let mut line = [b"{ ", &line[1..]].concat();
        match decode(&mut line) {
            Ok(Line::Event(event)) => Some(event),
            _ => None,
        }
    }

    #[test]
    fn what_is_written_is_read_here_and_not_left_to_serde() {
        let common = ["bind", "close", "listen", "accepted", "changed", "exit", "gone", "option", "unlisten"];
        let all = events("node");
        for event in all.iter().filter(|event| common.contains(&event.body.type_name())) {
            assert_eq!(by_hand(&written(event)).as_ref(), Some(event));
        }
    }

    #[test]
    fn digits_stop_where_they_stop() {
        for (text, count, value) in
            [("12345678", 8, 12_345_678), ("0000000x", 7, 0), ("7,\"at\":1", 1, 7), ("/0000000", 0, 0)]
        {
            assert_eq!(digits(text.as_bytes()[..8].try_into().unwrap()), (count, value), "{text}");
        }
        for byte in 0..=255 {
            let expected = if byte == b'9' { (8, 99_999_999) } else { (3, 999) };
            let found = digits([b'9', b'9', b'9', byte, b'9', b'9', b'9', b'9']);
            assert!(found == expected || (byte.is_ascii_digit() && found.0 == 8), "{byte}: {found:?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_are_those_of_serde(number in any::<u64>(), shift in 0..64_u32, rest in "[0-9,.}e]{0,9}") {
            let text = format!("{}{rest}", number >> shift);
            let mut scanner = Scanner(text.as_bytes());
            let found = scanner.number();
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            prop_assert_eq!(found, serde_json::from_str::<u64>(&text[..digits]).ok());
            prop_assert!(found.is_none() || scanner.0 == &text.as_bytes()[digits..]);
        }

        #[test]
        fn what_is_read_here_serde_reads_alike(
            text in any::<String>(),
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![any::<u8>(), Just(b'0'), Just(b'"'), Just(b'}'), Just(b','), Just(b' ')],
            change in 0..4_u8,
        ) {
            for event in events(&text) {
                let mut line = written(&event);
                prop_assert!(by_hand(&line).is_none_or(|found| found == event));
                let at = at.index(line.len() - 1) + 1;
                match change {
                    0 => drop(line.remove(at)),
                    1 => line.insert(at, byte),
                    2 => line.truncate(at),
                    _ => line[at] = byte,
                }
                if let Some(found) = by_hand(&line) {
                    prop_assert_eq!(Some(found), by_serde(&line));
                }
            }
        }
    }
}
