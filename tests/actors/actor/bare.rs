//! Calls that have no safe form in the crates used here.

#![expect(unsafe_code, reason = "system calls by number and options by their bytes")]

use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::unistd::{ForkResult, Pid};

use crate::Failure;

/// Binds a socket to an interface by its index; 0 to none.
pub(crate) fn to_ifindex(socket: &OwnedFd, index: libc::c_int) -> Result<(), Failure> {
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(|_| Failure::Usage)?;
    // SAFETY: `index` lives through the call and is `length` bytes long; the descriptor is open.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw const index).cast(),
            length,
        )
    };
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// SO_REUSEPORT with a value of one byte, which the kernel refuses.
pub(crate) fn set_short(socket: &OwnedFd) -> Result<(), Failure> {
    let on = 1_u8;
    // SAFETY: the kernel reads at most the one byte that is there.
    let status = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, (&raw const on).cast(), 1)
    };
    if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// Forks a child with this process id, which must be free (clone3(2), `set_tid`).
pub(crate) fn fork_as(pid: libc::pid_t) -> Result<ForkResult, Failure> {
    let wanted = [pid];
    // SAFETY: all zeroes is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD.unsigned_abs().into();
    arguments.set_tid = wanted.as_ptr().addr() as u64;
    arguments.set_tid_size = wanted.len() as u64;
    // SAFETY: a plain fork, of a process without other threads; what it points to lives through the call.
    let made =
        unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match i32::try_from(made).map_err(|_| Failure::Usage)? {
        ..0 => Err(std::io::Error::last_os_error().into()),
        0 => Ok(ForkResult::Child),
        child => Ok(ForkResult::Parent { child: Pid::from_raw(child) }),
    }
}

/// Makes SIGUSR1 interrupt what is called, which the kernel then calls again, or not.
pub(crate) fn handle_usr1(restart: bool) -> Result<String, Failure> {
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    extern "C" fn nothing(_signal: libc::c_int) {}
    let flags = if restart { SaFlags::SA_RESTART } else { SaFlags::empty() };
    let action = SigAction::new(SigHandler::Handler(nothing), flags, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }?;
    Ok(String::new())
}
