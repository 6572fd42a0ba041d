//! A terminal that a test looks at: a pane of a tmux server of the test's own.
//!
//! tmux copies what programs write to a file as it comes; each time that grows, the screen is looked at again. So a
//! test waits for what is to be seen, however long that takes.

use std::os::fd::{AsFd as _, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::inotify;

use crate::log::drain;
use crate::place::Folder;
use crate::wait::{Deadline, Process, readable};

/// A pane with a shell in it. The server and what runs in it end when this is dropped.
#[derive(Debug)]
pub struct Terminal {
    folder: Folder,
    server: String,
    watch: OwnedFd,
    shell: Process,
}

/// What the shell says when it waits for a command.
const PROMPT: &str = "bw-ready$ ";

impl Terminal {
    /// Starts a shell in a terminal of this size.
    ///
    /// # Panics
    /// When tmux does not start.
    #[must_use]
    #[track_caller]
    pub fn start(width: u16, height: u16) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let folder = Folder::new();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let server = format!("bindwatch-test-{}-{number}", std::process::id());
        let output = folder.write("output", "");
        let watch =
            inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).expect("inotify");
        inotify::add_watch(&watch, &output, inotify::WatchFlags::MODIFY).expect("a watch on the output");
        let (width, height) = (width.to_string(), height.to_string());
        let shell = ["bash", "--norc", "--noprofile", "-i"];
        let mut terminal = Self { folder, server, watch, shell: Process::of(std::process::id()) };
        terminal.tmux(&[&["new-session", "-d", "-x", &width, "-y", &height][..], &shell].concat());
        terminal.shell = Process::of(terminal.about("#{pane_pid}").parse().expect("a process id"));
        terminal.tmux(&["pipe-pane", &format!("cat >> {}", output.display())]);
        // Its first prompt may have come before the file: it is asked for another.
        terminal.keys(&["PS1='bw-ready$ '; clear", "Enter"]);
        terminal.shows(|screen| screen.trim_end().ends_with(PROMPT.trim_end()));
        terminal
    }

    /// A folder that goes with it.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    #[track_caller]
    fn tmux(&self, arguments: &[&str]) -> String {
        let output = Command::new("tmux")
            .args(["-u", "-L", &self.server, "-f", "/dev/null"])
            .args(arguments)
            .env("LC_ALL", "C.UTF-8")
            .env("TERM", "xterm-256color")
            .env_remove("TMUX")
            .env_remove("NO_COLOR")
            .current_dir(self.folder.path())
            .output()
            .expect("tmux: `cargo xtask setup` installs it");
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Presses keys, by the names that tmux has for them; anything else is typed.
    #[track_caller]
    pub fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    /// Types a command line for the shell.
    #[track_caller]
    pub fn run(&self, line: &str) {
        self.keys(&[line, "Enter"]);
    }

    /// What is on the screen, with a line feed after each line.
    #[must_use]
    #[track_caller]
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// What tmux knows of the pane: `#{alternate_on}`.
    #[must_use]
    #[track_caller]
    pub fn about(&self, format: &str) -> String {
        self.tmux(&["display-message", "-p", format]).trim_end().to_owned()
    }

    /// Everything that was written to the terminal until now.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn written(&self) -> Vec<u8> {
        std::fs::read(self.folder.file("output")).expect("the output")
    }

    /// Waits until the screen is as wanted, and gives it.
    ///
    /// # Panics
    /// When it does not get so.
    #[track_caller]
    pub fn shows(&self, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Deadline::patient();
        loop {
            drain(&self.watch);
            let screen = self.screen();
            if wanted(&screen) {
                return screen;
            }
            assert!(
                readable([self.watch.as_fd(), self.shell.as_fd()], deadline).is_some(),
                "the screen does not get as it should:\n{screen}"
            );
        }
    }

    /// Waits until this is on the screen.
    #[track_caller]
    pub fn sees(&self, text: &str) -> String {
        self.shows(|screen| screen.contains(text))
    }

    /// Waits until the shell waits for a command.
    #[track_caller]
    pub fn prompt(&self) -> String {
        self.shows(|screen| screen.trim_end().ends_with(PROMPT.trim_end()))
    }

    /// How the terminal is set up: its modes (stty(1)), and whether what programs switch on is on.
    #[must_use]
    #[track_caller]
    pub fn state(&self) -> String {
        let tty = self.about("#{pane_tty}");
        let modes = Command::new("stty").args(["-a", "-F", &tty]).output().expect("stty");
        // Readline has modes of its own while it waits: the shell is asked what programs find.
        let on = self.about("#{alternate_on} #{cursor_flag} #{mouse_any_flag} #{keypad_flag} #{wrap_flag}");
        format!("{}\n{on}", String::from_utf8_lossy(&modes.stdout))
    }

    /// Changes the terminal's size.
    #[track_caller]
    pub fn resize(&self, width: u16, height: u16) {
        self.tmux(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    /// The process that runs in front of the shell: its only child.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    #[track_caller]
    pub fn program(&self) -> Process {
        let pid = self.shell.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("children");
        let child = children.split_whitespace().last().expect("a program in front of the shell");
        Process::of(child.parse().expect("a process id"))
    }

    /// The terminal goes away, as when a line breaks.
    #[track_caller]
    pub fn lose(&self) {
        self.tmux(&["kill-server"]);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let mut tmux = Command::new("tmux");
        tmux.args(["-L", &self.server, "kill-server"]).stderr(std::process::Stdio::null());
        drop(tmux.status());
        // A shell that stays shows as a process left behind.
        let _in_time = self.shell.ended(Deadline::patient());
    }
}
