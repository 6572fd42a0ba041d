//! Binds that race with other threads of their own process, and filters of its own.

#![expect(unsafe_code, reason = "memory that changes while the kernel reads it, and filters by their bytes")]

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;

use rustix::net::AddressFamily;

use crate::{Failure, sockets};

/// `struct sockaddr_in` that may change at any time: family and port, address, nothing.
#[repr(C)]
struct Changing([AtomicU32; 4]);

/// Binds sockets, one after the other, by an address that another thread keeps changing between two ports, until each was
/// asked for so often; where they came to be bound.
pub(crate) fn swapping(count: u32, address: &str, other: u16) -> Result<String, Failure> {
    let SocketAddr::V4(address) = address.parse().map_err(|_| Failure::Usage)? else {
        return Err(Failure::Usage);
    };
    let word = |port: u16| {
        let (family, port) = (2_u16.to_ne_bytes(), port.to_be_bytes());
        u32::from_ne_bytes([family[0], family[1], port[0], port[1]])
    };
    let ports = [address.port(), other];
    let place = u32::from_ne_bytes(address.ip().octets());
    let memory = Changing([word(ports[0]), place, 0, 0].map(AtomicU32::new));
    let is_over = AtomicBool::new(false);
    let (mut first, mut second, mut refused) = (0_u32, 0_u32, 0_u32);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for port in ports {
                    memory.0[0].store(word(port), Ordering::Relaxed);
                    // A moment each: of two stores in a row others may see the last alone.
                    std::hint::spin_loop();
                }
            }
        });
        // The other thread may have no processor for a while: so many calls as it takes, not a number of them.
        let mut call = || -> Result<[u32; 2], Failure> {
            let socket = sockets::new("tcp", AddressFamily::INET)?;
            rustix::net::sockopt::set_socket_reuseport(&socket, true)?;
            // SAFETY: the memory is as long as this says; that it changes is what the kernel expects of any.
            let status = unsafe { libc::bind(socket.as_raw_fd(), (&raw const memory).cast(), 16) };
            let error = std::io::Error::last_os_error();
            match status {
                0 => {
                    let port = sockets::port_of(&socket)?;
                    let place = ports.iter().position(|it| *it == port).ok_or(Failure::Usage)?;
                    *if place == 0 { &mut first } else { &mut second } += 1;
                }
                _ if error.raw_os_error() == Some(libc::EADDRINUSE) => refused += 1,
                _ => return Err(error.into()),
            }
            Ok([first + refused, second])
        };
        let done = loop {
            match call() {
                Ok(asked) if asked.iter().any(|it| *it < count) => {}
                done => break done,
            }
        };
        is_over.store(true, Ordering::Relaxed);
        done
    })?;
    Ok(format!("first={first} other={second} refused={refused}"))
}

/// A thread with descriptors of its own binds a socket whose number is another socket's of the process; the ports of both.
pub(crate) fn apart(address: &str) -> Result<String, Failure> {
    let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
    let family = sockets::family_of(&address);
    let (send, number) = mpsc::channel::<RawFd>();
    let (go_on, goes_on) = mpsc::channel::<()>();
    let thread = std::thread::spawn(move || -> Result<OwnedFd, Failure> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_FILES)?;
        let socket = sockets::new("tcp", family)?;
        send.send(socket.as_raw_fd()).map_err(|_| Failure::Usage)?;
        goes_on.recv().map_err(|_| Failure::Usage)?;
        rustix::net::bind(&socket, &address)?;
        Ok(socket)
    });
    let number = number.recv().map_err(|_| Failure::Usage)?;
    let own = sockets::new("tcp", family)?;
    if own.as_raw_fd() != number {
        return Err(Failure::Usage);
    }
    go_on.send(()).map_err(|_| Failure::Usage)?;
    // What it bound is not for this thread to ask: here its number is another's.
    let theirs = thread.join().unwrap_or(Err(Failure::Usage))?;
    std::mem::forget(theirs);
    Ok(format!("port={}", sockets::port_of(&own)?))
}

/// A filter of its own: one that makes bind() fail with EPERM, or one with a listener, that lets everything pass.
pub(crate) fn filter(what: &str) -> Result<String, Failure> {
    let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let allow = step(0x06, libc::SECCOMP_RET_ALLOW);
    let bind = u32::try_from(libc::SYS_bind).map_err(|_| Failure::Usage)?;
    let (mut program, flags) = match what {
        "bind-eperm" => {
            let is_bind = libc::sock_filter { code: 0x15, jt: 0, jf: 1, k: bind };
            let refuse = step(0x06, libc::SECCOMP_RET_ERRNO | libc::EPERM.unsigned_abs());
            (vec![step(0x20, 0), is_bind, refuse, allow], 0)
        }
        "listener" => (vec![allow], libc::SECCOMP_FILTER_FLAG_NEW_LISTENER),
        _ => return Err(Failure::Usage),
    };
    rustix::thread::set_no_new_privs(true)?;
    let length = u16::try_from(program.len()).map_err(|_| Failure::Usage)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the program lives through the call, which copies it.
    let status =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if status < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(String::new()) }
}
