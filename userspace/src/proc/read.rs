//! Reading small files of `/proc` without an allocation per file.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, RawDir};

use super::stat::number;

/// Bytes a read asks for at once, and what a directory buffer holds.
const CHUNK: usize = 16 << 10;

/// A PID (or descriptor number) as a path, with what may follow it, on the stack.
pub(crate) struct PidPath {
    bytes: [u8; Self::LEN],
}

impl PidPath {
    /// Digits of a u32 and its NUL, rounded up.
    const LEN: usize = 12;

    /// `"4711"`.
    pub(crate) fn new(number: u32) -> Self {
        let mut bytes = [0; Self::LEN];
        let mut text = [0_u8; Self::LEN];
        let mut rest = number;
        let mut len = 0;
        for slot in &mut text {
            *slot = b'0' + (rest % 10) as u8;
            rest /= 10;
            len += 1;
            if rest == 0 {
                break;
            }
        }
        for (to, from) in bytes.iter_mut().zip(text.iter().take(len).rev()) {
            *to = *from;
        }
        Self { bytes }
    }

    /// For a system call.
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// An open folder, with the buffer its listings and its files are read into.
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Opens a folder by its path from `at`.
    pub(crate) fn open(at: BorrowedFd<'_>, path: &CStr) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::openat(at, path, flags, Mode::empty())?))
    }

    /// Opens a folder by its path from the working directory.
    pub(crate) fn open_path(path: &CStr) -> io::Result<Self> {
        Self::open(CWD, path)
    }

    /// Calls `each` with every entry whose name is a number. An entry that appears or vanishes meanwhile may or may
    /// not be seen. Ends early, without a word, when the folder's process is gone.
    pub(crate) fn numbers(&self, buffer: &mut Vec<u8>, mut each: impl FnMut(u32)) {
        if rustix::fs::seek(&self.0, rustix::fs::SeekFrom::Start(0)).is_err() {
            return;
        }
        buffer.clear();
        buffer.reserve(CHUNK);
        let mut entries = RawDir::new(&self.0, buffer.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            if let Some(number) = number(entry.file_name().to_bytes()).and_then(|n| u32::try_from(n).ok()) {
                each(number);
            }
        }
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Reads a file of one record (`stat`, `status`, `cmdline`, `cgroup`: not a table such as `mountinfo`) whole, or its
/// first `max` bytes, into `buffer`, which is cleared first.
pub(crate) fn read_at(at: BorrowedFd<'_>, name: &CStr, buffer: &mut Vec<u8>, max: usize) -> io::Result<()> {
    let file = rustix::fs::openat(at, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    buffer.clear();
    while buffer.len() < max {
        buffer.reserve(CHUNK.min(max));
        let before = buffer.len();
        if rustix::io::read(&file, spare_capacity(buffer))? == 0 {
            break;
        }
        // The kernel gives one record at one read where it fits; another read would only confirm the end.
        if buffer.len() - before < CHUNK / 4 {
            break;
        }
    }
    buffer.truncate(max);
    Ok(())
}

/// The target of a link as far as it fits into the buffer; None when there is none to be seen.
pub(crate) fn link_at<'b>(
    at: BorrowedFd<'_>,
    name: &CStr,
    buffer: &'b mut [MaybeUninit<u8>],
) -> io::Result<&'b [u8]> {
    let (target, _) = rustix::fs::readlinkat_raw(at, name, buffer)?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_paths() {
        for number in [0, 7, 10, 4711, u32::MAX] {
            assert_eq!(PidPath::new(number).as_c_str().to_str(), Ok(number.to_string().as_str()));
        }
    }
}
