//! Events from a log file.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::log::{ReadError, Reader};

/// Opens a log; `-` is standard input. Needs no privileges but to read the file.
///
/// # Errors
/// As [`Reader::new`], and when the file cannot be opened.
pub fn open(path: &Path) -> Result<Reader, ReadError> {
    if path.as_os_str() == "-" {
        return Reader::new(io::stdin(), Path::new("standard input"));
    }
    match File::open(path) {
        Ok(file) => Reader::new(file, path),
        Err(error) => Err(ReadError::System { path: path.to_owned(), error }),
    }
}
