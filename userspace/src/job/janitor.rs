//! `__janitor`: removes the cgroup of a job whose bindwatch ended without doing so.

use std::io;
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};

use super::group::{made_by, remove_tree, wait_until_empty};
use crate::wait::{Guardian, receive};

/// Waits until standard input ends, which is when bindwatch has ended, however; then until no process is in a cgroup that
/// it (the process `maker`) made in `parent`; then removes it. Does nothing when the cgroup is gone by then.
///
/// Where binds of the command were handed over to bindwatch it lets them pass from then on, and ends after the last process
/// that could make one.
///
/// It runs in a process group of its own, so a terminal's Ctrl-C does not reach it, and blocks what a terminal or a
/// shell sends when it goes away. SIGTERM and SIGKILL end it.
pub fn janitor(parent: &Path, maker: u32) {
    let quiet: SigSet =
        [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP].into_iter().collect();
    // Without it a hang-up could end the janitor: worse, not wrong.
    let _ = quiet.thread_block();
    let mut guardian = None;
    while let Ok(Some(descriptors)) = receive(io::stdin()) {
        guardian = Guardian::of(descriptors).or(guardian);
    }
    // The command goes on at once; its cgroup is removed when it has ended.
    let passing = guardian.map(|guardian| std::thread::spawn(move || guardian.let_everything_pass()));
    for directory in made_by(parent, maker) {
        while directory.exists() {
            wait_until_empty(&directory, None);
            if remove_tree(&directory) {
                break;
            }
            // Somebody came in between, or may not be removed by us.
            if wait_until_empty(&directory, Some(std::time::Duration::ZERO)) {
                break;
            }
        }
    }
    if let Some(passing) = passing {
        let _ = passing.join();
    }
}
