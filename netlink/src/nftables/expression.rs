//! Expressions: what a rule matches and does, in the words of nft.

use std::{fmt, net::IpAddr, ops::RangeInclusive};

use super::DataType;
use crate::{Prefix, attribute::Writer};

/// Source or destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// The way in or out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The interface a packet came in by.
    In,
    /// The interface it goes out by.
    Out,
}

/// A transport protocol (IPPROTO_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// ICMP.
    Icmp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// An interface by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interface {
    /// This one.
    Named(String),
    /// All whose name begins so; nft writes `tap*`.
    Prefixed(String),
}

/// What an address is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressMatch {
    /// It lies in the prefix.
    Prefix(Prefix),
    /// It lies between these two, both included. Both must be of one family.
    Range(IpAddr, IpAddr),
}

/// States of connection tracking, as a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(pub(super) u32);

impl States {
    /// Belongs to no connection that is known or may begin.
    pub const INVALID: Self = Self(1);
    /// Belongs to a connection with packets in both directions.
    pub const ESTABLISHED: Self = Self(2);
    /// Begins a connection that another one announced.
    pub const RELATED: Self = Self(4);
    /// Begins a connection.
    pub const NEW: Self = Self(8);
}

impl std::ops::BitOr for States {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A part of a packet, as a part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IPv4 address.
    Ipv4(Side),
    /// An IPv6 address.
    Ipv6(Side),
    /// The transport protocol.
    Protocol,
    /// A port, of whatever transport protocol.
    Port(Side),
    /// The name of an interface.
    Interface(Way),
    /// A hardware address.
    Ethernet(Side),
    /// Who says in an ARP packet that an IPv4 address is his.
    ArpSource,
    /// The packet's mark.
    Mark,
}

impl Field {
    pub(super) fn data_type(self) -> DataType {
        match self {
            Self::Ipv4(_) | Self::ArpSource => DataType::Ipv4,
            Self::Ipv6(_) => DataType::Ipv6,
            Self::Protocol => DataType::Protocol,
            Self::Port(_) => DataType::Port,
            Self::Interface(_) => DataType::Interface,
            Self::Ethernet(_) => DataType::Ethernet,
            Self::Mark => DataType::Mark,
        }
    }
}

/// What becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on; later chains still see it.
    Accept,
    /// It is gone.
    Drop,
    /// Back to the chain that jumped here.
    Return,
    /// On in another chain, and back.
    Jump(String),
}

impl Verdict {
    fn code(&self) -> i32 {
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Jump(_) => -3,
            Self::Return => -5,
        }
    }

    /// As NFTA_DATA_VERDICT.
    pub(super) fn write(&self, writer: &mut Writer) {
        writer.nested(2, |writer| {
            writer.be32(1, self.code().cast_unsigned());
            if let Self::Jump(chain) = self {
                writer.text(2, chain);
            }
        });
    }
}

/// Where address translation leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To this address and, if given, port.
    Address(IpAddr, Option<u16>),
    /// To what the map has for the key: IPv4 addresses, or with `port` IPv4 address and port.
    Map {
        /// The key.
        key: Vec<Field>,
        /// The name of the map.
        map: String,
        /// Whether the map's data has a port.
        port: bool,
    },
}

/// How a sender is told that nobody is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// By a reset; of TCP alone.
    Reset,
    /// By ICMP: the port is not reachable.
    PortUnreachable,
}

/// What a rule matches or does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expression {
    /// `ip saddr`, `ip6 daddr`, … in a prefix or range.
    Address {
        /// Which address.
        side: Side,
        /// Compared with what.
        with: AddressMatch,
        /// Whether it must not match.
        negated: bool,
    },
    /// `iifname`, `oifname`
    Interface {
        /// Which interface.
        way: Way,
        /// Compared with what.
        name: Interface,
        /// Whether it must not match.
        negated: bool,
    },
    /// `meta nfproto`: whether the packet is IPv4 (or else IPv6), in an inet table.
    IsIpv4(bool),
    /// `meta protocol arp`
    IsArp,
    /// `meta l4proto`
    Protocol(Protocol),
    /// `tcp dport` and the like, in a range.
    Port(Protocol, Side, RangeInclusive<u16>),
    /// `ct state`
    State(States),
    /// The key is in the set.
    Lookup {
        /// The key.
        key: Vec<Field>,
        /// The name of the set.
        set: String,
        /// Whether it must not be in there.
        negated: bool,
    },
    /// The verdict is the one that the map has for the key, if it has one.
    VerdictMap {
        /// The key.
        key: Vec<Field>,
        /// The name of the map.
        map: String,
    },
    /// `fib daddr type local`: it goes to this host itself, by whichever of its addresses.
    ToThisHost,
    /// `fib saddr type != local`: it comes from an address that is none of this host's (any more).
    NotFromThisHost,
    /// `ct direction original ct status dnat`: its connection is led elsewhere than it was sent, and it goes that way.
    Led,
    /// `ct direction reply`: it goes from whom its connection was begun with to who began it.
    Answers,
    /// `meta mark set meta mark or …`: these bits of the packet's mark are set.
    Mark(u32),
    /// `meta mark set ip saddr map @…`: the packet's mark is the one that the map has for the key, if it has one; else the rule ends.
    MarkOf {
        /// The key.
        key: Vec<Field>,
        /// The name of the map.
        map: String,
    },
    /// `meta mark and … == …`: all these bits of the packet's mark are set.
    Marked(u32),
    /// `notrack`: to connection tracking, and so to translation, it does not exist.
    Untracked,
    /// `reject with tcp reset`, `reject with icmpx port-unreachable`: dropped, and who sent it is told.
    Reject(Refusal),
    /// Count packets and bytes.
    Counter,
    /// The end of the rule.
    Verdict(Verdict),
    /// The source becomes the address of the interface it goes out by.
    Masquerade,
    /// `dnat`
    DestinationNat(Target),
    /// `snat`
    SourceNat(Target),
    /// `tcp flags syn tcp option maxseg size set rt mtu`: no segment is larger than the way lets through.
    ClampSegmentSize,
}

impl Expression {
    /// `ip saddr <prefix>` or `ip6 saddr <prefix>`.
    pub fn source(prefix: Prefix) -> Self {
        Self::Address { side: Side::Source, with: AddressMatch::Prefix(prefix), negated: false }
    }

    /// `ip daddr <prefix>` or `ip6 daddr <prefix>`.
    pub fn destination(prefix: Prefix) -> Self {
        Self::Address { side: Side::Destination, with: AddressMatch::Prefix(prefix), negated: false }
    }

    /// `iifname <name>`
    pub fn from(name: impl Into<String>) -> Self {
        Self::Interface { way: Way::In, name: Interface::Named(name.into()), negated: false }
    }

    /// `oifname <name>`
    pub fn to(name: impl Into<String>) -> Self {
        Self::Interface { way: Way::Out, name: Interface::Named(name.into()), negated: false }
    }

    /// `oifname != <name>`
    pub fn not_to(name: impl Into<String>) -> Self {
        Self::Interface { way: Way::Out, name: Interface::Named(name.into()), negated: true }
    }

    /// The opposite of a comparison: `ip daddr != <prefix>`. Anything else stays as it is.
    #[must_use]
    pub fn but_not(mut self) -> Self {
        if let Self::Address { negated, .. } | Self::Interface { negated, .. } | Self::Lookup { negated, .. } =
            &mut self
        {
            *negated = !*negated;
        }
        self
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => write!(f, "accept"),
            Self::Drop => write!(f, "drop"),
            Self::Return => write!(f, "return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
        }
    }
}
