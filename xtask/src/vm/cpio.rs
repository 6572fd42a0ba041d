//! A file system that the kernel unpacks into memory at its start: the `newc` format of cpio
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// File types of `st_mode`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTERS: u32 = 0o020_000;

/// Writes one.
pub(crate) struct Archive<W> {
    out: W,
    written: u64,
    number: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub(crate) const fn new(out: W) -> Self {
        Self { out, written: 0, number: 0, folders: BTreeSet::new() }
    }

    /// A folder, with those it is in.
    pub(crate) fn folder(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() || !self.folders.insert(path.to_owned()) {
            return Ok(());
        }
        self.parent(path)?;
        self.entry(path, FOLDER | 0o755, (0, 0), &[])
    }

    /// A file with this content.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, FILE | mode, (0, 0), content)
    }

    /// A copy of a file.
    pub(crate) fn copy(&mut self, path: &str, from: &Path) -> io::Result<()> {
        let mode = std::fs::metadata(from)?.permissions().mode() & 0o777;
        self.file(path, mode, &std::fs::read(from)?)
    }

    /// A symbolic link.
    pub(crate) fn link(&mut self, path: &str, to: &str) -> io::Result<()> {
        self.parent(path)?;
        self.entry(path, LINK | 0o777, (0, 0), to.as_bytes())
    }

    /// The console: `init` has no output without one.
    pub(crate) fn console(&mut self) -> io::Result<()> {
        self.parent("dev/console")?;
        self.entry("dev/console", CHARACTERS | 0o600, (5, 1), &[])
    }

    /// The node of a serial line: `ttyS` is major number 4 from 64 on (Documentation/admin-guide/devices.txt).
    pub(crate) fn serial(&mut self, number: u32) -> io::Result<()> {
        let path = format!("dev/ttyS{number}");
        self.parent(&path)?;
        self.entry(&path, CHARACTERS | 0o600, (4, 64 + number), &[])
    }

    /// Its end.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn parent(&mut self, path: &str) -> io::Result<()> {
        path.rsplit_once('/').map_or(Ok(()), |(folder, _)| self.folder(folder))
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        self.number += 1;
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        // inode, mode, uid, gid, links, time, size, device, device of the node, length of the name, checksum
        let fields = [self.number, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name, 0];
        let mut header = b"070701".to_vec();
        for field in fields {
            write!(header, "{field:08x}")?;
        }
        header.extend(path.as_bytes());
        header.push(0);
        self.put(&header)?;
        self.put(content)
    }

    /// Writes, and fills up to a multiple of four.
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        while !self.written.is_multiple_of(4) {
            self.out.write_all(&[0])?;
            self.written += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests fail by panicking")]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_each_folder_once_and_everything_at_a_multiple_of_four() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a/b/c", 0o755, b"hello").unwrap();
        archive.link("a/b/d", "c").unwrap();
        let bytes = archive.finish().unwrap();
        assert!(bytes.len().is_multiple_of(4));
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("070701").count(), 5, "two folders, a file, a link, the end");
        let at = text.find("070701").unwrap();
        let name = |entry: usize| text[at + entry..].split('\0').next().unwrap().to_owned();
        assert!(name(110).ends_with('a'), "the outer folder comes first");
    }
}
