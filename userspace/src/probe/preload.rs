//! Loading and detaching several programs at a time.
//!
//! The verifier takes 0.2 to 2 ms for each of them, and for the privileged it has no lock: where there are processors,
//! it verifies as many programs at once. All of them one after the other were half of what a start takes.

use std::sync::Mutex;

use aya::programs::{Program, ProgramError};
use aya::{Btf, Ebpf};

use super::task_files::Listing;

/// Threads that load, this one included.
const THREADS_MAX: usize = 4;

/// Loads these programs, in this order as far as there are processors; listings of descriptors with the types in which their
/// functions are found.
///
/// A program that is refused stays as it was: whoever attaches it loads it again and is told why.
pub(super) fn load_together(ebpf: &mut Ebpf, names: &[&str], listings: &[Listing], types: Option<&Btf>) {
    let listing = |name: &str| listings.iter().find(|listing| listing.program == name).copied().zip(types);
    let mut waiting: Vec<_> = ebpf
        .programs_mut()
        .filter_map(|(name, program)| {
            let place = names.iter().position(|wanted| *wanted == name)?;
            Some((place, listing(name), program))
        })
        .collect();
    waiting.sort_by_key(|(place, _, _)| std::cmp::Reverse(*place));
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    let queue = Mutex::new(waiting);
    let work = || {
        loop {
            let Some((_, listing, program)) = queue.lock().ok().and_then(|mut waiting| waiting.pop()) else {
                return;
            };
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

/// Detaches what the kernel takes long for, each by a thread of its own: it waits until no processor is in the program
/// (`tracepoint_synchronize_unregister`), some 75 ms for a tracepoint one after the other, and half of that when all begin at once.
pub(super) fn detach_together(ebpf: &mut Ebpf) {
    std::thread::scope(|scope| {
        for (_, program) in ebpf.programs_mut() {
            let detach: Box<dyn FnOnce() -> Result<(), ProgramError> + Send> = match program {
                Program::TracePoint(program) if program.fd().is_ok() => Box::new(|| program.unload()),
                Program::KProbe(program) if program.fd().is_ok() => Box::new(|| program.unload()),
                _ => continue,
            };
            // Where no thread can be had it is detached with the rest, later.
            let thread = std::thread::Builder::new().name("detach".to_owned());
            let _ = thread.spawn_scoped(scope, detach);
        }
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
