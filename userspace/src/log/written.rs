//! The commonest events, read in exactly the form in which they are written, into memory that is there already.
//!
//! A log of ten million events is mostly binds and closes. A parser that takes fields in any order spends most of its
//! time on finding out that they come in the usual one, and on memory for each event; this one insists on the order and
//! is several times as fast. Whatever is not as expected, an escape in a name included, is left to serde: None here is
//! never an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::line::hook_named;
use super::recent::Recent;
use crate::event::{
    Accepted, Bind, Body, BootTime, Changed, Close, Cookie, Door, Event, Exit, Family, Gone, Hook, Ifindex,
    Inum, Known, Listen, NetnsCookie, OptionSet, Options, Process, ProcessKey, Protocol, Seq, Setting,
    SocketFacts, TcpState, Tid, Uid, Unlisten,
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
    process: Event,
    gone: Event,
    option: Event,
    unlisten: Event,
    /// What is not read here is kept here all the same.
    pub(super) other: Event,
    recent: Parts,
}

/// Parts of lines that mostly are as they were.
struct Parts {
    /// By kind.
    hooks: [Recent<Hook>; KINDS],
    spaces: Recent<Space>,
    options: Recent<(Options, Uid)>,
    closes: Recent<(TcpState, u32)>,
}

/// What comes before a socket's address.
#[derive(Clone, Copy)]
struct Space {
    netns: Inum,
    netns_cookie: NetnsCookie,
    family: Family,
    protocol: Protocol,
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
    Process,
    Gone,
    Option,
    Unlisten,
    Other,
}

/// Common kinds.
const KINDS: usize = Which::Other as usize;

impl Room {
    pub(super) fn new() -> Self {
        let event = |body| Event { seq: Seq(0), at: BootTime(0), hook: Hook::Bindwatch, body };
        let (cookie, process) = (Cookie(0), ProcessKey { tgid: 0, start: 0 });
        let space = Space {
            netns: Inum(0),
            netns_cookie: NetnsCookie(0),
            family: Family::Inet,
            protocol: Protocol::Tcp,
        };
        let socket = SocketFacts {
            cookie,
            netns: space.netns,
            netns_cookie: space.netns_cookie,
            family: space.family,
            protocol: space.protocol,
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
            process: event(Body::Process(Process::new(process, Known::Name))),
            gone: event(Body::Gone(Gone { cookie })),
            option: event(Body::Option(OptionSet { cookie, setting: Setting::Multicast })),
            unlisten: event(Body::Unlisten(Unlisten { cookie, backlog: 0 })),
            other: event(Body::Gone(Gone { cookie })),
            recent: Parts {
                hooks: std::array::from_fn(|_| Recent::new(Hook::Bindwatch)),
                spaces: Recent::new(space),
                options: Recent::new((Options::default(), Uid(0))),
                closes: Recent::new((TcpState::Close, 0)),
            },
        }
    }

    /// Reads the line that `text` begins with, when it is whole, exactly as it would be written, and of a common kind;
    /// also how long it is, its line feed included.
    pub(super) fn read(&mut self, text: &[u8]) -> Option<(Which, usize)> {
        let mut scanner = Scanner(text);
        scanner.skip(b"{\"type\":\"")?;
        let which = scanner.kind()?;
        let seq = Seq(scanner.number()?);
        let at = BootTime(scanner.number_after(b",\"at\":")?);
        let hook = scanner.recent(self.recent.hooks.get_mut(which as usize)?, Scanner::hook)?;
        let (event, parts) = self.event_mut(which);
        (event.seq, event.at, event.hook) = (seq, at, hook);
        match &mut event.body {
            Body::Bind(bind) => scanner.bind(bind, parts)?,
            Body::Close(close) => {
                close.cookie = scanner.cookie()?;
                (close.state, close.backlog) = scanner.recent(&mut parts.closes, Scanner::close)?;
            }
            Body::Listen(listen) => {
                *listen = Listen { process: scanner.process()?, socket: scanner.socket(parts)? };
            }
            Body::Accepted(accepted) => {
                let cookie = scanner.cookie()?;
                *accepted = Accepted { cookie, connections: scanner.number_after(b",\"connections\":")? };
            }
            Body::Changed(changed) => *changed = scanner.changed(parts)?,
            Body::Exit(exit) => exit.process = scanner.process()?,
            Body::Process(facts) => scanner.facts(facts)?,
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
        if which != Which::Close {
            scanner.skip(b"}")?;
        }
        scanner.skip(b"\n")?;
        Some((which, text.len() - scanner.0.len()))
    }

    pub(super) const fn event(&self, which: Which) -> &Event {
        match which {
            Which::Bind => &self.bind,
            Which::Close => &self.close,
            Which::Listen => &self.listen,
            Which::Accepted => &self.accepted,
            Which::Changed => &self.changed,
            Which::Exit => &self.exit,
            Which::Process => &self.process,
            Which::Gone => &self.gone,
            Which::Option => &self.option,
            Which::Unlisten => &self.unlisten,
            Which::Other => &self.other,
        }
    }

    const fn event_mut(&mut self, which: Which) -> (&mut Event, &mut Parts) {
        let event = match which {
            Which::Bind => &mut self.bind,
            Which::Close => &mut self.close,
            Which::Listen => &mut self.listen,
            Which::Accepted => &mut self.accepted,
            Which::Changed => &mut self.changed,
            Which::Exit => &mut self.exit,
            Which::Process => &mut self.process,
            Which::Gone => &mut self.gone,
            Which::Option => &mut self.option,
            Which::Unlisten => &mut self.unlisten,
            Which::Other => &mut self.other,
        };
        (event, &mut self.recent)
    }
}

/// What is still to be read.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// The same as `read`, unless it was read a moment ago.
    #[inline]
    fn recent<T: Copy>(
        &mut self,
        recent: &mut Recent<T>,
        read: impl FnOnce(&mut Self) -> Option<T>,
    ) -> Option<T> {
        let (found, rest) = recent.read(self.0, |text| {
            let mut scanner = Scanner(text);
            Some((read(&mut scanner)?, scanner.0))
        })?;
        self.0 = rest;
        Some(found)
    }

    /// The kind of a common line, up to its number.
    #[inline]
    fn kind(&mut self) -> Option<Which> {
        Some(match self.0.first()? {
            b'b' => self.skip(b"bind\",\"seq\":").map(|()| Which::Bind)?,
            b'c' if self.has(b"close\",\"seq\":") => Which::Close,
            b'c' => self.skip(b"changed\",\"seq\":").map(|()| Which::Changed)?,
            b'l' => self.skip(b"listen\",\"seq\":").map(|()| Which::Listen)?,
            b'a' => self.skip(b"accepted\",\"seq\":").map(|()| Which::Accepted)?,
            b'e' => self.skip(b"exit\",\"seq\":").map(|()| Which::Exit)?,
            b'g' => self.skip(b"gone\",\"seq\":").map(|()| Which::Gone)?,
            b'p' => self.skip(b"process\",\"seq\":").map(|()| Which::Process)?,
            b'o' => self.skip(b"option\",\"seq\":").map(|()| Which::Option)?,
            b'u' => self.skip(b"unlisten\",\"seq\":").map(|()| Which::Unlisten)?,
            _ => return None,
        })
    }

    fn hook(&mut self) -> Option<Hook> {
        let name = self.text_after(b",\"hook\":\"")?;
        Some(hook_named(std::str::from_utf8(name).ok()?))
    }

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

    /// The same into memory that is there already.
    fn string_after<const N: usize>(&mut self, key: &[u8; N], string: &mut String) -> Option<()> {
        let text = std::str::from_utf8(self.text_after(key)?).ok()?;
        string.clear();
        string.push_str(text);
        Some(())
    }

    fn cookie(&mut self) -> Option<Cookie> {
        self.number_after(b",\"cookie\":").map(Cookie)
    }

    fn process(&mut self) -> Option<ProcessKey> {
        self.skip(b",\"process\":")?;
        self.key()
    }

    fn key(&mut self) -> Option<ProcessKey> {
        let tgid = self.number_after(b"\"")?;
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
        if self.has(b"127.0.0.1\"") {
            return Some(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
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

    fn space(&mut self) -> Option<Space> {
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
        Some(Space { netns, netns_cookie, family, protocol })
    }

    fn socket(&mut self, parts: &mut Parts) -> Option<SocketFacts> {
        let cookie = self.number_after(b",\"socket\":{\"cookie\":").map(Cookie)?;
        let Space { netns, netns_cookie, family, protocol } = self.recent(&mut parts.spaces, Self::space)?;
        let address = self.address()?;
        let port = self.number_after(b",\"port\":")?;
        let (options, uid) = self.recent(&mut parts.options, |scanner| {
            let options = scanner.options()?;
            let uid = Uid(scanner.number_after(b",\"uid\":")?);
            scanner.skip(b"}").map(|()| (options, uid))
        })?;
        Some(SocketFacts { cookie, netns, netns_cookie, family, protocol, address, port, options, uid })
    }

    fn bind(&mut self, bind: &mut Bind, parts: &mut Parts) -> Option<()> {
        bind.process = self.process()?;
        bind.tid = Tid(self.number_after(b",\"tid\":")?);
        // The same name as the last is not looked at again.
        let key = b",\"comm\":\"";
        let after = self.0.strip_prefix(key).and_then(|text| text.strip_prefix(bind.comm.as_bytes()));
        match after.and_then(|text| text.strip_prefix(b"\"")) {
            Some(rest) => self.0 = rest,
            None => self.string_after(key, &mut bind.comm)?,
        }
        bind.socket = self.socket(parts)?;
        bind.requested_port = self.number_after(b",\"requested_port\":")?;
        if self.has(b",\"door\":\"syscall\"") {
            bind.door = Door::Syscall;
            return Some(());
        }
        bind.door = match self.text_after(b",\"door\":\"")? {
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

    /// How a socket was closed, with the brace behind it, which ends the number.
    fn close(&mut self) -> Option<(TcpState, u32)> {
        let (state, backlog) = (self.state()?, self.number_after(b",\"backlog\":")?);
        self.skip(b"}").map(|()| (state, backlog))
    }

    fn changed(&mut self, parts: &mut Parts) -> Option<Changed> {
        let process = if self.0.starts_with(b",\"process\":") { Some(self.process()?) } else { None };
        Some(Changed { process, socket: self.socket(parts)?, state: self.state()? })
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

mod process;
#[cfg(test)]
mod tests;
