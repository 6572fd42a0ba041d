//! Ended connections (TIME_WAIT) as `list` shows them: counted, by what they have in common.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::listing::{Listed, Listing};
use super::text::Style;
use super::words::{self, plural};
use crate::event::{Inum, ProcessKey, Protocol, TcpState};

/// Groups that are shown, those with the most connections first.
const GROUPS_SHOWN: usize = 20;

/// What ended connections have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// They were opened from this address to that place.
    To(Inum, IpAddr, SocketAddr, Option<ProcessKey>),
    /// They were accepted on this endpoint.
    On(Inum, SocketAddr),
}

/// How many, and for how long the last one stays, ms.
type Share = (u64, u32);

/// Lines about the ended connections of a listing; none when there are none.
pub(super) fn lines(listing: &Listing, several: bool, style: Style) -> Vec<String> {
    let listening: BTreeSet<(Inum, u16)> = listing
        .sockets
        .iter()
        .filter(|listed| listed.state == TcpState::Listen && listed.socket.protocol == Protocol::Tcp)
        .map(|listed| (listed.socket.netns, listed.socket.port))
        .collect();
    let mut groups: BTreeMap<Group, Share> = BTreeMap::new();
    let mut all = 0;
    for listed in listing.sockets.iter().filter(|listed| listed.state == TcpState::TimeWait) {
        all += 1;
        let share = groups.entry(group(listing, listed, &listening)).or_default();
        share.0 += 1;
        share.1 = share.1.max(listed.expires_ms.unwrap_or(0));
    }
    if all == 0 {
        return Vec::new();
    }
    let mut groups: Vec<(Group, Share)> = groups.into_iter().collect();
    groups.sort_by_key(|(group, (count, _))| (std::cmp::Reverse(*count), *group));
    let shown = if style.whole { groups.len() } else { GROUPS_SHOWN };
    let mut lines = vec![format!("{} in TIME_WAIT:", plural(all, "ended connection"))];
    lines.extend(groups.iter().take(shown).map(|(group, share)| line(listing, *group, *share, several)));
    if groups.len() > shown {
        lines.push(format!("  and {} groups more; -v shows all", groups.len() - shown));
    }
    lines
}

fn group(listing: &Listing, listed: &Listed, listening: &BTreeSet<(Inum, u16)>) -> Group {
    let socket = &listed.socket;
    let local = SocketAddr::new(socket.address, socket.port);
    let owner = listing.last_owners.get(&socket.cookie).copied();
    match listed.peer {
        Some(peer) if owner.is_some() || !listening.contains(&(socket.netns, socket.port)) => {
            Group::To(socket.netns, socket.address, peer, owner)
        }
        _ => Group::On(socket.netns, local),
    }
}

fn line(listing: &Listing, group: Group, (count, expires_ms): Share, several: bool) -> String {
    let (netns, what) = match group {
        Group::To(netns, from, to, owner) => {
            let whose = owner.map_or_else(
                || "of an owner that is not known".to_owned(),
                |owner| {
                    let person = listing.last_owner(owner);
                    let name =
                        person.map_or_else(|| "a process".to_owned(), |facts| words::name(&facts.comm));
                    let ended = if person.is_some() { "" } else { ", ended" };
                    format!("of {name} (PID {}{ended})", owner.tgid)
                },
            );
            (netns, format!("from {from} to {to}, {whose}"))
        }
        Group::On(netns, local) => (netns, format!("accepted on {local}")),
    };
    let netns = if several { format!(", network namespace {}", netns.0) } else { String::new() };
    format!("  {count} {what}{netns}, {} s more at most", expires_ms.div_ceil(1000))
}
