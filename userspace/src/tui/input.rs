//! Keys and mouse, from a thread of its own that sleeps until there is something.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crossterm::event::{self, Event, KeyEventKind};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::model::Msg;

/// How long more of what is at hand is looked for: not at all, but crossterm takes zero for never.
///
/// Its other source of events, without the feature `use-dev-tty`, is told of the terminal by its edges and can miss one
/// when a key comes with a change of size; this one looks at what there is.
const AT_HAND: Duration = Duration::from_millis(1);

/// What comes from the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Something for the model.
    Msg(Msg),
    /// Its size changed.
    Resize,
    /// It is gone.
    Lost,
}

/// Where keys are read from: standard input, or the terminal itself when that is something else. The same as
/// crossterm does.
enum Source {
    Stdin(io::Stdin),
    Terminal(File),
}

impl Source {
    fn open() -> io::Result<Self> {
        let stdin = io::stdin();
        if stdin.is_terminal() { Ok(Self::Stdin(stdin)) } else { File::open("/dev/tty").map(Self::Terminal) }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Stdin(stdin) => stdin.as_fd(),
            Self::Terminal(file) => file.as_fd(),
        }
    }
}

/// Starts to read. The channel closes never; it ends with [`Input::Lost`].
pub(super) fn start() -> io::Result<UnboundedReceiver<Input>> {
    let source = Source::open()?;
    let (to, from) = unbounded_channel();
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || {
        // Whoever took the receiver away needs no last word.
        let _ended = read(&source, &to);
        drop(to.send(Input::Lost));
    })?;
    Ok(from)
}

fn read(source: &Source, to: &UnboundedSender<Input>) -> io::Result<()> {
    loop {
        let fd = source.fd();
        let mut ready = [PollFd::new(&fd, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let [ready] = &ready;
        // A terminal that hung up can be read for ever, and gives nothing.
        if ready.revents().intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
            return Ok(());
        }
        while event::poll(AT_HAND)? {
            let input = match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => Input::Msg(Msg::Key(key)),
                Event::Mouse(mouse) => Input::Msg(Msg::Mouse(mouse)),
                Event::Paste(text) => Input::Msg(Msg::Paste(text)),
                Event::Resize(..) => Input::Resize,
                _ => continue,
            };
            if to.send(input).is_err() {
                return Ok(());
            }
        }
    }
}
