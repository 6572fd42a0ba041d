//! What was learnt of a process, read in the form in which it is written.

use super::Scanner;
use crate::event::{Known, Mark, Process, Uid};

impl Scanner<'_> {
    /// The facts, into the memory of the last ones.
    pub(super) fn facts(&mut self, facts: &mut Process) -> Option<()> {
        let Process {
            process,
            parent,
            lineage,
            known,
            comm,
            exe,
            cmdline,
            cmdline_cut,
            uid,
            session,
            cgroup,
            container,
            mark,
            job,
        } = facts;
        *process = self.process()?;
        *parent = if self.has(b",\"parent\":") { Some(self.key()?) } else { None };
        self.skip(b",\"lineage\":")?;
        *lineage = self.key()?;
        *known = match self.text_after(b",\"known\":\"")? {
            b"fork" => Known::Fork,
            b"exec" => Known::Exec,
            b"scan" => Known::Scan,
            b"name" => Known::Name,
            _ => return None,
        };
        self.string_after(b",\"comm\":\"", comm)?;
        self.string_after(b",\"exe\":\"", exe)?;
        self.skip(b",\"cmdline\":[")?;
        self.strings(cmdline)?;
        *cmdline_cut = self.has(b",\"cmdline_cut\":true");
        *uid = Uid(self.number_after(b",\"uid\":")?);
        *session = self.number_after(b",\"session\":")?;
        self.string_after(b",\"cgroup\":\"", cgroup)?;
        *container = self.string_if(b",\"container\":\"")?;
        *mark = if self.has(b",\"mark\":") { Some(self.mark()?) } else { None };
        *job = self.string_if(b",\"job\":\"")?;
        Some(())
    }

    fn mark(&mut self) -> Option<Mark> {
        if self.has(b"{\"node-cluster\":") {
            let number = self.number()?.try_into().ok()?;
            return self.skip(b"}").map(|()| Mark::NodeCluster(number));
        }
        match self.text_after(b"\"")? {
            b"multiprocessing" => Some(Mark::Multiprocessing),
            b"unknown" => Some(Mark::Unknown),
            _ => None,
        }
    }

    /// The rest of a list of strings, up to its bracket.
    fn strings(&mut self, strings: &mut Vec<String>) -> Option<()> {
        let mut count = 0;
        if !self.has(b"]") {
            loop {
                match strings.get_mut(count) {
                    Some(string) => self.string_after(b"\"", string)?,
                    None => {
                        let mut string = String::new();
                        self.string_after(b"\"", &mut string)?;
                        strings.push(string);
                    }
                }
                count += 1;
                if self.has(b"]") {
                    break;
                }
                self.skip(b",")?;
            }
        }
        strings.truncate(count);
        Some(())
    }

    /// Some(None) where there is none.
    fn string_if<const N: usize>(&mut self, key: &[u8; N]) -> Option<Option<String>> {
        if !self.0.starts_with(key) {
            return Some(None);
        }
        let mut string = String::new();
        self.string_after(key, &mut string)?;
        Some(Some(string))
    }
}
