//! The only reserve and the only submit. A record that does not fit is counted by kind.

use aya_ebpf::maps::ring_buf::RingBufEntry;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::record::{Head, hook};

use crate::kernel::boottime;
use crate::maps::{COUNTERS, READER_IDLE, RING};

/// Leave the reader asleep: it has a timer.
const BPF_RB_NO_WAKEUP: u64 = 1;
/// Wake it whatever it does.
const BPF_RB_FORCE_WAKEUP: u64 = 2;
/// Asks for the bytes that were not read yet.
const BPF_RB_AVAIL_DATA: u64 = 0;

/// Not 0 from a record that was lost to the next that is not. A global needs no look-up.
#[unsafe(no_mangle)]
static mut GAP: u32 = 0;

/// Unread bytes beyond which a routine record is lost. Set by the loader.
#[unsafe(no_mangle)]
static ROUTINE_MOST: u64 = u64::MAX;
/// Unread bytes beyond which a record of a process is lost. Set by the loader.
#[unsafe(no_mangle)]
static PROCESS_MOST: u64 = u64::MAX;

#[inline(always)]
fn set_by_loader(global: &'static u64) -> u64 {
    // SAFETY: initialised, never written; volatile because the loader overrides it.
    unsafe { core::ptr::read_volatile(global) }
}

/// When the reader should see a record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// At its next look.
    Routine,
    /// At once: what user space looks up because of it goes stale.
    Now,
}

/// Reserves a record, lets `fill` write it and submits it.
///
/// A wake-up costs more than a bind, so nearly none is made: the reader drains on a timer while records come, and
/// asks for one wake-up (`READER_IDLE`) before it goes to sleep for long.
#[inline(always)]
pub fn emit<T: 'static>(lost_as: u32, urgency: Urgency, fill: impl FnOnce(*mut T)) {
    let Some(mut entry) = reserve(lost_as, urgency) else { return };
    fill(entry.as_mut_ptr());
    submit(entry, urgency);
}

/// A record to be written and submitted, or counted as lost. For whom [`emit`] is too much: the compiler makes functions of the
/// closures that are long, and their callers may have no room for one on the stack.
///
/// The end of the ring is kept for what is seen in no table afterwards: that a call failed, and who is who.
#[inline(always)]
pub fn reserve<T: 'static>(lost_as: u32, urgency: Urgency) -> Option<RingBufEntry<T>> {
    let most = match urgency {
        Urgency::Now => u64::MAX,
        Urgency::Routine if lost_as == counter::PROCESS => set_by_loader(&PROCESS_MOST),
        Urgency::Routine => set_by_loader(&ROUTINE_MOST),
    };
    let has_room = most == u64::MAX || RING.query(BPF_RB_AVAIL_DATA) <= most;
    let entry = if has_room { RING.reserve::<T>(0) } else { None };
    if entry.is_none() {
        count(lost_as);
        // SAFETY: a word, written whole; that another CPU may do so too changes nothing.
        unsafe { (&raw mut GAP).write_volatile(1) };
    }
    entry
}

/// Hands a record that is written, and begins with a [`Head`], to user space.
#[inline(always)]
pub fn submit<T>(mut entry: RingBufEntry<T>, urgency: Urgency) {
    // SAFETY: a word, read and written whole; and the head was written. Of two CPUs that see it both records say that some were
    // lost before them: what was lost is counted elsewhere.
    unsafe {
        if (&raw const GAP).read_volatile() != 0 {
            (&raw mut GAP).write_volatile(0);
            (*entry.as_mut_ptr().cast::<Head>()).hook |= hook::AFTER_LOSS;
        }
    }
    let mut flags = if urgency == Urgency::Now { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    if let Some(idle) = READER_IDLE.get_ptr_mut(0) {
        // SAFETY: the slot of an array map is valid for the program's life. Two CPUs may both see it set: the reader
        // is woken twice, once for nothing.
        unsafe {
            if *idle != 0 {
                *idle = 0;
                flags = BPF_RB_FORCE_WAKEUP;
            }
        }
    }
    entry.submit(flags);
}

/// Adds one to a counter of this CPU. No atomics: programs of one CPU that interrupt each other may lose a count of
/// one another, never a kind; fetching atomics do not load on 5.10.
#[inline(always)]
pub fn count(slot: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(slot) {
        // SAFETY: the slot is valid for the program's life and this CPU's own.
        unsafe { *counter += 1 };
    }
}

/// A head, stamped now.
#[inline(always)]
pub fn head(kind: u32, hook: u32) -> Head {
    Head { kind, hook, at: boottime() }
}
