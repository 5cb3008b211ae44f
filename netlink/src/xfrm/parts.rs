//! What associations and policies have in common.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::Prefix;

/// Which packets (struct xfrm_selector).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// Where they come from.
    pub source: Prefix,
    /// Where they go.
    pub destination: Prefix,
    /// The protocol, 0 for any.
    pub protocol: u8,
    /// The port they come from.
    pub source_port: Option<u16>,
    /// The port they go to.
    pub destination_port: Option<u16>,
    /// The index of the link, 0 for any.
    pub interface: u32,
}

impl Selector {
    /// All packets between these; both of one family.
    pub fn between(source: Prefix, destination: Prefix) -> Self {
        Self { source, destination, protocol: 0, source_port: None, destination_port: None, interface: 0 }
    }

    /// All packets of a family.
    pub fn everything(ipv4: bool) -> Self {
        let any = if ipv4 { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
        let any = Prefix::new(any, 0).unwrap_or_else(|| Prefix::host(any));
        Self::between(any, any)
    }

    /// Of these the UDP datagrams to this port.
    pub fn udp_to(self, port: u16) -> Self {
        Self { protocol: 17, destination_port: Some(port), ..self }
    }

    /// Of these the datagrams and segments from this port.
    pub fn from_port(self, port: u16) -> Self {
        Self { source_port: Some(port), ..self }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.source, self.destination)?;
        if self.protocol != 0 {
            write!(f, " protocol {}", self.protocol)?;
        }
        if let Some(port) = self.source_port {
            write!(f, " from port {port}")?;
        }
        if let Some(port) = self.destination_port {
            write!(f, " to port {port}")?;
        }
        if self.interface == 0 { Ok(()) } else { write!(f, " link {}", self.interface) }
    }
}

/// How ESP wraps a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Mode {
    /// Its payload, behind its own IP header.
    #[default]
    Transport,
    /// The whole packet, behind a new IP header.
    Tunnel,
}

impl Mode {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Transport => 0,
            Self::Tunnel => 1,
        }
    }

    pub(super) fn read(number: u8) -> Option<Self> {
        [Self::Transport, Self::Tunnel].into_iter().find(|mode| mode.number() == number)
    }
}

/// A packet's mark must be `value` under `mask`; a mask of 0 asks nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mark {
    /// What the mark must be.
    pub value: u32,
    /// Which bits of it count.
    pub mask: u32,
}

/// ESP in UDP (RFC 3948), by the ports that the packets on the wire have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UdpEncapsulation {
    /// The sender's.
    pub source_port: u16,
    /// The receiver's.
    pub destination_port: u16,
}

/// A limit that is told of and one that ends it; `None` for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Limits {
    /// Reaching it is notified.
    pub soft: Option<u64>,
    /// Reaching it ends the association or policy.
    pub hard: Option<u64>,
}

/// When something ends by itself (struct xfrm_lifetime_cfg).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lifetimes {
    /// By bytes.
    pub bytes: Limits,
    /// By packets.
    pub packets: Limits,
    /// By seconds since it was made.
    pub since_added: Limits,
    /// By seconds since it was first used.
    pub since_used: Limits,
}
