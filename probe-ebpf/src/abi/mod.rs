//! Everything that crosses between kernel and user space.
//!
//! Rules of the wire: fixed-size integers and byte arrays only, no bool, enum, reference or implicit padding;
//! every discriminant is an integer that the reader matches; byte order is the machine's, ports are in host order;
//! sizes and offsets are asserted at compile time here and read field by field in user space (`userspace/src/wire`).

pub mod config;
pub mod counter;
pub mod policy;
pub mod record;
pub mod standing;

/// Raised by every change of a layout or of a meaning in this module. The loader refuses an object with another number.
pub const ABI_VERSION: u32 = 6;

/// A global of the object that is named after [`ABI_VERSION`].
pub const ABI_SYMBOL: &str = "BINDWATCH_ABI_6";

/// Default size of the event ring, bytes. A power of two and a multiple of the page size (`BPF_MAP_TYPE_RINGBUF`).
pub const RING_BYTES: u32 = 16 << 20;

/// The part of the ring that is kept for [`record`]s that cannot be made good by a look at the kernel's tables: one in so many
/// bytes. A bind, a close or an option that would use it is lost instead; a process may use half of it.
pub const RING_KEPT: u32 = 16;

/// Longest argument list that one exec record carries, bytes; the rest is cut and `Exec.args_total` tells.
pub const ARGS_MAX: usize = 4096;
/// Room for arguments in a small exec record, bytes: most commands.
pub const ARGS_SMALL: usize = 256;
/// Room for arguments in a medium exec record, bytes.
pub const ARGS_MEDIUM: usize = 1024;

/// Longest path in a record, bytes.
pub const PATH_MAX: usize = 256;

/// Threads that can be between entering a bind, listen or connect and its end at one instant. Beyond it an attempt
/// is not remembered and [`counter::ATTEMPT`] counts it.
pub const ATTEMPTS_MAX: u32 = 65_536;

/// Calls through io_uring that can be under way at one instant (least recently used go first).
pub const URING_CALLS_MAX: u32 = 4096;

/// Listeners whose connections are counted. Of more it is not known how many they got.
pub const LISTENERS_MAX: u32 = 65_536;

/// Sockets that are told about when only conflicts are: those on a port that several have. Of more the end is not told,
/// which [`counter::CLOSE`] counts.
pub const WATCHED_MAX: u32 = 65_536;
/// Sockets of one process that a listing tells in one piece, which has to fit into what the kernel keeps of its output
/// (`PAGE_SIZE << 3`, kernel/bpf/bpf_iter.c).
pub const PIECE_MAX: u32 = 400;
/// Processes with more than that, of which the listing goes on.
pub const UNFINISHED_MAX: u32 = 16_384;

/// What is told: the values of the global `ONLY_CONFLICTS`.
pub mod only_conflicts {
    /// Every bind.
    pub const NO: u32 = 0;
    /// Binds on ports that another socket has as well, and those that fail.
    pub const YES: u32 = 1;
    /// The same; but what is attempted is remembered whole from its beginning, as the guard needs it.
    pub const WHOLE_ATTEMPTS: u32 = 2;
}

/// Outgoing connections whose opener is remembered (least recently used go first); see `CONNECT_OWNERS`.
pub const CONNECT_OWNERS_MAX: u32 = 65_536;
