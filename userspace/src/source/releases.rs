//! When a port may have become free: the probe's records of sockets that end, and a timer where none will come.
//!
//! The probe is attached without what only a recording needs: nothing but the end of a socket fills the ring. A record
//! says that it is worth looking at the socket tables, not that the port is free: it is made while the socket is being
//! closed.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use bindwatch_probe::abi::counter;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::live::LiveError;
use super::sockets::Row;
use crate::cgroup2;
use crate::event::{Cookie, Protocol, TcpState};
use crate::probe::{Counters, Idle, Options, Probe, ProbeError, Ring, release_memory};
use crate::wire::{self, Record};

/// Size of the ring, bytes: room for more than 4000 sockets that end between two looks into it.
const RING_BYTES: u32 = 256 << 10;
/// The programs that tell of a socket's end.
const PROGRAMS: [&str; 3] = ["tcp_destroy_sock", "inet_sock_set_state", "sock_release"];

/// The tables are read at most this often, and the ring is looked into at most this often while others' sockets end.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The tables are read this often while a socket takes its time to close, and when records were lost.
const RETRY_EVERY: Duration = Duration::from_millis(50);
/// How often the tables are read while something is in the way that may end without a record, and at most how often
/// because of sockets that were not in the way at the last look.
const UNTOLD_EVERY: Duration = Duration::from_secs(1);
/// For how long after a loss the tables are read every [`RETRY_EVERY`].
const UNSURE_FOR: Duration = Duration::from_secs(1);
/// The tables are read once more so long after the programs were attached: what was just being closed then is told by
/// nobody.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// Sockets that ended since the tables were last read; when there are more the tables are read.
const ENDED_MAX: usize = 4096;

/// Why releases cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ReleasesError {
    /// The probe, or its ring.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// Only a part of the machine's processes is below the root that is mounted.
    #[error(
        "the cgroup2 hierarchy that is mounted is a part of the machine's: sockets outside of it end unseen"
    )]
    PartOfHierarchy,
}

impl From<ProbeError> for ReleasesError {
    fn from(error: ProbeError) -> Self {
        Self::Live(error.into())
    }
}

/// Tells when a port may have become free. Dropping it detaches the probe.
pub struct Releases {
    ring: AsyncFd<Ring>,
    idle: Idle,
    counters: Counters,
    /// Records of ended sockets that were lost, and events that the kernel left out.
    lost: u64,
    /// What ended and may still be in the tables.
    ended: BTreeSet<Cookie>,
    /// How long the next look waits for a socket that is being closed.
    patience: Duration,
    /// When what was being closed while the programs were attached is gone.
    settled: Instant,
    /// Until when records may be missing.
    unsure: Option<Instant>,
    /// Owns the programs.
    probe: Probe,
}

/// What the ring says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    /// Nothing.
    None,
    /// Sockets ended that were not in the way.
    Others,
    /// What is in the way may have ended.
    Ours,
}

/// Attaches the probe: what ends after this returns is told by [`Releases::next`]. Takes some tens of milliseconds, most
/// of them to read the kernel's types. Minimum kernel 5.9 (`BPF_CGROUP_INET_SOCK_RELEASE`).
///
/// # Errors
/// Without privileges, on a kernel that cannot carry the programs, or in a container that shows a part of the cgroup2
/// hierarchy.
pub fn attach() -> Result<Probe, ReleasesError> {
    let root = cgroup2::mount_point().ok_or(ProbeError::NoCgroup2)?;
    if std::fs::metadata(&root).is_ok_and(|root| root.ino() != cgroup2::ROOT_INODE) {
        return Err(ReleasesError::PartOfHierarchy);
    }
    let options =
        Options { ring_bytes: RING_BYTES, errno: false, only: Some(&PROGRAMS), ..Options::default() };
    Ok(Probe::attach(&options)?)
}

impl Releases {
    /// Over what [`attach`] gave. Needs a runtime.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub fn new(mut probe: Probe) -> Result<Self, ReleasesError> {
        let ring = probe.ring()?.watched().map_err(LiveError::Ring)?;
        let (idle, counters) = (probe.idle()?, probe.counters()?);
        release_memory();
        Ok(Self {
            ring,
            idle,
            counters,
            lost: 0,
            ended: BTreeSet::new(),
            patience: LOOK_EVERY,
            settled: Instant::now() + SETTLED_AFTER,
            unsure: None,
            probe,
        })
    }

    /// Returns when it is worth reading the tables again. `held` is what was in the way when they were last read, which
    /// was just now and after [`attach`] or the last call of this returned. Cancel safe.
    ///
    /// # Errors
    /// When the ring cannot be waited for.
    pub async fn next<'a>(&mut self, held: impl IntoIterator<Item = &'a Row>) -> io::Result<()> {
        let looked = Instant::now();
        let mut cookies = BTreeSet::new();
        let mut due: Option<Instant> = None;
        let mut is_ending = false;
        for row in held {
            cookies.insert(row.socket.cookie);
            if is_at_rest(row) && self.ended.contains(&row.socket.cookie) {
                is_ending = true;
            } else if let Some(wait) = untold_end(row) {
                sooner(&mut due, looked + wait);
            }
        }
        self.ended.retain(|cookie| cookies.contains(cookie));
        if is_ending {
            // Its last descriptor is closed, and the kernel is about to take it from the tables.
            sooner(&mut due, looked + self.patience);
            self.patience = (self.patience * 2).min(RETRY_EVERY);
        } else {
            self.patience = LOOK_EVERY;
        }
        if looked < self.settled {
            sooner(&mut due, self.settled);
        }
        self.unsure = self.unsure.filter(|until| looked < *until);
        if self.unsure.is_some() {
            sooner(&mut due, looked + RETRY_EVERY);
        }
        loop {
            match self.take_or_ask(&cookies, looked)? {
                News::Ours => {
                    sooner(&mut due, looked + LOOK_EVERY);
                    sleep_until(due.unwrap_or(looked)).await;
                    return Ok(());
                }
                News::Others => {
                    sooner(&mut due, looked + UNTOLD_EVERY);
                    // Not woken for each of a flood.
                    let pause = Instant::now() + LOOK_EVERY;
                    sleep_until(due.map_or(pause, |due| due.min(pause))).await;
                }
                News::None => self.bell(due).await?,
            }
            if due.is_some_and(|due| due <= Instant::now()) {
                return Ok(());
            }
        }
    }
    /// Takes what is in the ring; when that is nothing, asks to be woken by the next record.
    fn take_or_ask(&mut self, held: &BTreeSet<Cookie>, looked: Instant) -> io::Result<News> {
        let news = self.take(held, looked);
        if news != News::None {
            return Ok(news);
        }
        self.idle.ask().map_err(io::Error::other)?;
        // A record that came before the wish was seen rings no bell.
        Ok(self.take(held, looked))
    }

    fn take(&mut self, held: &BTreeSet<Cookie>, looked: Instant) -> News {
        let mut news = News::None;
        while let Some(decoded) = self.ring.get_mut().next(wire::decode) {
            let Ok(stamped) = decoded else { continue };
            let (Record::Close(small) | Record::Destroy(small) | Record::Unlisten(small)) = &stamped.record
            else {
                continue;
            };
            let is_ours = held.contains(&small.cookie);
            news = news.max(if is_ours { News::Ours } else { News::Others });
            if !matches!(stamped.record, Record::Unlisten(_)) {
                self.ended.insert(small.cookie);
            }
            if self.ended.len() >= ENDED_MAX {
                // Forgotten once the tables, read after this, do not show them.
                return News::Ours;
            }
        }
        let untold = self.counters.read().get(counter::CLOSE as usize).copied().unwrap_or(0);
        let lost = untold + self.probe.missed();
        if lost != self.lost {
            self.lost = lost;
            self.unsure = Some(looked.max(Instant::now()) + UNSURE_FOR);
            return News::Ours;
        }
        news
    }

    /// Waits for a record, until `due` at most.
    async fn bell(&mut self, due: Option<Instant>) -> io::Result<()> {
        if self.ring.get_ref().has_more() {
            // Its writer may not know of the wish to be woken.
            tokio::time::sleep(LOOK_EVERY).await;
            return Ok(());
        }
        let readable = self.ring.readable();
        let mut guard = match due {
            None => readable.await?,
            Some(due) => match timeout_at(due, readable).await {
                Ok(guard) => guard?,
                Err(_elapsed) => return Ok(()),
            },
        };
        guard.clear_ready();
        Ok(())
    }
}

fn sooner(due: &mut Option<Instant>, at: Instant) {
    *due = Some(due.map_or(at, |due| due.min(at)));
}

/// Whether its last descriptor's end is its own: it has nothing to tell a peer.
pub(super) const fn is_at_rest(row: &Row) -> bool {
    !matches!(row.socket.protocol, Protocol::Tcp) || matches!(row.state, TcpState::Listen | TcpState::Close)
}

/// When to look again at what may leave the tables without a record; None when its end is always told.
pub(super) fn untold_end(row: &Row) -> Option<Duration> {
    let has_owner = row.inode != 0;
    match row.state {
        // It may also be cut short, by a reset.
        TcpState::TimeWait => {
            let expires = row.expires_ms.map_or(UNTOLD_EVERY, |ms| Duration::from_millis(ms.into()));
            Some(expires.clamp(LOOK_EVERY, UNTOLD_EVERY))
        }
        // Either may be a mere entry that stands for a socket, as TIME_WAIT does.
        TcpState::FinWait2 | TcpState::SynRecv => Some(UNTOLD_EVERY),
        // A socket without an owner is the kernel's own.
        TcpState::Listen | TcpState::Close => (!has_owner).then_some(UNTOLD_EVERY),
        // A connection that is reset gives its port back while its process still has it; one that was closed ends with
        // a record.
        _ => has_owner.then_some(UNTOLD_EVERY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Family, Inum, NetnsCookie, SocketFacts, Uid};

    fn row(protocol: Protocol, state: TcpState, inode: u32, expires_ms: Option<u32>) -> Row {
        let socket = SocketFacts {
            cookie: Cookie(1),
            netns: Inum(1),
            netns_cookie: NetnsCookie::default(),
            family: Family::Inet,
            protocol,
            address: [127, 0, 0, 1].into(),
            port: 80,
            options: crate::event::Options::default(),
            uid: Uid(0),
        };
        Row { socket, state, peer: None, inode, queued: 0, expires_ms }
    }

    #[test]
    fn no_timer_where_a_record_tells() {
        for (protocol, state, inode) in [
            (Protocol::Tcp, TcpState::Listen, 7),
            (Protocol::Tcp, TcpState::Close, 7),
            (Protocol::Udp, TcpState::Close, 7),
            (Protocol::Tcp, TcpState::FinWait1, 0),
            (Protocol::Tcp, TcpState::LastAck, 0),
        ] {
            assert_eq!(untold_end(&row(protocol, state, inode, None)), None, "{protocol:?} {state:?}");
        }
    }

    #[test]
    fn a_timer_where_none_does() {
        let time_wait = |ms| untold_end(&row(Protocol::Tcp, TcpState::TimeWait, 0, ms));
        assert_eq!(time_wait(Some(300)), Some(Duration::from_millis(300)));
        assert_eq!(time_wait(Some(0)), Some(LOOK_EVERY), "its timer is late");
        assert_eq!(time_wait(Some(60_000)), Some(UNTOLD_EVERY), "a reset would end it before");
        for (state, inode) in [(TcpState::FinWait2, 0), (TcpState::Established, 7), (TcpState::Listen, 0)] {
            assert_eq!(untold_end(&row(Protocol::Tcp, state, inode, None)), Some(UNTOLD_EVERY), "{state:?}");
        }
    }
}
