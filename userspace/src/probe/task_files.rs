//! The listing of every open socket, by the probe's `iter/task_file` program.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use aya::programs::Iter;
use aya::programs::iter::IterLink;

use super::btf::with_functions;
use super::offsets::TASK_FILE;
use super::preload::load;
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

impl Probe {
    /// Reads the listing. Minimum kernel 5.8.
    ///
    /// # Errors
    /// When the kernel refuses the iterator.
    pub fn task_files(&mut self) -> Result<Vec<FileRow>, ProbeError> {
        let bytes = self.list_with("task_file")?;
        Ok(wire::file_rows(&bytes))
    }

    /// Runs an `iter/task_file` program over every descriptor; what it writes.
    pub(super) fn list_with(&mut self, name: &str) -> Result<Vec<u8>, ProbeError> {
        let refused = |error: &dyn std::error::Error| ProbeError::Iterator { reason: error.to_string() };
        let program = self
            .ebpf
            .program_mut(name)
            .ok_or_else(|| ProbeError::Iterator { reason: "it is not in the object".to_owned() })?;
        let id = self
            .task_file
            .ok_or_else(|| ProbeError::Iterator { reason: format!("this kernel has no {TASK_FILE}") })?;
        let types = program.fd().is_err().then(|| with_functions(&[(TASK_FILE, id)]));
        load(program, types.as_ref()).map_err(|error| refused(&error))?;
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
