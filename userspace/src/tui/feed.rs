//! Live events, from the thread that reads the ring: it hands them over and goes on.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::clock;
use crate::enrich::Processes;
use crate::event::{Cookie, Event};
use crate::ledger::Settings;
use crate::probe::{Attached, Options};
use crate::source::live::Live;

/// Events that may wait for the screen. Beyond it the ring is not read on, so that what does not fit is counted as lost
/// where it happens, as always.
const WAITING_MAX: usize = 1_000_000;
/// How long the reader waits then before it looks again.
const FULL_WAIT: std::time::Duration = std::time::Duration::from_millis(20);
/// How often the connections of the listeners that are looked at are counted.
const COUNT_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// The live source, running.
pub struct Feed {
    events: UnboundedReceiver<Vec<Event>>,
    waiting: Arc<AtomicUsize>,
    /// Which hooks are in use.
    pub attached: Attached,
    /// What existed when it began.
    pub first: Vec<Event>,
    /// Whose connections are to be counted.
    counted: watch::Sender<BTreeSet<Cookie>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl Feed {
    /// Attaches the probe and takes the inventory, in a thread of its own, where `processes` is made. Nothing that is bound after this returns is
    /// missed.
    ///
    /// # Errors
    /// When the probe does not load.
    pub fn start(
        options: Options,
        processes: impl FnOnce() -> Processes + Send + 'static,
    ) -> anyhow::Result<Self> {
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let (to, events) = unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let (counted, mut wanted) = watch::channel(BTreeSet::new());
        let waiting = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&waiting);
        let thread = std::thread::Builder::new().name("ring".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut first = Vec::new();
                let mut live = match Live::start(&options, processes(), &Settings::default(), &mut first) {
                    Ok(live) => live,
                    Err(error) => {
                        drop(ready.send(Err(error)));
                        return Ok(());
                    }
                };
                drop(ready.send(Ok((live.attached().clone(), first))));
                let read = async {
                    let mut next_count = Instant::now();
                    loop {
                        while counter.load(Ordering::Acquire) >= WAITING_MAX {
                            tokio::time::sleep(FULL_WAIT).await;
                        }
                        let counts = !wanted.borrow_and_update().is_empty();
                        tokio::select! {
                            biased;
                            ready = live.ready() => ready?,
                            changed = wanted.changed() => {
                                // At once: it was just opened.
                                next_count = Instant::now();
                                if changed.is_err() {
                                    return anyhow::Ok(());
                                }
                            }
                            () = tokio::time::sleep_until(next_count), if counts => {}
                        }
                        if next_count <= Instant::now() {
                            next_count = Instant::now() + COUNT_EVERY;
                            let mut batch = Vec::new();
                            live.count(&wanted.borrow_and_update(), &mut batch);
                            counter.fetch_add(batch.len(), Ordering::AcqRel);
                            if !batch.is_empty() && to.send(batch).is_err() {
                                return Ok(());
                            }
                        }
                        // What a flood made meanwhile is read next time: neither the end nor what is to be counted waits for it.
                        let (now, mut more) = (clock::boot_now(), true);
                        while more {
                            let mut batch = Vec::new();
                            more = live.drain(now, &mut batch)?;
                            if batch.is_empty() {
                                continue;
                            }
                            counter.fetch_add(batch.len(), Ordering::AcqRel);
                            if to.send(batch).is_err() {
                                return Ok(());
                            }
                            tokio::task::yield_now().await;
                        }
                    }
                };
                tokio::select! {
                    biased;
                    _ = stopped => Ok(()),
                    ended = read => ended,
                }
            })
        })?;
        let gone = || io::Error::other("the reader of the ring ended before it began");
        let (attached, first) = started.recv().map_err(|_| gone())??;
        Ok(Self { events, waiting, attached, first, counted, stop: Some(stop), thread: Some(thread) })
    }

    /// From now on the connections of these listeners are counted, and come as events when they change.
    pub fn count(&self, listeners: BTreeSet<Cookie>) {
        self.counted.send_if_modified(|before| {
            let other = *before != listeners;
            *before = listeners;
            other
        });
    }

    /// The next events; None when the reader has ended.
    pub async fn next(&mut self) -> Option<Vec<Event>> {
        let batch = self.events.recv().await?;
        self.waiting.fetch_sub(batch.len(), Ordering::AcqRel);
        Some(batch)
    }

    /// Everything that has come by now, without waiting.
    pub(super) fn try_next(&mut self) -> Option<Vec<Event>> {
        let batch = self.events.try_recv().ok()?;
        self.waiting.fetch_sub(batch.len(), Ordering::AcqRel);
        Some(batch)
    }

    /// Detaches the probe. Says why the reader had ended, if it had.
    ///
    /// # Errors
    /// When the ring could not be read.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.end().context("the events could not be read on")
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if let Some(stop) = self.stop.take() {
            // It may have ended already.
            let _ended = stop.send(());
        }
        match self.thread.take().map(std::thread::JoinHandle::join) {
            Some(Ok(ended)) => ended,
            Some(Err(_)) => Err(io::Error::other("the reader of the ring panicked").into()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
impl Feed {
    /// Whose connections are counted now.
    pub(super) fn counting(&self) -> Vec<Cookie> {
        self.counted.borrow().iter().copied().collect()
    }

    /// One that a test fills, and how much of that has not been taken.
    pub(super) fn by_hand() -> (Self, tokio::sync::mpsc::UnboundedSender<Vec<Event>>, Arc<AtomicUsize>) {
        let (to, events) = unbounded_channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        let attached = Attached::default();
        let first = Vec::new();
        let (stop, thread, counted) = (None, None, watch::Sender::default());
        let waiting_too = Arc::clone(&waiting);
        let feed = Self { events, waiting: waiting_too, attached, first, counted, stop, thread };
        (feed, to, waiting)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        drop(self.end());
    }
}
