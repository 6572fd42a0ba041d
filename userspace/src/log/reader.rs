//! Reading a log, whole or cut short.

use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::file::ZSTD_MAGIC;
use super::nuls::WithoutNuls;
use super::written::{Room, Which};
use super::{End, Header, LINE_MAX, Line, SCHEMA_NAME, SCHEMA_VERSION, line};
use crate::event::{Event, Seq};

/// What is read at once, bytes.
const BUFFER: usize = 256 << 10;

const TOO_LONG: &str = "is longer than any line of a log";
/// What a line begins with that is not read back, however long it is: a thousand holders are in it with all their arguments.
const FINDING: &[u8] = b"{\"type\":\"finding\"";

/// A log that cannot be read, or cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system refused.
    #[error("cannot read {path}: {error}")]
    System {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// It is something else.
    #[error("{path} is not a bindwatch log: {why}")]
    NotALog {
        /// The file.
        path: PathBuf,
        /// What is there instead.
        why: String,
    },
    /// A later bindwatch wrote it.
    #[error(
        "{path} has schema \"{found}\", newer than this version reads ({SCHEMA_NAME}{SCHEMA_VERSION}); update bindwatch"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: String,
    },
    /// It ends before its header does.
    #[error("{path} was cut off within its first line; nothing can be read from it")]
    NoHeader {
        /// The file.
        path: PathBuf,
    },
    /// A line in the middle is broken.
    #[error("{path}, line {line}: {why}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, from 1.
        line: u64,
        /// What was expected.
        why: String,
    },
}

/// Where and how a log was cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Torn {
    /// The first line that is not whole, from 1.
    pub line: u64,
    /// What is missing, for people.
    pub reason: String,
}

/// How a log ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// Its last line; None when the recording did not end in order, or is still going on.
    pub end: Option<End>,
    /// It was cut within a line, or within compressed data.
    pub torn: Option<Torn>,
    /// Whole lines read.
    pub lines: u64,
    /// Lines skipped because a newer version added their type.
    pub unknown: u64,
}

impl Ending {
    /// The log has everything up to an orderly end.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.torn.is_none() && self.end.as_ref().is_some_and(|end| end.dropped == 0)
    }
}

/// Reads a log: its header at once, its events one by one.
///
/// The iterator ends at the end of the log, or after its first error; [`Reader::ending`] then says how it ended.
pub struct Reader {
    input: Box<dyn Read + Send>,
    /// What was read ahead.
    ahead: Vec<u8>,
    /// Which part of it is still to be looked at.
    rest: Range<usize>,
    path: PathBuf,
    header: Header,
    ending: Ending,
    /// Where in `ahead` the line is that was read last, without its line feed.
    line: Range<usize>,
    room: Room,
    last: Seq,
    done: bool,
}

/// What [`Reader::read_line`] found.
enum Got {
    Line,
    /// A last line without its line feed, or compressed data that ends too early, and why.
    Part(&'static str),
    Nothing,
}

impl Reader {
    /// Begins to read; `path` is the log's name in messages. Compressed logs are recognised by their first bytes.
    ///
    /// # Errors
    /// When it is not a log, is cut off within its header, or has a schema that is too new.
    pub fn new<R: Read + Send + 'static>(mut input: R, path: &Path) -> Result<Self, ReadError> {
        let system = |error| ReadError::System { path: path.to_owned(), error };
        let mut magic = Vec::new();
        input.by_ref().take(ZSTD_MAGIC.len() as u64).read_to_end(&mut magic).map_err(system)?;
        let compressed = magic == ZSTD_MAGIC;
        let not_a_log = |why: &str| Err(ReadError::NotALog { path: path.to_owned(), why: why.to_owned() });
        if magic.is_empty() {
            return not_a_log("it is empty");
        }
        if magic.starts_with(&[0x1f, 0x8b]) {
            return not_a_log("it is gzip data; decompress it first");
        }
        let input = WithoutNuls::new(Cursor::new(magic).chain(input));
        let input: Box<dyn Read + Send> = if compressed {
            Box::new(zstd::stream::read::Decoder::new(input).map_err(system)?)
        } else {
            Box::new(input)
        };
        Self::begin(input, path)
    }

    fn begin(input: Box<dyn Read + Send>, path: &Path) -> Result<Self, ReadError> {
        #[derive(Deserialize)]
        struct First {
            #[serde(rename = "type")]
            kind: String,
            schema: String,
        }
        let header = Header {
            enforcement: None,
            version: String::new(),
            host: super::Host::default(),
            clock: crate::clock::Anchors::default(),
            command_line: Vec::new(),
            hooks: Vec::new(),
            refused: Vec::new(),
            backend: None,
            rules: crate::judge::Rules::default(),
            cmdline: String::new(),
            events: String::new(),
        };
        let mut reader = Self {
            input,
            ahead: vec![0; BUFFER],
            rest: 0..0,
            path: path.to_owned(),
            header,
            ending: Ending::default(),
            line: 0..0,
            room: Room::new(),
            last: Seq(0),
            done: false,
        };
        let got = reader.read_line()?;
        let first: First = match serde_json::from_slice(reader.line()) {
            Ok(first) => first,
            Err(error) if error.is_eof() && matches!(got, Got::Part(_) | Got::Nothing) => {
                return Err(ReadError::NoHeader { path: reader.path });
            }
            Err(_) => return Err(reader.not_a_log("its first line is not a header")),
        };
        let version = first.schema.strip_prefix(SCHEMA_NAME).and_then(|version| version.parse::<u32>().ok());
        match version {
            Some(SCHEMA_VERSION) if first.kind == "header" => {}
            Some(version) if version > SCHEMA_VERSION => {
                return Err(ReadError::Newer { path: reader.path, found: format!("{SCHEMA_NAME}{version}") });
            }
            _ => return Err(reader.not_a_log("its first line is not a header")),
        }
        match serde_json::from_slice(reader.line()) {
            Ok(header) => reader.header = header,
            Err(error) => return Err(reader.broken(&format!("expected a header: {error}"))),
        }
        Ok(reader)
    }

    /// The log's first line.
    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// How the log ended, once the iterator has; before, what is known so far.
    #[must_use]
    pub const fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Finds the next line.
    fn read_line(&mut self) -> Result<Got, ReadError> {
        let mut searched = 0;
        loop {
            let unread = self.ahead.get(self.rest.clone()).unwrap_or_default();
            if let Some(found) = memchr::memchr(b'\n', unread.get(searched..).unwrap_or_default()) {
                let end = searched + found;
                if end > LINE_MAX && !unread.starts_with(FINDING) {
                    return Err(self.broken_next(TOO_LONG));
                }
                self.line = self.rest.start..self.rest.start + end;
                self.rest.start += end + 1;
                self.ending.lines += 1;
                return Ok(Got::Line);
            }
            searched = unread.len();
            if searched > LINE_MAX {
                if !unread.starts_with(FINDING) {
                    return Err(self.broken_next(TOO_LONG));
                }
                // Its beginning says all that is wanted of it; of the rest nothing is kept.
                self.rest.end = self.rest.start + FINDING.len();
                searched = FINDING.len();
            }
            let reason = match self.read_ahead() {
                Ok(0) => "the line is cut off",
                Ok(_) => continue,
                // zstd says so when its input ends within a frame.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.line = self.rest.clone();
                    self.rest.start = self.rest.end;
                    return Ok(Got::Part("the compressed data ends too early"));
                }
                Err(error) if self.ending.lines > 0 => {
                    return Err(self.broken(&format!("cannot be read: {error}; the lines before it can")));
                }
                Err(error) => return Err(ReadError::System { path: self.path.clone(), error }),
            };
            self.line = self.rest.clone();
            self.rest.start = self.rest.end;
            return Ok(if self.line.is_empty() { Got::Nothing } else { Got::Part(reason) });
        }
    }

    /// Reads more behind what is still to be looked at; how many bytes, 0 at the end.
    fn read_ahead(&mut self) -> io::Result<usize> {
        self.ahead.copy_within(self.rest.clone(), 0);
        self.rest = 0..self.rest.len();
        if self.rest.end == self.ahead.len() {
            // A line that is longer than the buffer.
            self.ahead.resize(2 * self.rest.end, 0);
        }
        loop {
            match self.input.read(self.ahead.get_mut(self.rest.end..).unwrap_or_default()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(count) => {
                    self.rest.end += count;
                    return Ok(count);
                }
            }
        }
    }

    /// The line that was read last, without its line feed.
    fn line(&self) -> &[u8] {
        self.ahead.get(self.line.clone()).unwrap_or_default()
    }

    fn not_a_log(self, why: &str) -> ReadError {
        ReadError::NotALog { path: self.path, why: why.to_owned() }
    }

    /// An error in the line last read whole.
    fn broken(&self, why: &str) -> ReadError {
        ReadError::Line { path: self.path.clone(), line: self.ending.lines.max(1), why: why.to_owned() }
    }

    /// An error in the line after that.
    fn broken_next(&self, why: &str) -> ReadError {
        ReadError::Line { path: self.path.clone(), line: self.ending.lines + 1, why: why.to_owned() }
    }

    fn step(&mut self) -> Option<Result<Event, ReadError>> {
        loop {
            let got = match self.read_line() {
                Ok(got) => got,
                Err(error) => return Some(Err(error)),
            };
            let part = match got {
                Got::Line => None,
                Got::Nothing => return None,
                Got::Part(reason) => Some(reason),
            };
            if let Some(reason) = part {
                if serde_json::from_slice::<IgnoredAny>(self.line()).is_err() {
                    // After the log's last line only a compressor's closing bytes can be missing.
                    if self.ending.end.is_none() {
                        self.ending.torn =
                            Some(Torn { line: self.ending.lines + 1, reason: reason.to_owned() });
                    }
                    return None;
                }
                // Only its line feed is missing.
                self.ending.lines += 1;
            }
            let line = match line::decode(self.ahead.get_mut(self.line.clone()).unwrap_or_default()) {
                Ok(line) => line,
                Err(error) => return Some(Err(self.broken(&error.to_string()))),
            };
            if self.ending.end.is_some() {
                return Some(Err(
                    self.broken("more lines follow the log's last; are these two logs in one file?")
                ));
            }
            match line {
                Line::Event(event) if event.seq <= self.last => {
                    let (seq, last) = (event.seq.0, self.last.0);
                    return Some(Err(
                        self.broken(&format!("event {seq} follows event {last}; the log is out of order"))
                    ));
                }
                Line::Event(event) => {
                    self.last = event.seq;
                    return Some(Ok(event));
                }
                Line::Finding => {}
                Line::Header => {
                    return Some(Err(self.broken("a second header; are these two logs in one file?")));
                }
                Line::End(end) => self.ending.end = Some(end),
                Line::Unknown => self.ending.unknown += 1,
            }
        }
    }
}

impl Reader {
    /// The next line's event, when the line is of a common kind and as it was written: in place.
    fn common(&mut self) -> Option<Which> {
        // An error comes again, and is told, where the line is read the usual way.
        let (which, length) = self.room.read(self.ahead.get(self.rest.clone())?)?;
        let seq = self.room.event(which).seq;
        if seq <= self.last {
            return None;
        }
        self.rest.start += length;
        self.ending.lines += 1;
        self.last = seq;
        Some(which)
    }

    fn advance(&mut self) -> Option<Result<Which, ReadError>> {
        if self.done {
            return None;
        }
        if self.ending.end.is_none()
            && let Some(which) = self.common()
        {
            return Some(Ok(which));
        }
        let step = self.step();
        self.done = !matches!(step, Some(Ok(_)));
        Some(step?.map(|event| {
            self.room.other = event;
            Which::Other
        }))
    }

    /// The next event, which stays until the one after it is asked for: what reads a log through uses memory for one.
    ///
    /// # Errors
    /// When the log cannot be read on.
    pub fn next_event(&mut self) -> Option<Result<&Event, ReadError>> {
        match self.advance()? {
            Ok(which) => Some(Ok(self.room.event(which))),
            Err(error) => Some(Err(error)),
        }
    }

    /// Reads on until `events` has `max`. Returns whether there may be more: false at the log's end.
    ///
    /// # Errors
    /// When the log cannot be read on. What was read before is in `events`.
    pub fn fill(&mut self, events: &mut Vec<Event>, max: usize) -> Result<bool, ReadError> {
        while events.len() < max {
            match self.next() {
                Some(event) => events.push(event?),
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Iterator for Reader {
    type Item = Result<Event, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_event().map(|event| event.cloned())
    }
}
