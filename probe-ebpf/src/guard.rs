//! Who has which endpoint that may be shared, and whether one more may come. One lock, one decision: of two that race
//! for an endpoint the second always sees the first.

use aya_ebpf::bindings::bpf_spin_lock;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::HashMap;
use bindwatch_probe::abi::counter;
use bindwatch_probe::abi::policy::{
    ANCESTORS_MAX, BUCKETS, KIN_MAX, Kin, RULES_MAX, Rule, SLOTS, Slot, gives, known, name, plane,
    related_by as by,
};

use crate::bound::{Endpoint, breadth};
use crate::branchless::{is_none, is_zero, not, opaque, peek, remember, select, when};
use crate::claimed::{self, BPF_NOEXIST, EEXIST, claim_of, keep, keep_aside};
use crate::emit::count;
use crate::kernel::{Addr, offset};
use crate::sock::Sk;
use crate::task;

const BPF_F_NO_PREALLOC: u32 = 1;

/// No slot was found.
const NO_SLOT: u64 = SLOTS as u64;

/// Live processes by thread group id. Filled by user space with those that are older, kept by fork, exec and exit.
#[map]
pub static KIN: HashMap<u32, Kin> = HashMap::with_max_entries(KIN_MAX, BPF_F_NO_PREALLOC);

/// The allow rules, and how many there are.
#[map]
static RULES: aya_ebpf::maps::Array<Rule> = aya_ebpf::maps::Array::with_max_entries(RULES_MAX, 0);

/// Slots are 288 bytes each; which of them to look at, and where the last one ends, is told by what lies beside the lock.
#[repr(C)]
pub struct Bucket {
    lock: bpf_spin_lock,
    /// Slots that are taken.
    taken: u32,
    /// Behind the last slot that is taken.
    top: u64,
    /// Always 0, which the verifier does not know. It would tell apart what the loop over the slots finds by the bits that
    /// each number of a slot has, and follow every combination.
    zero: u64,
    /// Of each slot the hash of its network namespace, port and protocol; 0 is free.
    tags: [u32; SLOTS],
    slots: [Slot; SLOTS],
}

#[btf_map]
static CLAIMS: Array<Bucket, { BUCKETS as usize }, 0> = Array::new();

/// Name of a task's process.
#[inline(always)]
pub fn name_of(task: Addr) -> u64 {
    name(task::start_of(task), task::tgid_of(task))
}

/// How [`claim`] goes about it.
pub mod how {
    /// Under the bucket's lock.
    pub const CLAIM: u8 = 0;
    /// As `CLAIM`, of a socket that is known to have none ([`super::claimed_here`]).
    pub const FIRST: u8 = 3;
    /// Claims nothing: only tells who has the endpoint. Needs no cookie.
    pub const LOOK: u8 = 1;
    /// As `CLAIM`, of a socket that may have a claim already, which is given up for this one.
    pub const MOVE: u8 = 4;
    /// Without the lock, for iterators of kernels that do not let them take it (before 6.1). A claim that is made at the
    /// same instant in the same bucket can be lost: then what it would have kept apart is let through.
    pub const UNLOCKED: u8 = 2;
}

/// Not 0: nothing is denied, only told. Set by the loader.
#[unsafe(no_mangle)]
static DRY_RUN: u32 = 0;

/// Whether what conflicts is refused, and not only told.
#[inline(always)]
pub fn denies() -> bool {
    // SAFETY: initialised, never written; volatile because the loader overrides it.
    unsafe { core::ptr::read_volatile(&raw const DRY_RUN) == 0 }
}

// Claims. Each is a function of its own, global: the verifier follows it once, of arguments that it knows nothing of, and not
// on every path of its callers. The endpoint is given as two words of an address and `Bound::rest`. The result is the
// cookie of an unrelated holder's socket, or 0: granted, or nothing to decide.

/// For the caller, who binds: where binds are denied, all or nothing.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_bound(first: u64, second: u64, rest: u64, cookie: u64, netns: u64) -> u64 {
    let endpoint = Endpoint { address: [first, second], rest };
    claim_own::<{ how::CLAIM }>(task::tgid(), endpoint, cookie, netns, denies())
}

/// For the caller, of whom is known that the socket has no claim.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_noted(first: u64, second: u64, rest: u64, cookie: u64, netns: u64) -> u64 {
    claim_own::<{ how::FIRST }>(
        task::tgid(),
        Endpoint { address: [first, second], rest },
        cookie,
        netns,
        false,
    )
}

/// For the caller, who listens.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_listening(first: u64, second: u64, rest: u64, cookie: u64, netns: u64) -> u64 {
    let endpoint = Endpoint { address: [first, second], rest };
    claim_own::<{ how::CLAIM }>(task::tgid_of(task::current()), endpoint, cookie, netns, false)
}

/// For the caller, who sets an option: in the place of what the socket has.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_moved(first: u64, second: u64, rest: u64, cookie: u64, netns: u64) -> u64 {
    let endpoint = Endpoint { address: [first, second], rest };
    claim_own::<{ how::MOVE }>(task::tgid_of(task::current()), endpoint, cookie, netns, false)
}

/// As `claim_moved`, all or nothing where binds are denied.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_device(first: u64, second: u64, rest: u64, cookie: u64, netns: u64) -> u64 {
    let endpoint = Endpoint { address: [first, second], rest };
    claim_own::<{ how::MOVE }>(task::tgid_of(task::current()), endpoint, cookie, netns, denies())
}

/// Claims nothing, for the caller.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn look(first: u64, second: u64, rest: u64, netns: u64) -> u64 {
    claim_own::<{ how::LOOK }>(task::tgid(), Endpoint { address: [first, second], rest }, 0, netns, true)
}

/// For the process that has the socket at `sk`, by its leader: the task itself is no number to the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_older(first: u64, second: u64, rest: u64, sk: u64, leader: u64) -> u64 {
    claim_of_task::<{ how::CLAIM }>(Endpoint { address: [first, second], rest }, Sk(Addr(sk)), Addr(leader))
}

/// As `claim_older`, where no lock can be taken.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claim_older_plain(first: u64, second: u64, rest: u64, sk: u64, leader: u64) -> u64 {
    claim_of_task::<{ how::UNLOCKED }>(
        Endpoint { address: [first, second], rest },
        Sk(Addr(sk)),
        Addr(leader),
    )
}

#[inline(always)]
fn claim_own<const HOW: u8>(tgid: u32, endpoint: Endpoint, cookie: u64, netns: u64, deny: bool) -> u64 {
    // SAFETY: the entry lives as long as the process, which is running.
    let Some(owner) = (unsafe { KIN.get(tgid) }) else {
        count(counter::GUARD);
        return 0;
    };
    claim::<HOW>(&endpoint, cookie, netns, owner, group_of(task::current().0), deny)
}

#[inline(always)]
fn claim_of_task<const HOW: u8>(endpoint: Endpoint, sk: Sk, leader: Addr) -> u64 {
    // SAFETY: entries go with the end of their process, and their memory after a grace period.
    let Some(owner) = (unsafe { KIN.get(task::tgid_of(leader)) }) else { return 0 };
    claim::<HOW>(&endpoint, sk.raw_cookie(), sk.netns_cookie(), owner, group_of(leader.0), false)
}

/// Claims an endpoint for a process. `deny` makes it all or nothing: an unrelated holder, and nothing is claimed. `HOW` is one
/// of [`how`].
#[inline(always)]
fn claim<const HOW: u8>(
    endpoint: &Endpoint,
    cookie: u64,
    netns: u64,
    owner: &Kin,
    group: u64,
    deny: bool,
) -> u64 {
    let address = endpoint.address;
    if HOW != how::LOOK && cookie == 0 {
        return 0;
    }
    if HOW == how::UNLOCKED && claim_of(cookie) != claimed::NONE {
        return 0;
    }
    if HOW == how::CLAIM && deny {
        // One that it has is of a bind before, which another tool denied, or of whoever looked at it at this instant: no verdict.
        release(cookie);
    } else if HOW == how::CLAIM
        && claimed_here(cookie, address[0], address[1], u64::from(endpoint.port())) != 0
    {
        return 0;
    }
    let rules = rules_on(address[0], address[1], u64::from(endpoint.port()), endpoint.planes());
    let only_itself = is_zero(u64::from(related_by() ^ by::PROCESS));
    let (index, tag) = endpoint.place(netns);
    let Some(bucket) = CLAIMS.get_ptr_mut(index) else { return 0 };
    // SAFETY: of a value of an array map; nobody writes it.
    let zero = unsafe { (&raw const (*bucket).zero).read_volatile() };
    let (mut enemy, mut unknown) = (zero, zero);
    let mut mine = zero.wrapping_add(NO_SLOT);
    // SAFETY: the bucket is a value of an array map; its slots are read and written under its lock only.
    let at = unsafe {
        if HOW != how::UNLOCKED {
            generated::bpf_spin_lock(&raw mut (*bucket).lock);
        }
        let slots = (&raw mut (*bucket).slots).cast::<Slot>();
        let tags = (&raw mut (*bucket).tags).cast::<u32>();
        // Read whenever it is needed: nobody writes it meanwhile, and it need not be kept.
        let top = &raw mut (*bucket).top;
        let mut free = top.read_volatile();
        let mut nth = zero;
        let mut i = 0;
        while i < SLOTS {
            // Below zero at the end. As a comparison it would tell the verifier of `top`, and keep apart what is the same.
            if opaque(top.read_volatile().wrapping_sub(i as u64 + 1)) >> 63 != 0 {
                break;
            }
            let there = tags.add(i).read_volatile();
            remember();
            free = select(is_none(u64::from(there)), nth, free);
            if there == tag {
                let slot = &*slots.add(i);
                // First what takes a loop, with little to remember meanwhile.
                let akin = related(&slot.kin, owner);
                let elsewhere = peek(&slot.netns) ^ netns | u64::from(peek(&slot.port) ^ endpoint.port());
                let not_here = elsewhere | u64::from(peek(&slot.protocol) ^ endpoint.protocol());
                let differs = peek(&slot.address[0]) ^ address[0] | peek(&slot.address[1]) ^ address[1];
                let their_device = peek(&slot.device);
                let other_device = u64::from(their_device ^ endpoint.device());
                let theirs = u64::from(peek(&slot.planes));
                let other_planes = (theirs ^ endpoint.planes()) & !u64::from(plane::MULTICAST);
                let other_name = peek(&slot.kin.name) ^ peek(&owner.name);
                let other_group = peek(&slot.group) ^ group;
                let other_lineage = peek(&slot.kin.lineage) ^ peek(&owner.lineage);
                let other_kin = other_lineage | other_group | when(only_itself, other_name);
                let same = is_zero(other_kin | differs | other_device | other_planes | not_here);
                mine = select(same, nth, mine);
                let apart = is_none(theirs & endpoint.planes() & u64::from(plane::V4 | plane::V6));
                let specific = is_none((theirs | endpoint.planes()) & u64::from(plane::WILDCARD));
                let elsewhere = specific & not(is_zero(differs));
                let bound =
                    not(is_none(u64::from(their_device))) & not(is_none(u64::from(endpoint.device())));
                let off_device = bound & not(is_none(other_device));
                let meant = not(is_none(theirs & u64::from(plane::MULTICAST)));
                // Rules are about the narrower of two endpoints, as those of findings are.
                let narrower = opaque(breadth(theirs).wrapping_sub(breadth(endpoint.planes())) >> 63);
                let rules = select(narrower, peek(&slot.rules), rules);
                let allowed_them = peek(&slot.kin.rules) & peek(&owner.rules) & rules as u32;
                let meant = meant | rules >> 32 | not(is_none(u64::from(allowed_them)));
                let one_group = is_none(other_group) & not(is_none(group));
                let kin = select(only_itself, 0, akin | one_group) | is_none(other_name);
                let hostile = not(apart | elsewhere | off_device | meant | kin) & is_none(not_here);
                let cut = (peek(&slot.kin.known) | peek(&owner.known)) & known::CUT;
                let known = is_none(u64::from(cut)) | only_itself;
                enemy = select(hostile & known, slot.cookie, enemy);
                unknown |= hostile & not(known);
            }
            nth = opaque(nth.wrapping_add(1));
            i += 1;
        }
        let at = select(not(is_zero(mine ^ NO_SLOT)), mine, free);
        if HOW != how::LOOK && at < SLOTS as u64 && (!deny || enemy == 0) {
            // The compiler would leave the bound out, as one that is known, and older verifiers forget it with what is put on the stack.
            let place = || opaque(at) as usize & (SLOTS - 1);
            let slot = &mut *slots.add(place());
            if slot.count == 0 {
                tags.add(place()).write_volatile(tag);
                (*bucket).taken += 1;
                if at >= top.read_volatile() {
                    top.write(at + 1);
                }
                slot.cookie = cookie;
                slot.netns = netns;
                slot.address[0] = address[0];
                slot.address[1] = address[1];
                slot.device = endpoint.device();
                slot.port = endpoint.port();
                slot.protocol = endpoint.protocol();
                slot.planes = endpoint.planes() as u8;
                slot.group = group;
                slot.rules = rules;
                slot.kin.name = owner.name;
                slot.kin.lineage = owner.lineage;
                slot.kin.pool = owner.pool;
                slot.kin.known = owner.known;
                slot.kin.rules = owner.rules;
                let mut j = 0;
                while j < ANCESTORS_MAX {
                    slot.kin.ancestors[j] = owner.ancestors[j];
                    j += 1;
                }
            }
            slot.count += 1;
        }
        if HOW != how::UNLOCKED {
            generated::bpf_spin_unlock(&raw mut (*bucket).lock);
        }
        at
    };
    if HOW == how::LOOK || deny && enemy != 0 {
        return enemy;
    }
    if unknown != 0 || at >= SLOTS as u64 {
        count(counter::GUARD);
    }
    if at < SLOTS as u64 {
        // The share that it has in another, or had in this one.
        if HOW == how::MOVE {
            release(cookie);
        }
        let claim = u64::from(index) * SLOTS as u64 + at;
        let kept = if HOW == how::UNLOCKED { keep_aside(cookie, claim) } else { keep(cookie, claim) };
        if kept == claimed::NO_ROOM {
            count(counter::GUARD);
        }
        if kept != claimed::KEPT && HOW != how::UNLOCKED {
            // Nobody would give it up.
            leave(claim);
        }
    }
    enemy
}

/// Whoever stands in the way of a claim: the cookie of its socket, and the name of its process. None: it was granted.
///
/// Who it is, is asked after what it has: both do not fit into one number. One that let go in between is not in the way any more,
/// and the claim is made again.
#[inline(always)]
pub fn contested(claim: impl Fn() -> u64, rest: u64, netns: u64) -> Option<(u64, u64)> {
    let mut goes = 0;
    while goes < 2 {
        let cookie = claim();
        if cookie == 0 {
            return None;
        }
        let holder = holder_of(cookie, rest, netns);
        if holder != 0 {
            return Some((cookie, holder));
        }
        goes += 1;
    }
    // Twice within microseconds. Nothing is refused without a word about why.
    count(counter::GUARD);
    None
}

/// Name of the process that holds an endpoint by the claim of a socket, by the cookie that a claim gave; 0 where it has let go
/// meanwhile. `rest` is that of the endpoint that was wanted. A function of its own as `claimed_here` is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn holder_of(cookie: u64, rest: u64, netns: u64) -> u64 {
    let (index, tag) = Endpoint { address: [0; 2], rest }.place(netns);
    let Some(bucket) = CLAIMS.get_ptr_mut(index) else { return 0 };
    // SAFETY: as in `claim`.
    unsafe {
        let mut holder = (&raw const (*bucket).zero).read_volatile();
        generated::bpf_spin_lock(&raw mut (*bucket).lock);
        let slots = (&raw mut (*bucket).slots).cast::<Slot>();
        let tags = (&raw mut (*bucket).tags).cast::<u32>();
        let mut i = 0;
        while i < SLOTS {
            let slot = &*slots.add(i);
            let other = u64::from(tags.add(i).read_volatile() ^ tag) | slot.cookie ^ cookie;
            holder = select(is_zero(other), slot.kin.name, holder);
            i += 1;
        }
        generated::bpf_spin_unlock(&raw mut (*bucket).lock);
        holder
    }
}

/// Whether a socket has a claim on this endpoint: 1 or 0. One that it has on another is given up.
///
/// A function of its own, global, so that the verifier follows it once and not on each of its callers' paths.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn claimed_here(cookie: u64, first: u64, second: u64, port: u64) -> u64 {
    let at = claim_of(cookie);
    if at == claimed::NONE {
        return 0;
    }
    let Some(bucket) = CLAIMS.get_ptr_mut(at as u32 / SLOTS as u32) else { return 0 };
    // SAFETY: as in `claim`. Read without the lock: the slot is this socket's as long as it is counted there, and
    // nobody writes these fields meanwhile.
    let here = unsafe {
        let slots = (&raw const (*bucket).slots).cast::<Slot>();
        let slot = &*slots.add(at as usize & (SLOTS - 1));
        let differs = slot.address[0] ^ first | slot.address[1] ^ second;
        differs | u64::from(slot.port) ^ port == 0
    };
    if !here {
        release(cookie);
    }
    u64::from(here)
}

/// Whether a socket has a claim on another device than this: 1 or 0. A function of its own as `claimed_here` is.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn is_off_device(cookie: u64, device: u64) -> u64 {
    let at = claim_of(cookie);
    if at == claimed::NONE {
        return 0;
    }
    let Some(bucket) = CLAIMS.get_ptr_mut(at as u32 / SLOTS as u32) else { return 0 };
    // SAFETY: as in `claimed_here`.
    let claimed = unsafe {
        let slots = (&raw const (*bucket).slots).cast::<Slot>();
        (*slots.add(at as usize & (SLOTS - 1))).device
    };
    u64::from(u64::from(claimed) != device)
}

/// What the allow rules say of an endpoint: 1 when whoever may share it, in the upper half, and in the lower the rules by
/// which some may. A function of its own as `claimed_here` is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn rules_on(first: u64, second: u64, port: u64, planes: u64) -> u64 {
    let (mut everybody, mut some) = (opaque(0), opaque(0));
    let is_v6 = not(is_zero(planes & u64::from(plane::V6)));
    let mut i = 0;
    while i < RULES_MAX {
        let Some(rule) = RULES.get(i) else { break };
        if rule.last == 0 {
            break;
        }
        let any = is_zero(u64::from(rule.gives & gives::ADDRESS));
        let other_family = not(is_zero(u64::from(rule.gives & gives::IPV6))) ^ is_v6;
        let same = is_zero(rule.address[0] ^ first | rule.address[1] ^ second | other_family);
        // A difference below zero has its highest bit set.
        let before = port.wrapping_sub(u64::from(rule.first)) >> 63;
        let after = u64::from(rule.last).wrapping_sub(port) >> 63;
        let here = (any | same) & not(opaque(before | after));
        let for_all = is_zero(u64::from(rule.gives & gives::WHO));
        everybody |= here & for_all;
        some |= (here & not(for_all)) << i;
        i += 1;
    }
    everybody << 32 | some & 0xffff_ffff
}

/// Who counts as one party, besides kin: one of [`by`]. Set by the loader.
#[unsafe(no_mangle)]
static RELATED_BY: u32 = by::LINEAGE;

#[inline(always)]
fn related_by() -> u32 {
    // SAFETY: initialised, never written; volatile because the loader overrides it.
    unsafe { core::ptr::read_volatile(&raw const RELATED_BY) }
}

/// The session, cgroup or user of a task, where that is what relates; 0 where it does not, or is not known. A function of its
/// own, for the stack of its callers.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn group_of(task: u64) -> u64 {
    let task = Addr(task);
    match related_by() {
        by::SESSION => {
            let session = task::session_of(task);
            // Never 0, though a session's number may be.
            if session.0 == 0 { 0 } else { u64::from(task::session_id(session)) + 1 }
        }
        by::CGROUP => {
            let cgroup = task.follow(offset!(task_cgroups)).follow(offset!(css_set_dfl_cgrp));
            cgroup.follow(offset!(cgroup_kn)).read(offset!(kernfs_id))
        }
        // Never 0, as root's is.
        by::USER => u64::from(task.follow(offset!(task_cred)).read::<u32>(offset!(cred_uid))) + 1,
        _ => 0,
    }
}

/// The relation rule: one lineage, one an ancestor of the other, or one pool. 1 or 0.
///
/// Two names differ by less than 2⁶³, and so the highest bit is set by the first pair that is the same.
#[inline(always)]
fn related(a: &Kin, b: &Kin) -> u64 {
    let (of_a, of_b) = (peek(&a.name), peek(&b.name));
    let mut same = (peek(&a.lineage) ^ peek(&b.lineage)).wrapping_sub(1);
    let mut i = 0;
    while i < ANCESTORS_MAX {
        // Several at a time: what goes round the loop would be half of what the verifier follows.
        let mut j = 0;
        while j < AT_ONCE {
            same |= (peek(&a.ancestors[i + j]) ^ of_b).wrapping_sub(1);
            // Or all would be read first.
            same = opaque(same | (peek(&b.ancestors[i + j]) ^ of_a).wrapping_sub(1));
            j += 1;
        }
        i += AT_ONCE;
    }
    let pool = peek(&a.pool);
    opaque(same >> 63) | not(is_zero(pool)) & is_zero(pool ^ peek(&b.pool))
}

/// Ancestors that [`related`] looks at in one go.
const AT_ONCE: usize = 8;
const _: () = assert!(ANCESTORS_MAX.is_multiple_of(AT_ONCE));

/// A socket is gone: so is its share in a claim.
#[inline(always)]
pub fn release(cookie: u64) {
    let claim = claimed::forget(cookie);
    if claim != claimed::NONE {
        leave(claim);
    }
}

/// One socket less has a share in a claim. A function of its own, global: its callers' bounds on the slot would be the
/// compiler's reason to leave the mask out, and the verifiers of 5.10 and 6.1 need it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn leave(claim: u64) -> u64 {
    let Some(bucket) = CLAIMS.get_ptr_mut(claim as u32 / SLOTS as u32) else { return 0 };
    let at = claim as usize & (SLOTS - 1);
    // SAFETY: as in `claim`.
    unsafe {
        generated::bpf_spin_lock(&raw mut (*bucket).lock);
        let slot = &mut *(&raw mut (*bucket).slots).cast::<Slot>().add(at);
        if slot.count > 0 {
            slot.count -= 1;
            if slot.count == 0 {
                (&raw mut (*bucket).tags).cast::<u32>().add(at).write_volatile(0);
                (*bucket).taken -= 1;
                if (*bucket).taken == 0 {
                    (*bucket).top = 0;
                } else if (*bucket).top == at as u64 + 1 {
                    (*bucket).top = at as u64;
                }
            }
        }
        generated::bpf_spin_unlock(&raw mut (*bucket).lock);
    }
    0
}

/// A socket joined a multicast group: whoever shares its port means it.
#[inline(always)]
pub fn joined(cookie: u64) {
    let claim = claim_of(cookie);
    if claim == claimed::NONE {
        return;
    }
    let Some(bucket) = CLAIMS.get_ptr_mut(claim as u32 / SLOTS as u32) else { return };
    // SAFETY: as in `claim`.
    unsafe {
        generated::bpf_spin_lock(&raw mut (*bucket).lock);
        let slots = (&raw mut (*bucket).slots).cast::<Slot>();
        (*slots.add(claim as usize & (SLOTS - 1))).planes |= plane::MULTICAST;
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
    let cut = u32::from(parent.ancestors[ANCESTORS_MAX - 1] != 0);
    kin.known = parent.known | (known::CUT * cut);
    kin.ancestors[0] = parent.name;
    let mut i = 1;
    while i < ANCESTORS_MAX {
        kin.ancestors[i] = parent.ancestors[i - 1];
        i += 1;
    }
    // User space may have been faster, at the start.
    if KIN.insert(child, kin, BPF_NOEXIST).is_err_and(|error| error != -EEXIST) {
        // Whoever it shares with is let through.
        count(counter::GUARD);
    }
}
