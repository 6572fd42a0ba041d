//! The one loop that events go through, live and from a log: log, then ledger, then whoever wants to know.

use std::collections::{BTreeMap, BTreeSet};

use crate::clock::Anchors;
use crate::event::{Body, BootTime, Event, Protocol};
use crate::ledger::finding::{Finding, FindingId, Kind};
use crate::ledger::{Ledger, Settings};
use crate::log::{End, Progress, WriteError, Writer};
use crate::sink::notices::{Leftovers, Unseen};
use crate::sink::{Remark, json};

/// How long a finding that may still turn out to be meant is not told, ns: a socket joins its multicast group after its
/// bind, at once or when its program has looked at the interfaces.
const MEANT_WITHIN_NS: u64 = 1_000_000_000;
/// What is recorded without a pause can be read in the log after this time, ns.
const VISIBLE_NS: u64 = 20_000_000;

/// Writes events to a log and judges them.
pub struct Recorder {
    writer: Option<Writer>,
    /// Why the log is not whole.
    failure: Option<WriteError>,
    /// The log reached its size.
    is_full: bool,
    ledger: Ledger,
    clock: Anchors,
    changed: Vec<FindingId>,
    /// Findings whose line in the log is older than they are.
    stale: BTreeSet<FindingId>,
    /// Findings that have a line in the log, or for which there was no room before its end.
    written: BTreeSet<FindingId>,
    /// Findings that are told from then on, unless they are taken back before.
    held: BTreeMap<FindingId, BootTime>,
    last: BootTime,
    unseen: Unseen,
    leftovers: Leftovers,
    /// Notes of users, the first of them.
    notes: Vec<Remark>,
    dirty: bool,
    /// When the log was made readable because of the time.
    flushed: BootTime,
}

/// Notes of users that are kept for the reports; all of them are in the log.
const NOTES_MAX: usize = 1000;

/// Events that room is kept for between two batches, events. An inventory is one batch, and may be a hundred thousand.
const BATCH_KEPT: usize = 16_384;

impl Recorder {
    /// Into `writer`, or into nothing.
    #[must_use]
    pub fn new(writer: Option<Writer>, settings: Settings, clock: Anchors) -> Self {
        Self {
            writer,
            failure: None,
            is_full: false,
            ledger: Ledger::new(settings),
            clock,
            changed: Vec::new(),
            stale: BTreeSet::new(),
            written: BTreeSet::new(),
            held: BTreeMap::new(),
            last: BootTime(0),
            unseen: Unseen::default(),
            leftovers: Leftovers::default(),
            notes: Vec::new(),
            dirty: false,
            flushed: BootTime(0),
        }
    }

    /// Takes all `events`, in order.
    pub fn take(&mut self, events: &mut Vec<Event>) {
        for event in events.drain(..) {
            self.apply(&event);
        }
        events.shrink_to(BATCH_KEPT);
        self.settle();
    }

    /// Takes one event, and says which findings it changed. [`Recorder::settle`] follows a batch of them.
    pub fn apply(&mut self, event: &Event) -> &[FindingId] {
        self.last = self.last.max(event.at);
        self.unseen.event(event);
        if let Body::Note(note) = &event.body
            && self.notes.len() < NOTES_MAX
        {
            self.notes.push(Remark { at: event.at, text: note.text.clone(), process: note.process });
        }
        match self.writer.as_mut().map(|writer| writer.event(event)) {
            None | Some(Ok(Progress::Written | Progress::Dropped)) => {}
            Some(Ok(Progress::LimitReached)) => self.is_full = true,
            Some(Err(error)) => {
                self.failure.get_or_insert(error);
            }
        }
        self.changed.clear();
        self.ledger.apply(event, &mut self.changed);
        if let Body::Job(job) = &event.body {
            self.leftovers.job(job, &self.ledger);
        }
        self.stale.extend(&self.changed);
        self.dirty = true;
        if self.writer.as_ref().is_some_and(Writer::is_long) {
            self.shorten();
        }
        &self.changed
    }

    /// Begins to make the log shorter: what the findings cite stays in it.
    fn shorten(&mut self) {
        let Some(writer) = &mut self.writer else { return };
        let cited = self.ledger.findings().flat_map(|finding| finding.evidence).collect();
        if let Err(error) = writer.shorten(cited) {
            self.failure.get_or_insert(error);
        }
    }

    /// Whether a finding is not told yet, because it may turn out to be meant.
    #[must_use]
    pub fn is_held(&self, id: FindingId) -> bool {
        self.held.contains_key(&id)
    }

    /// Tells what the events taken since the last time have changed.
    pub fn settle(&mut self) {
        let new = self.stale.difference(&self.written).filter(|id| !self.held.contains_key(id));
        let mut ready = Vec::new();
        for id in new.copied().collect::<Vec<_>>() {
            match self.ledger.finding(id).filter(may_be_meant) {
                Some(finding) => {
                    self.held.insert(id, BootTime(finding.first_seen.0.saturating_add(MEANT_WITHIN_NS)));
                }
                None => ready.push(id),
            }
        }
        if self.writer.as_mut().is_some_and(Writer::take_shorter) {
            // Their lines went with the older part.
            ready.extend(&self.written);
        }
        // A new finding is readable at once; its later changes can wait for the end.
        self.tell(&ready);
        self.tick(self.last);
    }

    /// When the next held finding is due to be told.
    #[must_use]
    pub fn next_due(&self) -> Option<BootTime> {
        self.held.values().min().copied()
    }

    /// Tells the held findings that are due by now.
    pub fn tick(&mut self, now: BootTime) {
        if self.held.is_empty() {
            return;
        }
        let due: Vec<FindingId> =
            self.held.iter().filter(|(_, due)| **due <= now).map(|(id, _)| *id).collect();
        self.held.retain(|_, due| *due > now);
        self.tell(&due);
    }

    fn tell(&mut self, findings: &[FindingId]) {
        if findings.is_empty() {
            return;
        }
        findings.iter().for_each(|id| self.write_finding(*id, false));
        self.dirty = true;
        self.flush();
    }

    /// Makes the log readable up to here.
    pub fn flush(&mut self) {
        if !std::mem::take(&mut self.dirty) {
            return;
        }
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.flush()
        {
            self.failure.get_or_insert(error);
        }
    }

    /// As [`Recorder::flush`], where that has not been done for 20 ms: whoever follows the log sees what happens, and what
    /// is killed loses little. Not for a compressed log, which would grow with every flush: it is flushed when nothing comes, and
    /// once a second.
    pub fn flush_soon(&mut self, now: BootTime) {
        if now.since(self.flushed) < VISIBLE_NS || self.writer.as_ref().is_some_and(Writer::is_compressed) {
            return;
        }
        self.flushed = now;
        self.flush();
    }

    /// The first thing that went wrong with the log, once.
    pub const fn take_failure(&mut self) -> Option<WriteError> {
        self.failure.take()
    }

    /// Whether the log has reached its size since this was last asked: events are no longer logged.
    pub const fn take_full(&mut self) -> bool {
        std::mem::replace(&mut self.is_full, false)
    }

    /// What is held and found.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// When the last event happened.
    #[must_use]
    pub const fn last(&self) -> BootTime {
        self.last
    }

    /// What no inventory could look into.
    #[must_use]
    pub const fn unseen(&self) -> &Unseen {
        &self.unseen
    }

    /// What is to be said in the first lines of a report: what no inventory could look into, and who was left behind.
    #[must_use]
    pub fn notices(&self) -> Vec<String> {
        self.unseen.sentence().into_iter().chain(self.leftovers.sentences()).collect()
    }

    /// What users wrote into the recording, in order.
    #[must_use]
    pub fn notes(&self) -> &[Remark] {
        &self.notes
    }

    /// Ends the log in order and hands over the ledger.
    ///
    /// # Errors
    /// When the last lines cannot be written.
    pub fn end(mut self, reason: &str, at: BootTime) -> (Ledger, Option<WriteError>) {
        if let Some(writer) = &mut self.writer {
            if let Err(error) = writer.finish_shortening() {
                self.failure.get_or_insert(error);
            }
            if writer.take_shorter() {
                self.stale.extend(&self.written);
            }
        }
        for id in std::mem::take(&mut self.stale) {
            self.write_finding(id, true);
        }
        let stats = self.ledger.stats();
        let end = End {
            at,
            reason: reason.to_owned(),
            events: stats.events,
            dropped: 0,
            lost: stats.lost,
            findings: self.ledger.findings().count() as u64,
        };
        if let Some(writer) = self.writer.take()
            && let Err(error) = writer.end(&end)
        {
            self.failure.get_or_insert(error);
        }
        (self.ledger, self.failure)
    }

    fn write_finding(&mut self, id: FindingId, is_end: bool) {
        self.stale.remove(&id);
        self.written.insert(id);
        let (Some(writer), Some(finding)) = (&mut self.writer, self.ledger.finding(id)) else { return };
        let shape = json::finding(&finding, self.clock);
        let written =
            if is_end { writer.finding(&shape).map(|()| true) } else { writer.finding_meanwhile(&shape) };
        match written {
            Ok(true) => {}
            // There is room for it at the end.
            Ok(false) => drop(self.stale.insert(id)),
            Err(error) => drop(self.failure.get_or_insert(error)),
        }
    }
}

/// Whether later events can take the finding back: sockets that share may join a multicast group, which only a socket on
/// a wildcard address receives from.
fn may_be_meant(finding: &Finding) -> bool {
    let overlaps = matches!(finding.kind, Kind::CoBind | Kind::Shadow | Kind::Handover);
    overlaps
        && finding.live
        && finding.protocol != Protocol::Tcp
        && finding.holders.iter().any(|holder| holder.address.to_canonical().is_unspecified())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;
    use crate::event::{Bind, Door, Hook, OptionSet, Options, Process, Seq, Setting, SocketFacts, Tid};
    use crate::log::{create, samples};

    /// A recording that two processes begin by binding one UDP port, each with a socket of its own.
    struct Bench {
        recorder: Recorder,
        folder: tempfile::TempDir,
        next: u64,
    }

    impl Bench {
        fn new(address: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let writer = Writer::new(create(&folder.path().join("log")).unwrap(), &samples::header(), None);
            let clock = Anchors::now();
            let mut bench = Self {
                recorder: Recorder::new(Some(writer.unwrap()), Settings::default(), clock),
                folder,
                next: 0,
            };
            for tgid in [1, 2] {
                let process = Process { parent: None, mark: None, ..samples::process(tgid, "p") };
                let process = Process { cmdline: vec![], cgroup: String::new(), ..process };
                let key = process.process;
                bench.event(0, Body::Process(process));
                let options = Options { reuse_addr: true, ..Options::default() };
                let socket = SocketFacts {
                    protocol: Protocol::Udp,
                    options,
                    ..samples::socket(u64::from(tgid), address, 5353)
                };
                bench.event(
                    0,
                    Body::Bind(Bind {
                        process: key,
                        tid: Tid(1),
                        comm: String::new(),
                        socket,
                        requested_port: 5353,
                        door: Door::Syscall,
                    }),
                );
            }
            bench
        }

        fn event(&mut self, at_ms: u64, body: Body) {
            self.next += 1;
            let event =
                Event { seq: Seq(self.next), at: BootTime(at_ms * 1_000_000), hook: Hook::Bindwatch, body };
            self.recorder.take(&mut vec![event]);
        }

        fn join(&mut self, at_ms: u64, tgid: u64) {
            let cookie = crate::event::Cookie(tgid);
            self.event(at_ms, Body::Option(OptionSet { cookie, setting: Setting::Multicast }));
        }

        /// Findings in the log by now.
        fn told(&self) -> usize {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
            log.lines().filter(|line| line.starts_with("{\"type\":\"finding\"")).count()
        }

        fn told_at_the_end(self) -> usize {
            let Self { recorder, folder, .. } = self;
            drop(recorder.end("test", BootTime(0)));
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
            log.lines().filter(|line| line.starts_with("{\"type\":\"finding\"")).count()
        }
    }

    #[test]
    fn what_turns_out_to_be_meant_is_never_told() {
        let mut bench = Bench::new("0.0.0.0");
        bench.join(900, 1);
        bench.join(950, 2);
        bench.recorder.tick(BootTime(60_000_000_000));
        assert_eq!((bench.told(), bench.recorder.next_due()), (0, None));
        assert_eq!(bench.told_at_the_end(), 0);
    }

    #[test]
    fn what_is_not_taken_back_is_told_in_time() {
        // With the next event, without one, and at the end.
        let mut bench = Bench::new("::");
        bench.join(999, 77);
        assert_eq!(bench.told(), 0);
        bench.join(1000, 77);
        assert_eq!(bench.told(), 1);

        let mut bench = Bench::new("0.0.0.0");
        assert_eq!(bench.recorder.next_due(), Some(BootTime(MEANT_WITHIN_NS)));
        bench.recorder.tick(BootTime(MEANT_WITHIN_NS));
        assert_eq!(bench.told(), 1);

        let bench = Bench::new("0.0.0.0");
        assert_eq!((bench.told(), bench.told_at_the_end()), (0, 1));
    }

    #[test]
    fn on_a_specific_address_nothing_is_waited_for() {
        assert_eq!(Bench::new("127.0.0.1").told(), 1);
    }

    #[test]
    fn what_comes_without_a_pause_can_be_read_soon() {
        let mut bench = Bench::new("0.0.0.0");
        let ms = |ms: u64| BootTime(ms * 1_000_000);
        let lines =
            |bench: &Bench| std::fs::read_to_string(bench.folder.path().join("log")).unwrap().lines().count();
        assert_eq!(lines(&bench), 1, "the header");
        bench.recorder.flush_soon(ms(100));
        let first = lines(&bench);
        assert!(first > 4, "two processes and two binds");
        bench.join(110, 1);
        bench.recorder.flush_soon(ms(110));
        assert_eq!(lines(&bench), first, "not with every event");
        bench.recorder.flush_soon(ms(120));
        assert_eq!(lines(&bench), first + 1);
    }

    /// A log with a size: two processes share `ports` ports, and somebody else binds and closes `churn` sockets.
    fn of_a_size(limit: u64, ports: u16, argument: usize, churn: u64) -> (crate::log::Ending, BTreeSet<u64>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let writer = Writer::new(create(&path).unwrap(), &samples::header(), Some(limit)).unwrap();
        let mut recorder = Recorder::new(Some(writer), Settings::default(), Anchors::now());
        let mut next = 0;
        let mut take = |recorder: &mut Recorder, body: Body| {
            next += 1;
            let event = Event { seq: Seq(next), at: BootTime(next), hook: Hook::Bindwatch, body };
            recorder.take(&mut vec![event]);
        };
        let bind = |tgid: u32, cookie: u64, port: u16| {
            let options = Options { reuse_port: true, ..Options::default() };
            let socket = SocketFacts { options, ..samples::socket(cookie, "127.0.0.1", port) };
            let (process, comm) = (samples::key(tgid), String::new());
            Body::Bind(Bind { process, tid: Tid(1), comm, socket, requested_port: port, door: Door::Syscall })
        };
        for tgid in [1, 2, 3] {
            let process = Process { parent: None, mark: None, ..samples::process(tgid, "p") };
            take(&mut recorder, Body::Process(Process { cmdline: vec!["a".repeat(argument)], ..process }));
        }
        for port in 1..=ports {
            for tgid in [1, 2] {
                take(&mut recorder, bind(tgid, u64::from(port) * 2 + u64::from(tgid), port));
            }
        }
        for cookie in 0..churn {
            let cookie = crate::event::Cookie(1_000_000 + cookie);
            take(&mut recorder, bind(3, cookie.0, 50_000));
            let state = crate::event::TcpState::Close;
            take(&mut recorder, Body::Close(crate::event::Close { cookie, state, backlog: 0 }));
        }
        drop(recorder.end("test", BootTime(next)));
        let found = std::fs::read_to_string(&path).unwrap();
        let found = found.lines().filter(|line| line.starts_with("{\"type\":\"finding\""));
        let found = found.map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let found = found.map(|line| line.get("id").unwrap().as_u64().unwrap()).collect();
        let mut reader = crate::source::log::open(&path).unwrap();
        while let Some(event) = reader.next_event() {
            event.unwrap();
        }
        (reader.ending().clone(), found)
    }

    #[test]
    fn findings_do_not_take_the_place_of_events() {
        let (ending, found) = of_a_size(256 << 10, 40, 8 << 10, 5_000);
        assert_eq!(
            ending.end.unwrap().dropped,
            0,
            "the events that are needed are a tenth of the log's size"
        );
        assert_eq!(found.len(), 40);
    }

    #[test]
    fn a_log_that_was_shortened_last_of_all_has_its_findings() {
        for churn in (100..400).step_by(5) {
            let (ending, found) = of_a_size(100 << 10, 10, 10, churn);
            assert_eq!((ending.end.unwrap().dropped, found.len()), (0, 10), "{churn}");
        }
    }
}
