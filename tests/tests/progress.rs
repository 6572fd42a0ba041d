//! How far a report is, while it reads a log that has no end.

#![expect(clippy::expect_used, reason = "tests fail by panicking")]

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use scenarios::{Terminal, bindwatch};

/// Events that are written between two looks at whether it is enough.
const PART: usize = 512;

/// A log that goes on until somebody has seen enough of it.
struct Endless {
    enough: Arc<AtomicBool>,
    writer: JoinHandle<io::Result<()>>,
}

impl Endless {
    /// Into a pipe, from when somebody opens it.
    fn new(pipe: &Path) -> Self {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/clean.jsonl");
        let header = std::fs::read_to_string(golden).expect("a stored log");
        let header = header.lines().next().expect("its header").to_owned();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .expect("a pipe");
        let (pipe, enough) = (pipe.to_owned(), Arc::new(AtomicBool::new(false)));
        let seen = Arc::clone(&enough);
        let writer = thread::spawn(move || {
            let mut pipe = File::options().write(true).open(pipe)?;
            let mut text = format!("{header}\n");
            let mut seq = 0;
            while !seen.load(Ordering::Relaxed) {
                for _ in 0..PART {
                    seq += 1;
                    text.push_str(&format!(
                        "{{\"type\":\"gone\",\"seq\":{seq},\"at\":{seq},\"hook\":\"tcp_destroy_sock\",\"cookie\":1}}\n"
                    ));
                }
                pipe.write_all(text.as_bytes())?;
                text.clear();
            }
            pipe.write_all(b"{\"type\":\"end\",\"at\":1,\"reason\":\"enough\"}\n")
        });
        Self { enough, writer }
    }

    fn ends(self) {
        self.enough.store(true, Ordering::Relaxed);
        self.writer.join().expect("a writer").expect("a log that is read to its end");
    }
}

const DONE: &str = "it ended with 0";

fn command(options: &str, pipe: &Path, rest: &str) -> String {
    // What is typed does not have what is waited for.
    let program = bindwatch();
    format!("{} report {options} {} {rest}; echo it ended 'with' $?", program.display(), pipe.display())
}

#[test]
fn a_long_log_has_a_line_that_goes_away() {
    let quiet = Terminal::start(100, 30);
    let pipe = quiet.folder().file("quiet.jsonl");
    let without = Endless::new(&pipe);
    quiet.run(&command("--quiet", &pipe, ""));
    let redirected = Terminal::start(100, 30);
    let pipe = redirected.folder().file("redirected.jsonl");
    let elsewhere = Endless::new(&pipe);
    redirected.run(&command("", &pipe, "2> told"));

    let terminal = Terminal::start(100, 30);
    let pipe = terminal.folder().file("long.jsonl");
    let log = Endless::new(&pipe);
    terminal.run(&command("", &pipe, "> report"));
    let shown = |screen: &str| screen.contains("reading long.jsonl  ") && screen.contains(" events");
    terminal.shows(shown);
    log.ends();
    let screen = terminal.shows(|screen| screen.contains(DONE));
    assert!(!shown(&screen), "it is gone: {screen}");
    let report = std::fs::read_to_string(terminal.folder().file("report")).expect("the report");
    assert!(report.contains("No findings") && !report.contains("reading"), "{report}");
    assert!(report.chars().all(|c| c == '\n' || !c.is_control()), "{report}");

    // The others have read for longer.
    without.ends();
    quiet.shows(|screen| screen.contains(DONE));
    let written = String::from_utf8_lossy(&quiet.written()).into_owned();
    assert!(!written.contains("reading"), "{written}");
    elsewhere.ends();
    redirected.shows(|screen| screen.contains(DONE));
    let told = std::fs::read(redirected.folder().file("told")).expect("what was told");
    assert_eq!(String::from_utf8_lossy(&told), "", "not a terminal");
    let written = String::from_utf8_lossy(&redirected.written()).into_owned();
    assert!(!written.contains("reading"), "{written}");
}
