//! An event log as a test reads it: lines of JSON, no more.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::inotify;
use serde_json::Value;

use crate::command::Run;
use crate::report::Report;
use crate::wait::{Deadline, Process, readable};

/// Longest line that [`Log::last_line`] gives whole, bytes.
const LINE_MAX: u64 = 1 << 16;

/// A log file.
#[derive(Clone, Debug)]
pub struct Log(PathBuf);

impl Log {
    /// The log at this place.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_path_buf())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Calls `each` with every whole line that contains `needle`; a last line without its end is left out.
    ///
    /// # Panics
    /// When the log cannot be read, or a whole line is not JSON.
    #[track_caller]
    pub fn each(&self, needle: &str, mut each: impl FnMut(Value)) {
        let mut reader = BufReader::new(File::open(&self.0).expect("a log"));
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).expect("a log that can be read") > 0 {
            if line.ends_with(b"\n") && contains(&line, needle) {
                each(serde_json::from_slice(&line).unwrap_or_else(|error| {
                    panic!("a line of the log is not JSON: {error}: {}", String::from_utf8_lossy(&line))
                }));
            }
            line.clear();
        }
    }

    /// Every whole line that contains `needle`.
    ///
    /// # Panics
    /// As [`Log::each`].
    #[must_use]
    #[track_caller]
    pub fn lines(&self, needle: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        self.each(needle, |line| lines.push(line));
        lines
    }

    /// The last line, whole or not.
    ///
    /// # Panics
    /// When the log cannot be read.
    #[must_use]
    #[track_caller]
    pub fn last_line(&self) -> String {
        let mut file = File::open(&self.0).expect("a log");
        let length = file.metadata().expect("a length").len();
        file.seek(SeekFrom::Start(length.saturating_sub(LINE_MAX))).expect("a place in the log");
        let mut end = Vec::new();
        file.read_to_end(&mut end).expect("a log that can be read");
        String::from_utf8_lossy(&end).lines().next_back().unwrap_or_default().to_owned()
    }

    /// Waits until `count` whole lines that contain `needle` satisfy `wanted`, and gives them. Fails when the process
    /// that writes the log ends first.
    ///
    /// # Panics
    /// When it takes too long.
    #[track_caller]
    pub fn wait_for(
        &self,
        writer: &Process,
        needle: &str,
        count: usize,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> Vec<Value> {
        let deadline = Deadline::patient();
        let watch =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
        inotify::add_watch(&watch, &self.0, inotify::WatchFlags::MODIFY).expect("a watch on the log");
        let mut found = Vec::new();
        let mut reader = BufReader::new(File::open(&self.0).expect("a log"));
        let mut line = Vec::new();
        loop {
            drain(&watch);
            while reader.read_until(b'\n', &mut line).expect("a log that can be read") > 0
                && line.ends_with(b"\n")
            {
                if contains(&line, needle) {
                    let value: Value = serde_json::from_slice(&line).expect("a line of JSON");
                    if wanted(&value) {
                        found.push(value);
                    }
                }
                line.clear();
            }
            if found.len() >= count {
                return found;
            }
            match readable([watch.as_fd(), writer.as_fd()], deadline) {
                Some(0) => {}
                Some(_) => panic!(
                    "the recording ended before {count} lines with {needle} were in the log, {}",
                    found.len()
                ),
                None => panic!("{} of {count} lines with {needle} in the log: {found:#?}", found.len()),
            }
        }
    }

    /// What `bindwatch report` says of it, which must be the same twice, byte for byte.
    ///
    /// # Panics
    /// When it fails or differs.
    #[must_use]
    #[track_caller]
    pub fn report(&self) -> Report {
        self.report_with(&[])
    }

    /// The same with more options.
    ///
    /// # Panics
    /// When it fails or differs.
    #[must_use]
    #[track_caller]
    pub fn report_with(&self, options: &[&str]) -> Report {
        let run = || {
            let run = Run::bindwatch(["report", "--format", "json"]).args(options).args([&self.0]);
            run.outcome().expect(0).stdout
        };
        let (once, again) = (run(), run());
        assert_eq!(once, again, "the same log gives the same report");
        Report::of(&once)
    }
}

/// Takes what an inotify descriptor has, so that it can be waited for again.
pub(crate) fn drain(watch: &OwnedFd) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    while events.next().is_ok() {}
}

fn contains(line: &[u8], needle: &str) -> bool {
    str::from_utf8(line).is_ok_and(|line| line.contains(needle))
}
