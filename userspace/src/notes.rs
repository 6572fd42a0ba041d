//! How anybody writes a note into the recordings that run: a socket in the abstract namespace (unix(7)) beside that of
//! [`control`](crate::control), which every user may connect to.
//!
//! What comes in is hostile: a note is cut, one connection takes one note and one second, so many are served at once and
//! so many notes taken a second. The kernel says whose it is (SO_PEERCRED); nothing that a note says of itself counts.
//! The abstract namespace belongs to a network namespace: a recording hears notes from its own.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::{Semaphore, mpsc};

use crate::control::owner;
use crate::event::{Body, Limit, Note, ProcessKey};
use crate::proc::Proc;

/// What the names begin with.
const PREFIX: &str = "bindwatch/note/";
/// Longest note, bytes of UTF-8.
pub const TEXT_MAX: usize = 1024;
/// Connections served at once; more wait in the kernel's queue.
const SERVED_MAX: usize = 32;
/// Notes taken in one second.
const PER_SECOND_MAX: u32 = 100;
/// How long one connection may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long `mark` waits for an answer: a busy recording writes its events first.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Recordings that one `mark` writes to.
const RECORDINGS_MAX: usize = 64;
/// The answer when the note is in the log.
const NOTED: &str = "noted";
/// The answer when too many came.
const TOO_MANY: &str = "too many";

/// A note that came, and who waits for its answer.
pub struct Arrived {
    note: Note,
    stream: tokio::net::UnixStream,
}

/// The recording's end of the wire.
pub struct NoteBox {
    arrived: mpsc::Receiver<Arrived>,
    second: std::time::Instant,
    taken: u32,
    told: bool,
}

impl NoteBox {
    /// Opens the box of this process. Needs a runtime.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open() -> io::Result<Self> {
        let name = format!("{PREFIX}{}/{}", owner().as_raw(), std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        listener.set_nonblocking(true)?;
        let listener = tokio::net::UnixListener::from_std(listener)?;
        let (sender, arrived) = mpsc::channel(SERVED_MAX);
        tokio::spawn(serve(listener, sender));
        Ok(Self { arrived, second: std::time::Instant::now(), taken: 0, told: false })
    }

    /// The next note. Dropping the future loses none.
    pub async fn next(&mut self) -> Arrived {
        match self.arrived.recv().await {
            Some(arrived) => arrived,
            // The server ended with the runtime: nothing comes any more.
            None => std::future::pending().await,
        }
    }

    /// What to write into the log for a note: the note, or once a second that there were too many.
    pub fn judge(&mut self, arrived: &Arrived) -> Option<Body> {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.taken, self.told) = (std::time::Instant::now(), 0, false);
        }
        self.taken = self.taken.saturating_add(1);
        if self.taken <= PER_SECOND_MAX {
            return Some(Body::Note(arrived.note.clone()));
        }
        let limit = Limit {
            bound: "notes".to_owned(),
            value: PER_SECOND_MAX.into(),
            unit: "notes a second".to_owned(),
        };
        (!std::mem::replace(&mut self.told, true)).then_some(Body::Limit(limit))
    }
}

impl Arrived {
    /// Who wrote it.
    #[must_use]
    pub const fn process(&self) -> ProcessKey {
        self.note.process
    }

    /// Answers, in the background: they may be gone, or read nothing.
    pub fn answer(mut self, noted: bool) {
        tokio::spawn(async move {
            let answer = format!("{}\n", if noted { NOTED } else { TOO_MANY });
            drop(tokio::time::timeout(PATIENCE, self.stream.write_all(answer.as_bytes())).await);
        });
    }
}

async fn serve(listener: tokio::net::UnixListener, sender: mpsc::Sender<Arrived>) {
    let places = Arc::new(Semaphore::new(SERVED_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: nobody can be heard now.
            tokio::time::sleep(PATIENCE).await;
            continue;
        };
        let sender = sender.clone();
        tokio::spawn(async move {
            if let Ok(Some(arrived)) = tokio::time::timeout(PATIENCE, heard(stream)).await {
                drop(sender.send(arrived).await);
            }
            drop(place);
        });
    }
}

/// Reads one line. None when there is none, or nobody who could have written it.
async fn heard(mut stream: tokio::net::UnixStream) -> Option<Arrived> {
    let pid = stream.peer_cred().ok()?.pid().and_then(|pid| u32::try_from(pid).ok())?;
    // While its writer waits for the answer, its PID is its own.
    let process = Proc::open().ok()?.key(pid)?;
    let mut bytes = Vec::new();
    let mut limited = (&mut stream).take(TEXT_MAX as u64 + 1);
    while !bytes.contains(&b'\n') && limited.read_buf(&mut bytes).await.ok()? > 0 {}
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = text_of(line);
    (!text.is_empty()).then_some(Arrived { note: Note { text, process }, stream })
}

/// Bytes as a note: what is no UTF-8 is replaced, what is too long is cut.
fn text_of(bytes: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(bytes).trim().to_owned();
    let mut end = TEXT_MAX.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// Why a note was not written.
#[derive(Debug, thiserror::Error)]
pub enum NoteError {
    /// Nobody records.
    #[error(
        "no recording is running in this network namespace: start one with `bindwatch run` or `bindwatch record`"
    )]
    Nobody,
    /// There are recordings, and none took it.
    #[error("the recording (PID {pid}) did not take the note: {why}")]
    Refused {
        /// Its PID.
        pid: u32,
        /// What went wrong.
        why: String,
    },
    /// The note is empty.
    #[error("the note is empty: write what happens, for example bindwatch mark \"suite X starts\"")]
    Empty,
    /// The kernel's list of sockets cannot be read.
    #[error("/proc/net/unix cannot be read: {0}")]
    List(#[source] io::Error),
}

/// Writes a note into every recording that can be reached, and returns when it is in their logs: in how many.
///
/// # Errors
/// When none takes it.
pub fn write(text: &str) -> Result<usize, NoteError> {
    // One line: what ends a line in a note would end it.
    let text = text_of(text.replace(['\n', '\r'], " ").as_bytes());
    if text.is_empty() {
        return Err(NoteError::Empty);
    }
    let (mut taken, mut refused) = (0, None);
    for (uid, pid) in boxes().map_err(NoteError::List)? {
        let Some(stream) = reach(uid, pid) else { continue };
        match tell(stream, &text) {
            Ok(()) => taken += 1,
            Err(why) => refused = Some(NoteError::Refused { pid, why }),
        }
    }
    match (taken, refused) {
        (0, Some(refused)) => Err(refused),
        (0, None) => Err(NoteError::Nobody),
        (taken, _) => Ok(taken),
    }
}

fn tell(mut stream: UnixStream, text: &str) -> Result<(), String> {
    let said = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            format!("it did not answer within {} s", ANSWER_WITHIN.as_secs())
        }
        _ => error.to_string(),
    };
    stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(said)?;
    stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(said)?;
    stream.write_all(format!("{text}\n").as_bytes()).map_err(said)?;
    let mut answer = String::new();
    BufReader::new(stream.take(64)).read_line(&mut answer).map_err(said)?;
    match answer.trim_end() {
        NOTED => Ok(()),
        TOO_MANY => Err(format!("more than {PER_SECOND_MAX} notes came in one second")),
        _ => Err("it ended".to_owned()),
    }
}

/// Users and PIDs of the recordings whose boxes are in this network namespace.
fn boxes() -> io::Result<Vec<(u32, u32)>> {
    let prefix = format!("@{PREFIX}");
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let mut found: Vec<(u32, u32)> = table
        .lines()
        .filter_map(|line| line.split_once(&prefix)?.1.split(' ').next()?.split_once('/'))
        .filter_map(|(uid, pid)| Some((uid.parse().ok()?, pid.parse().ok()?)))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(RECORDINGS_MAX);
    Ok(found)
}

/// Connects, unless it is somebody else's under a name that is not theirs.
fn reach(uid: u32, pid: u32) -> Option<UnixStream> {
    let name = format!("{PREFIX}{uid}/{pid}");
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()?;
    let theirs = getsockopt(&stream, PeerCredentials).ok()?.uid();
    (theirs == 0 || theirs == uid).then_some(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_one_line_of_bounded_text() {
        assert_eq!(text_of(b"  suite X starts \r"), "suite X starts");
        assert_eq!(text_of(&[0xff, b'a']), "\u{fffd}a");
        assert_eq!(text_of(&[0xff; 2000]).len(), TEXT_MAX / 3 * 3, "cut between characters");
        assert_eq!(text_of(&[b'x'; 2000]).len(), TEXT_MAX);
        assert_eq!(text_of(b" \t "), "");
    }
}
