//! What the guard decides with: who is kin of whom, and who has which endpoint. Kept in the kernel, so that a verdict needs
//! nobody's answer.

/// Ancestors of a process that are kept. Of one with more, no verdict can be had: what it does is let through.
pub const ANCESTORS_MAX: usize = 24;
/// Live processes that are kept. Of the others no verdict can be had.
pub const KIN_MAX: u32 = 65_536;
/// Buckets that endpoints are spread over, by network namespace, port and protocol; a power of two.
pub const BUCKETS: u32 = 512;
/// Claims in a bucket, a power of two: so many parties on one port, whatever their addresses, since a wildcard meets all
/// of them. One that does not fit is not known to the guard, which `counter::GUARD` counts.
pub const SLOTS: usize = 64;
/// Sets that the sockets with a share in a claim are spread over by their cookies, a power of two.
pub const SETS: u32 = 16_384;
/// Sockets in a set. Those that do not fit are kept where it takes longer.
pub const WAYS: usize = 4;
/// Sockets kept there at one instant, in all. One that does not fit is let through, and `counter::GUARD` counts it.
pub const CLAIMED_MAX: u32 = 65_536;
/// Bits of a thread group id in a process's name; the rest is its start in clock ticks.
pub const TGID_BITS: u32 = 22;
/// Nanoseconds of a clock tick.
pub const TICK_NS: u64 = 10_000_000;

/// A process and what relates it to others. 224 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Kin {
    /// Its name: start in ticks and thread group id ([`name`]). Never 0.
    pub name: u64,
    /// Name of its lineage's root.
    pub lineage: u64,
    /// Its pool, a number that workers of one pool share; 0 none.
    pub pool: u64,
    /// Bits of [`known`].
    pub known: u32,
    /// Allow rules that match it, a bit each ([`Rule`]).
    pub rules: u32,
    /// Names of its ancestors, nearest first; 0 none.
    pub ancestors: [u64; ANCESTORS_MAX],
}

impl Kin {
    /// Nobody.
    pub const NONE: Self =
        Self { name: 0, lineage: 0, pool: 0, known: 0, rules: 0, ancestors: [0; ANCESTORS_MAX] };
}

/// What is known of a process: bits of [`Kin::known`].
pub mod known {
    /// It has more ancestors than are kept.
    pub const CUT: u32 = 1;
    /// Its pool and its rules were told when it executed its program: user space has nothing to add.
    pub const SETTLED: u32 = 2;
}

/// Allow rules that are kept: bits of [`Kin::rules`].
pub const RULES_MAX: u32 = 32;

/// An allow rule, as far as endpoints go. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its address, IPv4 in the first four bytes.
    pub address: [u64; 2],
    /// First port.
    pub first: u16,
    /// Last port; 0 is no rule.
    pub last: u16,
    /// Bits of [`gives`].
    pub gives: u32,
}

/// What a rule gives: bits of [`Rule::gives`].
pub mod gives {
    /// A program or a cgroup, which both sides must match.
    pub const WHO: u32 = 1;
    /// An address.
    pub const ADDRESS: u32 = 1 << 1;
    /// An address of IPv6, and not one of IPv4 in it.
    pub const IPV6: u32 = 1 << 2;
}

/// Who counts as one party: the values of the guard's `RELATED_BY`.
pub mod related_by {
    /// One lineage, an ancestor, one pool.
    pub const LINEAGE: u32 = 0;
    /// Only a process and itself.
    pub const PROCESS: u32 = 1;
    /// As lineage, or one session.
    pub const SESSION: u32 = 2;
    /// As lineage, or one cgroup.
    pub const CGROUP: u32 = 3;
    /// As lineage, or one real user id.
    pub const USER: u32 = 4;
}

/// The name of a process: when it started, ns since boot, and its thread group id.
#[inline(always)]
#[must_use]
pub const fn name(start_ns: u64, tgid: u32) -> u64 {
    (start_ns / TICK_NS) << TGID_BITS | tgid as u64
}

/// An endpoint that may be shared, and who holds it: the sockets of one lineage and group there. 288 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// Cookie of the first of its sockets.
    pub cookie: u64,
    /// Its network namespace's cookie.
    pub netns: u64,
    /// Local address; IPv4 in the first four bytes, in network byte order.
    pub address: [u64; 2],
    /// Bound device, 0 none.
    pub device: u32,
    /// Local port, host order.
    pub port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Bits of [`plane`].
    pub planes: u8,
    /// How many sockets; 0 is a free slot.
    pub count: u32,
    /// Explicit padding, zero.
    pub pad: u32,
    /// Session, cgroup or user of who bound the first of them, where that is what relates; 0 unknown.
    pub group: u64,
    /// What the allow rules say of this endpoint: 1 when whoever may share it, in the upper half, and in the lower the rules
    /// by which some may.
    pub rules: u64,
    /// Who bound the first of them.
    pub kin: Kin,
}

/// Bits of [`Slot::planes`].
pub mod plane {
    /// Takes IPv4 traffic.
    pub const V4: u8 = 1;
    /// Takes IPv6 traffic.
    pub const V6: u8 = 2;
    /// On every address.
    pub const WILDCARD: u8 = 4;
    /// Joined a multicast group: sharing the port is meant.
    pub const MULTICAST: u8 = 8;
}

const _: () = {
    assert!(size_of::<Kin>() == 224);
    assert!(size_of::<Slot>() == 288);
    assert!(size_of::<Rule>() == 24);
};
