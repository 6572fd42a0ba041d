//! Loading several programs at a time.
//!
//! The verifier takes 0.2 to 2 ms for each of them, and for the privileged it has no lock: where there are processors,
//! it verifies as many programs at once. All of them one after the other were half of what a start takes.

use std::sync::Mutex;

use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf};

use super::task_files::Listing;

/// Threads that load, this one included.
const THREADS_MAX: usize = 4;

/// Loads these programs, and a listing of descriptors with the types in which its function is found.
///
/// A program that is refused stays as it was: whoever attaches it loads it again and is told why.
pub(super) fn load_together(ebpf: &mut Ebpf, names: &[&str], listing: Option<(Listing, &Btf)>) {
    let wanted =
        |name: &str| names.contains(&name) || listing.is_some_and(|(listing, _)| listing.program == name);
    // Iterators first: they take the longest.
    let mut waiting: Vec<&mut Program> =
        ebpf.programs_mut().filter(|(name, _)| wanted(name)).map(|(_, program)| program).collect();
    waiting.sort_by_key(|program| matches!(program, Program::Iter(_)));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let queue = Mutex::new(waiting);
    let work = || {
        loop {
            let Some(program) = queue.lock().ok().and_then(|mut waiting| waiting.pop()) else { return };
            if let Err(error) = load(program, listing) {
                log::debug!("a program was refused at first: {error}");
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}

/// Loads a program, unless it is loaded; one that lists descriptors by the types in which its function is found.
pub(super) fn load(program: &mut Program, listing: Option<(Listing, &Btf)>) -> Result<(), ProgramError> {
    if program.fd().is_ok() {
        return Ok(());
    }
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::RawTracePoint(program) => program.load(),
        Program::TracePoint(program) => program.load(),
        Program::Iter(program) => {
            let (listing, types) = listing.ok_or(ProgramError::UnexpectedProgramType)?;
            program.load(listing.iterator, types)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
