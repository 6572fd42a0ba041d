//! One line of a log: from an event to bytes and back.

use serde::de::IntoDeserializer as _;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Serialize};
use serde_json::ser::CompactFormatter;

use super::{End, usual};

use super::written::{self, Head};
use crate::event::{Body, BootTime, Event, Hook, Seq};
use crate::sink::escape::SafeJson;

/// What a line is.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    /// An event.
    Event(Event),
    /// A conclusion, repeated for grep.
    Finding,
    /// The first line of a log.
    Header,
    /// The last line.
    End(End),
    /// A type this version does not know: a newer version added it without changing what is already there.
    Unknown,
}

/// A line that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Its head is not that of a line of a log.
    #[error("expected {{\"type\":…,\"seq\":…,\"at\":…,\"hook\":…}}: {0}")]
    Head(serde_json::Error),
    /// The rest of it is not what its type has.
    #[error("expected the fields of \"{kind}\": {source}")]
    Body {
        /// The line's type.
        kind: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

/// Appends `event` as a line to `out`.
///
/// # Errors
/// When a value cannot be expressed in JSON, which no value of these types is known to do.
pub fn encode(event: &Event, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    if usual::encode(event, out) { Ok(()) } else { encode_any(event, out) }
}

/// The same for any event.
pub(super) fn encode_any(event: &Event, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.body.type_name().as_bytes());
    out.extend_from_slice(b"\",\"seq\":");
    serde_json::to_writer(&mut *out, &event.seq)?;
    out.extend_from_slice(b",\"at\":");
    serde_json::to_writer(&mut *out, &event.at)?;
    out.extend_from_slice(b",\"hook\":");
    serde_json::to_writer(&mut *out, &event.hook)?;
    match &event.body {
        Body::Process(body) => fields(body, out),
        Body::Exit(body) => fields(body, out),
        Body::Signal(body) => fields(body, out),
        Body::Socket(body) => fields(body, out),
        Body::Inventory(body) => fields(body, out),
        Body::Bind(body) => fields(body, out),
        Body::BindFailed(body) => fields(body, out),
        Body::Denied(body) => fields(body, out),
        Body::Waiting(body) => fields(body, out),
        Body::Waited(body) => fields(body, out),
        Body::Unresolved(body) => fields(body, out),
        Body::Listen(body) => fields(body, out),
        Body::Unlisten(body) => fields(body, out),
        Body::ListenFailed(body) => fields(body, out),
        Body::Option(body) => fields(body, out),
        Body::Changed(body) => fields(body, out),
        Body::Accepted(body) => fields(body, out),
        Body::Close(body) => fields(body, out),
        Body::Gone(body) => fields(body, out),
        Body::ConnectFailed(body) => fields(body, out),
        Body::Holders(body) => fields(body, out),
        Body::Table(body) => fields(body, out),
        Body::PortRange(body) => fields(body, out),
        Body::PortUse(body) => fields(body, out),
        Body::Lost(body) => fields(body, out),
        Body::Limit(body) => fields(body, out),
        Body::Omitted(body) => fields(body, out),
        Body::Job(body) => fields(body, out),
        Body::Enforcement(body) => fields(body, out),
        Body::CgroupRemoved(body) => fields(body, out),
        Body::Note(body) => fields(body, out),
    }?;
    out.push(b'\n');
    Ok(())
}

/// Appends the fields of `body` and the closing brace to an object that is open: its own opening brace becomes the comma.
pub(super) fn fields<T: Serialize>(body: &T, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let start = out.len();
    // People do look at logs with cat.
    let safe = SafeJson(CompactFormatter);
    body.serialize(&mut serde_json::Serializer::with_formatter(&mut *out, safe))?;
    if let Some(brace) = out.get_mut(start) {
        *brace = b',';
    }
    Ok(())
}

/// What every event's line begins with, in any order.
#[derive(Deserialize)]
struct AnyHead<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(default)]
    seq: Seq,
    #[serde(default)]
    at: BootTime,
    #[serde(default, borrow)]
    hook: std::borrow::Cow<'a, str>,
}

/// The hook of this name. One that a newer version added is not worth losing its event for.
pub(super) fn hook_named(name: &str) -> Hook {
    let name: StrDeserializer<'_, ValueError> = name.into_deserializer();
    Hook::deserialize(name).unwrap_or(Hook::Bindwatch)
}

/// Reads a line, without its line feed. The line is scratch space: it is changed.
///
/// # Errors
/// When it is no line of a log, or its type's fields are not there.
pub fn decode(line: &mut [u8]) -> Result<Line, DecodeError> {
    if line.starts_with(b"{\"type\":\"finding\"") {
        return Ok(Line::Finding);
    }
    if let Some(head) = written::head(line)
        && let Some(kind) = Kind::named(head.kind)
    {
        let Head { seq, at, hook, .. } = head;
        let comma = line.len() - head.fields.len();
        let rest = line.get_mut(comma..).unwrap_or_default();
        if let Some(first) = rest.first_mut() {
            *first = b'{';
        }
        return Ok(Line::Event(Event { seq, at, hook, body: kind.body(rest)? }));
    }
    any_order(line)
}

/// Reads a line whose fields are in any order, as after a pass through another program.
fn any_order(line: &[u8]) -> Result<Line, DecodeError> {
    let head: AnyHead<'_> = serde_json::from_slice(line).map_err(DecodeError::Head)?;
    match head.kind.as_ref() {
        "finding" => return Ok(Line::Finding),
        "header" => return Ok(Line::Header),
        "end" => {
            let end = serde_json::from_slice(line);
            return end.map(Line::End).map_err(|source| DecodeError::Body { kind: "end".to_owned(), source });
        }
        _ => {}
    }
    let Some(kind) = Kind::named(head.kind.as_bytes()) else { return Ok(Line::Unknown) };
    let (seq, at, hook) = (head.seq, head.at, hook_named(&head.hook));
    Ok(Line::Event(Event { seq, at, hook, body: kind.body(line)? }))
}

macro_rules! kinds {
    ($($name:literal => $variant:ident),* $(,)?) => {
        /// A type of event, by name.
        #[derive(Clone, Copy)]
        enum Kind { $($variant),* }

        impl Kind {
            fn named(name: &[u8]) -> Option<Self> {
                const { $(assert!($name.len() <= 40);)* }
                $(if name == $name.as_bytes() { return Some(Self::$variant); })*
                None
            }

            fn body(self, object: &[u8]) -> Result<Body, DecodeError> {
                match self {
                    $(Self::$variant => serde_json::from_slice(object).map(Body::$variant)
                        .map_err(|source| DecodeError::Body { kind: $name.to_owned(), source }),)*
                }
            }
        }
    };
}

// The commonest first: names are compared in this order.
kinds! {
    "bind" => Bind,
    "close" => Close,
    "listen" => Listen,
    "process" => Process,
    "exit" => Exit,
    "gone" => Gone,
    "socket" => Socket,
    "unlisten" => Unlisten,
    "bind-failed" => BindFailed,
    "option" => Option,
    "changed" => Changed,
    "accepted" => Accepted,
    "table" => Table,
    "holders" => Holders,
    "signal" => Signal,
    "listen-failed" => ListenFailed,
    "connect-failed" => ConnectFailed,
    "bind-unresolved" => Unresolved,
    "denied" => Denied,
    "waiting" => Waiting,
    "waited" => Waited,
    "inventory" => Inventory,
    "port-range" => PortRange,
    "port-use" => PortUse,
    "lost" => Lost,
    "limit" => Limit,
    "omitted" => Omitted,
    "job" => Job,
    "enforcement" => Enforcement,
    "cgroup-removed" => CgroupRemoved,
    "note" => Note,
}
