//! Which UDP sockets of an inventory are members of a multicast group, and so share their port on purpose.
//!
//! No table of the kernel says so of a socket. `/proc/net/igmp` and `/proc/net/igmp6` name the groups of a network
//! namespace, interface by interface, and a socket tells by its descriptor which of them it has joined. Only sockets
//! that share a port with another process's are asked.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;

use super::{Holdings, InventorySocket};
use crate::event::{Cookie, Inum, ProcessKey, Protocol};
use crate::probe::{Group, is_member};

/// Sockets that are asked in one inventory, sockets.
const ASKED_MAX: usize = 1024;
/// Groups that one socket is asked for, groups.
const GROUPS_MAX: usize = 1024;
/// Largest table of groups that is read, bytes.
const TABLE_MAX: u64 = 1 << 20;

/// The members among the sockets, which are in the order of an inventory. A socket that cannot be asked (its process is
/// another user's, or gone) is none.
#[must_use]
pub fn members(sockets: &[InventorySocket]) -> BTreeSet<Cookie> {
    let asked: Vec<&InventorySocket> = in_doubt(sockets).take(ASKED_MAX).collect();
    let mut inodes: Vec<u32> = asked.iter().map(|socket| socket.inode).collect();
    inodes.sort_unstable();
    if inodes.is_empty() {
        return BTreeSet::new();
    }
    let holdings = Holdings::scan(Some(&inodes)).unwrap_or_default();
    let mut groups: BTreeMap<Inum, Vec<Group>> = BTreeMap::new();
    let mut found = BTreeSet::new();
    for socket in asked {
        let netns = socket.socket.netns;
        for held in holdings.of(socket.inode) {
            let Some(here) = groups_of(&mut groups, netns, held.process) else { continue };
            if is_member(held.process, held.fd, socket.socket.cookie, here).unwrap_or(false) {
                found.insert(socket.socket.cookie);
                break;
            }
        }
    }
    found
}

/// Datagram sockets whose port other processes have as well, with options that let them.
fn in_doubt(sockets: &[InventorySocket]) -> impl Iterator<Item = &InventorySocket> {
    let port = |socket: &InventorySocket| (socket.socket.netns, socket.socket.protocol, socket.socket.port);
    let shares = |socket: &&InventorySocket| {
        let options = socket.socket.options;
        socket.socket.protocol != Protocol::Tcp
            && socket.inode != 0
            && (options.reuse_addr || options.reuse_port || !socket.reuse_known)
    };
    sockets.chunk_by(move |a, b| port(a) == port(b)).flat_map(move |group| {
        let group: Vec<&InventorySocket> = group.iter().filter(shares).collect();
        let one = group.first().map(|socket| &socket.holders);
        let others = group.iter().any(|socket| Some(&socket.holders) != one);
        if others { group } else { Vec::new() }
    })
}

/// The groups of a network namespace, by a process in it.
fn groups_of(known: &mut BTreeMap<Inum, Vec<Group>>, netns: Inum, process: ProcessKey) -> Option<&[Group]> {
    match known.entry(netns) {
        Entry::Occupied(known) => Some(known.into_mut()),
        Entry::Vacant(new) => Some(new.insert(read_groups(netns, process)?)),
    }
}

fn read_groups(netns: Inum, process: ProcessKey) -> Option<Vec<Group>> {
    let folder = format!("/proc/{}", process.tgid);
    if std::fs::metadata(format!("{folder}/ns/net")).ok()?.ino() != u64::from(netns.0) {
        // It has a socket of another namespace: its own groups say nothing.
        return None;
    }
    let read = |name: &str| {
        let mut text = String::new();
        let file = std::fs::File::open(format!("{folder}/net/{name}")).ok()?;
        file.take(TABLE_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    };
    let mut groups = parse_igmp(&read("igmp")?);
    groups.extend(parse_igmp6(&read("igmp6").unwrap_or_default()));
    groups.truncate(GROUPS_MAX);
    Some(groups)
}

/// `/proc/net/igmp`: a line for each interface (`2  eth0  : 3  V3`), and below it one for each of its groups, whose
/// address is in the machine's own byte order.
fn parse_igmp(table: &str) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut interface = 0;
    for line in table.lines().skip(1) {
        let mut words = line.split_whitespace();
        if !line.starts_with(char::is_whitespace) {
            interface = words.next().and_then(|index| index.parse().ok()).unwrap_or(0);
        } else if let Some(address) = words.next().and_then(|group| u32::from_str_radix(group, 16).ok()) {
            groups.push(Group { interface, address: IpAddr::V4(Ipv4Addr::from(address.to_ne_bytes())) });
        }
    }
    groups
}

/// `/proc/net/igmp6`: a line for each group: index, interface, address, …
fn parse_igmp6(table: &str) -> Vec<Group> {
    table
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let interface = words.next()?.parse().ok()?;
            let address = u128::from_str_radix(words.nth(1)?, 16).ok()?;
            Some(Group { interface, address: IpAddr::V6(Ipv6Addr::from(address)) })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

    use super::*;

    #[test]
    fn tables_of_groups() {
        let group = |interface, address: &str| Group { interface, address: address.parse().unwrap() };
        let igmp = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
            1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
            12\teth0      :     2      V3\n\t\t\t\tFB0000E0     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
        if cfg!(target_endian = "little") {
            assert_eq!(
                parse_igmp(igmp),
                [group(1, "224.0.0.1"), group(12, "224.0.0.251"), group(12, "224.0.0.1")]
            );
        }
        let igmp6 = "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
            3    eth0            ff0200000000000000000000000000fb     2 00000004 0\n";
        assert_eq!(parse_igmp6(igmp6), [group(1, "ff02::1"), group(3, "ff02::fb")]);
        assert_eq!((parse_igmp(""), parse_igmp6("x\n1 lo zz\n")), (vec![], vec![]));
    }
}
