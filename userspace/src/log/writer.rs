//! Writing a log.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;
use zstd::stream::write::Encoder;

use super::keep::Wanted;
use super::shorten::{Identity, ShortenError, Shortening};
use super::{End, Header, LogFile, SCHEMA_NAME, SCHEMA_VERSION, line};
use crate::event::{Body, BootTime, Event, Hook, Limit, Seq};

/// What is gathered before it is written, bytes.
const BUFFER: usize = 128 << 10;
/// Events reach the file at least this often while events come, ns of their own time.
const FLUSH_NS: u64 = 1_000_000_000;
/// zstd's fastest level: logs shrink to a tenth by it, and more would cost the recorded machine.
const ZSTD_LEVEL: i32 = 1;

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
    /// Between two files.
    None,
    Plain(Box<dyn Write + Send>),
    Zstd(Box<Encoder<'static, Counted>>),
}

impl Output {
    /// Into a file that has so many bytes.
    fn of(inner: Box<dyn Write + Send>, bytes: u64, compressed: bool) -> io::Result<Self> {
        if compressed {
            Encoder::new(Counted { inner, bytes }, ZSTD_LEVEL).map(|encoder| Self::Zstd(Box::new(encoder)))
        } else {
            Ok(Self::Plain(inner))
        }
    }
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

/// Which part of its size a log has when it is shortened: three quarters, so that the rest is for what comes meanwhile.
const LONG: (u64, u64) = (3, 4);

/// Which part of its size it may have then, to be shortened again: what is still needed is not written again and again.
const WORTH: (u64, u64) = (7, 8);

/// Which part of its size finding lines may fill before its end, and of what is left until it is shortened again: they repeat
/// what the events say, and must not take the place of events.
const TOLD: (u64, u64) = (8, 4);

/// A log with a size, in a file that a shorter one can replace.
struct Shrinking {
    identity: Identity,
    /// The log's length when it was last shortened, bytes.
    base: u64,
    /// The event at two thirds of what has come since: those behind it stay.
    mark: Option<Seq>,
    /// Under way.
    now: Option<Shortening>,
}

/// Writes a log.
///
/// A log that reaches its size is shortened where it is a regular file: see [`Writer::shorten`].
///
/// After a failed write it takes everything and keeps nothing, so that a full disk ends the log and not the recording.
pub struct Writer {
    output: Output,
    path: PathBuf,
    buffer: Vec<u8>,
    /// Bytes handed to a plain output.
    written: u64,
    limit: u64,
    shrinking: Option<Shrinking>,
    /// It was shortened since that was last asked.
    is_shorter: bool,
    /// Bytes of findings since it was last shortened.
    told: u64,
    state: State,
    flushed_at: BootTime,
    /// The last event in the file, and in the buffer.
    last_safe: u64,
    last: u64,
    dropped: u64,
}

impl Writer {
    /// Begins a log in `file` with its header. `limit` is its size in bytes: where it cannot be shortened no more events
    /// are written from there on; findings and the last line still are.
    ///
    /// # Errors
    /// When the header cannot be written.
    pub fn new(file: LogFile, header: &Header, limit: Option<u64>) -> Result<Self, WriteError> {
        let LogFile { path, inner, compressed, identity } = file;
        let output = match Output::of(inner, 0, compressed) {
            Ok(output) => output,
            Err(error) => return Err(WriteError { path, last: 0, error }),
        };
        let shrinking = identity.filter(|_| limit.is_some());
        let mut writer = Self {
            output,
            path,
            buffer: Vec::with_capacity(BUFFER + BUFFER / 4),
            written: 0,
            limit: limit.unwrap_or(u64::MAX),
            shrinking: shrinking.map(|identity| Shrinking { identity, base: 0, mark: None, now: None }),
            is_shorter: false,
            told: 0,
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
            if self.shrinking.as_ref().is_some_and(|shrinking| shrinking.now.is_some()) {
                self.put_shorter()?;
                return self.event(event);
            }
            self.state = State::Full;
            self.dropped += 1;
            let body =
                Limit { bound: Limit::LOG_SIZE.to_owned(), value: self.limit, unit: "bytes".to_owned() };
            let limit =
                Event { seq: event.seq, at: event.at, hook: Hook::Bindwatch, body: Body::Limit(body) };
            let encoded = line::encode(&limit, &mut self.buffer).map_err(io::Error::from);
            self.checked(encoded)?;
            self.flush()?;
            return Ok(Progress::LimitReached);
        }
        self.last = event.seq.0;
        self.set_mark();
        if event.at.since(self.flushed_at) >= FLUSH_NS {
            self.flushed_at = event.at;
            self.flush()?;
            self.put_shorter_when_done()?;
        } else if self.buffer.len() >= BUFFER {
            let drained = self.drain();
            self.checked(drained)?;
            self.put_shorter_when_done()?;
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

    /// The same before the end, where it has room beside the events. False: it has none, and can be written at the end.
    ///
    /// # Errors
    /// As [`Writer::event`].
    pub fn finding_meanwhile<T: Serialize>(&mut self, shape: &T) -> Result<bool, WriteError> {
        let start = self.buffer.len();
        self.finding(shape)?;
        let told = self.told + self.buffer.len().saturating_sub(start) as u64;
        let base = self.shrinking.as_ref().map_or(0, |shrinking| shrinking.base);
        let room = (self.limit / TOLD.0).min(self.long().saturating_sub(base) / TOLD.1);
        if told > room {
            self.buffer.truncate(start);
            return Ok(false);
        }
        self.told = told;
        Ok(true)
    }

    /// Waits for the shorter log that is being made, if one is.
    ///
    /// # Errors
    /// As [`Writer::event`].
    pub fn finish_shortening(&mut self) -> Result<(), WriteError> {
        if self.state == State::Open { self.put_shorter() } else { Ok(()) }
    }

    /// Writes the last line and everything that is still in memory. `dropped` is filled in.
    ///
    /// # Errors
    /// When the file does not take it, and no error was returned before.
    pub fn end(mut self, end: &End) -> Result<(), WriteError> {
        self.finish_shortening()?;
        let end = End { dropped: end.dropped.saturating_add(self.dropped), ..end.clone() };
        self.special("end", &[], &end)?;
        if self.state == State::Broken {
            return Ok(());
        }
        self.close()
    }

    /// Writes everything that is still in memory, and no last line.
    pub(super) fn close(mut self) -> Result<(), WriteError> {
        self.finish_frame()?;
        self.state = State::Ended;
        Ok(())
    }

    /// Hands everything to the file; what is written to a compressed log after this needs a frame of its own.
    fn finish_frame(&mut self) -> Result<(), WriteError> {
        let finished = self.drain().and_then(|()| match &mut self.output {
            Output::None => Ok(()),
            Output::Plain(output) => output.flush(),
            Output::Zstd(encoder) => encoder.do_finish().and_then(|()| encoder.get_mut().flush()),
        });
        self.checked(finished)?;
        self.last_safe = self.last;
        Ok(())
    }

    fn set_mark(&mut self) {
        let (size, long) = (self.size(), self.long());
        let last = Seq(self.last);
        if let Some(shrinking) = &mut self.shrinking
            && shrinking.mark.is_none()
            && size >= shrinking.base + long.saturating_sub(shrinking.base) / 3 * 2
        {
            shrinking.mark = Some(last);
        }
    }

    /// The size from which a log is shortened, bytes: of one that has stayed long, later.
    fn long(&self) -> u64 {
        let base = self.shrinking.as_ref().map_or(0, |shrinking| shrinking.base);
        (self.limit / LONG.1 * LONG.0).max(base + self.limit.saturating_sub(base) / 2)
    }

    /// Whether [`Writer::shorten`] is due.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.state == State::Open
            && self.shrinking.as_ref().is_some_and(|shrinking| shrinking.now.is_none())
            && self.size() >= self.long()
    }

    /// Begins to take out two thirds of what has come since the last time, the older ones, but for what is still held or lives and
    /// for the events in `cited`; an `omitted` event says what went. A thread does it, and the log goes on meanwhile.
    ///
    /// # Errors
    /// As [`Writer::event`].
    pub fn shorten(&mut self, cited: BTreeSet<Seq>) -> Result<(), WriteError> {
        self.finish_frame()?;
        let compressed = matches!(self.output, Output::Zstd(_));
        let from = self.size();
        self.reopen(compressed, from)?;
        let Some(shrinking) = &mut self.shrinking else { return Ok(()) };
        let until = shrinking.mark.take().unwrap_or(Seq(self.last));
        let wanted = Wanted { until, cited, limit: self.limit };
        match Shortening::begin(&self.path, shrinking.identity, compressed, from, wanted) {
            Ok(now) => shrinking.now = Some(now),
            Err(error) => self.stays_long(&error.into()),
        }
        Ok(())
    }

    /// A new frame in the same file.
    fn reopen(&mut self, compressed: bool, bytes: u64) -> Result<(), WriteError> {
        let inner: Box<dyn Write + Send> = match std::mem::replace(&mut self.output, Output::None) {
            Output::Zstd(encoder) => match encoder.finish() {
                Ok(counted) => counted.inner,
                Err(error) => return self.checked(Err(error)),
            },
            Output::Plain(inner) => inner,
            Output::None => return Ok(()),
        };
        let output = Output::of(inner, bytes, compressed);
        self.output = match output {
            Ok(output) => output,
            Err(error) => return self.checked(Err(error)),
        };
        Ok(())
    }

    fn put_shorter_when_done(&mut self) -> Result<(), WriteError> {
        let is_done = |shrinking: &Shrinking| shrinking.now.as_ref().is_some_and(Shortening::is_done);
        if self.shrinking.as_ref().is_some_and(is_done) { self.put_shorter() } else { Ok(()) }
    }

    /// Waits for the shorter log that is being made, and goes on with it.
    fn put_shorter(&mut self) -> Result<(), WriteError> {
        let Some(now) = self.shrinking.as_mut().and_then(|shrinking| shrinking.now.take()) else {
            return Ok(());
        };
        self.finish_frame()?;
        let compressed = matches!(self.output, Output::Zstd(_));
        let long = self.size();
        match now.finish(&self.path, long) {
            Ok((file, identity, length)) => {
                self.output = Output::None;
                let output = Output::of(Box::new(file), length, compressed);
                self.output = match output {
                    Ok(output) => output,
                    Err(error) => return self.checked(Err(error)),
                };
                self.written = length;
                self.is_shorter = true;
                self.told = 0;
                let may_shrink = length <= self.limit / WORTH.1 * WORTH.0;
                self.shrinking =
                    may_shrink.then_some(Shrinking { identity, base: length, mark: None, now: None });
                Ok(())
            }
            Err(error) => {
                self.stays_long(&error);
                self.reopen(compressed, long)
            }
        }
    }

    /// From here on the log only grows, up to its size.
    fn stays_long(&mut self, error: &ShortenError) {
        log::debug!("the log is not shortened: {error}");
        self.shrinking = None;
    }

    /// Whether the log was shortened since this was last asked: findings written before may be gone from it.
    pub const fn take_shorter(&mut self) -> bool {
        std::mem::replace(&mut self.is_shorter, false)
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
            Output::None => Ok(()),
            Output::Plain(output) => output.flush(),
            Output::Zstd(encoder) => encoder.flush(),
        });
        self.checked(flushed)?;
        self.last_safe = self.last;
        Ok(())
    }

    /// Whether the log is compressed.
    #[must_use]
    pub const fn is_compressed(&self) -> bool {
        matches!(self.output, Output::Zstd(_))
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
            Output::None | Output::Plain(_) => self.written,
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
            Output::None => {}
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
