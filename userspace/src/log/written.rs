//! The commonest bodies, read in exactly the form in which they are written.
//!
//! A log of ten million events is mostly binds and closes. A parser that takes fields in any order spends most of its
//! time on finding out that they come in the usual one, so this one insists on it and is several times as fast. Whatever
//! is not as expected, an escape in a name included, is left to serde: None here is never an error.

use std::net::IpAddr;

use crate::event::{
    Bind, Body, Close, Cookie, Door, Family, Gone, Ifindex, Inum, Listen, NetnsCookie, Options, ProcessKey,
    Protocol, SocketFacts, TcpState, Tid, Uid, Unlisten,
};

/// What is still to be read.
struct Scanner<'a>(&'a [u8]);

/// Reads the fields of the body of type `kind`: from the comma behind the head to the closing brace.
pub(super) fn body(kind: &[u8], fields: &[u8]) -> Option<Body> {
    let mut scanner = Scanner(fields);
    let body = match kind {
        b"bind" => Body::Bind(scanner.bind()?),
        b"close" => Body::Close(scanner.close()?),
        b"listen" => Body::Listen(scanner.listen()?),
        b"unlisten" => Body::Unlisten(scanner.unlisten()?),
        b"gone" => Body::Gone(Gone { cookie: scanner.cookie(b",\"cookie\":")? }),
        _ => return None,
    };
    (scanner.0 == b"}").then_some(body)
}

impl<'a> Scanner<'a> {
    fn skip(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Skips `expected` if it is there.
    fn has(&mut self, expected: &[u8]) -> bool {
        self.skip(expected).is_some()
    }

    fn number(&mut self) -> Option<u64> {
        let mut value: u64 = 0;
        let mut digits = 0;
        for byte in self.0 {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
            digits += 1;
        }
        // JSON has no leading zeros.
        if digits == 0 || (digits > 1 && self.0.first() == Some(&b'0')) {
            return None;
        }
        self.0 = self.0.get(digits..)?;
        Some(value)
    }

    fn number_after<T: TryFrom<u64>>(&mut self, key: &[u8]) -> Option<T> {
        self.skip(key)?;
        self.number()?.try_into().ok()
    }

    /// The text up to the next quote; None when there is an escape in it.
    fn text_after(&mut self, key: &[u8]) -> Option<&'a [u8]> {
        self.skip(key)?;
        let end = self.0.iter().position(|byte| *byte == b'"')?;
        let text = self.0.get(..end)?;
        if text.iter().any(|byte| *byte == b'\\' || *byte < 0x20) {
            return None;
        }
        self.0 = self.0.get(end + 1..)?;
        Some(text)
    }

    fn cookie(&mut self, key: &[u8]) -> Option<Cookie> {
        self.number_after(key).map(Cookie)
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
        loop {
            if !options.reuse_addr && self.has(b"\"reuse_addr\":true") {
                options.reuse_addr = true;
            } else if !options.reuse_port && self.has(b"\"reuse_port\":true") {
                options.reuse_port = true;
            } else if !options.v6_only && self.has(b"\"v6_only\":true") {
                options.v6_only = true;
            } else if options.device.0 == 0 {
                options.device = Ifindex(self.number_after(b"\"device\":")?);
            } else {
                return None;
            }
            if self.has(b"}") {
                return Some(options);
            }
            self.skip(b",")?;
        }
    }

    fn socket(&mut self) -> Option<SocketFacts> {
        let cookie = self.cookie(b",\"socket\":{\"cookie\":")?;
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
        let address: IpAddr = std::str::from_utf8(self.text_after(b",\"address\":\"")?).ok()?.parse().ok()?;
        let port = self.number_after(b",\"port\":")?;
        let options = self.options()?;
        let uid = Uid(self.number_after(b",\"uid\":")?);
        self.skip(b"}")?;
        Some(SocketFacts { cookie, netns, netns_cookie, family, protocol, address, port, options, uid })
    }

    fn bind(&mut self) -> Option<Bind> {
        let process = self.process()?;
        let tid = Tid(self.number_after(b",\"tid\":")?);
        let comm = std::str::from_utf8(self.text_after(b",\"comm\":\"")?).ok()?.to_owned();
        let socket = self.socket()?;
        let requested_port = self.number_after(b",\"requested_port\":")?;
        let door = match self.text_after(b",\"door\":\"")? {
            b"syscall" => Door::Syscall,
            b"io-uring" => Door::IoUring,
            _ => return None,
        };
        Some(Bind { process, tid, comm, socket, requested_port, door })
    }

    fn listen(&mut self) -> Option<Listen> {
        Some(Listen { process: self.process()?, socket: self.socket()? })
    }

    fn unlisten(&mut self) -> Option<Unlisten> {
        let cookie = self.cookie(b",\"cookie\":")?;
        Some(Unlisten { cookie, backlog: self.number_after(b",\"backlog\":")? })
    }

    fn close(&mut self) -> Option<Close> {
        let cookie = self.cookie(b",\"cookie\":")?;
        let state = match self.text_after(b",\"state\":\"")? {
            b"close" => TcpState::Close,
            b"listen" => TcpState::Listen,
            b"established" => TcpState::Established,
            b"fin-wait1" => TcpState::FinWait1,
            b"close-wait" => TcpState::CloseWait,
            _ => return None,
        };
        Some(Close { cookie, state, backlog: self.number_after(b",\"backlog\":")? })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;
    use crate::event::Event;
    use crate::log::samples::events;
    use crate::log::{Line, decode, encode};

    /// The fields of an event's line, as [`body`] wants them.
    fn fields(event: &Event) -> Vec<u8> {
        let mut line = Vec::new();
        encode(event, &mut line).unwrap();
        let text = String::from_utf8(line).unwrap();
        let start = text.find("\"hook\":\"post_bind4\"").unwrap() + "\"hook\":\"post_bind4\"".len();
        text[start..].trim_end().as_bytes().to_vec()
    }

    /// What serde makes of the same fields.
    fn by_serde(kind: &str, fields: &[u8]) -> Option<Body> {
        let mut line = format!("{{ \"type\":\"{kind}\"").into_bytes();
        line.extend_from_slice(fields);
        match decode(&mut line) {
            Ok(Line::Event(event)) => Some(event.body),
            _ => None,
        }
    }

    #[test]
    fn what_is_written_is_read_here_and_not_left_to_serde() {
        let hot = ["bind", "close", "listen", "unlisten", "gone"];
        let all = events("node");
        for event in all.iter().filter(|event| hot.contains(&event.body.type_name())) {
            let kind = event.body.type_name();
            assert_eq!(body(kind.as_bytes(), &fields(event)).as_ref(), Some(&event.body), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_here_serde_reads_alike(
            text in any::<String>(),
            at in any::<prop::sample::Index>(),
            byte in prop_oneof![any::<u8>(), Just(b'0'), Just(b'"'), Just(b'}'), Just(b',')],
            cut in any::<bool>(),
        ) {
            for event in events(&text) {
                let kind = event.body.type_name();
                let mut changed = fields(&event);
                prop_assert!(body(kind.as_bytes(), &changed).is_none_or(|body| body == event.body));
                let at = at.index(changed.len());
                if cut {
                    changed.remove(at);
                } else {
                    changed[at] = byte;
                }
                if let Some(body) = body(kind.as_bytes(), &changed) {
                    prop_assert_eq!(Some(body), by_serde(kind, &changed));
                }
            }
        }
    }
}
