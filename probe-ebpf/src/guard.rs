//! Who has which endpoint that may be shared, and whether one more may come. One lock, one decision: of two that race
//! for an endpoint the second always sees the first.

use aya_ebpf::bindings::bpf_spin_lock;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::HashMap;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::policy::{
    ANCESTORS_MAX, BUCKETS, CLAIMED_MAX, KIN_MAX, Kin, RULES_MAX, Rule, SLOTS, Slot, name, plane,
};
use bindwatch_probe::abi::record::option;

use crate::emit::count;
use crate::kernel::Addr;
use crate::sock::{AF_INET, IPPROTO_TCP, Sk};
use crate::task;

/// IPPROTO_UDP and IPPROTO_UDPLITE
const IPPROTO_UDP: u16 = 17;
const IPPROTO_UDPLITE: u16 = 136;

const BPF_F_NO_PREALLOC: u32 = 1;
const BPF_NOEXIST: u64 = 1;

/// No slot was found.
const NO_SLOT: u64 = SLOTS as u64;

/// Live processes by thread group id. Filled by user space with those that are older, kept by fork, exec and exit.
#[map]
pub static KIN: HashMap<u32, Kin> = HashMap::with_max_entries(KIN_MAX, BPF_F_NO_PREALLOC);

/// The claim a socket shares in, by its cookie: bucket and slot.
#[map]
static CLAIMED: HashMap<u64, u32> = HashMap::with_max_entries(CLAIMED_MAX, BPF_F_NO_PREALLOC);

/// The allow rules, and how many there are.
#[map]
static RULES: aya_ebpf::maps::Array<Rule> = aya_ebpf::maps::Array::with_max_entries(RULES_MAX, 0);

#[repr(C)]
pub struct Bucket {
    lock: bpf_spin_lock,
    pad: u32,
    slots: [Slot; SLOTS],
}

#[btf_map]
static CLAIMS: Array<Bucket, { BUCKETS as usize }, 0> = Array::new();

/// What became of a claim.
pub enum Verdict {
    /// It is the socket's.
    Granted,
    /// An unrelated process has the endpoint, or one that overlaps. Where nothing is denied the claim was made as well.
    Contested {
        /// Cookie of its socket.
        cookie: u64,
        /// Its name.
        holder: u64,
    },
    /// Nothing to decide: a socket that cannot share, or nobody knows.
    Nothing,
}

/// Name of a task's process.
#[inline(always)]
pub fn name_of(task: Addr) -> u64 {
    name(task::start_of(task), task::tgid_of(task))
}

/// Whether a socket with these options can share its port with another that agrees (socket(7)): the kernel refuses
/// every other pair by itself. TCP's SO_REUSEADDR lets two bind and only one listen.
#[inline(always)]
pub fn may_share(protocol: u16, options: u16) -> bool {
    match protocol {
        IPPROTO_TCP => options & option::REUSEPORT != 0,
        IPPROTO_UDP | IPPROTO_UDPLITE => options & (option::REUSEPORT | option::REUSEADDR) != 0,
        _ => false,
    }
}

#[inline(always)]
fn words(address: [u8; 16]) -> [u64; 2] {
    // SAFETY: both are sixteen bytes of plain data.
    unsafe { core::mem::transmute(address) }
}

/// Address and planes of a socket: a v4-mapped address is an IPv4 address.
#[inline(always)]
fn place(sk: Sk, family: u16, v6only: bool) -> ([u64; 2], u8) {
    let address = words(sk.address(family));
    if family == AF_INET {
        let wild = if address[0] == 0 { plane::WILDCARD } else { 0 };
        return (address, plane::V4 | wild);
    }
    if address[0] == 0 && address[1] == 0 {
        let v4 = if v6only { 0 } else { plane::V4 };
        return (address, plane::V6 | plane::WILDCARD | v4);
    }
    // ::ffff:a.b.c.d
    if address[0] == 0 && address[1] as u32 == 0xffff_0000 {
        let v4 = address[1] >> 32;
        let wild = if v4 == 0 { plane::WILDCARD } else { 0 };
        return ([v4, 0], plane::V4 | wild);
    }
    (address, plane::V6)
}

/// Multicast groups themselves are bound to by everybody who wants their traffic.
#[inline(always)]
fn is_multicast(address: [u64; 2], planes: u8) -> bool {
    let first = address[0] as u8;
    if planes & plane::V4 != 0 { first >> 4 == 14 } else { first == 0xff }
}

/// Claims the endpoint of a bound socket for a process. `deny` makes it all or nothing: an unrelated holder, and
/// nothing is claimed.
#[inline(always)]
pub fn claim(sk: Sk, family: u16, options: u16, cookie: u64, netns: u64, owner: &Kin, deny: bool) -> Verdict {
    let protocol = sk.protocol();
    let port = sk.port();
    if port == 0 || cookie == 0 || !may_share(protocol, options) {
        return Verdict::Nothing;
    }
    let (address, planes) = place(sk, family, options & option::V6ONLY != 0);
    if is_multicast(address, planes) {
        return Verdict::Nothing;
    }
    // Of one bind both the program that denies and the census come here. That it was elsewhere means that another tool
    // denied a bind which was granted here, or that the socket gave its port up.
    if claimed_here(cookie, netns, address[0], address[1], u64::from(port)) != 0 {
        return Verdict::Granted;
    }
    let device = sk.device();
    let rules = rules_on(address[0], address[1], u64::from(port));
    let (allowed, allowed_to_some) = (rules >> 32, rules as u32);
    let mixed = (netns ^ u64::from(port) << 16 ^ u64::from(protocol)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let index = (mixed >> 40) as u32 & (BUCKETS - 1);
    let Some(bucket) = CLAIMS.get_ptr_mut(index) else { return Verdict::Nothing };
    let (mut enemy_cookie, mut enemy, mut unknown) = (opaque(0), opaque(0), opaque(0));
    let (mut free, mut mine) = (opaque(NO_SLOT), opaque(NO_SLOT));
    // SAFETY: the bucket is a value of an array map; its slots are read and written under its lock only.
    let at = unsafe {
        generated::bpf_spin_lock(&raw mut (*bucket).lock);
        let slots = (&raw mut (*bucket).slots).cast::<Slot>();
        let mut i = 0;
        while i < SLOTS {
            let slot = &*slots.add(i);
            free = select(is_zero(u64::from(slot.count)), i as u64, free);
            if slot.count != 0
                && slot.netns == netns
                && slot.port == port
                && u16::from(slot.protocol) == protocol
            {
                let differs = slot.address[0] ^ address[0] | slot.address[1] ^ address[1];
                let other_device = u64::from(slot.device ^ device);
                let other_planes = u64::from((slot.planes ^ planes) & !plane::MULTICAST);
                let same = is_zero(slot.kin.lineage ^ owner.lineage | differs | other_device | other_planes);
                mine = select(same, i as u64, mine);
                let apart = is_zero(u64::from(slot.planes & planes & (plane::V4 | plane::V6)));
                let specific = is_zero(u64::from((slot.planes | planes) & plane::WILDCARD));
                let elsewhere = specific & not(is_zero(differs));
                let bound = not(is_zero(u64::from(slot.device))) & not(is_zero(u64::from(device)));
                let off_device = bound & not(is_zero(other_device));
                let meant = not(is_zero(u64::from(slot.planes & plane::MULTICAST)));
                let allowed_them = slot.kin.rules & owner.rules & allowed_to_some;
                let meant = meant | allowed | not(is_zero(u64::from(allowed_them)));
                let hostile = not(apart | elsewhere | off_device | meant | related(&slot.kin, owner));
                let known = is_zero(u64::from(slot.kin.cut | owner.cut));
                enemy = select(hostile & known, slot.kin.name, enemy);
                enemy_cookie = select(hostile & known, slot.cookie, enemy_cookie);
                unknown |= hostile & not(known);
            }
            i += 1;
        }
        let at = select(not(is_zero(mine ^ NO_SLOT)), mine, free);
        if at < SLOTS as u64 && (!deny || enemy == 0) {
            let slot = &mut *slots.add(at as usize & (SLOTS - 1));
            if slot.count == 0 {
                slot.cookie = cookie;
                slot.netns = netns;
                slot.address[0] = address[0];
                slot.address[1] = address[1];
                slot.device = device;
                slot.port = port;
                slot.protocol = protocol as u8;
                slot.planes = planes;
                slot.kin.name = owner.name;
                slot.kin.lineage = owner.lineage;
                slot.kin.pool = owner.pool;
                slot.kin.cut = owner.cut;
                slot.kin.rules = owner.rules;
                let mut j = 0;
                while j < ANCESTORS_MAX {
                    slot.kin.ancestors[j] = owner.ancestors[j];
                    j += 1;
                }
            }
            slot.count += 1;
        }
        generated::bpf_spin_unlock(&raw mut (*bucket).lock);
        at
    };
    if deny && enemy != 0 {
        return Verdict::Contested { cookie: enemy_cookie, holder: enemy };
    }
    if unknown != 0 || at >= SLOTS as u64 {
        count(counter::GUARD);
    }
    if at < SLOTS as u64 {
        let _ = CLAIMED.insert(cookie, index * SLOTS as u32 + at as u32, 0);
    }
    if enemy != 0 { Verdict::Contested { cookie: enemy_cookie, holder: enemy } } else { Verdict::Granted }
}

/// Whether a socket has a claim on this endpoint: 1 or 0. One that it has on another is given up.
///
/// A function of its own, global, so that the verifier follows it once and not on each of its callers' paths.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn claimed_here(cookie: u64, netns: u64, first: u64, second: u64, port: u64) -> u64 {
    // SAFETY: copied out at once.
    let Some(at) = (unsafe { CLAIMED.get(cookie) }).copied() else { return 0 };
    let Some(bucket) = CLAIMS.get_ptr_mut(at / SLOTS as u32) else { return 0 };
    // SAFETY: as in `claim`. Read without the lock: the slot is this socket's as long as it is counted there, and
    // nobody writes these fields meanwhile.
    let here = unsafe {
        let slots = (&raw const (*bucket).slots).cast::<Slot>();
        let slot = &*slots.add(at as usize & (SLOTS - 1));
        let differs = slot.address[0] ^ first | slot.address[1] ^ second | slot.netns ^ netns;
        differs | u64::from(slot.port) ^ port == 0
    };
    if !here {
        release(cookie);
    }
    u64::from(here)
}

/// What the allow rules say of an endpoint: 1 when whoever may share it, in the upper half, and in the lower the rules by
/// which some may. A function of its own as `claimed_here` is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rules_on(first: u64, second: u64, port: u64) -> u64 {
    let (mut everybody, mut some) = (opaque(0), opaque(0));
    let mut i = 0;
    while i < RULES_MAX {
        let Some(rule) = RULES.get(i) else { break };
        if rule.last == 0 {
            break;
        }
        let any = is_zero(rule.address[0] | rule.address[1]);
        let same = is_zero(rule.address[0] ^ first | rule.address[1] ^ second);
        // A difference below zero has its highest bit set.
        let before = port.wrapping_sub(u64::from(rule.first)) >> 63;
        let after = u64::from(rule.last).wrapping_sub(port) >> 63;
        let here = (any | same) & not(opaque(before | after));
        let for_all = is_zero(u64::from(rule.about_who));
        everybody |= here & for_all;
        some |= (here & not(for_all)) << i;
        i += 1;
    }
    everybody << 32 | some & 0xffff_ffff
}

/// The relation rule: one lineage, one an ancestor of the other, or one pool. 1 or 0.
#[inline(always)]
fn related(a: &Kin, b: &Kin) -> u64 {
    let mut hit = is_zero(a.lineage ^ b.lineage) | is_zero(a.pool ^ b.pool) & not(is_zero(a.pool));
    let mut i = 0;
    while i < ANCESTORS_MAX {
        hit |= is_zero(a.ancestors[i] ^ b.name) | is_zero(b.ancestors[i] ^ a.name);
        i += 1;
    }
    hit
}

// What follows is arithmetic where one would write conditions. A condition is a branch on this machine, and of the
// branches under the lock, eight slots times fifty, the verifier would follow every combination.

/// Hides a value from the compiler, which would make conditions of this arithmetic again.
#[inline(always)]
fn opaque(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: moves a register to itself. An empty one would have no line of its own, which the kernel refuses.
        unsafe {
            core::arch::asm!("{0} = {0}", inout(reg) value, options(pure, nomem, nostack, preserves_flags))
        };
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// 1 when it is 0, else 0.
#[inline(always)]
fn is_zero(value: u64) -> u64 {
    opaque((value | opaque(value.wrapping_neg())) >> 63 ^ 1)
}

/// The other of 0 and 1.
#[inline(always)]
fn not(condition: u64) -> u64 {
    condition ^ 1
}

/// The first when `condition` is 1, the second when it is 0.
#[inline(always)]
fn select(condition: u64, first: u64, second: u64) -> u64 {
    let mask = opaque(condition.wrapping_neg());
    first & mask | second & !mask
}

/// A socket is gone: so is its share in a claim.
#[inline(always)]
pub fn release(cookie: u64) {
    // SAFETY: copied out at once.
    let Some(at) = (unsafe { CLAIMED.get(cookie) }).copied() else { return };
    if CLAIMED.remove(cookie).is_err() {
        return;
    }
    let Some(bucket) = CLAIMS.get_ptr_mut(at / SLOTS as u32) else { return };
    // SAFETY: as in `claim`.
    unsafe {
        generated::bpf_spin_lock(&raw mut (*bucket).lock);
        let slots = (&raw mut (*bucket).slots).cast::<Slot>();
        let slot = &mut *slots.add(at as usize & (SLOTS - 1));
        if slot.count > 0 {
            slot.count -= 1;
        }
        generated::bpf_spin_unlock(&raw mut (*bucket).lock);
    }
}

/// A socket joined a multicast group: whoever shares its port means it.
#[inline(always)]
pub fn joined(cookie: u64) {
    // SAFETY: copied out at once.
    let Some(at) = (unsafe { CLAIMED.get(cookie) }).copied() else { return };
    let Some(bucket) = CLAIMS.get_ptr_mut(at / SLOTS as u32) else { return };
    // SAFETY: as in `claim`.
    unsafe {
        generated::bpf_spin_lock(&raw mut (*bucket).lock);
        let slots = (&raw mut (*bucket).slots).cast::<Slot>();
        (*slots.add(at as usize & (SLOTS - 1))).planes |= plane::MULTICAST;
        generated::bpf_spin_unlock(&raw mut (*bucket).lock);
    }
}

/// A child was forked: of its parent's lineage, and its parent before its parent's ancestors.
#[inline(always)]
pub fn forked(child: u32, child_name: u64, parent: u32) {
    // SAFETY: read before it can go: the parent is running.
    let Some(parent) = (unsafe { KIN.get(parent) }) else { return };
    let mut kin = Kin::NONE;
    kin.name = child_name;
    kin.lineage = parent.lineage;
    kin.pool = parent.pool;
    kin.rules = parent.rules;
    kin.cut = parent.cut | u32::from(parent.ancestors[ANCESTORS_MAX - 1] != 0);
    kin.ancestors[0] = parent.name;
    let mut i = 1;
    while i < ANCESTORS_MAX {
        kin.ancestors[i] = parent.ancestors[i - 1];
        i += 1;
    }
    let _ = KIN.insert(child, kin, BPF_NOEXIST);
}
