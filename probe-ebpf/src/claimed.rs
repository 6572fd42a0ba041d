//! Which claim each socket has a share in, by its cookie. Asked for at every bind and at every close: a hash map costs more
//! than all the rest of a claim, so they are kept in sets of four, beside a lock, and in the hash map only what did not fit.

use aya_ebpf::bindings::bpf_spin_lock;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::HashMap;
use bindwatch_probe::abi::policy::{CLAIMED_MAX, SETS, WAYS};

const BPF_F_NO_PREALLOC: u32 = 1;
pub const BPF_NOEXIST: u64 = 1;
pub const EEXIST: i32 = 17;

/// No claim.
pub const NONE: u64 = u64::MAX;

/// [`keep`]: it is kept.
pub const KEPT: u64 = 1;
/// There is no room for it.
pub const NO_ROOM: u64 = 0;
/// The socket has got one meanwhile: its call and a look at all sockets met.
pub const HAS_ONE: u64 = 2;

/// One cache line.
#[repr(C, align(64))]
pub struct Set {
    lock: bpf_spin_lock,
    /// Not 0 once one of its sockets was kept in [`CLAIMED`].
    spilt: u32,
    /// The sockets; 0 is free.
    cookies: [u64; WAYS],
    /// The claim of each.
    claims: [u32; WAYS],
}

#[btf_map]
static CLAIMED_SETS: Array<Set, { SETS as usize }, 0> = Array::new();

/// Those that did not fit into their set.
#[map]
static CLAIMED: HashMap<u64, u32> = HashMap::with_max_entries(CLAIMED_MAX, BPF_F_NO_PREALLOC);

/// Cookies are given out in sequence.
#[inline(always)]
fn set_of(cookie: u64) -> Option<*mut Set> {
    CLAIMED_SETS.get_ptr_mut(cookie as u32 & (SETS - 1))
}

/// The claim of a socket, or [`NONE`]. A function of its own, global, so that the verifier follows it once and not on each of
/// its callers' paths.
///
/// Reads without the lock: nobody but the socket's own calls writes where its cookie is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_of(cookie: u64) -> u64 {
    find(cookie)
}

#[inline(always)]
fn find(cookie: u64) -> u64 {
    if cookie == 0 {
        // What is free has none.
        return NONE;
    }
    let Some(set) = set_of(cookie) else { return NONE };
    // SAFETY: a value of an array map, which lives as long as the program.
    let spilt = unsafe {
        let cookies = (&raw const (*set).cookies).cast::<u64>();
        let claims = (&raw const (*set).claims).cast::<u32>();
        let mut i = 0;
        while i < WAYS {
            if cookies.add(i).read_volatile() == cookie {
                return u64::from(claims.add(i).read_volatile());
            }
            i += 1;
        }
        (&raw const (*set).spilt).read_volatile()
    };
    if spilt == 0 {
        return NONE;
    }
    // SAFETY: copied out at once.
    unsafe { CLAIMED.get(cookie) }.map_or(NONE, |claim| u64::from(*claim))
}

/// Keeps the claim of a socket that has none: [`KEPT`], [`NO_ROOM`] or [`HAS_ONE`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn keep(cookie: u64, claim: u64) -> u64 {
    let Some(set) = set_of(cookie) else { return NO_ROOM };
    let mut kept = NO_ROOM;
    // SAFETY: a value of an array map, whose fields are written under its lock.
    unsafe {
        generated::bpf_spin_lock(&raw mut (*set).lock);
        let cookies = (&raw mut (*set).cookies).cast::<u64>();
        let claims = (&raw mut (*set).claims).cast::<u32>();
        let (mut i, mut free) = (0, WAYS);
        while i < WAYS {
            let there = cookies.add(i).read_volatile();
            if there == cookie {
                kept = HAS_ONE;
            }
            if there == 0 {
                free = i;
            }
            i += 1;
        }
        if kept == NO_ROOM && free < WAYS {
            // Who finds the cookie finds its claim.
            claims.add(free).write_volatile(claim as u32);
            cookies.add(free).write_volatile(cookie);
            kept = KEPT;
        }
        generated::bpf_spin_unlock(&raw mut (*set).lock);
    }
    if kept != NO_ROOM { kept } else { keep_aside(cookie, claim) }
}

/// As [`keep`], where no lock can be taken.
#[inline(always)]
pub fn keep_aside(cookie: u64, claim: u64) -> u64 {
    let Some(set) = set_of(cookie) else { return NO_ROOM };
    // SAFETY: as in `claim_of`; never written back to 0.
    unsafe { (&raw mut (*set).spilt).write_volatile(1) };
    match CLAIMED.insert(cookie, claim as u32, BPF_NOEXIST) {
        Ok(()) => KEPT,
        Err(error) if error == -EEXIST => HAS_ONE,
        Err(_) => NO_ROOM,
    }
}

/// Forgets a socket: the claim that it had a share in, or [`NONE`]. Calls nothing: below the programs that deny there is room
/// for two calls on the stack, and this is the second (544 bytes of 512, said 6.1).
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget(cookie: u64) -> u64 {
    let claim = find(cookie);
    if claim == NONE {
        return NONE;
    }
    let Some(set) = set_of(cookie) else { return NONE };
    let mut gone = 0u64;
    // SAFETY: as in `keep`.
    unsafe {
        generated::bpf_spin_lock(&raw mut (*set).lock);
        let cookies = (&raw mut (*set).cookies).cast::<u64>();
        let mut i = 0;
        while i < WAYS {
            if cookies.add(i).read_volatile() == cookie {
                cookies.add(i).write_volatile(0);
                gone = 1;
                break;
            }
            i += 1;
        }
        generated::bpf_spin_unlock(&raw mut (*set).lock);
    }
    if gone == 0 && CLAIMED.remove(cookie).is_err() {
        // Somebody else was faster.
        return NONE;
    }
    claim
}
