//! Every map, once.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf};
use bindwatch_probe::abi::record::Task;
use bindwatch_probe::abi::{
    ATTEMPTS_MAX, CONNECT_OWNERS_MAX, LISTENERS_MAX, RING_BYTES, UNFINISHED_MAX, URING_CALLS_MAX,
    WATCHED_MAX, counter,
};

/// Allocate entries when they are made: most threads never bind.
const BPF_F_NO_PREALLOC: u32 = 1;

/// All records, in the order in which the kernel made them. Its size is set by `--ring-size`.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// One slot: not 0 while the reader sleeps without a timer and wants to be woken by the next record.
#[map]
pub static READER_IDLE: Array<u32> = Array::with_max_entries(1, 0);

/// What did not fit, by [`counter`].
#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::SLOTS, 0);

/// The bind, listen or connect that a thread is in, by thread id. Written by its own thread only.
#[map]
pub static ATTEMPTS: HashMap<u32, Attempt> = HashMap::with_max_entries(ATTEMPTS_MAX, BPF_F_NO_PREALLOC);

/// Who opened a TCP connection, by socket cookie: a TIME_WAIT entry keeps the cookie and nothing else.
#[map]
pub static CONNECT_OWNERS: LruHashMap<u64, Owner> = LruHashMap::with_max_entries(CONNECT_OWNERS_MAX, 0);

/// io_uring requests to bind or listen, from their submission to their completion, by the request's address.
#[map]
pub static URING_REQUESTS: LruHashMap<u64, Request> = LruHashMap::with_max_entries(URING_CALLS_MAX, 0);

/// How many of those a thread has submitted that it will carry out itself, by thread id.
#[map]
pub static URING_SUBMITTERS: LruHashMap<u32, u32> = LruHashMap::with_max_entries(URING_CALLS_MAX, 0);

/// The binds and listens among them that have begun, by socket cookie: they may complete in another thread.
#[map]
pub static URING_ATTEMPTS: LruHashMap<u64, Attempt> = LruHashMap::with_max_entries(URING_CALLS_MAX, 0);

/// One slot: not 0 once anybody has bound or listened through io_uring.
#[map]
pub static URING_IN_USE: Array<u32> = Array::with_max_entries(1, 0);

/// One slot: not 0 where functions of the kernel tell how calls end, whatever door they came through. Written by user space
/// before the programs that see calls begin are attached.
#[map]
pub static ENDS_INSIDE: Array<u32> = Array::with_max_entries(1, 0);

/// Connections that came to a listener, by its cookie. Taken out by user space when the listener is closed.
#[map]
pub static ACCEPTED: PerCpuHashMap<u64, u64> =
    PerCpuHashMap::with_max_entries(LISTENERS_MAX, BPF_F_NO_PREALLOC);

/// Of a listener, and of each connection to it, the listener's cookie.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "LISTENER_OF")]
pub static LISTENER_OF: ListenerOf = ListenerOf::NEW;

/// `BPF_MAP_TYPE_SK_STORAGE` (5.2)
const SK_STORAGE: usize = 24;
/// `BPF_F_NO_PREALLOC | BPF_F_CLONE`: a connection gets a copy of what its listener has (5.4).
const CLONED: usize = 1 | 1 << 9;

/// A socket storage whose value is inherited; aya has none with flags of its own. The fields are what the loader reads
/// from the object's BTF.
#[repr(C)]
pub struct ListenerOf {
    r#type: *const [i32; SK_STORAGE],
    key: *const i32,
    value: *const u64,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; CLONED],
}

// SAFETY: the fields are placeholders that nothing follows.
unsafe impl Sync for ListenerOf {}

impl ListenerOf {
    const NEW: Self = Self {
        r#type: core::ptr::null(),
        key: core::ptr::null(),
        value: core::ptr::null(),
        max_entries: core::ptr::null(),
        map_flags: core::ptr::null(),
    };

    /// As helpers take it.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut core::ffi::c_void {
        core::ptr::from_ref(self).cast_mut().cast()
    }
}

/// The sockets that are told about when only conflicts are, by cookie. User space adds those that it finds beside others.
#[map]
pub static WATCHED: HashMap<u64, u32> = HashMap::with_max_entries(WATCHED_MAX, BPF_F_NO_PREALLOC);

/// Of processes with more sockets than fit into one piece of a listing, the descriptor from which it goes on; written by user space.
/// With 0 among them, which no process is, nobody else is listed.
#[map]
pub static UNFINISHED: HashMap<u32, u32> = HashMap::with_max_entries(UNFINISHED_MAX, BPF_F_NO_PREALLOC);

/// One slot: sockets of a process in the piece that is being listed. Not on the stack: the verifier would follow each count.
#[map]
pub static PIECE: Array<u32> = Array::with_max_entries(1, 0);

/// One slot: not 0 once there has been any.
#[map]
pub static WATCHING: Array<u32> = Array::with_max_entries(1, 0);

/// What a thread is in: the values of [`Attempt::call`].
pub mod call {
    /// Nothing.
    pub const NONE: u32 = 0;
    /// bind(2), not known how it ends.
    pub const BIND: u32 = 1;
    /// bind(2) that got its port.
    pub const BOUND: u32 = 2;
    /// listen(2)
    pub const LISTEN: u32 = 3;
    /// connect(2)
    pub const CONNECT: u32 = 4;
    /// connect(2) to no address (AF_UNSPEC), which ends a connection.
    pub const DISCONNECT: u32 = 5;
    /// bind(2) that the guard refused: it has told so.
    pub const DENIED: u32 = 6;
    /// bind(2) of which only what is asked for was remembered; the rest is read from its socket when it is told.
    pub const LIGHT: u32 = 7;
}

/// An io_uring request to bind or listen.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Request {
    /// [`call::BIND`] or [`call::LISTEN`].
    pub call: u32,
    /// The thread that will carry it out, 0 when that is a worker.
    pub tid: u32,
}

/// A call in progress, as far as its failure needs to be told.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attempt {
    /// Who made it. Not kept up for connect.
    pub task: Task,
    pub cookie: u64,
    /// Where the socket is in the kernel, to look at it again when the call ends; its cookie is compared then.
    pub sk: u64,
    /// The socket of a function that a kprobe saw entered, until it returns.
    pub aside: u64,
    pub netns_cookie: u64,
    pub address: [u8; 16],
    pub call: u32,
    pub netns: u32,
    pub uid: u32,
    pub device: u32,
    pub port: u16,
    pub options: u16,
    pub family: u16,
    pub protocol: u16,
    pub state: u8,
    pub door: u8,
    /// Attempts through io_uring on the same socket, told already, whose completion comes before this one's.
    pub earlier: u16,
    /// Of a connect: the local port before it.
    pub local_port: u16,
    /// Of a connect: the local address before it was a wildcard.
    pub was_wild: u8,
    pub pad: [u8; 1],
}

/// Who opened a connection.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Owner {
    /// Start of the process, ns since boot.
    pub start: u64,
    /// Its thread group id.
    pub tgid: u32,
    pub pad: u32,
}
