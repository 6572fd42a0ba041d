//! The listing of every open socket, by the probe's programs that are called for each process or for each of its files.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::Btf;
use aya::programs::iter::IterLink;
use aya::programs::{Iter, Program};

use super::btf::with_functions;
use super::offsets::{Listings, TASK, TASK_FILE};
use super::preload::load;
use super::refusal::reason;
use super::{Probe, ProbeError};
use crate::event::{Cookie, Family, Inum, NetnsCookie, Options, ProcessKey, Uid};
use crate::wire;

/// One socket descriptor of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRow {
    /// Who has it open.
    pub process: ProcessKey,
    /// Socket cookie; None when nobody has asked the kernel for it yet.
    pub cookie: Option<Cookie>,
    /// Inode number of the socket.
    pub inode: u64,
    /// Its network namespace.
    pub netns: Inum,
    /// The same, unique since boot.
    pub netns_cookie: NetnsCookie,
    /// Address family.
    pub family: Family,
    /// IP protocol; 262 is MPTCP's own socket.
    pub protocol: u16,
    /// Local address.
    pub address: IpAddr,
    /// Local port, 0 not bound.
    pub port: u16,
    /// Options.
    pub options: Options,
    /// Owner.
    pub uid: Uid,
    /// TCP state, as the kernel numbers it.
    pub state: u8,
}

/// A program that lists descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// Its name.
    pub(super) program: &'static str,
    /// What the kernel calls for it.
    pub(super) iterator: &'static str,
}

impl Listing {
    /// Each process, whose table it reads. It holds no file, and tells the sockets of a process in pieces.
    const BY_PROCESS: Self = Self { program: "tasks", iterator: "task" };
    /// Each file, which the kernel holds meanwhile.
    const BY_FILE: Self = Self { program: "task_file", iterator: "task_file" };

    /// Another program that is called for each file.
    pub(super) const fn of_files(program: &'static str) -> Self {
        Self { program, ..Self::BY_FILE }
    }
}

impl Listings {
    /// The one to be tried first.
    pub(super) fn first(self) -> Option<Listing> {
        let by_process = self.by_process.map(|_| Listing::BY_PROCESS);
        by_process.or(self.by_file.map(|_| Listing::BY_FILE))
    }

    /// The types in which they find their functions.
    pub(super) fn types(self) -> Btf {
        let both = [(TASK_FILE, self.by_file), (TASK, self.by_process)];
        let there: Vec<_> = both.into_iter().filter_map(|(name, id)| Some((name, id?))).collect();
        with_functions(&there)
    }
}

impl Probe {
    /// Reads the listing. Minimum kernel 5.8; from 5.17 on no file is held by it.
    ///
    /// # Errors
    /// When the kernel refuses the iterator.
    pub fn task_files(&mut self) -> Result<Vec<FileRow>, ProbeError> {
        if self.listings.by_process.is_some() {
            match self.by_process() {
                Ok(rows) => return Ok(rows),
                Err(error) => log::debug!("descriptors are listed file by file: {error}"),
            }
            self.listings.by_process = None;
        }
        let bytes = self.list_with(Listing::BY_FILE)?;
        Ok(wire::file_rows(&bytes))
    }

    /// Process by process, and piece by piece those that have many.
    fn by_process(&mut self) -> Result<Vec<FileRow>, ProbeError> {
        let mut bytes = self.list_with(Listing::BY_PROCESS)?;
        let mut rows = wire::file_rows(&bytes);
        let mut unfinished = wire::unfinished(&bytes);
        if unfinished.is_empty() {
            return Ok(rows);
        }
        let mut goes_on = self.shared::<u32, u32>("UNFINISHED")?;
        let done = (|| {
            let refused = |error: aya::maps::MapError| ProbeError::Iterator {
                iterator: Listing::BY_PROCESS.iterator,
                reason: error.to_string(),
            };
            while !unfinished.is_empty() {
                for (tgid, fd) in unfinished.iter().chain([&(0, 0)]) {
                    goes_on.insert(tgid, fd, 0).map_err(refused)?;
                }
                bytes = self.list_with(Listing::BY_PROCESS)?;
                rows.extend(wire::file_rows(&bytes));
                let next = wire::unfinished(&bytes);
                for (tgid, _) in &unfinished {
                    goes_on.remove(tgid).map_err(refused)?;
                }
                unfinished = next;
            }
            Ok(())
        })();
        // Also after a failure: the next listing is of all.
        let _ = goes_on.remove(&0);
        done.map(|()| rows)
    }

    /// Loads a program that lists descriptors.
    pub(super) fn load_listing(&mut self, listing: Listing) -> Result<&mut Program, ProbeError> {
        let refused = |reason: String| ProbeError::Iterator { iterator: listing.iterator, reason };
        if self.listings.by_file.is_none() {
            return Err(refused(format!("this kernel has no {TASK_FILE}")));
        }
        let program = self.ebpf.program_mut(listing.program);
        let program = program.ok_or_else(|| refused("it is not in the object".to_owned()))?;
        let types = program.fd().is_err().then(|| self.listings.types());
        let loaded = load(program, types.as_ref().map(|types| (listing, types)));
        loaded.map_err(|error| refused(reason(&error)))?;
        Ok(program)
    }

    /// Runs a program over every descriptor; what it writes.
    pub(super) fn list_with(&mut self, listing: Listing) -> Result<Vec<u8>, ProbeError> {
        let refused = |error: &dyn std::error::Error| ProbeError::Iterator {
            iterator: listing.iterator,
            reason: error.to_string(),
        };
        let program = self.load_listing(listing)?;
        let program: &mut Iter =
            program.try_into().map_err(|error: aya::programs::ProgramError| refused(&error))?;
        let link = program.attach().map_err(|error| refused(&error))?;
        let link: IterLink = program.take_link(link).map_err(|error| refused(&error))?;
        let mut file = link.into_file().map_err(|error| refused(&error))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|error| refused(&error))?;
        Ok(bytes)
    }
}

impl FileRow {
    /// An address from a record: IPv4 in the first four bytes.
    #[must_use]
    pub fn address_of(family: Family, bytes: [u8; 16]) -> IpAddr {
        match (family, bytes) {
            (Family::Inet, [a, b, c, d, ..]) => Ipv4Addr::new(a, b, c, d).into(),
            (Family::Inet6, bytes) => Ipv6Addr::from(bytes).into(),
        }
    }
}
