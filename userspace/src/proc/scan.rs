//! One process, or every process, as [`event::Process`](crate::event::Process).

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use super::cgroup::{container_of, unified_path};
use super::label;
use super::read::{Folder, PidPath, link_at, read_at};
use super::stat::{Stat, number};
use crate::event::{Known, Mark, Process, ProcessKey, Uid};

/// Longest argument list that is kept, bytes: as much as the probe keeps of an exec.
pub const CMDLINE_MAX: usize = bindwatch_probe::abi::ARGS_MAX;
/// Longest path of an executable that is kept, bytes (`PATH_MAX` of the kernel).
const EXE_MAX: usize = 4096;
/// Largest `stat`, `status` or `cgroup` file that is read, bytes. They are far smaller.
const FILE_MAX: usize = 64 << 10;
/// Largest environment that is searched, bytes. The kernel allows 6 MiB (a quarter of the stack, execve(2)); common
/// ones have a few KiB.
const ENVIRON_MAX: usize = 6 << 20;
/// The variable by which Node.js's `cluster` numbers its workers.
const NODE_CLUSTER: &[u8] = b"NODE_UNIQUE_ID=";
/// Ancestors that are followed to the root of a lineage.
const ANCESTORS_MAX: usize = 128;
/// Processes that are worth a thread of their own in a scan: 10 ms of work.
const THREAD_WORTH: usize = 512;
/// Threads of a scan.
const THREADS_MAX: usize = 4;

/// A reader of `/proc`, with its buffers. Cheap to keep; not shared between threads.
pub struct Proc {
    root: Folder,
    text: Vec<u8>,
    link: Box<[MaybeUninit<u8>]>,
}

/// A process by itself, before its lineage is known.
struct Alone {
    process: Process,
    parent_tgid: u32,
    forked: bool,
}

impl Proc {
    /// Opens `/proc`.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            root: Folder::open_path(c"/proc")?,
            text: Vec::new(),
            link: vec![MaybeUninit::uninit(); EXE_MAX].into_boxed_slice(),
        })
    }

    /// The identity of the process that has this TGID now.
    pub fn key(&mut self, tgid: u32) -> Option<ProcessKey> {
        let folder = self.folder(tgid)?;
        self.key_in(&folder, tgid)
    }

    /// Path of the executable that this process runs now. None when it is gone, or has none.
    pub(crate) fn exe(&mut self, process: ProcessKey) -> Option<String> {
        let folder = self.folder(process.tgid)?;
        let is_it = self.key_in(&folder, process.tgid)? == process;
        is_it.then(|| self.link_text(&folder, c"exe")).filter(|exe| !exe.is_empty())
    }

    /// The session that a process is in now; None when it is gone.
    pub(crate) fn session(&mut self, process: ProcessKey) -> Option<u32> {
        let folder = self.folder(process.tgid)?;
        read_at(folder.as_fd(), c"stat", &mut self.text, FILE_MAX).ok()?;
        Stat::parse(&self.text).filter(|stat| stat.start == process.start).map(|stat| stat.session)
    }

    /// The mark in a process's environment; [`Mark::Unknown`] when it is gone or not to be looked into.
    ///
    /// `/proc/PID/environ` is what its exec was given (proc(5)): what a process removes for its own children, as
    /// Node.js does with `NODE_UNIQUE_ID`, is still there. Only the mark is kept of it.
    ///
    /// With it comes the name of the job that the environment tells of; None within when it tells of none, None when it
    /// cannot be read.
    pub(crate) fn environment(&mut self, process: ProcessKey) -> (Option<Mark>, Option<Option<String>>) {
        let unknown = (Some(Mark::Unknown), None);
        let Some(folder) = self.folder(process.tgid) else { return unknown };
        let read = read_at(folder.as_fd(), c"environ", &mut self.text, ENVIRON_MAX);
        let found =
            read.map_or_else(|_| unknown.clone(), |()| (mark_in(&self.text), Some(label::of(&self.text))));
        self.text.fill(0);
        // Whose environment that was: PIDs recycle.
        if self.key_in(&folder, process.tgid) == Some(process) { found } else { unknown }
    }

    /// Everything about one process; its lineage is found by looking at its ancestors.
    pub fn process(&mut self, tgid: u32) -> Option<Process> {
        let Alone { mut process, parent_tgid, forked } = self.alone(tgid)?;
        let (mut above, mut follows) = (parent_tgid, forked);
        let mut exe = process.exe.clone();
        for depth in 0..ANCESTORS_MAX {
            let Some(folder) = (above != 0).then(|| self.folder(above)).flatten() else { break };
            if read_at(folder.as_fd(), c"stat", &mut self.text, FILE_MAX).is_err() {
                break;
            }
            let Some(stat) = Stat::parse(&self.text) else { break };
            let key = ProcessKey { tgid: above, start: stat.start };
            let (forked, next) = (stat.runs_parents_program(), stat.ppid);
            if key.start > process.process.start {
                break;
            }
            if depth == 0 {
                process.parent = Some(key);
            }
            if !follows {
                break;
            }
            let parents_exe = self.link_text(&folder, c"exe");
            if !same_program(&exe, &parents_exe, above) {
                break;
            }
            process.lineage = key;
            (above, follows, exe) = (next, forked, parents_exe);
        }
        if process.lineage == process.process {
            let (mark, job) = self.environment(process.process);
            (process.mark, process.job) = (mark, job.flatten());
        }
        Some(process)
    }

    /// Every process there is, parents before their children.
    pub fn scan_all(&mut self) -> Vec<Process> {
        let mut tgids = Vec::new();
        self.root.numbers(&mut self.text, |tgid| tgids.push(tgid));
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let share = tgids.len().div_ceil(threads).max(THREAD_WORTH);
        let mut shares = tgids.chunks(share);
        let own = shares.next().unwrap_or_default();
        let mut found = std::thread::scope(|scope| {
            // Nearly all of the time is the kernel's, and it does not mind two readers.
            let helpers: Vec<_> = shares
                .map(|share| {
                    scope.spawn(move || {
                        Self::open().map(|mut proc| proc.each_alone(share)).unwrap_or_default()
                    })
                })
                .collect();
            let mut found = self.each_alone(own);
            found.extend(helpers.into_iter().flat_map(|helper| helper.join().unwrap_or_default()));
            found
        });
        // A parent started before its children, or in the same tick; then mostly with the lower PID.
        found.sort_unstable_by_key(|alone| (alone.process.process.start, alone.process.process.tgid));
        related(found)
    }

    fn each_alone(&mut self, tgids: &[u32]) -> Vec<Alone> {
        tgids.iter().filter_map(|tgid| self.alone(*tgid)).collect()
    }

    fn folder(&self, tgid: u32) -> Option<Folder> {
        Folder::open(self.root.as_fd(), PidPath::new(tgid).as_c_str()).ok()
    }

    fn key_in(&mut self, folder: &Folder, tgid: u32) -> Option<ProcessKey> {
        read_at(folder.as_fd(), c"stat", &mut self.text, FILE_MAX).ok()?;
        Stat::parse(&self.text).map(|stat| ProcessKey { tgid, start: stat.start })
    }

    fn link_text(&mut self, folder: &Folder, name: &CStr) -> String {
        link_at(folder.as_fd(), name, &mut self.link).map_or_else(|_| String::new(), text)
    }

    fn alone(&mut self, tgid: u32) -> Option<Alone> {
        let folder = self.folder(tgid)?;
        read_at(folder.as_fd(), c"stat", &mut self.text, FILE_MAX).ok()?;
        let stat = Stat::parse(&self.text)?;
        let key = ProcessKey { tgid, start: stat.start };
        let (parent_tgid, forked, kernel) = (stat.ppid, stat.runs_parents_program(), stat.is_kernel());
        let mut process =
            Process { comm: text(stat.comm), session: stat.session, ..Process::new(key, Known::Scan) };
        if !kernel {
            read_at(folder.as_fd(), c"status", &mut self.text, FILE_MAX).ok()?;
            process.uid = real_uid(&self.text)?;
            process.exe = self.link_text(&folder, c"exe");
            if read_at(folder.as_fd(), c"cmdline", &mut self.text, CMDLINE_MAX + 1).is_ok() {
                process.cmdline_cut = self.text.len() > CMDLINE_MAX;
                self.text.truncate(CMDLINE_MAX);
                process.cmdline = arguments(&self.text);
            }
            if read_at(folder.as_fd(), c"cgroup", &mut self.text, FILE_MAX).is_ok() {
                process.cgroup = unified_path(&self.text).map(text).unwrap_or_default();
                process.container = container_of(&self.text);
            }
        }
        Some(Alone { process, parent_tgid, forked })
    }
}

/// The mark in an environment: variables that end with a NUL each.
fn mark_in(environment: &[u8]) -> Option<Mark> {
    let value =
        environment.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(NODE_CLUSTER))?;
    number(value).and_then(|worker| u32::try_from(worker).ok()).map(Mark::NodeCluster)
}

/// Sets parents and lineages, and puts parents before their children.
fn related(found: Vec<Alone>) -> Vec<Process> {
    let place: HashMap<u32, usize> =
        found.iter().enumerate().map(|(at, alone)| (alone.process.process.tgid, at)).collect();
    let parents: Vec<Option<usize>> = found
        .iter()
        .enumerate()
        .map(|(at, alone)| {
            // A "parent" that is younger has its PID second hand.
            let parent = *place.get(&alone.parent_tgid)?;
            let parents_start = found.get(parent)?.process.process.start;
            (parent != at && parents_start <= alone.process.process.start).then_some(parent)
        })
        .collect();
    let mut waiting: Vec<Option<Alone>> = found.into_iter().map(Some).collect();
    let mut done: Vec<Process> = Vec::with_capacity(waiting.len());
    let mut done_at: Vec<Option<usize>> = vec![None; waiting.len()];
    let mut line = Vec::new();
    for at in 0..waiting.len() {
        // From the process up to its first ancestor that is already placed, then down again.
        let mut up = Some(at);
        while let Some(one) = up.filter(|one| waiting.get(*one).is_some_and(Option::is_some)) {
            if line.len() > waiting.len() {
                break;
            }
            line.push(one);
            up = parents.get(one).copied().flatten();
        }
        while let Some(one) = line.pop() {
            let Some(Alone { mut process, forked, parent_tgid }) =
                waiting.get_mut(one).and_then(Option::take)
            else {
                continue;
            };
            let parent =
                parents.get(one).copied().flatten().and_then(|parent| done_at.get(parent).copied().flatten());
            if let Some(parent) = parent.and_then(|parent| done.get(parent)) {
                process.parent = Some(parent.process);
                if forked && same_program(&process.exe, &parent.exe, parent_tgid) {
                    process.lineage = parent.lineage;
                }
            }
            if let Some(slot) = done_at.get_mut(one) {
                *slot = Some(done.len());
            }
            done.push(process);
        }
    }
    done
}

/// Whether a process that was forked without exec can have been forked by the parent it has now.
///
/// An orphan is given to init or to a subreaper; a daemon would join their lineage and so be related to every other
/// daemon. It cannot run their program, so another executable tells. Where one cannot be read, init is never trusted.
fn same_program(childs_exe: &str, parents_exe: &str, parent_tgid: u32) -> bool {
    if childs_exe.is_empty() || parents_exe.is_empty() { parent_tgid != 1 } else { childs_exe == parents_exe }
}

fn real_uid(status: &[u8]) -> Option<Uid> {
    uids_of(status).next()
}

/// Real, effective, saved and filesystem user id (proc_pid_status(5)).
pub(crate) fn uids_of(status: &[u8]) -> impl Iterator<Item = Uid> {
    let line = status.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Uid:\t"));
    let digits = line.into_iter().flat_map(|line| line.split(|&b| b == b'\t'));
    digits.map_while(|digits| number(digits).and_then(|uid| u32::try_from(uid).ok()).map(Uid))
}

/// The user ids of a process: real, effective, saved, filesystem.
///
/// # Errors
/// When it is gone.
pub fn uids(tgid: u32) -> io::Result<Vec<Uid>> {
    Ok(uids_of(&std::fs::read(format!("/proc/{tgid}/status"))?).collect())
}

/// Splits an argument area at its NULs. A process that overwrote it with one line for `ps` gives one argument.
fn arguments(area: &[u8]) -> Vec<String> {
    let end = area.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
    match area.get(..end) {
        None | Some([]) => Vec::new(),
        Some(area) => area.split(|&b| b == 0).map(text).collect(),
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::indexing_slicing, reason = "tests fail by panicking")]

    use super::*;

    /// A process as the table has it: PID, start, parent, forked without exec, executable.
    fn alone((tgid, start, parent_tgid, forked, exe): (u32, u64, u32, bool, &str)) -> Alone {
        let key = ProcessKey { tgid, start };
        let process = Process { exe: exe.to_owned(), ..Process::new(key, Known::Scan) };
        Alone { process, parent_tgid, forked }
    }

    #[test]
    fn kinship() {
        let done = related(
            [
                (1, 0, 0, false, "/init"),
                // Same tick, children first: what a wrapped PID counter gives.
                (20, 5, 30, true, "/srv"),
                (30, 5, 40, true, "/srv"),
                (40, 5, 1, false, "/srv"),
                // Daemons whose parents are gone.
                (50, 6, 1, true, "/bin/a"),
                (51, 6, 1, true, ""),
                // init's own fork.
                (52, 6, 1, true, "/init"),
                // Given to a subreaper.
                (53, 7, 40, true, "/bin/b"),
                // Unreadable, under a parent that is not init.
                (54, 8, 51, true, ""),
                // The PID of its parent is in younger hands.
                (60, 9, 70, true, "/x"),
                (70, 10, 1, false, "/x"),
            ]
            .map(alone)
            .into(),
        );
        let order: Vec<u32> = done.iter().map(|p| p.process.tgid).collect();
        assert_eq!(order, [1, 40, 30, 20, 50, 51, 52, 53, 54, 60, 70]);
        let shown: Vec<(u32, Option<u32>, u32)> =
            done.iter().map(|p| (p.process.tgid, p.parent.map(|p| p.tgid), p.lineage.tgid)).collect();
        assert_eq!(
            shown,
            [
                (1, None, 1),
                (40, Some(1), 40),
                (30, Some(40), 40),
                (20, Some(30), 40),
                (50, Some(1), 50),
                (51, Some(1), 51),
                (52, Some(1), 1),
                (53, Some(40), 53),
                (54, Some(51), 51),
                (60, None, 60),
                (70, Some(1), 70),
            ]
        );
    }

    #[test]
    fn a_circle_of_parents_ends() {
        let done = related([(7, 5, 8, true, "/a"), (8, 5, 7, true, "/a")].map(alone).into());
        assert_eq!(done.len(), 2);
        assert_eq!(done[0].parent, None);
        assert_eq!(done[1].parent, Some(done[0].process));
    }

    #[test]
    fn arguments_of_odd_areas() {
        for (area, expected) in [
            (&b"a\0b\0"[..], &["a", "b"][..]),
            (b"a\0\0b\0", &["a", "", "b"]),
            (b"nginx: worker process\0\0\0\0", &["nginx: worker process"]),
            (b"sshd: user", &["sshd: user"]),
            (b"", &[]),
            (b"\0\0", &[]),
            (b"\xff\x1b[2J\0", &["\u{fffd}\u{1b}[2J"]),
        ] {
            assert_eq!(arguments(area), expected);
        }
    }
}
