//! The terminal: taken over, drawn on, and given back as it was, however the program ends.
//!
//! What is drawn goes to the terminal in a thread of its own. A terminal that takes nothing (a stopped one, a slow
//! line) is drawn no further frame until it has taken the last; the loop and the ring's reader go on.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use crossterm::event::{
    DisableBracketedPaste, DisableMouseCapture, EnableBracketedPaste, EnableMouseCapture,
};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{Command, cursor};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
pub use ratatui::buffer::Buffer as Picture;
pub use ratatui::layout::Rect as Area;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// How long the end waits for a terminal that takes nothing.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What may be on its way to a terminal before nothing is added that a key asks for: one frame, and something to copy.
const PENDING_MAX: usize = 4;

/// The terminal is ours now. One for the process, since a panic anywhere must give it back.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// Where frames are drawn.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Outlet>>,
    outlet: Arc<Traffic>,
    /// What is on the terminal is not known: the next frame is drawn as a whole.
    forgotten: bool,
    mouse: bool,
}

/// What the loop and the writing thread have in common.
#[derive(Default)]
struct Traffic {
    /// Frames that are not written yet.
    pending: Mutex<usize>,
    done: Condvar,
    /// A frame was written.
    written: Notify,
    /// The terminal takes nothing any more.
    lost: AtomicBool,
}

/// Collects a frame, and hands it over when it is flushed.
struct Outlet {
    bytes: Vec<u8>,
    to: UnboundedSender<Vec<u8>>,
    traffic: Arc<Traffic>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.bytes.is_empty() {
            return Ok(());
        }
        *self.traffic.pending.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.send(std::mem::take(&mut self.bytes)).map_err(gone)
    }
}

fn write_all(from: &mut UnboundedReceiver<Vec<u8>>, traffic: &Traffic) {
    while let Some(bytes) = from.blocking_recv() {
        let stdout = io::stdout();
        // Whole, past the buffer that would look for line ends.
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(stdout.as_fd(), rest) {
                Ok(taken) => rest = rest.get(taken..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let mut ready = [rustix::event::PollFd::new(&stdout, rustix::event::PollFlags::OUT)];
                    // Should this fail, the next write says why.
                    let _failed = rustix::event::poll(&mut ready, None);
                }
                Err(_) => {
                    traffic.lost.store(true, Ordering::Release);
                    break;
                }
            }
        }
        traffic.is_written();
    }
}

impl Traffic {
    fn pending(&self) -> usize {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_written(&self) {
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.done.notify_all();
        self.written.notify_one();
    }
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When there is none.
    pub fn take(mouse: bool) -> io::Result<Self> {
        let traffic = Arc::new(Traffic::default());
        // Never long: there is no second frame before the first is written.
        let (to, mut from) = unbounded_channel();
        let writer = Arc::clone(&traffic);
        std::thread::Builder::new()
            .name("terminal".to_owned())
            .spawn(move || write_all(&mut from, &writer))?;
        let outlet = Outlet { bytes: Vec::new(), to, traffic: Arc::clone(&traffic) };
        give_back_on_panic();
        enter(mouse)?;
        let terminal = match Terminal::new(CrosstermBackend::new(outlet)) {
            Ok(terminal) => terminal,
            Err(error) => {
                leave();
                return Err(error);
            }
        };
        Ok(Self { terminal, outlet: traffic, forgotten: false, mouse })
    }

    /// Whether the last frame is written: a new one may be drawn.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.outlet.pending() == 0
    }

    /// Whether the terminal is gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.outlet.lost.load(Ordering::Acquire)
    }

    /// Waits until a frame was written.
    pub async fn written(&self) {
        self.outlet.written.notified().await;
    }

    /// The size of the terminal now.
    ///
    /// # Errors
    /// When the terminal does not say.
    pub fn area(&mut self) -> io::Result<Area> {
        self.terminal.autoresize()?;
        Ok(self.terminal.get_frame().area())
    }

    /// Draws a frame: what differs from the last one goes to the terminal.
    ///
    /// # Errors
    /// When the terminal does not say its size.
    pub fn draw(&mut self, picture: impl FnOnce(Area, &mut Picture)) -> io::Result<()> {
        if std::mem::take(&mut self.forgotten) {
            // Not `clear`, which asks the terminal where its cursor is, and waits for the answer.
            let area = self.terminal.get_frame().area();
            self.terminal.resize(area)?;
        }
        self.terminal.draw(|frame| picture(frame.area(), frame.buffer_mut())).map(drop)
    }

    /// Sends something that is not a frame. False when too much waits for the terminal already.
    ///
    /// # Errors
    /// When nothing goes to the terminal any more.
    pub fn send(&mut self, command: impl Command) -> io::Result<bool> {
        if self.outlet.pending() >= PENDING_MAX {
            return Ok(false);
        }
        crossterm::queue!(self.terminal.backend_mut(), command)?;
        Write::flush(self.terminal.backend_mut())?;
        Ok(true)
    }

    /// Forgets what was drawn: the next frame is drawn as a whole.
    pub const fn forget(&mut self) {
        self.forgotten = true;
    }

    /// Gives the terminal back until [`Screen::resume`].
    pub fn pause(&mut self) {
        self.drain();
        leave();
    }

    /// Takes it over again.
    ///
    /// # Errors
    /// As [`Screen::take`].
    pub fn resume(&mut self) -> io::Result<()> {
        enter(self.mouse)?;
        self.forget();
        Ok(())
    }

    fn drain(&self) {
        let pending = self.outlet.pending.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.outlet.done.wait_timeout_while(pending, LAST_WORDS, |pending| *pending > 0));
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.drain();
        leave();
    }
}

fn enter(mouse: bool) -> io::Result<()> {
    enable_raw_mode()?;
    TAKEN.store(true, Ordering::Release);
    let mut out = io::stdout();
    crossterm::execute!(
        out,
        EnterAlternateScreen,
        EnableBracketedPaste,
        cursor::Hide,
        Clear(ClearType::All)
    )?;
    if mouse {
        crossterm::execute!(out, EnableMouseCapture)?;
    }
    Ok(())
}

/// Gives the terminal back, if it is taken. A terminal that is gone needs nothing.
fn leave() {
    if !TAKEN.swap(false, Ordering::AcqRel) {
        return;
    }
    // The mode first: it takes effect even where no byte gets through any more.
    drop(disable_raw_mode());
    let commands: &[u8] = &{
        let mut bytes = Vec::new();
        drop(crossterm::queue!(
            bytes,
            DisableMouseCapture,
            DisableBracketedPaste,
            crossterm::style::ResetColor,
            LeaveAlternateScreen,
            cursor::Show
        ));
        bytes
    };
    let stdout = io::stdout();
    let mut ready = [rustix::event::PollFd::new(&stdout, rustix::event::PollFlags::OUT)];
    let soon = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000_000 };
    if rustix::event::poll(&mut ready, Some(&soon)).is_ok_and(|ready| ready > 0) {
        // Nothing is left to do for a terminal that takes nothing.
        let _gone = rustix::io::write(stdout.as_fd(), commands);
    }
}

/// A panic, in whatever thread, is told on a terminal that is as it was.
fn give_back_on_panic() {
    static ONCE: AtomicBool = AtomicBool::new(false);
    if ONCE.swap(true, Ordering::AcqRel) {
        return;
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        leave();
        before(info);
    }));
}

/// A terminal in the hands of a test: it takes what was drawn when the test does.
#[cfg(test)]
pub(super) struct Taker {
    from: UnboundedReceiver<Vec<u8>>,
    traffic: Arc<Traffic>,
}

#[cfg(test)]
impl Taker {
    /// A screen of this size, and what takes its frames.
    pub(super) fn new(area: Area) -> (Screen, Self) {
        let traffic = Arc::new(Traffic::default());
        let (to, from) = unbounded_channel();
        let outlet = Outlet { bytes: Vec::new(), to, traffic: Arc::clone(&traffic) };
        let options = ratatui::TerminalOptions { viewport: ratatui::Viewport::Fixed(area) };
        let terminal = Terminal::with_options(CrosstermBackend::new(outlet), options);
        #[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
        let terminal = terminal.unwrap();
        let outlet = Arc::clone(&traffic);
        (Screen { terminal, outlet, forgotten: false, mouse: false }, Self { from, traffic })
    }

    /// Takes the next that was drawn or sent, if there is something.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        let bytes = self.from.try_recv().ok()?;
        self.traffic.is_written();
        Some(bytes)
    }
}
