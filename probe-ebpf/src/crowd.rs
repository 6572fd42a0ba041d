//! Only what conflicts is told (`--events conflicts`): whether a socket is alone on its port, by the kernel's own tables.
//!
//! The kernel keeps every socket that has a port in a list of that port, for TCP, or of all ports with the same hash, for
//! UDP, and a socket is in it before post_bind programs run. So of two that race for a port at least the second sees the
//! other; sockets that are older, or got their port without a bind, are there as well. Nothing is kept here but the cookies
//! of the sockets that user space was told of, whose end it must learn.

use bindwatch_probe::abi::config::ABSENT;
use bindwatch_probe::abi::{counter, only_conflicts as only};

use crate::emit::count;
use crate::kernel::{Addr, offset};
use crate::maps::{WATCHED, WATCHING};
use crate::sock::{IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, Sk};

/// UDP sockets with the same hash of ports that are looked at. Behind more, a socket is taken not to be alone.
const CHAIN_MAX: u32 = 16;

/// Words of an `inet_bind2_bucket` from its node on: that and the sockets behind it.
const BUCKET_WORDS: usize = 3;

/// One of [`only`]. Set by the loader.
#[unsafe(no_mangle)]
static ONLY_CONFLICTS: u32 = only::NO;

#[inline(always)]
fn mode() -> u32 {
    // SAFETY: initialised, never written; volatile because the loader overrides it.
    unsafe { core::ptr::read_volatile(&raw const ONLY_CONFLICTS) }
}

/// Whether only conflicts are told. A constant to the verifier.
#[inline(always)]
pub fn only_conflicts() -> bool {
    mode() != only::NO
}

/// Whether of a bind that begins only what is asked for is remembered.
#[inline(always)]
pub fn attempts_are_light() -> bool {
    mode() == only::YES
}

/// Whether nobody else has the port of a socket. Where that cannot be seen, it is not alone.
#[inline(always)]
pub fn is_alone(sk: Sk, protocol: u16) -> bool {
    match protocol {
        IPPROTO_TCP => is_alone_tcp(sk),
        IPPROTO_UDP | IPPROTO_UDPLITE => is_alone_udp(sk),
        _ => false,
    }
}

/// By the list of the port's sockets: connections that were accepted there, and those in TIME_WAIT, are in it too.
#[inline(always)]
fn is_alone_tcp(sk: Sk) -> bool {
    let port = sk.0.follow(offset!(icsk_bind_hash));
    if offset!(tb_bhash2) != ABSENT && offset!(tb2_node) != ABSENT && offset!(tb2_owners) != ABSENT {
        // A list of addresses, each with a list of sockets. A node begins with the address of the next one.
        let node = port.follow(offset!(tb_bhash2));
        let first = node.read_front::<BUCKET_WORDS>();
        let next = first.get::<u64>(0);
        let owner = if offset!(tb2_owners) > offset!(tb2_node) {
            Addr(first.get(offset!(tb2_owners) - offset!(tb2_node)))
        } else {
            Addr(node.0.wrapping_sub(u64::from(offset!(tb2_node)))).follow(offset!(tb2_owners))
        };
        let after = owner.read::<u64>(0);
        return port.0 != 0 && node.0 != 0 && owner.0 != 0 && next | after == 0;
    }
    if offset!(tb_owners) != ABSENT {
        let owner = port.follow(offset!(tb_owners));
        return port.0 != 0 && owner.0 != 0 && owner.read::<u64>(0) == 0;
    }
    false
}

/// By the list of sockets with the same hash: a new one is put before the others.
#[inline(always)]
fn is_alone_udp(sk: Sk) -> bool {
    if offset!(skc_node) == ABSENT {
        return false;
    }
    let port = sk.port();
    let net = sk.0.follow(offset!(skc_net)).0;
    let mut node = sk.0.follow(offset!(skc_node));
    let mut looked_at = 0;
    while looked_at < CHAIN_MAX {
        if node.0 == 0 {
            return true;
        }
        let other = Sk(Addr(node.0.wrapping_sub(u64::from(offset!(skc_node)))));
        if other.port() == port && other.0.follow(offset!(skc_net)).0 == net {
            return false;
        }
        node = node.follow(0);
        looked_at += 1;
    }
    false
}

/// From now on what becomes of a socket is told.
#[inline(always)]
pub fn watch(cookie: u64) {
    if WATCHED.insert(cookie, 0, 0).is_err() {
        count(counter::CLOSE);
        return;
    }
    if let Some(any) = WATCHING.get_ptr_mut(0) {
        // SAFETY: the slot of an array map is valid for the program's life; it only ever becomes 1.
        unsafe { *any = 1 };
    }
}

/// Whether what becomes of some sockets is told.
#[inline(always)]
pub fn watches_any() -> bool {
    WATCHING.get(0).is_some_and(|any| *any != 0)
}

/// Whether what becomes of a socket is told.
#[inline(always)]
pub fn watches(cookie: u64) -> bool {
    // SAFETY: only whether there is one.
    watches_any() && unsafe { WATCHED.get(cookie) }.is_some()
}

/// Whether it was told until now; no more.
#[inline(always)]
pub fn unwatch(cookie: u64) -> bool {
    watches_any() && WATCHED.remove(cookie).is_ok()
}

/// A socket got its port, or another one: whether that is told.
#[inline(always)]
pub fn is_told(sk: Sk, cookie: u64, protocol: u16) -> bool {
    !only_conflicts() || is_told_at(sk, sk.port(), || cookie, protocol)
}

/// As [`is_told`], of a port that is known and a cookie that need not be asked for.
#[inline(always)]
pub fn is_told_at(sk: Sk, port: u16, cookie: impl Fn() -> u64, protocol: u16) -> bool {
    if watches_any() && watches(cookie()) {
        return true;
    }
    if port == 0 || is_alone(sk, protocol) {
        return false;
    }
    watch(cookie());
    true
}
