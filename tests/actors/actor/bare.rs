//! Calls that have no safe form in the crates used here.

#![expect(unsafe_code, reason = "system calls by number and options by their bytes")]

use std::os::fd::{AsRawFd as _, OwnedFd};

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
