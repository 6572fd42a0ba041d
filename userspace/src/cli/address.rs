//! `[tcp/|udp/]ADDRESS[:PORT]`: what `check` and `list` are asked about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use super::quantity::shown;
use crate::event::{Protocol, SocketFacts};

/// Which local addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Every address: `*`, or none given. As something to bind, the IPv4 and the IPv6 wildcard.
    Every,
    /// These; `localhost` is both loopback addresses.
    Only(Vec<IpAddr>),
}

/// What a user asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// `tcp/` or `udp/`; None is both.
    pub protocol: Option<Protocol>,
    /// Where.
    pub place: Place,
    /// Which port; None is every port.
    pub port: Option<u16>,
}

impl Target {
    /// Whether a user who asks for this wants to see `socket`: what is bound to the address, or takes it in.
    #[must_use]
    pub fn takes(&self, socket: &SocketFacts) -> bool {
        let here = match &self.place {
            Place::Every => true,
            Place::Only(addresses) => addresses.iter().any(|address| takes_in(socket, *address)),
        };
        here && self.port.is_none_or(|port| port == socket.port)
            && self.protocol.is_none_or(|protocol| protocol == socket.protocol)
    }
}

fn takes_in(socket: &SocketFacts, address: IpAddr) -> bool {
    let own = socket.address.to_canonical();
    let dual = own.is_ipv6() && own.is_unspecified() && !socket.options.v6_only;
    let same_plane = own.is_ipv4() == address.to_canonical().is_ipv4();
    own == address.to_canonical() || own.is_unspecified() && !address.is_unspecified() && (same_plane || dual)
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, rest) = match text.split_once('/') {
            None => (None, text),
            Some(("tcp", rest)) => (Some(Protocol::Tcp), rest),
            Some(("udp", rest)) => (Some(Protocol::Udp), rest),
            Some(("udplite", rest)) => (Some(Protocol::Udplite), rest),
            Some((other, _)) => {
                return Err(format!(
                    "\"{}\" is not a protocol: write tcp/ADDRESS or udp/ADDRESS",
                    shown(other)
                ));
            }
        };
        let (place, port) = place_and_port(rest)?;
        Ok(Self { protocol, place, port })
    }
}

fn place_and_port(text: &str) -> Result<(Place, Option<u16>), String> {
    if text.is_empty() {
        return Err("nothing to look for: write ADDRESS, ADDRESS:PORT or :PORT".to_owned());
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Ok((Place::Every, Some(port(text)?)));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) =
            rest.split_once(']').ok_or_else(|| format!("\"{}\" has no closing bracket", shown(text)))?;
        let address = v6(address)?;
        return match after.strip_prefix(':') {
            Some(digits) => Ok((only(address), Some(port(digits)?))),
            None if after.is_empty() => Ok((only(address), None)),
            None => Err(format!("\"{}\": after ] only :PORT can follow", shown(text))),
        };
    }
    if text.matches(':').count() > 1 {
        let address = v6(text)?;
        // `::1:80` is an address as it stands; what was meant is anybody's guess.
        if let Some((head, tail)) = text.rsplit_once(':')
            && tail.parse::<u16>().is_ok()
            && head.parse::<Ipv6Addr>().is_ok()
        {
            return Err(format!(
                "\"{text}\" could end in a port: write [{head}]:{tail}, or [{text}] for every port of that address"
            ));
        }
        return Ok((only(address), None));
    }
    match text.split_once(':') {
        Some((address, digits)) => Ok((place(address)?, Some(port(digits)?))),
        None => Ok((place(text)?, None)),
    }
}

const fn loopbacks() -> [IpAddr; 2] {
    [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)]
}

fn only(address: Ipv6Addr) -> Place {
    Place::Only(vec![IpAddr::V6(address)])
}

fn place(text: &str) -> Result<Place, String> {
    match text {
        "" | "*" => Ok(Place::Every),
        "localhost" => Ok(Place::Only(loopbacks().to_vec())),
        _ => match text.parse::<Ipv4Addr>() {
            Ok(address) => Ok(Place::Only(vec![IpAddr::V4(address)])),
            Err(_) => Err(format!(
                "\"{}\" is not an address: write 127.0.0.1, [::1], * or localhost (other names are not looked up)",
                shown(text)
            )),
        },
    }
}

fn v6(text: &str) -> Result<Ipv6Addr, String> {
    if text.contains('%') {
        return Err(format!("\"{}\": leave out the zone (from % on)", shown(text)));
    }
    text.parse().map_err(|_| format!("\"{}\" is not an IPv6 address", shown(text)))
}

pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) => Err("port 0 is never held: it asks the kernel to choose one".to_owned()),
        Ok(port) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(format!("\"{}\" is not a port: a number from 1 to 65535", shown(text))),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}/")?;
        }
        match &self.place {
            Place::Every => f.write_str("*")?,
            Place::Only(addresses) => match addresses.as_slice() {
                [IpAddr::V4(one)] => write!(f, "{one}")?,
                [IpAddr::V6(one)] => write!(f, "[{one}]")?,
                _ => f.write_str("localhost")?,
            },
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}
