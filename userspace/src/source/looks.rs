//! One look at every descriptor, for as many questions as it can answer.

use std::collections::BTreeMap;

use super::sockets::{Holdings, in_first_pid_namespace};
use crate::event::{BootTime, ProcessKey};
use crate::probe::{FileRow, ProbeError};

/// Who had which socket open, by inode, at the last look.
#[derive(Default)]
pub(super) struct Looks {
    last: Option<(BootTime, BTreeMap<u32, Vec<ProcessKey>>)>,
}

impl Looks {
    /// Whether the last look says who had these sockets at `since` or later: it is not older, and knows each of them. Those
    /// without an inode nobody has.
    pub(super) fn serve(&self, inodes: impl IntoIterator<Item = u32>, since: BootTime) -> bool {
        let fresh = self.last.as_ref().filter(|(began, _)| *began >= since);
        let mut inodes = inodes.into_iter().filter(|inode| *inode != 0);
        inodes.all(|inode| fresh.is_some_and(|(_, known)| known.contains_key(&inode)))
    }

    /// Another look, begun then: each socket that a process had.
    pub(super) fn took(&mut self, began: BootTime, rows: impl IntoIterator<Item = (u32, ProcessKey)>) {
        self.last = Some((began, by_socket(rows)));
    }

    /// When the last look began; None when there was none.
    pub(super) fn began(&self) -> Option<BootTime> {
        self.last.as_ref().map(|(began, _)| *began)
    }

    /// Who had a socket at the last look, in order.
    pub(super) fn holders(&self, inode: u32) -> &[ProcessKey] {
        self.last.as_ref().and_then(|(_, known)| known.get(&inode)).map_or(&[], Vec::as_slice)
    }

    /// The last look says nothing about what comes from now on.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }
}

/// Who has which socket open, by inode: as the probe has listed it, and by `/proc` where it could not. None where that cannot be
/// read either, or has other PIDs than the probe: not the same as that nobody has any.
pub(super) fn descriptors(listed: Result<Vec<FileRow>, ProbeError>) -> Option<Vec<(u32, ProcessKey)>> {
    match listed {
        Ok(rows) => {
            let row = |row: &FileRow| Some((u32::try_from(row.inode).ok()?, row.process));
            Some(rows.iter().filter_map(row).collect())
        }
        Err(error) => {
            log::debug!("the descriptors could not be listed: {error}");
            let held = in_first_pid_namespace().then(|| Holdings::scan(None).ok())??;
            Some(held.all().iter().map(|held| (held.inode, held.process)).collect())
        }
    }
}

/// Who has each socket, in order: a process can have one more than once.
pub(super) fn by_socket<S: Ord>(
    rows: impl IntoIterator<Item = (S, ProcessKey)>,
) -> BTreeMap<S, Vec<ProcessKey>> {
    let mut holders: BTreeMap<S, Vec<ProcessKey>> = BTreeMap::new();
    for (socket, process) in rows {
        holders.entry(socket).or_default().push(process);
    }
    holders.values_mut().for_each(in_order);
    holders
}

/// Each process once, in order.
pub(super) fn in_order(processes: &mut Vec<ProcessKey>) {
    processes.sort_unstable();
    processes.dedup();
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use std::net::UdpSocket;

    use super::*;
    use crate::proc::Proc;

    fn process(tgid: u32) -> ProcessKey {
        ProcessKey { tgid, start: 1 }
    }

    #[test]
    fn a_look_serves_what_was_there_before_it() {
        let mut looks = Looks::default();
        assert!(looks.serve([0], BootTime(10)), "nobody has it");
        assert!(!looks.serve([7], BootTime(10)));
        looks.took(BootTime(20), [(7, process(3)), (8, process(2)), (7, process(2)), (7, process(3))]);
        assert_eq!(looks.holders(7), [process(2), process(3)]);
        assert_eq!(looks.holders(9), []);
        assert!(looks.serve([7, 0, 8], BootTime(20)));
        assert!(!looks.serve([7, 9], BootTime(20)), "a socket that is newer");
        assert!(!looks.serve([7], BootTime(21)), "a call that is newer: another may have it since");
        assert!(looks.serve([0], BootTime(21)), "nobody has it");
        looks.forget();
        assert!(!looks.serve([7], BootTime(10)));
        assert_eq!(looks.began(), None);
    }

    #[test]
    fn a_listing_that_fails_is_not_taken_for_an_empty_one() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = u32::try_from(rustix::fs::fstat(&socket).unwrap().st_ino).unwrap();
        let me = Proc::open().unwrap().key(std::process::id()).unwrap();
        let failed = Err(ProbeError::Iterator { iterator: "task", reason: "no memory".to_owned() });
        assert!(descriptors(failed).unwrap().contains(&(inode, me)));
        assert_eq!(descriptors(Ok(Vec::new())), Some(Vec::new()));
    }
}
