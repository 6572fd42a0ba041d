//! The reader of the event ring.
//!
//! The kernel's ring can be mapped whole, twice in a row, and then counts twice its size as memory of the reader. This
//! reader maps a window of [`WINDOW`] bytes at a time instead and moves it along. Layout and protocol of
//! `BPF_MAP_TYPE_RINGBUF`: kernel/bpf/ringbuf.c and Documentation/bpf/ringbuf.rst (5.8).

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::maps::MapData;
use nix::libc::{c_void, off_t};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use tokio::io::unix::AsyncFd;

/// How much of the ring is mapped at a time, bytes.
const WINDOW: u64 = 256 << 10;
/// The kernel learns how far was read at least this often, bytes.
const TELL_EVERY: u64 = 64 << 10;
/// Bytes before each record: its length with two flags, and an offset that is the kernel's own.
const HEAD: u64 = HEAD_LEN as u64;
const HEAD_LEN: usize = 8;
/// The record is still being written.
const BUSY: u32 = 1 << 31;
/// The record was given up.
const DISCARDED: u32 = 1 << 30;

/// A part of the ring in this process's memory.
#[derive(Debug)]
struct Mapping {
    address: NonNull<c_void>,
    len: usize,
}

#[expect(unsafe_code, reason = "the ring is shared memory")]
impl Mapping {
    fn new(map: BorrowedFd<'_>, offset: u64, len: u64, writable: bool) -> std::io::Result<Self> {
        let too_large = || std::io::Error::from(std::io::ErrorKind::InvalidInput);
        let len = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or_else(too_large)?;
        let offset = off_t::try_from(offset).map_err(|_| too_large())?;
        let protection =
            if writable { ProtFlags::PROT_READ | ProtFlags::PROT_WRITE } else { ProtFlags::PROT_READ };
        // SAFETY: a new mapping at an address of the kernel's choice; nothing else refers to it.
        let address = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, map, offset) }?;
        Ok(Self { address, len: len.get() })
    }

    /// The position at the start of a page of positions.
    fn position(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped as long as self lives, aligned, and holds the position in its first eight bytes,
        // which both sides only access atomically. (bindwatch runs on 64-bit kernels: unsigned long is 64 bits.)
        unsafe { self.address.cast().as_ref() }
    }

    /// The length word of the record that begins at `at`.
    fn record_head(&self, at: usize) -> u32 {
        debug_assert!(at + size_of::<u32>() <= self.len);
        // SAFETY: the caller keeps `at` inside the mapping; records are aligned to eight bytes. The kernel writes the
        // word while we look at it, hence the atomic.
        unsafe { self.address.cast::<u8>().add(at).cast::<AtomicU32>().as_ref() }.load(Ordering::Acquire)
    }

    /// The bytes of a record.
    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        debug_assert!(at + len <= self.len);
        // SAFETY: the caller keeps the range inside the mapping. The kernel does not write to a record once it is no
        // longer busy, until the consumer's position has passed it, which happens after the slice is given back.
        unsafe { std::slice::from_raw_parts(self.address.cast::<u8>().add(at).as_ptr(), len) }
    }
}

#[expect(unsafe_code, reason = "the ring is shared memory")]
impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it outlives self. Unmapping a valid range cannot fail.
        let _ = unsafe { munmap(self.address, self.len) };
    }
}

/// The event ring.
#[derive(Debug)]
pub struct Ring {
    map: MapData,
    consumer: Mapping,
    producer: Mapping,
    /// The mapped part, and where in the ring it begins.
    window: Option<(u64, Mapping)>,
    size: u64,
    page: u64,
    /// How far was read.
    at: u64,
    /// How far the kernel knows.
    told: u64,
}

impl Ring {
    /// Over a ring of `size` bytes.
    pub(super) fn new(map: MapData, size: u32) -> std::io::Result<Self> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096);
        let page = u64::try_from(page).unwrap_or(4096);
        let fd = map.fd().as_fd();
        let consumer = Mapping::new(fd, 0, page, true)?;
        let producer = Mapping::new(fd, page, page, false)?;
        let at = consumer.position().load(Ordering::Acquire);
        Ok(Self { consumer, producer, window: None, size: size.into(), page, at, told: at, map })
    }

    /// Hands the next record to `read`; None when there is none yet.
    pub fn next<R>(&mut self, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        loop {
            if self.at >= self.producer.position().load(Ordering::Acquire) {
                self.tell();
                return None;
            }
            let (at, window) = self.show(HEAD).ok()?;
            let head = window.record_head(at);
            if head & BUSY != 0 {
                self.tell();
                return None;
            }
            let len = u64::from(head & !DISCARDED);
            let next = self.at + (HEAD + len).next_multiple_of(8);
            if head & DISCARDED != 0 {
                self.at = next;
                continue;
            }
            let (at, window) = self.show(HEAD + len).ok()?;
            let result = read(window.bytes(at, usize::try_from(HEAD + len).ok()?).get(HEAD_LEN..)?);
            self.at = next;
            if self.at - self.told >= TELL_EVERY {
                self.tell();
            }
            return Some(result);
        }
    }

    /// Whether there is more than was read: where nothing more could be read, a record that is still being written, or
    /// one that has come since. Its writer may have looked for a sleeping reader already and found none: a reader that goes to
    /// sleep now is not woken for it.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.at < self.producer.position().load(Ordering::Acquire)
    }

    /// Lets the kernel have what was read.
    fn tell(&mut self) {
        if self.told != self.at {
            self.told = self.at;
            self.consumer.position().store(self.at, Ordering::Release);
        }
    }

    /// Maps the next `len` bytes, unless they are mapped; and where in the mapping they begin.
    fn show(&mut self, len: u64) -> std::io::Result<(usize, &Mapping)> {
        // The data follow the two pages of positions, twice in a row: what wraps around lies behind the end too.
        let from = self.at & (self.size - 1);
        let is_shown = self
            .window
            .as_ref()
            .is_some_and(|(start, shown)| *start <= from && from + len <= *start + shown.len as u64);
        if !is_shown {
            self.window = None;
            let start = from - from % self.page;
            let needed = (from + len - start).next_multiple_of(self.page);
            let shown = WINDOW.min(self.size).max(needed);
            let mapping = Mapping::new(self.map.fd().as_fd(), 2 * self.page + start, shown, false)?;
            self.window = Some((start, mapping));
        }
        match &self.window {
            Some((start, shown)) => Ok((usize::try_from(from - start).unwrap_or(0), shown)),
            None => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    /// The ring, with the runtime told to watch for its bell. Needs a runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    #[expect(unsafe_code, reason = "the runtime wants a promise about the descriptor")]
    pub fn watched(self) -> std::io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is owned by the map inside, which is never replaced: it stays open and the same one
        // until the ring, and with it the registration, is dropped.
        unsafe { AsyncFd::register(self) }.map_err(|error| error.into_parts().1)
    }
}

/// A timer, or what else of this process is waited for, with the runtime told to watch for it. Needs a runtime.
///
/// # Errors
/// When the runtime cannot watch it.
#[expect(unsafe_code, reason = "the runtime wants a promise about the descriptor")]
pub fn watched(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by what is registered: it stays open and the same one until that is dropped.
    unsafe { AsyncFd::register(descriptor) }.map_err(|error| error.into_parts().1)
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
