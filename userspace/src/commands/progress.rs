//! How far the reading of logs is: one line on the terminal while that takes long, and nothing of it afterwards.
//!
//! It goes to standard error, and only where that is a terminal. What is piped or redirected never has any of it.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use unicode_width::UnicodeWidthChar as _;

use crate::cli::Globals;
use crate::clock;
use crate::event::BootTime;
use crate::log::{ReadError, Reader};
use crate::sink::escape;
use crate::source;

/// What takes less than this is not worth a line, ns.
const PATIENCE_NS: u64 = 500_000_000;
/// Time from one picture of it to the next, ns.
const PACE_NS: u64 = 100_000_000;
/// From here on the time that is left is told, ns.
const KNOWN_NS: u64 = 2_000_000_000;
/// Widest bar and longest name of a log, columns.
const BAR_MAX: usize = 30;
const NAME_MAX: usize = 30;
/// Columns of a terminal that does not tell.
const COLUMNS: usize = 80;

/// The line. It is wiped when this is dropped.
pub(super) struct Progress {
    /// There is somebody to see it.
    seen: bool,
    drawn: bool,
    began: BootTime,
    due: BootTime,
    logs: Vec<PathBuf>,
    /// The log that is being read: its place among them, from 1, and what it is called.
    number: usize,
    name: String,
    /// Bytes of the logs before this one.
    before: u64,
    read: Arc<AtomicU64>,
    events: u64,
}

impl Progress {
    /// Of the reading of these logs, one after the other.
    pub(super) fn of(logs: &[PathBuf], globals: &Globals) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|value| value.is_empty() || value == "dumb");
        let began = clock::boot_now();
        Self {
            seen: !globals.quiet && !dumb && io::stderr().is_terminal(),
            drawn: false,
            began,
            due: BootTime(began.0.saturating_add(PATIENCE_NS)),
            logs: logs.to_vec(),
            number: 0,
            name: String::new(),
            before: 0,
            read: Arc::default(),
            events: 0,
        }
    }

    /// Opens the next log.
    ///
    /// # Errors
    /// As [`source::log::open`].
    pub(super) fn open(&mut self, path: &Path) -> Result<Reader, ReadError> {
        self.number += 1;
        self.before += self.read.swap(0, Ordering::Relaxed);
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        self.name = escape::cut(&name, NAME_MAX).into_owned();
        source::log::open_counted(path, &self.read)
    }

    /// So many more events were read.
    pub(super) fn events(&mut self, count: usize) {
        self.events = self.events.saturating_add(count as u64);
        if !self.seen {
            return;
        }
        let now = clock::boot_now();
        if now < self.due {
            return;
        }
        self.due = BootTime(now.0.saturating_add(PACE_NS));
        self.drawn = true;
        let columns = crossterm::terminal::size().map_or(0, |(columns, _)| usize::from(columns));
        let columns = if columns == 0 { COLUMNS } else { columns };
        let line = self.line(self.total(), now.since(self.began));
        // The last column is left: some terminals go to the next line when it is written.
        let mut used = 0;
        let fits = |c: &char| {
            used += c.width().unwrap_or(0);
            used < columns
        };
        let line: String = line.chars().take_while(fits).collect();
        // A terminal that is gone is no reason to read no further.
        drop(write!(io::stderr(), "\r{line}\x1b[K"));
    }

    /// Bytes of all logs as they are now, for they may grow; None where that cannot be said.
    fn total(&self) -> Option<u64> {
        let size =
            |path: &PathBuf| fs::metadata(path).ok().filter(fs::Metadata::is_file).map(|file| file.len());
        self.logs.iter().map(size).sum()
    }

    fn line(&self, total: Option<u64>, took_ns: u64) -> String {
        let which = match self.logs.len() {
            1 => String::new(),
            all => format!(" ({} of {all})", self.number),
        };
        let line = format!("reading {}{which}", self.name);
        let events = format!("{} events", counted(self.events));
        let read = self.before.saturating_add(self.read.load(Ordering::Relaxed));
        let Some(total) = total.filter(|total| *total > 0) else { return format!("{line}  {events}") };
        let permille = u64::try_from(u128::from(read.min(total)) * 1000 / u128::from(total)).unwrap_or(1000);
        let full = usize::try_from(permille).unwrap_or(0) * BAR_MAX / 1000;
        let bar = format!("{}{}", "━".repeat(full), "─".repeat(BAR_MAX - full));
        let mut line = format!("{line}  {bar} {:>3} %  {events}", permille / 10);
        if took_ns >= KNOWN_NS && permille > 0 {
            let left_ns = u128::from(took_ns) * u128::from(1000 - permille.min(1000)) / u128::from(permille);
            line = format!("{line}, {} s left", left_ns.div_ceil(1_000_000_000));
        }
        line
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}

/// A number for somebody who looks at it for a tenth of a second.
fn counted(number: u64) -> String {
    match number {
        0..10_000 => number.to_string(),
        10_000..1_000_000 => format!("{} k", number / 1000),
        _ => format!("{}.{} M", number / 1_000_000, number / 100_000 % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(logs: &[&str]) -> Progress {
        let logs: Vec<PathBuf> = logs.iter().map(PathBuf::from).collect();
        let mut progress = Progress::of(&logs, &Globals::default());
        (progress.number, progress.name) = (1, "a.jsonl".to_owned());
        progress
    }

    #[test]
    fn a_line_tells_how_far_it_is_and_how_long_it_takes() {
        let mut one = progress(&["a.jsonl"]);
        one.read.store(421, Ordering::Relaxed);
        one.events = 4_240_000;
        let line = one.line(Some(1000), 1_000_000_000);
        assert_eq!(line, "reading a.jsonl  ━━━━━━━━━━━━──────────────────  42 %  4.2 M events");
        assert!(one.line(Some(1000), 4_000_000_000).ends_with("  42 %  4.2 M events, 6 s left"));
        // What grew in between, and what has no size.
        assert!(one.line(Some(400), 4_000_000_000).contains("━ 100 %"));
        assert_eq!(one.line(None, 4_000_000_000), "reading a.jsonl  4.2 M events");
        assert_eq!(one.line(Some(0), 4_000_000_000), "reading a.jsonl  4.2 M events");
    }

    #[test]
    fn several_logs_are_one_way() {
        let mut three = progress(&["a", "b", "c"]);
        (three.before, three.number, three.events) = (500, 2, 12_345);
        three.read.store(250, Ordering::Relaxed);
        let line = three.line(Some(1000), 0);
        assert!(line.starts_with("reading a.jsonl (2 of 3)  "), "{line}");
        assert!(line.ends_with("  75 %  12 k events"), "{line}");
    }
}
