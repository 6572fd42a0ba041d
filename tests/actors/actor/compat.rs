//! System calls of the 32-bit ABI from a 64-bit program, as a 32-bit program makes them: by `int 0x80`.

#![expect(unsafe_code, reason = "nothing safe enters the kernel by that door")]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::io::Errno;
use rustix::net::listen;

use crate::sockets::{BACKLOG, family_of, new};
use crate::{Actor, Failure};

/// `__NR_socketcall` and `__NR_bind` of i386 (arch/x86/entry/syscalls/syscall_32.tbl).
const SOCKETCALL: u32 = 102;
const BIND: u32 = 361;
/// `SYS_BIND` and `SYS_SETSOCKOPT` (include/uapi/linux/net.h).
const SYS_BIND: u32 = 2;
const SYS_SETSOCKOPT: u32 = 14;
/// SOL_SOCKET, SO_REUSEADDR and SO_REUSEPORT (socket(7)).
const SOL_SOCKET: u32 = 1;
const SO_REUSEADDR: u32 = 2;
const SO_REUSEPORT: u32 = 15;
/// Bytes of the memory that the kernel is pointed to.
const PAGE: usize = 4096;

impl Actor {
    pub(crate) fn compat(
        &mut self,
        how: &str,
        protocol: &str,
        address: &str,
        flags: &[&str],
    ) -> Result<String, Failure> {
        let address: SocketAddr = address.parse().map_err(|_| Failure::Usage)?;
        let socket = new(protocol, family_of(&address))?;
        let low = Low::new()?;
        for (flag, option) in OPTIONS {
            if flags.contains(&flag) {
                set(&low, &socket, option, 1)?;
            }
        }
        let family_and_port =
            u32::from(family_of(&address).as_raw()) | u32::from(address.port().to_be()) << 16;
        low.write(128, &[family_and_port]);
        let length = match address.ip() {
            // struct sockaddr_in
            IpAddr::V4(ip) => {
                low.write(132, &[u32::from_ne_bytes(ip.octets()), 0, 0]);
                16
            }
            // struct sockaddr_in6
            IpAddr::V6(ip) => {
                let bits = ip.to_bits().to_be_bytes();
                for (at, word) in (136..).step_by(4).zip(bits.as_chunks::<4>().0) {
                    low.write(at, &[u32::from_ne_bytes(*word)]);
                }
                28
            }
        };
        match how {
            "bind" => call(BIND, number(&socket), low.at(128), length)?,
            "socketcall" => {
                low.write(0, &[number(&socket), low.at(128), length]);
                call(SOCKETCALL, SYS_BIND, low.at(0), 0)?;
            }
            _ => return Err(Failure::Usage),
        }
        if flags.contains(&"listen") {
            listen(&socket, BACKLOG)?;
        }
        self.told(socket)
    }

    pub(crate) fn compat_option(&self, id: u64, option: &str, value: u32) -> Result<String, Failure> {
        let known = OPTIONS.into_iter().find(|(name, _)| *name == option);
        let (_, option) = known.ok_or(Failure::Usage)?;
        set(&Low::new()?, self.get(id)?, option, value)?;
        Ok(String::new())
    }
}

/// Options by name.
const OPTIONS: [(&str, u32); 2] = [("reuseaddr", SO_REUSEADDR), ("reuseport", SO_REUSEPORT)];

fn set(low: &Low, socket: &OwnedFd, option: u32, value: u32) -> Result<(), Failure> {
    low.write(0, &[number(socket), SOL_SOCKET, option, low.at(64), 4]);
    low.write(64, &[value]);
    call(SOCKETCALL, SYS_SETSOCKOPT, low.at(0), 0)
}

fn number(socket: &OwnedFd) -> u32 {
    socket.as_raw_fd().unsigned_abs()
}

/// Memory that 32 bits can point to.
struct Low(*mut u32);

impl Low {
    fn new() -> Result<Self, Failure> {
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at a place of the kernel's choice touches no memory that exists.
        let page =
            unsafe { libc::mmap(std::ptr::null_mut(), PAGE, protection, flags | libc::MAP_32BIT, -1, 0) };
        if page == libc::MAP_FAILED {
            Err(std::io::Error::last_os_error().into())
        } else {
            Ok(Self(page.cast()))
        }
    }

    fn at(&self, offset: u32) -> u32 {
        u32::try_from(self.0.addr()).unwrap_or(0) + offset
    }

    fn write(&self, offset: usize, words: &[u32]) {
        for (at, word) in words.iter().enumerate() {
            // SAFETY: every offset that is used, and what is written there, lies in the page.
            unsafe { self.0.add(offset / 4 + at).write_volatile(*word) };
        }
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's own.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

fn call(number: u32, first: u32, second: u32, third: u32) -> Result<(), Failure> {
    let result: i32;
    // SAFETY: the calls made here read the memory they are given and write none. The compiler keeps rbx for itself.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first}",
            "int 0x80",
            "xchg rbx, {first}",
            first = inout(reg) u64::from(first) => _,
            inlateout("eax") number => result,
            in("rcx") u64::from(second),
            in("rdx") u64::from(third),
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    match result {
        0.. => Ok(()),
        errno => Err(Failure::Errno(Errno::from_raw_os_error(-errno))),
    }
}
