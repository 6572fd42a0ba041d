//! System calls that are handed to another process before they are carried out: a seccomp filter with a listener
//! (`seccomp_unotify(2)`).
//!
//! Answering "carry it out" needs Linux 5.5. Nothing here decides anything.

#![expect(unsafe_code, reason = "there are no safe wrappers")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::libc;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, Updater, opcode};

/// `SECCOMP_IOCTL_NOTIF_RECV`
const RECEIVE: Opcode = opcode::read_write::<libc::seccomp_notif>(b'!', 0);
/// `SECCOMP_IOCTL_NOTIF_SEND`
const SEND: Opcode = opcode::read_write::<libc::seccomp_notif_resp>(b'!', 1);
/// `SECCOMP_IOCTL_NOTIF_ID_VALID`, by the number that kernels from 5.17 on have.
const IS_VALID: Opcode = opcode::write::<u64>(b'!', 2);
/// The same by the number that older kernels have, and newer ones still take.
const IS_VALID_BEFORE: Opcode = opcode::read::<u64>(b'!', 2);

/// `SECCOMP_IOCTL_NOTIF_SET_FLAGS`, from 6.6.
const SET_FLAGS: Opcode = opcode::write::<u64>(b'!', 4);
/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP`
const SYNC_WAKE_UP: u64 = 1;

/// By which ABI a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// The machine's own.
    Native,
    /// Its 32-bit one: pointers and the arguments of `socketcall` have four bytes.
    Compat,
}

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// `bind(fd, address, length)`
    Bind,
    /// `listen(fd, backlog)`
    Listen,
    /// `socketcall(2 or 4, arguments)` of 32-bit programs
    Socketcall,
    /// `landlock_restrict_self`
    Restrict,
    /// Something that the filter does not hand over.
    Other,
}

/// A call that waits for an answer.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Its number, one more than that of the call before it.
    pub id: u64,
    /// The thread that made it, as this PID namespace numbers it.
    pub tid: u32,
    /// What it called.
    pub which: Which,
    /// How.
    pub abi: Abi,
    /// Its arguments.
    pub arguments: [u64; 6],
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries it out, as if nothing had been.
    Continue,
    /// It returns 0.
    Done,
    /// It fails.
    Failed(Errno),
}

/// The end at which calls of filtered processes arrive. When the last one is closed, every such call fails with ENOSYS.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Listener {
    /// Lets the caller's CPU go over to who answers, and back: they never work at the same time. Kernels before 6.6 decide
    /// by themselves.
    pub fn take_turns(&self) {
        // SAFETY: the opcode is that of a call that takes a number.
        let _ = unsafe { rustix::ioctl::ioctl(&self.0, Setter::<SET_FLAGS, u64>::new(SYNC_WAKE_UP)) };
    }

    /// Waits for a call. Blocks.
    ///
    /// # Errors
    /// ENOENT when the caller was interrupted just then, or when nobody is left who could call; EINTR.
    pub fn receive(&self) -> io::Result<Notification> {
        // The kernel wants all of it zero.
        let mut raw = zeroed();
        // SAFETY: the opcode is that of a call that fills in a seccomp_notif; the kernel reads and writes no more.
        unsafe { rustix::ioctl::ioctl(&self.0, Updater::<RECEIVE, libc::seccomp_notif>::new(&mut raw)) }?;
        let (which, abi) = named(raw.data.arch, raw.data.nr);
        Ok(Notification { id: raw.id, tid: raw.pid, which, abi, arguments: raw.data.args })
    }

    /// Answers a call. False: the caller no longer waits, a signal interrupted it.
    ///
    /// # Errors
    /// When the kernel does not take the answer: EINVAL for [`Answer::Continue`] before 5.5.
    pub fn answer(&self, id: u64, answer: Answer) -> io::Result<bool> {
        let mut raw = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
        match answer {
            // SECCOMP_USER_NOTIF_FLAG_CONTINUE
            Answer::Continue => raw.flags = 1,
            Answer::Done => {}
            Answer::Failed(errno) => raw.error = -errno.raw_os_error(),
        }
        // SAFETY: the opcode is that of a call that reads a seccomp_notif_resp.
        let sent = unsafe {
            rustix::ioctl::ioctl(&self.0, Updater::<SEND, libc::seccomp_notif_resp>::new(&mut raw))
        };
        match sent {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Whether the caller still waits for this answer: then its thread is who it was when it called.
    #[must_use]
    pub fn is_valid(&self, id: u64) -> bool {
        // SAFETY: the opcode is that of a call that reads a number.
        let new = unsafe { rustix::ioctl::ioctl(&self.0, Setter::<IS_VALID, u64>::new(id)) };
        match new {
            Err(Errno::INVAL | Errno::NOTTY) => {
                // SAFETY: as above; older kernels declared it as one that writes, and read.
                unsafe { rustix::ioctl::ioctl(&self.0, Setter::<IS_VALID_BEFORE, u64>::new(id)) }.is_ok()
            }
            answer => answer.is_ok(),
        }
    }

    /// Whether nobody is left who could call.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.wait(Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).contains(PollFlags::HUP)
    }

    /// Waits until a call can be received, or nobody is left who could call. Whether there is a call.
    #[must_use]
    pub fn has_call(&self) -> bool {
        loop {
            let what = self.wait(None);
            if what.contains(PollFlags::IN) {
                return true;
            }
            if what.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL) {
                return false;
            }
        }
    }

    fn wait(&self, timeout: Option<&Timespec>) -> PollFlags {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        let _ = poll(&mut polled, timeout);
        let [polled] = polled;
        polled.revents()
    }
}

/// Why calls of this thread cannot be handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has a filter with a listener already, and there can be one.
    #[error(
        "the binds of this process wait for another already, such as an outer bindwatch run --on-conflict wait or a \
         container's supervisor: leave wait out of one of them"
    )]
    Busy,
    /// There is no such thing.
    #[error("this kernel cannot hand system calls over (seccomp user notification, Linux 5.5)")]
    Unsupported,
    /// Something else.
    #[error("the kernel refuses the filter ({0})")]
    Other(Errno),
    /// It was handed over, and the kernel does not carry on with it.
    #[error("this kernel cannot carry out what was handed over (Linux 5.5)")]
    NotCarriedOut,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::BUSY => Self::Busy,
            Errno::INVAL | Errno::NOSYS => Self::Unsupported,
            errno => Self::Other(errno),
        }
    }
}

/// Tries [`hand_over`] with a thread that ends.
///
/// # Errors
/// As [`hand_over`].
pub fn try_out() -> Result<(), Refusal> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let handed_over = hand_over();
        let is_handed_over = handed_over.is_ok();
        sender.send(handed_over).is_ok() && is_handed_over && is_taken_care_of()
    });
    let listener = receiver.recv().map_err(|_| Refusal::Other(Errno::SRCH))??;
    let answered = listener.receive().and_then(|call| listener.answer(call.id, Answer::Continue));
    // Whoever still waits waits no more.
    drop(listener);
    let is_taken_care_of = thread.join().unwrap_or(false);
    if answered.is_ok() && is_taken_care_of { Ok(()) } else { Err(Refusal::NotCarriedOut) }
}

/// Hands over bind(), listen() and landlock_restrict_self() of this thread and whatever it executes or forks, from now
/// on, by every ABI of the machine.
///
/// Without CAP_SYS_ADMIN the thread gives up gaining privileges by executing programs (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// When the kernel does not take the filter.
pub fn hand_over() -> Result<Listener, Refusal> {
    match install() {
        Err(Errno::ACCESS | Errno::PERM) => {
            rustix::thread::set_no_new_privs(true)?;
            Ok(install()?)
        }
        done => Ok(done?),
    }
}

/// Calls what is handed over, with arguments that come to nothing. True when somebody took care of it.
#[must_use]
pub fn is_taken_care_of() -> bool {
    // SAFETY: without a descriptor the kernel looks at nothing else.
    let bound = unsafe { libc::bind(-1, std::ptr::null(), 0) };
    bound == -1 && nix::errno::Errno::last() == nix::errno::Errno::EBADF
}

/// Takes over a descriptor that the process was started with.
///
/// # Errors
/// When there is none of this number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: asks about a number only.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and named to this process by whoever started it: nobody else here has it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

fn zeroed() -> libc::seccomp_notif {
    libc::seccomp_notif {
        id: 0,
        pid: 0,
        flags: 0,
        data: libc::seccomp_data { nr: 0, arch: 0, instruction_pointer: 0, args: [0; 6] },
    }
}

fn install() -> Result<Listener, Errno> {
    let mut program = filter();
    let length = u16::try_from(program.len()).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call, which copies it.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    };
    match RawFd::try_from(fd) {
        // SAFETY: the kernel has just made it.
        Ok(fd) if fd >= 0 => Ok(Listener(unsafe { OwnedFd::from_raw_fd(fd) })),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// `landlock_restrict_self`, by one number everywhere.
const RESTRICT: u32 = 446;

/// The machine's own ABI: its name in filters, and the numbers of the calls.
#[cfg(target_arch = "x86_64")]
const NATIVE: (u32, u32, u32) = (0xc000_003e, 49, 50);
#[cfg(target_arch = "x86_64")]
const COMPAT: (u32, u32, u32) = (0x4000_0003, 361, 363);
#[cfg(target_arch = "aarch64")]
const NATIVE: (u32, u32, u32) = (0xc000_00b7, 200, 201);
#[cfg(target_arch = "aarch64")]
const COMPAT: (u32, u32, u32) = (0x4000_0028, 282, 284);

/// `socketcall` of i386 programs; 32-bit ARM has none.
const SOCKETCALL: Option<u32> = if cfg!(target_arch = "x86_64") { Some(102) } else { None };
/// Set in the numbers of the x32 ABI, whose calls are those of x86_64.
const X32_BIT: u32 = if cfg!(target_arch = "x86_64") { 0x4000_0000 } else { 0 };
/// `SYS_BIND` and `SYS_LISTEN` of `socketcall`.
pub const SOCKETCALL_BIND: u32 = 2;
/// As [`SOCKETCALL_BIND`].
pub const SOCKETCALL_LISTEN: u32 = 4;

fn named(arch: u32, number: i32) -> (Which, Abi) {
    let number = number.cast_unsigned();
    let (abi, (_, bind, listen), number) = if arch == NATIVE.0 {
        (Abi::Native, NATIVE, number & !X32_BIT)
    } else {
        (Abi::Compat, COMPAT, number)
    };
    let which = match number {
        _ if number == bind => Which::Bind,
        _ if number == listen => Which::Listen,
        RESTRICT => Which::Restrict,
        _ if abi == Abi::Compat && SOCKETCALL == Some(number) => Which::Socketcall,
        _ => Which::Other,
    };
    (which, abi)
}

/// The filter, in the classic BPF of `seccomp(2)`.
fn filter() -> Vec<libc::sock_filter> {
    const LOAD: u16 = 0x20;
    const AND: u16 = 0x54;
    const IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // Offsets in seccomp_data.
    const NUMBER: u32 = 0;
    const ARCH: u32 = 4;
    const FIRST_ARGUMENT: u32 = 16;
    let step = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    // What is not equal goes on with the next step but one.
    let if_equal = |k| libc::sock_filter { code: IF_EQUAL, jt: 0, jf: 1, k };
    let hand_over = step(RETURN, libc::SECCOMP_RET_USER_NOTIF);
    let let_pass = step(RETURN, libc::SECCOMP_RET_ALLOW);

    let skip = |over: &[libc::sock_filter]| u8::try_from(over.len()).unwrap_or(u8::MAX);

    let mut native = vec![step(LOAD, NUMBER), step(AND, !X32_BIT)];
    for number in [NATIVE.1, NATIVE.2, RESTRICT] {
        native.extend([if_equal(number), hand_over]);
    }
    native.push(let_pass);
    let mut compat = vec![step(LOAD, NUMBER)];
    for number in [COMPAT.1, COMPAT.2, RESTRICT] {
        compat.extend([if_equal(number), hand_over]);
    }
    if let Some(socketcall) = SOCKETCALL {
        let body = [
            step(LOAD, FIRST_ARGUMENT),
            if_equal(SOCKETCALL_BIND),
            hand_over,
            if_equal(SOCKETCALL_LISTEN),
            hand_over,
        ];
        compat.push(libc::sock_filter { code: IF_EQUAL, jt: 0, jf: skip(&body), k: socketcall });
        compat.extend(body);
    }
    compat.push(let_pass);

    let mut all =
        vec![step(LOAD, ARCH), libc::sock_filter { code: IF_EQUAL, jt: 0, jf: skip(&native), k: NATIVE.0 }];
    all.extend(native);
    all.push(libc::sock_filter { code: IF_EQUAL, jt: 0, jf: skip(&compat), k: COMPAT.0 });
    all.extend(compat);
    all.push(let_pass);
    all
}
