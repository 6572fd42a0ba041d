//! Diagnostics of bindwatch and of its probe on standard error: `-vv`.

use std::io::{self, Write as _};

use log::{LevelFilter, Log, Metadata, Record};

use crate::sink::escape;

/// One line a message, escaped.
struct Lines;

static LINES: Lines = Lines;

/// Lets messages through: of `-vv` those that explain, of `-vvv` everything. Less says nothing.
pub fn start(verbose: u8) {
    let level = match verbose {
        0 | 1 => return,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    };
    // Only the first call sets it; there is no other.
    if log::set_logger(&LINES).is_ok() {
        log::set_max_level(level);
    }
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Its own and the probe's; the loader's debug messages are the verifier's, and many.
        metadata.target().starts_with("bindwatch") || metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let line = record.args().to_string();
            // Nothing is left to do should standard error be closed.
            drop(writeln!(io::stderr(), "bindwatch: {}: {}", record.target(), escape::line(&line)));
        }
    }

    fn flush(&self) {}
}
