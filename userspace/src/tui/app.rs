//! The loop: events, keys, time and signals come in; frames and effects go out. Live and replay differ in where events
//! come from.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use crossterm::clipboard::CopyToClipboard;
use nix::sys::signal::{Signal, raise};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::batch;
use super::detail;
use super::feed::Feed;
use super::input::{self, Input};
use super::kill::terminate;
use super::model::{Effect, Model, Msg, Playing, Shown};
use super::play::Player;
use super::ports_look::Counter;
use super::rows::{self, Index, Query, Scene, Tab};
use super::signals::{Call, Signals};
use super::terminal::Screen;
use super::theme::Theme;
use super::view::{self, Layout};
use super::world::World;
use crate::clock::{self, Anchors};
use crate::event::{Event, ProcessKey};
use crate::log::create_private;

/// The shortest time between two frames that no key asked for.
const FRAME: Duration = Duration::from_millis(40);
/// What the rows cost, times this, is how long they stay: a machine with many sockets is not slowed down by the screen.
const REST: u32 = 8;
/// Events that wait while the screen is frozen; then it follows again.
pub(super) const FROZEN_MAX: usize = 100_000;
/// How often the ports are counted while they are looked at.
const PORTS_EVERY: Duration = Duration::from_secs(2);
/// How often what fades is drawn.
const FADE: Duration = Duration::from_secs(1);
/// Longest text that is copied, bytes: terminals take no more.
const COPY_MAX: usize = 48 << 10;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// How things look.
    pub theme: Theme,
    /// The mouse is ours.
    pub mouse: bool,
    /// The view to begin with.
    pub tab: Tab,
    /// The filter to begin with.
    pub filter: String,
}

enum Source {
    Live(Feed),
    Log(Box<Player>),
}

/// Shows what happens now, until the user has seen enough.
///
/// # Errors
/// When the terminal cannot be used, or events can no longer be read.
pub async fn live(feed: Feed, world: World, options: &Options) -> anyhow::Result<()> {
    App::start(Source::Live(feed), world, options)?.run().await
}

/// Plays a log.
///
/// # Errors
/// When the terminal cannot be used.
pub async fn replay(player: Player, world: World, options: &Options) -> anyhow::Result<()> {
    App::start(Source::Log(Box::new(player)), world, options)?.run().await
}

struct App {
    source: Source,
    world: World,
    model: Model,
    theme: Theme,
    index: Index,
    /// What the rows were made of.
    built: Option<(Query, u64)>,
    /// When they may be made again.
    rebuild: Instant,
    layout: Layout,
    screen: Screen,
    keys: UnboundedReceiver<Input>,
    counter: Option<Counter>,
    counted: Instant,
    /// Something is to be drawn.
    dirty: bool,
    next_frame: Instant,
    next_fade: Instant,
    /// The last time that a replay was moved on.
    moved: Instant,
    waiting: Vec<Event>,
}

impl App {
    fn start(source: Source, world: World, options: &Options) -> anyhow::Result<Self> {
        // The keys first: without a terminal to read from nothing is taken over.
        let keys = input::start()?;
        Ok(Self::new(source, world, options, keys, Screen::take(options.mouse)?))
    }

    fn new(
        source: Source,
        world: World,
        options: &Options,
        keys: UnboundedReceiver<Input>,
        screen: Screen,
    ) -> Self {
        let model = Model { tab: options.tab, filter: options.filter.clone(), ..Model::default() };
        let now = Instant::now();
        Self {
            source,
            world,
            model,
            theme: options.theme,
            index: Index::default(),
            built: None,
            rebuild: now,
            layout: Layout::default(),
            screen,
            keys,
            counter: None,
            counted: now,
            dirty: true,
            next_frame: now,
            next_fade: now,
            moved: now,
            waiting: Vec::new(),
        }
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        while self.turn(signals.next()).await? {}
        // The terminal first: what is said from now on is to be read.
        let Self { source, screen, .. } = self;
        drop(screen);
        match source {
            Source::Live(feed) => feed.stop(),
            Source::Log(_) => Ok(()),
        }
    }

    /// Draws what is due, then waits for what comes next and takes it. False when that is the end.
    async fn turn(&mut self, call: impl Future<Output = Call>) -> anyhow::Result<bool> {
        self.replayed();
        self.count_ports()?;
        if self.dirty && self.screen.is_ready() && Instant::now() >= self.next_frame {
            self.frame()?;
        }
        if self.screen.is_lost() {
            return Ok(false);
        }
        let wake = self.wake();
        let busy = (self.dirty || self.is_stale()) && !self.screen.is_ready();
        tokio::select! {
            biased;
            call = call => match call {
                Call::End => return Ok(false),
                Call::Resized => self.redraw_now(),
                Call::Stop => self.suspend()?,
                Call::GoOn => self.resumed()?,
            },
            input = self.keys.recv() => match input {
                None | Some(Input::Lost) => return Ok(false),
                Some(Input::Resize) => self.redraw_now(),
                Some(Input::Msg(msg)) => return Ok(!self.key(&msg)?),
            },
            () = self.screen.written(), if busy => {}
            came = next(&mut self.source) => return Ok(self.came(came)),
            count = answer(&mut self.counter) => {
                for ((netns, protocol), seen) in count {
                    self.world.ports_counted(netns, protocol, seen);
                }
                self.dirty = true;
            }
            () = sleep(wake) => self.ticked(),
        }
        Ok(true)
    }

    fn redraw_now(&mut self) {
        self.dirty = true;
        self.next_frame = Instant::now();
    }

    /// When there is something to do that nobody calls for.
    fn wake(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let frame = (self.dirty && self.screen.is_ready()).then_some(self.next_frame);
        // Rows are made with a frame, never for themselves.
        let rows = (self.is_stale() && self.screen.is_ready()).then_some(self.rebuild.max(self.next_frame));
        let live = matches!(self.source, Source::Live(_)) && self.model.frozen.is_none();
        let fades = live && self.world.rates().fades(self.world.now());
        let fade = fades.then_some(self.next_fade.max(now));
        let due = self
            .world
            .next_due()
            .filter(|_| live)
            .map(|due| now + Duration::from_nanos(due.since(clock::boot_now())));
        let ports = (live && self.model.tab == Tab::Ports).then_some(self.counted + PORTS_EVERY);
        let event = match &mut self.source {
            // A replay's line of time moves by itself.
            Source::Log(player) => {
                let runs = player.runs.then_some(now + FRAME * 4);
                player
                    .next_in()
                    .map(|wait| now + wait.max(Duration::from_millis(1)))
                    .into_iter()
                    .chain(runs)
                    .min()
            }
            Source::Live(_) => None,
        };
        [frame, rows, fade, due, ports, event].into_iter().flatten().min()
    }

    fn is_stale(&self) -> bool {
        self.built.as_ref().is_none_or(|(_, generation)| *generation != self.world.generation())
    }

    fn ticked(&mut self) {
        let now = Instant::now();
        self.dirty |= self.is_stale() && now >= self.rebuild;
        match &self.source {
            Source::Live(_) if self.model.frozen.is_none() => {
                let due = self.world.next_due().is_some_and(|due| due <= clock::boot_now());
                if now >= self.next_fade || due {
                    self.next_fade = now + FADE;
                    self.dirty |= self.world.tick(clock::boot_now());
                }
            }
            Source::Live(_) => {}
            Source::Log(_) => self.dirty = true,
        }
    }

    /// Asks for the ports while they are looked at.
    fn count_ports(&mut self) -> io::Result<()> {
        let wanted = matches!(self.source, Source::Live(_))
            && self.model.tab == Tab::Ports
            && self.model.frozen.is_none();
        if !wanted {
            return Ok(());
        }
        if self.counter.is_none() {
            self.counter = Some(Counter::start()?);
            self.counted = Instant::now().checked_sub(PORTS_EVERY).unwrap_or_else(Instant::now);
        }
        if let Some(counter) = &self.counter
            && self.counted.elapsed() >= PORTS_EVERY
        {
            counter.ask();
            self.counted = Instant::now();
        }
        Ok(())
    }

    /// Takes what came live. False when nothing will come any more.
    fn came(&mut self, came: Came) -> bool {
        match came {
            Came::Ended => return false,
            Came::Learnt => self.redraw_now(),
            Came::Events(mut events) => {
                if let Source::Live(feed) = &mut self.source {
                    while let Some(mut more) = feed.try_next() {
                        events.append(&mut more);
                    }
                }
                if self.model.frozen.is_some() {
                    self.waiting.append(&mut events);
                    self.model.frozen = Some(self.waiting.len());
                    if self.waiting.len() >= FROZEN_MAX {
                        self.follow();
                        self.model.message =
                            Some(format!("{FROZEN_MAX} events waited: the screen follows again"));
                    }
                } else {
                    self.world.take(&mut events);
                }
                self.dirty = true;
            }
        }
        true
    }

    fn follow(&mut self) {
        self.model.frozen = None;
        let mut waiting = std::mem::take(&mut self.waiting);
        self.world.take(&mut waiting);
        self.world.tick(clock::boot_now());
    }

    /// Moves a replay on.
    fn replayed(&mut self) {
        let Source::Log(player) = &mut self.source else { return };
        let now = Instant::now();
        player.advance(now - self.moved);
        self.moved = now;
        let mut events = Vec::new();
        player.due(&mut events);
        self.dirty |= !events.is_empty();
        self.world.take(&mut events);
        self.world.tick(player.at());
        if let Some(trouble) = player.trouble.take() {
            self.model.message = Some(trouble);
        }
        let outline = player.outline.as_ref();
        let marks = match &self.model.replay {
            Some(playing) if playing.end.is_some() => playing.marks.clone(),
            _ => outline.map(|outline| outline.marks.iter().map(|(_, at)| *at).collect()).unwrap_or_default(),
        };
        let playing = Playing {
            name: player.name(),
            runs: player.runs,
            speed: player.speed,
            start: player.start,
            end: outline.map(|outline| outline.end),
            at: player.at(),
            marks,
            seeks: player.seeks(),
        };
        let moved =
            |old: &Playing| (old.runs, old.end, old.seeks) != (playing.runs, playing.end, playing.seeks);
        self.dirty |= self.model.replay.as_ref().is_none_or(moved);
        self.model.replay = Some(playing);
    }

    /// Brings the rows up to date, unless that was done a moment ago.
    fn rows(&mut self) {
        let query = self.model.query();
        let now = Instant::now();
        let other = self.built.as_ref().is_none_or(|(built, _)| *built != query);
        if other || (self.is_stale() && now >= self.rebuild) {
            self.world.refresh();
            self.index = rows::index(&self.world, &query);
            self.built = Some((query, self.world.generation()));
            self.rebuild = Instant::now() + now.elapsed() * REST;
        }
    }

    fn frame(&mut self) -> io::Result<()> {
        self.rows();
        let area = self.screen.area()?;
        self.layout = Layout::new(&self.model, &self.world, self.index.entries.len(), area);
        self.model.settle(&self.index, self.layout.table_rows().into());
        let Self { model, world, index, layout, theme, screen, .. } = self;
        screen.draw(|_, buffer| view::draw(model, world, index, layout, *theme, buffer))?;
        self.dirty = false;
        self.next_frame = Instant::now() + FRAME;
        if let Source::Live(feed) = &self.source {
            // The split of what is looked at, while it is looked at.
            let chosen = self.index.entries.get(self.model.pane().at).filter(|_| self.model.detail);
            let listeners = chosen.map(|entry| rows::listeners(&self.world, &self.index, entry));
            feed.count(listeners.unwrap_or_default());
        }
        Ok(())
    }

    /// Takes a key. True when the user has seen enough.
    fn key(&mut self, msg: &Msg) -> io::Result<bool> {
        // A key is about the rows that are on the screen.
        let shown = Shown { world: &self.world, index: &self.index, layout: &self.layout };
        let effect = self.model.update(msg, &shown);
        self.redraw_now();
        let Some(effect) = effect else { return Ok(false) };
        match (effect, &mut self.source) {
            (Effect::Quit, _) => return Ok(true),
            (Effect::Suspend, _) => self.suspend()?,
            (Effect::Redraw, _) => self.screen.forget(),
            (Effect::Copy, _) => self.copy()?,
            (Effect::Write, _) => self.write(),
            (Effect::Terminate(process), Source::Live(_)) => self.terminate(process),
            (Effect::Pause, Source::Live(_)) if self.model.frozen.is_some() => self.follow(),
            (Effect::Pause, Source::Live(_)) => self.model.frozen = Some(0),
            (Effect::Pause, Source::Log(player)) => player.runs = !player.runs,
            (Effect::Finding(ahead), Source::Log(player)) => {
                if !player.finding(ahead, &mut self.world) {
                    let known = player.outline.is_some();
                    let side = if ahead { "later" } else { "earlier" };
                    let text = if known {
                        format!("no {side} finding")
                    } else {
                        "the log is still being read".into()
                    };
                    self.model.message = Some(text);
                }
            }
            (Effect::Seek(seconds), Source::Log(player)) => player.seek_by(seconds, &mut self.world),
            (Effect::Edge(end), Source::Log(player)) => player.edge(end, &mut self.world),
            (Effect::Speed(up), Source::Log(player)) => player.change_speed(up),
            (
                Effect::Terminate(_)
                | Effect::Finding(_)
                | Effect::Seek(_)
                | Effect::Edge(_)
                | Effect::Speed(_),
                _,
            ) => {}
        }
        Ok(false)
    }

    fn suspend(&mut self) -> io::Result<()> {
        self.screen.pause();
        // Stopped here until somebody lets it go on.
        raise(Signal::SIGSTOP)?;
        self.moved = Instant::now();
        self.resumed()
    }

    /// The program goes on after it was stopped: whatever is on the terminal now is not ours.
    fn resumed(&mut self) -> io::Result<()> {
        self.screen.resume()?;
        self.redraw_now();
        Ok(())
    }

    fn story(&self) -> String {
        let scene = Scene { world: &self.world, glyphs: self.theme.glyphs };
        let width = self.layout.area.width.max(100);
        let lines = detail::chosen(scene, &self.model, &self.index, width);
        lines.iter().fold(String::new(), |text, line| text + line.text().trim_end() + "\n")
    }

    fn copy(&mut self) -> io::Result<()> {
        if self.index.entries.is_empty() {
            self.model.message = Some("there is no row to copy".to_owned());
            return Ok(());
        }
        let mut story = self.story();
        if story.len() > COPY_MAX {
            let end = (0..=COPY_MAX).rev().find(|at| story.is_char_boundary(*at)).unwrap_or(0);
            story.truncate(end);
        }
        let lines = story.lines().count();
        let sent = self.screen.send(CopyToClipboard::to_clipboard_from(&story))?;
        self.model.message = Some(if sent {
            format!("copied {lines} lines, if the terminal lets programs copy (OSC 52)")
        } else {
            "nothing was copied: the terminal takes nothing".to_owned()
        });
        Ok(())
    }

    fn write(&mut self) {
        let stamp = Anchors::now();
        let stamp = stamp.rfc3339(clock::boot_now());
        let stamp: String = stamp.chars().filter(|c| c.is_ascii_digit()).take(17).collect();
        let path = PathBuf::from(format!("bindwatch-top-{stamp}.txt"));
        let mut text = Vec::new();
        let query = self.model.query();
        let written = batch::screen(&self.world, &query, &mut text).and_then(|()| {
            if self.model.detail && !self.index.entries.is_empty() {
                writeln!(text, "\n{}", self.story())?;
            }
            let mut file = create_private(&path)?;
            file.write_all(&text)?;
            file.flush()
        });
        let folder = std::env::current_dir().unwrap_or_default();
        self.model.message = Some(match written {
            Ok(()) => format!("wrote {}", folder.join(&path).display()),
            Err(error) => format!("{} cannot be written: {error}", folder.join(&path).display()),
        });
    }

    fn terminate(&mut self, process: ProcessKey) {
        let pid = process.tgid;
        self.model.message = Some(match terminate(process) {
            Ok(true) => format!("sent SIGTERM to PID {pid}"),
            Ok(false) => format!("PID {pid} is no longer that process: nothing was sent"),
            Err(error) => format!("PID {pid} cannot be asked to end: {error}"),
        });
    }
}

/// What came by itself.
enum Came {
    Events(Vec<Event>),
    /// What a log has is known.
    Learnt,
    Ended,
}

async fn next(source: &mut Source) -> Came {
    match source {
        Source::Live(feed) => feed.next().await.map_or(Came::Ended, Came::Events),
        Source::Log(player) => {
            player.learnt().await;
            Came::Learnt
        }
    }
}

async fn answer(counter: &mut Option<Counter>) -> super::ports_look::Count {
    match counter {
        Some(counter) => counter.answer().await,
        None => std::future::pending().await,
    }
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "app_tests.rs"]
mod tests;
