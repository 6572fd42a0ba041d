//! How a running recording is reached: a socket in the abstract namespace (unix(7)), which goes when the recording
//! goes, however it ends.
//!
//! Its name holds the user the recording belongs to: who called sudo, else who runs it. Both ends look at the other's
//! credentials: only root and that user may end a recording, and only theirs is believed.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Uid, geteuid, getuid};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};

/// What the names begin with.
const PREFIX: &str = "bindwatch/record/";
/// Longest request that is read, bytes.
const REQUEST_MAX: u64 = 256;
/// The request to end.
const STOP: &str = "stop";
/// The answer when the last line is written.
const ENDED: &str = "ended";

/// The user that recordings and files of this process belong to: under sudo who called it.
#[must_use]
pub fn owner() -> Uid {
    let behind_sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok()).map(Uid::from_raw);
    behind_sudo.filter(|_| geteuid().is_root()).unwrap_or_else(getuid)
}

/// The recording's end of the wire.
pub struct Door {
    listener: tokio::net::UnixListener,
    owner: Uid,
}

/// Somebody who asked for the end and waits for it.
pub struct Waiter(tokio::net::UnixStream);

impl Door {
    /// Opens the door of this process. Needs a runtime.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open() -> io::Result<Self> {
        let owner = owner();
        let name = format!("{PREFIX}{}/{}", owner.as_raw(), std::process::id());
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener: tokio::net::UnixListener::from_std(listener)?, owner })
    }

    /// Waits until somebody who may asks for the end.
    pub async fn asked_to_stop(&self) -> Waiter {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of descriptors: nobody can ask now.
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            if let Some(waiter) = self.heard(stream).await {
                return waiter;
            }
        }
    }

    async fn heard(&self, stream: tokio::net::UnixStream) -> Option<Waiter> {
        use tokio::io::AsyncReadExt as _;
        let asker = stream.peer_cred().ok()?.uid();
        if asker != 0 && asker != self.owner.as_raw() {
            return None;
        }
        let mut stream = stream;
        let mut line = String::new();
        let mut reader = tokio::io::BufReader::new((&mut stream).take(REQUEST_MAX));
        // Whoever connects and says nothing must not keep others out.
        tokio::time::timeout(Duration::from_secs(1), reader.read_line(&mut line)).await.ok()?.ok()?;
        (line.trim_end() == STOP).then_some(Waiter(stream))
    }
}

impl Waiter {
    /// Tells them that the last line is written. They may be gone.
    pub async fn tell_ended(mut self) {
        drop(self.0.write_all(format!("{ENDED}\n").as_bytes()).await);
    }
}

/// Why a recording was not ended.
#[derive(Debug, thiserror::Error)]
pub enum StopError {
    /// There is none.
    #[error("no recording of yours is running: start one with `bindwatch record`")]
    None,
    /// There are several.
    #[error("several recordings of yours are running (PIDs {0}): end the one you mean with kill -TERM PID")]
    Several(String),
    /// It does not answer.
    #[error(
        "the recording (PID {pid}) did not end within {seconds} s: it may still be writing; see if PID {pid} lives"
    )]
    Silent {
        /// Its PID.
        pid: u32,
        /// How long was waited.
        seconds: u64,
    },
    /// It broke off.
    #[error(
        "the recording (PID {pid}) ended without saying that its log is complete: look at the log's last line"
    )]
    Broken {
        /// Its PID.
        pid: u32,
    },
    /// The kernel's list of sockets cannot be read.
    #[error("/proc/net/unix cannot be read: {0}")]
    List(#[source] io::Error),
}

/// Ends the caller's recording and waits for its last line.
///
/// # Errors
/// When there is none or more than one, or it does not end in time.
pub fn stop(timeout: Duration) -> Result<(), StopError> {
    let owner = owner();
    let mut found = Vec::new();
    for pid in recordings(owner).map_err(StopError::List)? {
        if let Some(stream) = reach(owner, pid) {
            found.push((pid, stream));
        }
    }
    let pids: Vec<String> = found.iter().map(|(pid, _)| pid.to_string()).collect();
    let (pid, mut stream) = match found.len() {
        0 => return Err(StopError::None),
        1 => found.remove(0),
        _ => return Err(StopError::Several(pids.join(", "))),
    };
    let broken = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            StopError::Silent { pid, seconds: timeout.as_secs() }
        }
        _ => StopError::Broken { pid },
    };
    stream.set_read_timeout(Some(timeout.max(Duration::from_millis(1)))).map_err(broken)?;
    stream.write_all(format!("{STOP}\n").as_bytes()).map_err(broken)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(broken)?;
    if answer.trim_end() == ENDED { Ok(()) } else { Err(StopError::Broken { pid }) }
}

/// PIDs of recordings that belong to `owner`, by the names of their sockets.
fn recordings(owner: Uid) -> io::Result<Vec<u32>> {
    let prefix = format!("@{PREFIX}{}/", owner.as_raw());
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let mut pids: Vec<u32> = table
        .lines()
        .filter_map(|line| line.split_once(&prefix)?.1.split(' ').next()?.parse().ok())
        .collect();
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

/// Connects, unless it is somebody else's under a name that is not theirs.
fn reach(owner: Uid, pid: u32) -> Option<UnixStream> {
    let name = format!("{PREFIX}{}/{pid}", owner.as_raw());
    let stream = UnixStream::connect_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()?;
    let theirs = Uid::from_raw(getsockopt(&stream, PeerCredentials).ok()?.uid());
    (theirs.is_root() || theirs == owner).then_some(stream)
}
