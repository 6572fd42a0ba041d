//! `__janitor`: removes the cgroup of a job whose bindwatch ended without doing so.

use std::io::{self, Read};
use std::path::Path;

use nix::sys::signal::{SigSet, Signal};

use super::group::{made_by, remove_tree, wait_until_empty};

/// Waits until standard input ends, which is when bindwatch has ended, however; then until no process is in a cgroup that
/// it (the process `maker`) made in `parent`; then removes it. Does nothing when the cgroup is gone by then.
///
/// It runs in a process group of its own, so a terminal's Ctrl-C does not reach it, and blocks what a terminal or a
/// shell sends when it goes away. SIGTERM and SIGKILL end it.
pub fn janitor(parent: &Path, maker: u32) {
    let quiet: SigSet =
        [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP].into_iter().collect();
    // Without it a hang-up could end the janitor: worse, not wrong.
    let _ = quiet.thread_block();
    let mut nothing = [0; 64];
    loop {
        match io::stdin().read(&mut nothing) {
            Ok(0) => break,
            Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
            _ => {}
        }
    }
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
}
