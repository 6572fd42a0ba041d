//! What the user wants to see: words that a row must have, or must not.
//!
//! `8080 node !127.0.0.1`: rows with port or PID 8080, with "node" in a name, and without 127.0.0.1.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

/// Words in one filter; the rest are not looked at.
const TERMS_MAX: usize = 16;

/// Something a row can be found by.
#[derive(Clone, Copy, Debug)]
pub enum Field<'a> {
    /// An address and port.
    Endpoint(IpAddr, u16),
    /// A process's id.
    Pid(u32),
    /// A user's id.
    Uid(u32),
    /// Name, executable or argument of a process.
    Program(&'a str),
    /// A cgroup's path, a container's id.
    Cgroup(&'a str),
    /// Kind, cause, state, protocol, type.
    Kind(&'a str),
    /// A network namespace.
    Netns(u32),
}

/// What kind of field a word looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Any,
    Port,
    Pid,
    Uid,
    Address,
    Program,
    Cgroup,
    Kind,
    Netns,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Number(u32),
    Ports(RangeInclusive<u16>),
    Socket(SocketAddr),
    Text,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Term {
    negated: bool,
    key: Key,
    wanted: Wanted,
    /// What was written, in lower case.
    text: String,
}

/// A filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter(Vec<Term>);

impl Filter {
    /// Every text is a filter.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        Self(text.split_whitespace().take(TERMS_MAX).filter_map(term).collect())
    }

    /// It lets everything pass.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a row passes whose fields `row` tells one after the other.
    pub fn passes(&self, row: impl FnOnce(&mut dyn FnMut(Field<'_>))) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let mut met = [false; TERMS_MAX];
        row(&mut |field| {
            for (met, term) in met.iter_mut().zip(&self.0) {
                *met = *met || term.meets(field);
            }
        });
        met.iter().zip(&self.0).all(|(met, term)| *met != term.negated)
    }
}

fn term(word: &str) -> Option<Term> {
    let (negated, word) = word.strip_prefix('!').map_or((false, word), |rest| (true, rest));
    let named = word.split_once([':', '=']).and_then(|(name, value)| {
        let key = match name {
            "port" => Key::Port,
            "pid" => Key::Pid,
            "uid" | "user" => Key::Uid,
            "addr" | "address" => Key::Address,
            "prog" | "program" => Key::Program,
            "cgroup" => Key::Cgroup,
            "kind" => Key::Kind,
            "netns" => Key::Netns,
            "" => Key::Port,
            _ => return None,
        };
        Some((key, value))
    });
    // `::1` is an address.
    let (key, value) = named.filter(|(_, value)| !value.starts_with(':')).unwrap_or((Key::Any, word));
    if value.is_empty() {
        return None;
    }
    let range = value.split_once('-').and_then(|(low, high)| Some(low.parse().ok()?..=high.parse().ok()?));
    let wanted = match (value.parse(), range, value.parse()) {
        (Ok(number), _, _) => Wanted::Number(number),
        (_, Some(range), _) if matches!(key, Key::Any | Key::Port) => Wanted::Ports(range),
        (_, _, Ok(socket)) => Wanted::Socket(socket),
        _ => Wanted::Text,
    };
    Some(Term { negated, key, wanted, text: value.to_lowercase() })
}

impl Term {
    fn meets(&self, field: Field<'_>) -> bool {
        let asked = |key: Key| self.key == Key::Any || self.key == key;
        match (field, &self.wanted) {
            (Field::Endpoint(_, port), Wanted::Number(number)) => {
                asked(Key::Port) && u32::from(port) == *number
            }
            (Field::Endpoint(_, port), Wanted::Ports(range)) => asked(Key::Port) && range.contains(&port),
            (Field::Endpoint(address, port), Wanted::Socket(socket)) => {
                asked(Key::Address) && socket.port() == port && socket.ip() == address.to_canonical()
            }
            (Field::Endpoint(address, _), Wanted::Text) => {
                let dotted = self.text.contains(['.', ':']);
                asked(Key::Address) && dotted && address.to_string().contains(&self.text)
            }
            (Field::Pid(pid), Wanted::Number(number)) => asked(Key::Pid) && pid == *number,
            (Field::Uid(uid), Wanted::Number(number)) => self.key == Key::Uid && uid == *number,
            (Field::Netns(netns), Wanted::Number(number)) => asked(Key::Netns) && netns == *number,
            (Field::Program(text), wanted) => {
                self.is_text(Key::Program, wanted) && contains(text, &self.text)
            }
            (Field::Cgroup(text), wanted) => self.is_text(Key::Cgroup, wanted) && contains(text, &self.text),
            (Field::Kind(text), wanted) => self.is_text(Key::Kind, wanted) && contains(text, &self.text),
            _ => false,
        }
    }

    /// A number is looked for in text only where that is asked for: 80 is a port.
    fn is_text(&self, key: Key, wanted: &Wanted) -> bool {
        self.key == key || (self.key == Key::Any && *wanted == Wanted::Text)
    }
}

/// Whether `text` has the lower-case `part`, in whatever case.
fn contains(text: &str, part: &str) -> bool {
    if text.is_ascii() {
        let (text, part) = (text.as_bytes(), part.as_bytes());
        return part.len() <= text.len()
            && text.windows(part.len().max(1)).any(|window| window.eq_ignore_ascii_case(part));
    }
    text.to_lowercase().contains(part)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
    use proptest::prelude::*;

    use super::*;

    fn node(filter: &str) -> bool {
        Filter::parse(filter).passes(|each| {
            each(Field::Endpoint("127.0.0.1".parse().unwrap(), 8080));
            each(Field::Pid(4711));
            each(Field::Uid(1001));
            each(Field::Program("Node"));
            each(Field::Program("server-80.js"));
            each(Field::Cgroup("/ci/job-1"));
            each(Field::Kind("co-bind"));
            each(Field::Netns(99));
        })
    }

    #[test]
    fn words_are_found_where_they_mean_something() {
        for yes in [
            "",
            " ",
            "8080",
            "4711",
            "node",
            "NODE",
            "job-1",
            "co-bind",
            "127.0.0.1",
            "127.0",
            ":8080",
            "127.0.0.1:8080",
            "8000-8099",
            "port:8080",
            "pid:4711",
            "uid:1001",
            "prog:node",
            "program=80",
            "cgroup:job",
            "kind:bind",
            "netns:99",
            "!nginx",
            "!80",
            "node 8080 !ipv6",
            "addr:127.0.0.1",
            "!:80",
            "cgroup:1",
        ] {
            assert!(node(yes), "{yes}");
        }
        for no in [
            "80",
            "808",
            "1001",
            "nginx",
            "!node",
            "node nginx",
            "pid:8080",
            "port:4711",
            "kind:node",
            "127.0.0.2",
            "127.0.0.1:80",
            "8081-8099",
            "::1",
            "!8080",
            "prog:job",
        ] {
            assert!(!node(no), "{no}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_filter(text in any::<String>()) {
            let plain = Filter::parse(&text).passes(|each| each(Field::Program(&text)));
            prop_assert!(plain || !text.is_empty());
        }
    }
}
