//! What a socket has, as far as sharing goes: who may come beside it is [`crate::guard`]'s.

use bindwatch_probe::abi::config::BitField;
use bindwatch_probe::abi::policy::{BUCKETS, plane};
use bindwatch_probe::abi::record::option;

use crate::branchless::{is_zero, not, opaque, select, when};
use crate::kernel::offset;
use crate::sock::{AF_INET, AF_INET6, IPPROTO_MPTCP, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE, Sk};

/// A bound socket, as far as sharing goes.
#[derive(Clone, Copy)]
pub struct Bound {
    /// Local address: IPv4 in the first four bytes, whatever the socket's family.
    pub address: [u64; 2],
    /// Local port; 0 is none.
    pub port: u16,
    /// IP protocol.
    pub protocol: u16,
    /// Bound device, 0 none.
    pub device: u32,
    /// Bits of [`plane`].
    pub planes: u64,
    /// Not 0 when it can share its port with another that agrees (socket(7)): the kernel refuses every other pair by
    /// itself. TCP's SO_REUSEADDR lets two bind and only one listen.
    pub shares: u64,
}

impl Bound {
    /// From what is known of a socket. `options` as in records; `address` as the kernel has it.
    #[inline(always)]
    pub fn new(family: u16, address: [u64; 2], port: u16, protocol: u16, device: u32, options: u64) -> Self {
        let (reuse_port, reuse_addr) =
            (options & u64::from(option::REUSEPORT), options & u64::from(option::REUSEADDR));
        // What is asked of an MPTCP socket is asked of its subflow, which is TCP's.
        let mptcp = is_zero(u64::from(protocol ^ IPPROTO_MPTCP));
        let protocol = select(mptcp, u64::from(IPPROTO_TCP), u64::from(protocol)) as u16;
        let udp = u64::from(protocol ^ IPPROTO_UDP);
        let is_udp = is_zero(udp) | is_zero(u64::from(protocol ^ IPPROTO_UDPLITE));
        let is_tcp = is_zero(u64::from(protocol ^ IPPROTO_TCP));
        let shares = is_tcp & not(is_zero(reuse_port)) | is_udp & not(is_zero(reuse_port | reuse_addr));
        let (address, planes) = place(family, address, options & u64::from(option::V6ONLY));
        Self { address, port, protocol, device, planes, shares: shares & not(is_multicast(address, planes)) }
    }

    /// From the socket itself.
    #[inline(always)]
    pub fn of(sk: Sk, family: u16, options: u64) -> Self {
        Self::new(family, words(sk.address(family)), sk.port(), sk.protocol(), sk.device(), options)
    }

    /// Whether there is something to claim.
    #[inline(always)]
    pub fn can_share(&self) -> bool {
        self.port != 0 && self.shares != 0
    }

    /// All but the address in one number: a function that is verified by itself takes five of them.
    #[inline(always)]
    pub fn rest(&self) -> u64 {
        u64::from(self.port)
            | u64::from(self.protocol as u8) << 16
            | (self.planes & 0xff) << 24
            | u64::from(self.device) << 32
    }
}

/// An endpoint that can be shared: [`Bound`], as it is handed on, and taken out where it is needed: in parts it would be too
/// much to remember for a claim's stack.
#[derive(Clone, Copy)]
pub struct Endpoint {
    /// As [`Bound::address`].
    pub address: [u64; 2],
    /// [`Bound::rest`].
    pub rest: u64,
}

impl Endpoint {
    /// Local port.
    #[inline(always)]
    pub fn port(&self) -> u16 {
        opaque(self.rest) as u16
    }

    /// IP protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        (opaque(self.rest) >> 16) as u8
    }

    /// Bound device, 0 none.
    #[inline(always)]
    pub fn device(&self) -> u32 {
        (opaque(self.rest) >> 32) as u32
    }

    /// Bits of [`plane`].
    #[inline(always)]
    pub fn planes(&self) -> u64 {
        opaque(self.rest) >> 24 & 0xff
    }

    /// The bucket of its port, and the tag there.
    #[inline(always)]
    pub fn place(&self, netns: u64) -> (u32, u32) {
        let mixed = netns ^ u64::from(self.port()) << 16 ^ u64::from(self.protocol());
        let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed >> 40) as u32 & (BUCKETS - 1), mixed as u32 | 1)
    }
}

/// Options of a socket that decide about sharing, as in records. As [`Sk::options`], without a branch.
#[inline(always)]
pub fn options_of(sk: Sk, family: u16) -> u64 {
    let (reuse, reuse_port, v6only) = (offset!(skc_reuse), offset!(skc_reuseport), offset!(skc_ipv6only));
    let byte = u64::from(sk.0.read::<u8>(reuse.byte));
    // In one byte on every kernel that is known.
    let other =
        if reuse_port.byte == reuse.byte { byte } else { u64::from(sk.0.read::<u8>(reuse_port.byte)) };
    let third = if v6only.byte == reuse.byte { byte } else { u64::from(sk.0.read::<u8>(v6only.byte)) };
    let set = |byte: u64, field: BitField| not(is_zero(byte >> (field.shift & 7) & u64::from(field.mask)));
    let v6 = if family == AF_INET6 { set(third, v6only) } else { 0 };
    when(set(byte, reuse), u64::from(option::REUSEADDR))
        | when(set(other, reuse_port), u64::from(option::REUSEPORT))
        | when(v6, u64::from(option::V6ONLY))
}

/// Sixteen bytes as two words.
#[inline(always)]
pub fn words(address: [u8; 16]) -> [u64; 2] {
    // SAFETY: both are sixteen bytes of plain data.
    unsafe { core::mem::transmute(address) }
}

/// Address and planes of a socket: a v4-mapped address (`::ffff:a.b.c.d`) is an IPv4 address.
#[inline(always)]
fn place(family: u16, address: [u64; 2], v6only: u64) -> ([u64; 2], u64) {
    let (v4, v6, wild) = (u64::from(plane::V4), u64::from(plane::V6), u64::from(plane::WILDCARD));
    if family == AF_INET {
        return (address, v4 | when(is_zero(address[0]), wild));
    }
    let any = is_zero(address[0] | address[1]);
    let mapped = is_zero(address[0] | (address[1] & 0xffff_ffff ^ 0xffff_0000));
    let wildcard = any | mapped & is_zero(address[1] >> 32);
    let takes_v4 = mapped | any & is_zero(v6only);
    let plain = [select(mapped, address[1] >> 32, address[0]), select(mapped, 0, address[1])];
    (plain, when(takes_v4, v4) | when(not(mapped), v6) | when(wildcard, wild))
}

/// Multicast groups themselves are bound to by everybody who wants their traffic.
#[inline(always)]
fn is_multicast(address: [u64; 2], planes: u64) -> u64 {
    let first = address[0] & 0xff;
    let v4 = planes & u64::from(plane::V4);
    select(not(is_zero(v4)), is_zero(first >> 4 ^ 14), is_zero(first ^ 0xff))
}

/// How much of a port's traffic a socket wants: an address, all of a family, all.
#[inline(always)]
pub fn breadth(planes: u64) -> u64 {
    let wild = opaque((planes / u64::from(plane::WILDCARD)) & 1);
    wild + (wild & planes & (planes / u64::from(plane::V6)))
}
