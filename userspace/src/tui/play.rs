//! A log that is played: its events come when their time has come, at any speed, from any moment.
//!
//! Where the findings are is learnt by a thread that judges the whole log once, while the screen is there already.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::oneshot;

use super::world::{Origin, World};
use crate::cli::SPEEDS;
use crate::drive::Recorder;
use crate::event::{BootTime, Event, Seq};
use crate::ledger::Settings;
use crate::ledger::finding::FindingId;
use crate::log::{ReadError, Reader};
use crate::source;

/// Events that are taken in one go, so that keys are heard while much is skipped.
pub(super) const STEP: usize = 20_000;

/// What a whole log has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    /// Its last moment.
    pub(super) end: BootTime,
    /// The events that made its findings.
    pub(super) marks: Vec<(Seq, BootTime)>,
}

/// Where one wants to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Seq(Seq),
    At(BootTime),
}

/// A log, and where in it one is.
pub struct Player {
    path: PathBuf,
    reader: Reader,
    /// The next event, read already.
    next: Option<Event>,
    /// The last event that was handed over.
    last: Seq,
    /// The latest time of an event.
    newest: BootTime,
    over: bool,
    /// The moment.
    at: BootTime,
    target: Option<Target>,
    pub(super) start: BootTime,
    pub(super) outline: Option<Outline>,
    learns: Option<oneshot::Receiver<Outline>>,
    pub(super) runs: bool,
    pub(super) speed: f64,
    /// Why it ends earlier than it should.
    pub(super) trouble: Option<String>,
}

impl Player {
    /// Opens a log, to be played at a speed.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path, speed: f64) -> Result<Self, ReadError> {
        Ok(Self::over(path, source::log::open(path)?, speed))
    }

    /// Begins to learn what the whole log has, judged by `settings`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn learn(&mut self, settings: &Settings) -> Result<(), ReadError> {
        let (to, from) = oneshot::channel();
        let second = source::log::open(&self.path)?;
        let (clock, settings) = (second.header().clock, settings.clone());
        let learn = move || {
            // Whoever has left needs no answer.
            let _left = to.send(outline(second, Recorder::new(None, settings, clock)));
        };
        self.learns = std::thread::Builder::new().name("outline".to_owned()).spawn(learn).ok().map(|_| from);
        Ok(())
    }

    fn over(path: &Path, reader: Reader, speed: f64) -> Self {
        let start = BootTime(reader.header().clock.boot_ns);
        Self {
            path: path.to_owned(),
            reader,
            next: None,
            last: Seq(0),
            newest: start,
            over: false,
            at: start,
            target: None,
            start,
            outline: None,
            learns: None,
            runs: true,
            speed,
            trouble: None,
        }
    }

    /// What the log says of where it is from.
    #[must_use]
    pub fn origin(&self, show_secrets: bool) -> Origin {
        let header = self.reader.header();
        let refused = header.refused.iter().map(|refused| format!("{}: {}", refused.hook, refused.reason));
        Origin {
            host: header.host.clone(),
            clock: header.clock,
            start: self.start,
            hooks: header.hooks.len(),
            refused: refused.collect(),
            show_secrets,
            notices: Vec::new(),
        }
    }

    /// What the log says findings are judged by.
    #[must_use]
    pub fn rules(&self) -> crate::judge::Rules {
        self.reader.header().rules.clone()
    }

    /// Takes everything up to a moment, or to the end, at once. Whether the log has its orderly end.
    pub fn until(&mut self, at: Option<BootTime>, world: &mut World) -> bool {
        self.target = Some(at.map_or(Target::Seq(Seq(u64::MAX)), Target::At));
        let mut events = Vec::new();
        let mut more = true;
        while more {
            more = self.due(&mut events);
            world.take(&mut events);
        }
        if at.is_none() {
            self.at = self.end();
        }
        world.tick(self.at);
        world.refresh();
        self.over && self.next.is_none() && self.reader.ending().complete()
    }

    /// The last moment of a log that is over.
    fn end(&self) -> BootTime {
        let end = self.reader.ending().end.as_ref().map(|end| end.at);
        end.max(Some(self.newest)).unwrap_or(self.newest).max(self.start)
    }

    /// Nothing is left to be played.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.over && self.next.is_none()
    }

    /// What makes the log less than whole, as far as it was read.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        if self.is_over() { crate::sink::notices::of_ending(self.reader.ending()) } else { Vec::new() }
    }

    /// Begins at a moment, where time stands still.
    pub fn begin_at(&mut self, at: BootTime) {
        self.target = Some(Target::At(at.max(self.start)));
        self.runs = false;
    }

    /// The log's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned()
    }

    /// The moment.
    pub(super) const fn at(&self) -> BootTime {
        self.at
    }

    /// It is on its way to another moment.
    pub(super) const fn seeks(&self) -> bool {
        self.target.is_some()
    }

    /// Waits until the whole log is known.
    pub(super) async fn learnt(&mut self) {
        match &mut self.learns {
            Some(learns) => {
                self.outline = learns.await.ok();
                self.learns = None;
            }
            None => std::future::pending().await,
        }
    }

    /// Time goes on, by so much of the user's.
    pub(super) fn advance(&mut self, by: Duration) {
        if self.runs && self.target.is_none() {
            // A speed is positive and small, a step of time is short.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "both are in range")]
            let ns = (by.as_nanos() as f64 * self.speed) as u64;
            self.at = BootTime(self.at.0.saturating_add(ns));
            if let Some(outline) = &self.outline
                && self.at >= outline.end
            {
                self.at = outline.end;
                self.runs = false;
            }
        }
    }

    /// How long it is, for the user, until the next event is due; None when nothing will come by itself.
    pub(super) fn next_in(&mut self) -> Option<Duration> {
        if self.target.is_some() {
            return Some(Duration::ZERO);
        }
        if !self.runs {
            return None;
        }
        self.peek();
        let due = match (&self.next, &self.outline) {
            (Some(event), _) => event.at,
            (None, Some(outline)) => outline.end,
            (None, None) => return None,
        };
        Some(Duration::from_nanos(due.since(self.at)).div_f64(self.speed.max(SPEEDS.0)))
    }

    fn peek(&mut self) {
        if self.next.is_some() || self.over {
            return;
        }
        match self.reader.next() {
            Some(Ok(event)) => self.next = Some(event),
            Some(Err(error)) => {
                self.trouble = Some(error.to_string());
                self.over = true;
            }
            None => {
                let torn = self.reader.ending().torn.as_ref();
                self.trouble =
                    torn.map(|torn| format!("the log is cut short at line {}: {}", torn.line, torn.reason));
                self.over = true;
            }
        }
    }

    /// Hands over what is due, some at a time. Whether there is more at once.
    pub(super) fn due(&mut self, events: &mut Vec<Event>) -> bool {
        for _ in 0..STEP {
            self.peek();
            let wanted = match (&self.next, self.target) {
                (None, _) => false,
                (Some(event), Some(Target::Seq(seq))) => event.seq <= seq,
                (Some(event), Some(Target::At(at))) => event.at <= at,
                (Some(event), None) => event.at <= self.at,
            };
            let Some(event) = self.next.take_if(|_| wanted) else {
                if let Some(Target::At(at)) = self.target.take() {
                    self.at = at;
                }
                if self.is_over() {
                    self.at = self.at.min(self.end());
                }
                return false;
            };
            self.last = event.seq;
            self.newest = self.newest.max(event.at);
            if self.target.is_some() {
                self.at = self.at.max(event.at);
            }
            events.push(event);
        }
        true
    }

    /// Goes to a moment. Backwards, the world begins anew.
    pub(super) fn seek(&mut self, to: BootTime, world: &mut World) {
        let end = self.outline.as_ref().map_or(BootTime(u64::MAX), |outline| outline.end);
        let to = to.clamp(self.start, end.max(self.start));
        if to < self.at {
            self.rewind(world);
        }
        self.target = Some(Target::At(to));
    }

    /// Goes by seconds.
    pub(super) fn seek_by(&mut self, seconds: i32, world: &mut World) {
        let ns = u64::from(seconds.unsigned_abs()).saturating_mul(1_000_000_000);
        let to = if seconds < 0 { self.at.0.saturating_sub(ns) } else { self.at.0.saturating_add(ns) };
        self.seek(BootTime(to), world);
    }

    /// Goes to the beginning, or the end.
    pub(super) fn edge(&mut self, end: bool, world: &mut World) {
        match (&self.outline, end) {
            (Some(outline), true) => self.seek(outline.end, world),
            (None, true) => self.target = Some(Target::Seq(Seq(u64::MAX))),
            (_, false) => self.seek(self.start, world),
        }
    }

    /// Goes to the event that made the next finding, or the one before. False when there is none, as far as is known.
    pub(super) fn finding(&mut self, ahead: bool, world: &mut World) -> bool {
        let marks = self.outline.as_ref().map_or(&[][..], |outline| &outline.marks);
        let found = if ahead {
            marks.iter().find(|(seq, _)| *seq > self.last)
        } else {
            marks.iter().rev().find(|(seq, _)| *seq < self.last)
        };
        let Some((seq, at)) = found.copied() else { return false };
        if !ahead {
            self.rewind(world);
        }
        self.runs = false;
        self.at = self.at.max(at).min(at);
        self.target = Some(Target::Seq(seq));
        true
    }

    /// Twice as fast, or half.
    pub(super) fn change_speed(&mut self, up: bool) {
        self.speed = (if up { self.speed * 2.0 } else { self.speed / 2.0 }).clamp(SPEEDS.0, SPEEDS.1);
    }

    fn rewind(&mut self, world: &mut World) {
        match source::log::open(&self.path) {
            Ok(reader) => {
                let (outline, learns) = (self.outline.take(), self.learns.take());
                let (runs, speed) = (self.runs, self.speed);
                *self = Self { outline, learns, runs, ..Self::over(&self.path.clone(), reader, speed) };
                *world = world.emptied();
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }
}

/// Judges a whole log: when its findings were made, and when it ends. What was taken back is not among them.
pub(super) fn outline(reader: Reader, mut recorder: Recorder) -> Outline {
    let mut reader = reader;
    let mut made: BTreeMap<FindingId, (Seq, BootTime)> = BTreeMap::new();
    let mut end = BootTime(reader.header().clock.boot_ns);
    for event in reader.by_ref().map_while(Result::ok) {
        end = end.max(event.at);
        for id in recorder.apply(&event) {
            made.entry(*id).or_insert((event.seq, event.at));
        }
        recorder.settle();
    }
    if let Some(last) = &reader.ending().end {
        end = end.max(last.at);
    }
    let mut marks: Vec<(Seq, BootTime)> =
        recorder.ledger().findings().filter_map(|finding| made.get(&finding.id).copied()).collect();
    marks.sort_unstable();
    marks.dedup();
    Outline { end, marks }
}
