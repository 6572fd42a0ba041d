//! Writing a log.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use zstd::stream::write::Encoder;

use super::{End, Header, LogFile, SCHEMA_NAME, SCHEMA_VERSION, line};
use crate::event::{Body, BootTime, Event, Hook, Limit};

/// What is gathered before it is written, bytes.
const BUFFER: usize = 128 << 10;
/// Events reach the file at least this often while events come, ns of their own time.
const FLUSH_NS: u64 = 1_000_000_000;
/// zstd's fastest level: logs shrink to a tenth by it, and more would cost the recorded machine.
const ZSTD_LEVEL: i32 = 1;
/// Name of the bound that `--max-size` sets, in `limit` events.
pub(super) const SIZE_BOUND: &str = "log-size";

/// The log cannot be written any more. Said once; what is in the file stays readable.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the log {path}: {error}; it stays readable up to event {last}")]
pub struct WriteError {
    /// The file.
    pub path: PathBuf,
    /// The last event known to be in it.
    pub last: u64,
    /// What the system said.
    pub error: io::Error,
}

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is in the log.
    Written,
    /// The log has reached its size: a `limit` line is in it instead of this event. Said once.
    LimitReached,
    /// It is not in the log: the limit was reached before, or writing failed before.
    Dropped,
}

enum Output {
    Plain(Box<dyn Write + Send>),
    Zstd(Box<Encoder<'static, Counted>>),
}

/// Counts what reaches the file behind the compressor.
struct Counted {
    inner: Box<dyn Write + Send>,
    bytes: u64,
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.bytes = self.bytes.saturating_add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Full,
    Broken,
    Ended,
}

/// Writes a log.
///
/// After a failed write it takes everything and keeps nothing, so that a full disk ends the log and not the recording.
pub struct Writer {
    output: Output,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Bytes handed to a plain output.
    written: u64,
    limit: u64,
    state: State,
    flushed_at: BootTime,
    /// The last event in the file, and in the buffer.
    last_safe: u64,
    last: u64,
    dropped: u64,
}

impl Writer {
    /// Begins a log in `file` with its header. `limit` is the size in the file, in bytes, from which no more events
    /// are written; findings and the last line still are.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn new(file: LogFile, header: &Header, limit: Option<u64>) -> Result<Self, WriteError> {
        let LogFile { path, inner, compressed } = file;
        let failed = |path: &PathBuf, error| WriteError { path: path.clone(), last: 0, error };
        let output = if compressed {
            match Encoder::new(Counted { inner, bytes: 0 }, ZSTD_LEVEL) {
                Ok(encoder) => Output::Zstd(Box::new(encoder)),
                Err(error) => return Err(failed(&path, error)),
            }
        } else {
            Output::Plain(inner)
        };
        let mut writer = Self {
            output,
            path,
            buffer: Vec::with_capacity(BUFFER + BUFFER / 4),
            written: 0,
            limit: limit.unwrap_or(u64::MAX),
            state: State::Open,
            flushed_at: BootTime(header.clock.boot_ns),
            last_safe: 0,
            last: 0,
            dropped: 0,
        };
        let schema = format!("{SCHEMA_NAME}{SCHEMA_VERSION}");
        writer.special("header", &[("schema", &schema)], header)?;
        writer.flush()?;
        Ok(writer)
    }

    /// Writes an event.
    ///
    /// # Errors
    /// The first time that the file takes no more; from then on events are dropped.
    pub fn event(&mut self, event: &Event) -> Result<Progress, WriteError> {
        if self.state != State::Open {
            self.dropped += 1;
            return Ok(Progress::Dropped);
        }
        let start = self.buffer.len();
        let encoded = line::encode(event, &mut self.buffer).map_err(io::Error::from);
        self.checked(encoded)?;
        if self.size() > self.limit {
            self.buffer.truncate(start);
            self.state = State::Full;
            self.dropped += 1;
            let body = Limit { bound: SIZE_BOUND.to_owned(), value: self.limit, unit: "bytes".to_owned() };
            let limit =
                Event { seq: event.seq, at: event.at, hook: Hook::Bindwatch, body: Body::Limit(body) };
            let encoded = line::encode(&limit, &mut self.buffer).map_err(io::Error::from);
            self.checked(encoded)?;
            self.flush()?;
            return Ok(Progress::LimitReached);
        }
        self.last = event.seq.0;
        if event.at.since(self.flushed_at) >= FLUSH_NS {
            self.flushed_at = event.at;
            self.flush()?;
        } else if self.buffer.len() >= BUFFER {
            let drained = self.drain();
            self.checked(drained)?;
        }
        Ok(Progress::Written)
    }

    /// Writes a conclusion, for grep: `shape` is an object as the JSON report has it.
    ///
    /// # Errors
    /// As [`Writer::event`].
    pub fn finding<T: Serialize>(&mut self, shape: &T) -> Result<(), WriteError> {
        self.special("finding", &[], shape)
    }

    /// Writes the last line and everything that is still in memory. `dropped` is filled in.
    ///
    /// # Errors
    /// When the file does not take it, and no error was returned before.
    pub fn end(mut self, end: &End) -> Result<(), WriteError> {
        let end = End { dropped: end.dropped.saturating_add(self.dropped), ..end.clone() };
        self.special("end", &[], &end)?;
        if self.state == State::Broken {
            return Ok(());
        }
        let finished = self.drain().and_then(|()| match &mut self.output {
            Output::Plain(output) => output.flush(),
            Output::Zstd(encoder) => encoder.do_finish().and_then(|()| encoder.get_mut().flush()),
        });
        self.checked(finished)?;
        self.state = State::Ended;
        Ok(())
    }

    /// Makes everything written so far readable in the file. To be called once a second while nothing comes.
    ///
    /// # Errors
    /// As [`Writer::event`].
    pub fn flush(&mut self) -> Result<(), WriteError> {
        if matches!(self.state, State::Broken | State::Ended)
            || (self.buffer.is_empty() && self.last == self.last_safe)
        {
            return Ok(());
        }
        let flushed = self.drain().and_then(|()| match &mut self.output {
            Output::Plain(output) => output.flush(),
            Output::Zstd(encoder) => encoder.flush(),
        });
        self.checked(flushed)?;
        self.last_safe = self.last;
        Ok(())
    }

    /// Whether writing has failed.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.state == State::Broken
    }

    /// Events that are not in the log.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Size of the log, bytes: what is in the file and, uncompressed, what is on its way there.
    #[must_use]
    pub fn size(&self) -> u64 {
        let out = match &self.output {
            Output::Plain(_) => self.written,
            Output::Zstd(encoder) => encoder.get_ref().bytes,
        };
        out.saturating_add(self.buffer.len() as u64)
    }

    fn special<T: Serialize>(
        &mut self,
        kind: &str,
        own: &[(&str, &str)],
        rest: &T,
    ) -> Result<(), WriteError> {
        if self.state == State::Broken {
            return Ok(());
        }
        self.buffer.extend_from_slice(b"{\"type\":\"");
        self.buffer.extend_from_slice(kind.as_bytes());
        self.buffer.push(b'"');
        for (key, value) in own {
            self.buffer.extend_from_slice(format!(",\"{key}\":\"{value}\"").as_bytes());
        }
        let encoded = line::fields(rest, &mut self.buffer).map_err(io::Error::from);
        self.buffer.push(b'\n');
        self.checked(encoded)
    }

    /// Hands the buffer over.
    fn drain(&mut self) -> io::Result<()> {
        match &mut self.output {
            Output::Plain(output) => output.write_all(&self.buffer)?,
            Output::Zstd(encoder) => encoder.write_all(&self.buffer)?,
        }
        self.written = self.written.saturating_add(self.buffer.len() as u64);
        self.buffer.clear();
        Ok(())
    }

    fn checked(&mut self, outcome: io::Result<()>) -> Result<(), WriteError> {
        outcome.map_err(|error| {
            self.state = State::Broken;
            self.dropped += self.last - self.last_safe;
            self.buffer = Vec::new();
            WriteError { path: self.path.clone(), last: self.last_safe, error }
        })
    }
}

/// A recording that ends otherwise than in order leaves a log without its last line, and with all that came before.
impl Drop for Writer {
    fn drop(&mut self) {
        // Whoever could be told has gone.
        drop(self.flush());
    }
}
