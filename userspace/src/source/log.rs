//! Events from a log file.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::log::{ReadError, Reader};

/// Opens a log; `-` is standard input. Needs no privileges but to read the file.
///
/// # Errors
/// As [`Reader::new`], and when the file cannot be opened.
pub fn open(path: &Path) -> Result<Reader, ReadError> {
    open_counted(path, &Arc::default())
}

/// The same; `read` grows by every byte that is read of the file, compressed as they may be.
///
/// # Errors
/// As [`open`].
pub fn open_counted(path: &Path, read: &Arc<AtomicU64>) -> Result<Reader, ReadError> {
    let read = Arc::clone(read);
    if path.as_os_str() == "-" {
        return Reader::new(Counted { inner: io::stdin(), read }, Path::new("standard input"));
    }
    match File::open(path) {
        Ok(inner) => Reader::new(Counted { inner, read }, path),
        Err(error) => Err(ReadError::System { path: path.to_owned(), error }),
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    read: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
