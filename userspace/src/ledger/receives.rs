//! Who gets new connections or datagrams when several sockets want them, as measured on kernels 5.10 to 7.2.
//!
//! A specific address goes before a wildcard, AF_INET before v4 on an IPv6 socket. Among equals SO_REUSEPORT splits;
//! of UDP sockets that share by SO_REUSEADDR alone, and of any that a change of device put together, the last one gets all.

use crate::event::{Family, Seq};

use super::finding::Receives;
use super::kin::Kin;
use super::place::Place;
use super::socket::{Socket, State};

/// When it came to where traffic is looked for.
fn came(socket: &&Socket) -> Seq {
    if socket.state == State::Listen { socket.listened } else { socket.known }
}

fn one(kin: &Kin, socket: &Socket) -> Option<Receives> {
    let holder = socket.parties().next()?;
    Some(Receives::One(kin.lineage(holder)))
}

/// Among sockets on one endpoint. None when nobody listens, or when it depends on the interface.
pub(super) fn by_sharers(kin: &Kin, sharers: &[&Socket]) -> Option<Receives> {
    let open: Vec<&Socket> = sharers.iter().copied().filter(|socket| socket.is_open()).collect();
    let inet = open.iter().any(|socket| socket.family == Family::Inet);
    let ranked: Vec<&Socket> =
        open.into_iter().filter(|socket| !inet || socket.family == Family::Inet).collect();
    let first = ranked.first()?;
    if ranked.iter().any(|socket| socket.options.device != first.options.device) {
        return None;
    }
    let winner = one(kin, first);
    if ranked.iter().all(|socket| one(kin, socket) == winner) {
        return winner;
    }
    if ranked.iter().all(|socket| socket.shares_port) {
        return Some(Receives::Split);
    }
    one(kin, ranked.into_iter().max_by_key(came)?)
}

/// Where a narrower place takes traffic that a broader one wants as well: who gets what they both want.
pub(super) fn by_narrower(kin: &Kin, narrow: &[&Socket], broad: &[&Socket]) -> Option<Receives> {
    let open = |side: &[&Socket]| side.iter().any(|socket| socket.is_open());
    let (Some(first), true) = (narrow.first(), open(broad)) else { return by_sharers(kin, narrow) };
    if !open(narrow) {
        return by_sharers(kin, broad);
    }
    if first.place == Place::V6(std::net::Ipv6Addr::UNSPECIFIED) {
        // Both are `::` to IPv6 clients: there is no order between them but that of time.
        return by_time(kin, narrow, broad);
    }
    by_sharers(kin, narrow)
}

/// `[::]` beside `[::]` that keeps to IPv6: no split. The first to listen, or to bind, gets all; of UDP sockets that
/// share by SO_REUSEADDR alone, the last.
fn by_time(kin: &Kin, narrow: &[&Socket], broad: &[&Socket]) -> Option<Receives> {
    let open = || narrow.iter().chain(broad).copied().filter(|socket| socket.is_open());
    let winner = if open().all(|socket| socket.shares_port) {
        open().min_by_key(came)
    } else {
        open().max_by_key(came)
    };
    one(kin, winner?)
}
