//! The calls of io_uring: socket, setsockopt, bind and listen without a system call of their own.

#![expect(unsafe_code, reason = "submitted requests point to memory, which is kept until they complete")]

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types::Fd};
use rustix::io::Errno;
use rustix::net::SocketAddrAny;

use crate::sockets::{BACKLOG, family_of, kind_of};
use crate::{Actor, Failure};

/// SOL_SOCKET, SO_REUSEADDR and SO_REUSEPORT (socket(7)).
const SOL_SOCKET: u32 = 1;
const SO_REUSEADDR: u32 = 2;
const SO_REUSEPORT: u32 = 15;
/// Requests that a ring holds.
const ENTRIES: u32 = 8;
/// How long io_uring's thread waits for more before it sleeps, ms.
const SQPOLL_IDLE: u32 = 1000;

impl Actor {
    /// Registers a socket with a ring and closes its descriptor.
    pub(crate) fn uring_keep(&mut self, id: u64) -> Result<String, Failure> {
        let ring = IoUring::new(ENTRIES)?;
        ring.submitter().register_files(&[self.get(id)?.as_raw_fd()])?;
        self.rings.push(ring);
        self.sockets.remove(&id);
        Ok(String::new())
    }

    pub(crate) fn uring(
        &mut self,
        how: &str,
        protocol: &str,
        address: &str,
        flags: &[&str],
    ) -> Result<String, Failure> {
        let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
        let (mut ring, chosen) = ring(how)?;
        let (kind, number) = kind_of(protocol)?;
        let family = i32::from(family_of(&address).as_raw());
        let number = number.map_or(0, |protocol| protocol.as_raw().get()).try_into().unwrap_or(0);
        let kind = kind.as_raw().try_into().unwrap_or(0);
        let socket = one(&mut ring, opcode::Socket::new(family, kind, number).build().flags(chosen))?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let fd = Fd(socket.as_raw_fd());

        let on = 1_i32;
        for (flag, option) in [("reuseaddr", SO_REUSEADDR), ("reuseport", SO_REUSEPORT)] {
            if flags.contains(&flag) {
                one(&mut ring, set(fd, option, &on).flags(chosen))?;
            }
        }
        let address = SocketAddrAny::from(address);
        let bind = opcode::Bind::new(fd, address.as_ptr().cast(), address.addr_len()).build();
        let listen = opcode::Listen::new(fd, BACKLOG).build();
        let wants_listen = flags.contains(&"listen");
        if how == "linked" {
            all(&mut ring, &[bind.flags(Flags::IO_LINK), listen])?;
        } else {
            one(&mut ring, bind.flags(chosen))?;
            if wants_listen {
                one(&mut ring, listen.flags(chosen))?;
            }
        }
        self.told(socket)
    }

    pub(crate) fn uring_listen(&self, how: &str, id: u64) -> Result<String, Failure> {
        let (mut ring, chosen) = ring(how)?;
        let listen = opcode::Listen::new(Fd(self.get(id)?.as_raw_fd()), BACKLOG).build();
        one(&mut ring, listen.flags(chosen))?;
        Ok(String::new())
    }

    /// Sets SO_REUSEPORT.
    pub(crate) fn uring_option(&self, how: &str, id: u64, value: i32) -> Result<String, Failure> {
        let (mut ring, chosen) = ring(how)?;
        one(&mut ring, set(Fd(self.get(id)?.as_raw_fd()), SO_REUSEPORT, &value).flags(chosen))?;
        Ok(String::new())
    }
}

/// To set an option of the socket level.
fn set(socket: Fd, option: u32, value: &i32) -> Entry {
    let value: *const i32 = value;
    opcode::SetSockOpt::new(socket, SOL_SOCKET, option, value.cast(), 4).build()
}

/// A ring, and the flags of the requests.
fn ring(how: &str) -> Result<(IoUring, Flags), Failure> {
    let ring = match how {
        "sqpoll" => IoUring::builder().setup_sqpoll(SQPOLL_IDLE).build(ENTRIES)?,
        "inline" | "async" | "linked" => IoUring::new(ENTRIES)?,
        _ => return Err(Failure::Usage),
    };
    Ok((ring, if how == "async" { Flags::ASYNC } else { Flags::empty() }))
}

/// Submits one request and waits for its result.
fn one(ring: &mut IoUring, entry: Entry) -> Result<i32, Failure> {
    all(ring, &[entry])
}

/// Submits requests together and waits for all of them: the first error, else the last result.
fn all(ring: &mut IoUring, entries: &[Entry]) -> Result<i32, Failure> {
    for (number, entry) in (0..).zip(entries) {
        // SAFETY: what the entry points to lives in the caller until this function has seen its completion.
        unsafe { ring.submission().push(&entry.clone().user_data(number)) }.map_err(|_| Failure::Usage)?;
    }
    ring.submit_and_wait(entries.len())?;
    let mut results = vec![0; entries.len()];
    let mut seen = 0;
    while seen < entries.len() {
        for completion in ring.completion() {
            if let Some(slot) =
                usize::try_from(completion.user_data()).ok().and_then(|at| results.get_mut(at))
            {
                *slot = completion.result();
            }
            seen += 1;
        }
        if seen < entries.len() {
            ring.submit_and_wait(1)?;
        }
    }
    match results.iter().find(|result| **result < 0) {
        Some(errno) => Err(Failure::Errno(Errno::from_raw_os_error(-errno))),
        None => Ok(results.last().copied().unwrap_or(0)),
    }
}
