//! A table as it should be.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Expression, Family, Protocol, Verdict};
use crate::{Error, Mac};

/// A table with all that is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// A text for people. The digest of the structure is put behind it.
    pub comment: String,
    /// Its sets and maps.
    pub sets: Vec<Set>,
    /// Its chains.
    pub chains: Vec<Chain>,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets come from; `None` for a chain that others jump to.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Where in the kernel a chain hangs (NF_INET_*), with what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// What the chain may do.
    pub kind: ChainKind,
    /// The place.
    pub place: Place,
    /// The order among chains of one place: -100 is nft's `dstnat`, 0 `filter`, 100 `srcnat`.
    pub priority: i32,
    /// Whether what no rule decided is dropped instead of accepted.
    pub drop: bool,
}

/// A place in a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// After it came in, before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// After routing, before it goes out.
    Postrouting,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept and drop.
    Filter,
    /// Translate addresses; sees the first packet of each connection.
    Nat,
    /// Filter, and routing is done again if the packet was changed.
    Route,
}

/// A rule: expressions that must all match, then what is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// A text for people; `nft list ruleset` shows it. At most 127 bytes.
    pub comment: Option<String>,
    /// What it does, in order.
    pub expressions: Vec<Expression>,
}

impl Rule {
    /// A rule without a comment.
    pub fn new(expressions: impl Into<Vec<Expression>>) -> Self {
        Self { comment: None, expressions: expressions.into() }
    }

    /// The same with a comment.
    #[must_use]
    pub fn comment(self, comment: impl Into<String>) -> Self {
        Self { comment: Some(comment.into()), ..self }
    }
}

/// A set or, with data, a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Set {
    /// Its name.
    pub name: String,
    /// A text for people.
    pub comment: Option<String>,
    /// The parts of its key; several make a concatenation.
    pub key: Vec<DataType>,
    /// What a key leads to; `None` for a plain set.
    pub data: Option<SetData>,
    /// All its elements.
    pub elements: Vec<Element>,
}

/// What a map's keys lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetData {
    /// Values; several make a concatenation.
    Values(Vec<DataType>),
    /// A verdict.
    Verdict,
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Element {
    /// The parts of the key.
    pub key: Vec<Value>,
    /// What it leads to, in a map.
    pub data: Option<ElementData>,
}

/// What an element of a map leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ElementData {
    /// Values.
    Values(Vec<Value>),
    /// A verdict.
    Verdict(Verdict),
}

/// The type of a value, as nft knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataType {
    /// `ipv4_addr`
    Ipv4,
    /// `ipv6_addr`
    Ipv6,
    /// `inet_proto`
    Protocol,
    /// `inet_service`
    Port,
    /// `ifname`
    Interface,
    /// `ether_addr`
    Ethernet,
    /// `mark`
    Mark,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// An IPv4 address.
    Ipv4(Ipv4Addr),
    /// An IPv6 address.
    Ipv6(Ipv6Addr),
    /// A transport protocol.
    Protocol(Protocol),
    /// A port.
    Port(u16),
    /// The name of an interface.
    Interface(String),
    /// A hardware address.
    Ethernet(Mac),
    /// The mark of a packet.
    Mark(u32),
}

impl DataType {
    /// The number nft gives the type (enum datatypes of its datatype.h); the kernel stores it for nft.
    fn number(self) -> u32 {
        match self {
            Self::Ipv4 => 7,
            Self::Ipv6 => 8,
            Self::Ethernet => 9,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Mark => 19,
            Self::Interface => 41,
        }
    }

    /// Bytes of a value.
    pub(super) fn length(self) -> usize {
        match self {
            Self::Ipv4 | Self::Mark => 4,
            Self::Ipv6 => 16,
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Interface => 16,
            Self::Ethernet => 6,
        }
    }
}

/// nft's number for a type or a concatenation of types: six bits each.
pub(super) fn type_number(types: &[DataType]) -> u32 {
    types.iter().fold(0, |number, data_type| number << 6 | data_type.number())
}

/// Bytes of a value or of a concatenation, whose parts are padded to registers of four bytes.
pub(super) fn type_length(types: &[DataType]) -> usize {
    match types {
        [single] => single.length(),
        many => many.iter().map(|data_type| data_type.length().next_multiple_of(4)).sum(),
    }
}

impl Value {
    fn data_type(&self) -> DataType {
        match self {
            Self::Ipv4(_) => DataType::Ipv4,
            Self::Ipv6(_) => DataType::Ipv6,
            Self::Protocol(_) => DataType::Protocol,
            Self::Port(_) => DataType::Port,
            Self::Interface(_) => DataType::Interface,
            Self::Ethernet(_) => DataType::Ethernet,
            Self::Mark(_) => DataType::Mark,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::Ipv4(address) => out.extend_from_slice(&address.octets()),
            Self::Ipv6(address) => out.extend_from_slice(&address.octets()),
            Self::Protocol(protocol) => out.push(protocol.number()),
            Self::Port(port) => out.extend_from_slice(&port.to_be_bytes()),
            Self::Ethernet(mac) => out.extend_from_slice(&mac.0),
            // A number of the machine's own byte order.
            Self::Mark(mark) => out.extend_from_slice(&mark.to_ne_bytes()),
            Self::Interface(name) => {
                let end = out.len() + DataType::Interface.length();
                out.extend_from_slice(name.as_bytes());
                out.resize(end, 0);
            }
        }
    }
}

/// A value or concatenation as the kernel wants it, if it is of these types.
pub(super) fn encode_values(values: &[Value], types: &[DataType], set: &str) -> Result<Vec<u8>, Error> {
    let fits = values.len() == types.len()
        && values.iter().zip(types).all(|(value, wanted)| {
            value.data_type() == *wanted && !matches!(value, Value::Interface(name) if name.len() > 15)
        });
    if !fits {
        return Err(Error::WrongType { set: set.to_owned(), value: format!("{values:?}") });
    }
    let mut bytes = Vec::with_capacity(type_length(types));
    for value in values {
        value.write(&mut bytes);
        if values.len() > 1 {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
    }
    Ok(bytes)
}

impl Set {
    pub(super) fn data_types(&self) -> &[DataType] {
        match &self.data {
            Some(SetData::Values(types)) => types,
            _ => &[],
        }
    }
}
