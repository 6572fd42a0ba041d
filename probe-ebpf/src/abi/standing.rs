//! How a process stands to the rules of a user and to its pool, decided when it executes a program: by the program's path
//! and name, its cgroup's path, its arguments and environment. User space puts the rules into this form; it and the
//! programs step through texts with the same functions.

use super::policy::RULES_MAX;

/// Pool rules that are kept: bits of [`Criteria::with_parent`].
pub const POOL_RULES_MAX: u32 = 32;
/// Patterns of programs that are kept: an allow rule has one, a pool rule two.
pub const PATTERNS_MAX: u32 = RULES_MAX + 2 * POOL_RULES_MAX;
/// Characters of a pattern, stars left out, that fit into its states.
pub const PATTERN_MAX: u32 = 63;
/// Cgroup paths that rules name.
pub const PREFIXES_MAX: u32 = RULES_MAX + POOL_RULES_MAX;
/// Cgroups that rules or pools are about, of those that live at one instant. Of more, how who is in one stands is told by
/// user space, some milliseconds after an exec; `counter::GUARD` counts them.
pub const PLACES_MAX: u32 = 65_536;
/// Processes that could be supervisors of a pool rule, at one instant. Beyond it as for [`PLACES_MAX`].
pub const SUPERVISORS_MAX: u32 = 65_536;
/// Bits of a word of rules: an allow rule has its number, a pool rule this and its number.
pub const POOL_BITS: u32 = 32;

/// What the rules ask for. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Criteria {
    /// Rules whose program anybody runs: those that name none.
    pub any_program: u64,
    /// Rules whose cgroup anybody is in.
    pub any_cgroup: u64,
    /// Where the hash of a path begins: known to nobody beforehand, so that nobody can choose a name with the hash of another.
    pub seed: u64,
    /// Patterns in use.
    pub patterns: u32,
    /// Pool rules whose workers have a supervisor.
    pub with_parent: u32,
    /// Not 0 when these are all rules. Else user space has a word in how each process stands.
    pub complete: u32,
    /// Not 0 once this was written.
    pub in_use: u32,
}

/// A pattern of a program. It reads a text from its end to its beginning, as the kernel gives a path, by one bit for each of
/// its characters: which of them the text so far can end at. 2 088 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Rules whose program it is.
    pub rules: u64,
    /// Pool rules whose supervisor it is.
    pub parents: u64,
    /// The state behind its last character.
    pub last: u64,
    /// States in which any text is skipped: a `*`.
    pub stars: u64,
    /// States in which the inner bytes of a character are skipped: before a `?`.
    pub inner: u64,
    /// By byte, the states that it leads on from.
    pub steps: [u64; 256],
}

/// Where a pattern begins.
pub const PATTERN_START: u64 = 1;

/// Where a pattern is after one more byte, in front of those before it.
#[inline(always)]
#[must_use]
pub const fn advance(state: u64, byte: u8, steps: u64, stars: u64, inner: u64) -> u64 {
    // `10xxxxxx`: behind the first byte of a character of several (UTF-8).
    let continues = ((byte as u64 >> 6) ^ 2 == 0) as u64;
    (state & steps) << 1 | state & stars | state & inner & continues.wrapping_neg()
}

/// What a cgroup's path says of who is in it. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The pool of the instances of a template unit, 0 none.
    pub pool: u64,
    /// Rules that name this cgroup or one above it.
    pub rules: u64,
}

/// A cgroup's path, read byte by byte from its beginning. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathState {
    /// Hash of what was read.
    pub hash: u64,
    /// The last eight bytes.
    pub window: u64,
    /// Bytes of the component that is being read.
    pub length: u64,
    /// Hash of the path up to and with the first `@` of this component, 0 none.
    pub at_hash: u64,
    /// Bytes of the component up to and with that.
    pub at_length: u64,
    /// The template unit of the last component that is a service; 0 none.
    pub template: u64,
}

/// `.service` as a word of the machine.
const SERVICE: u64 = u64::from_ne_bytes(*b".service");
/// `user@`, the last five bytes of such a word.
const USER: u64 = u64::from_ne_bytes([0, 0, 0, b'u', b's', b'e', b'r', b'@']);
const USER_MASK: u64 = u64::from_ne_bytes([0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff]);
/// The prime of FNV-1a for 64 bits.
const PRIME: u64 = 0x0000_0100_0000_01b3;

impl PathState {
    /// Nothing was read.
    #[inline(always)]
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { hash: seed, window: 0, length: 0, at_hash: 0, at_length: 0, template: 0 }
    }

    /// A component ends before this: at a slash, or with the path. Template instances are those that systemd names and
    /// places itself (systemd.unit(5)); `user@1000.service` is a user's whole session, no pool.
    #[inline(always)]
    pub const fn end(&mut self) {
        if self.window == SERVICE && self.length >= 8 {
            let has_instance = self.at_hash != 0 && self.length - 8 > self.at_length;
            self.template = if has_instance { self.at_hash } else { 0 };
        }
        self.length = 0;
        self.at_hash = 0;
        self.at_length = 0;
    }

    /// One more byte.
    #[inline(always)]
    pub const fn push(&mut self, byte: u8) {
        // In the order of memory, whatever the machine's.
        self.window = if cfg!(target_endian = "little") {
            self.window >> 8 | (byte as u64) << 56
        } else {
            self.window << 8 | byte as u64
        };
        self.hash = (self.hash ^ byte as u64).wrapping_mul(PRIME);
        if byte == b'/' {
            self.length = 0;
            return;
        }
        self.length += 1;
        if byte == b'@' && self.at_length == 0 {
            self.at_length = self.length;
            let users = self.length == 5 && self.window & USER_MASK == USER;
            self.at_hash = if self.length > 1 && !users { self.hash | 1 } else { 0 };
        }
    }
}

/// What makes a pool, as [`pool_number`] takes it.
pub mod pool {
    /// A template unit, by the hash of its path.
    pub const TEMPLATE: u64 = 0;
    /// Children of Python's multiprocessing, by their parent's name.
    pub const MULTIPROCESSING: u64 = 1;
    /// Workers of Node.js's `cluster`, by their parent's name.
    pub const NODE_CLUSTER: u64 = 2;
    /// Workers by a user's rule: this and its number; by their supervisor's name, or 0.
    pub const RULE: u64 = 16;
}

/// The number that the workers of one pool share, never 0.
#[inline(always)]
#[must_use]
pub const fn pool_number(kind: u64, of: u64) -> u64 {
    (of ^ kind.rotate_right(8)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

const _: () = {
    assert!(size_of::<Criteria>() == 40);
    assert!(size_of::<Pattern>() == 2088);
    assert!(size_of::<Place>() == 16);
    assert!(size_of::<PathState>() == 48);
};
