//! nftables: one table of ours as typed desired state, and a few marked rules in somebody else's chain.
//!
//! The encoder is our own, straight onto NETLINK_NETFILTER (linux/netfilter/nf_tables.h); nothing runs `nft`. What it
//! writes, `nft list ruleset` reads: types, names and comments are given the way nft gives them.
//!
//! ```text
//!   Table ──encode──► structure (chains, sets, rules) ──digest──► kept in the table's comment
//!     │                                                   │
//!     │      what is there (inspect) ──── same digest and same shape? ── no ──► one batch: add, delete, add …
//!     └────► elements of sets and maps ◄──────────────────┘ yes
//!                     └─ compare, add and delete single elements
//! ```
//!
//! A batch happens as a whole or not at all, so that a packet sees the old table or the new one and nothing between.
//! Elements (a published port, an address) are changed one by one, without touching the rest.
//! Table comments need a kernel of 5.10 or later.

mod apply;
pub(crate) mod batch;
mod elements;
mod expression;
mod foreign;
mod inspect;
mod machine;
mod model;
#[cfg(test)]
mod tests;

pub use apply::{Difference, TableOutcome};
pub use elements::ElementOutcome;
pub use expression::{
    AddressMatch, Expression, Field, Interface, Protocol, Refusal, Side, States, Target, Verdict, Way,
};
pub use foreign::{ForeignChain, ForeignOutcome};
pub use inspect::{ChainState, RuleState, TableState};
pub use model::{Chain, ChainKind, DataType, Element, ElementData, Hook, Place, Rule, Set, SetData, Table, Value};

/// The family of a table (NFPROTO_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4 and IPv6 in one table.
    Inet,
    /// IPv4; the family of iptables-nft's tables.
    Ipv4,
    /// IPv6; the family of ip6tables-nft's tables.
    Ipv6,
    /// Frames that a bridge passes on, as they come in by its ports.
    Bridge,
}

impl Family {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ipv4 => NFPROTO_IPV4,
            Self::Ipv6 => NFPROTO_IPV6,
            Self::Bridge => 7,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Inet => "inet",
            Self::Ipv4 => "ip",
            Self::Ipv6 => "ip6",
            Self::Bridge => "bridge",
        }
    }
}

pub(crate) const NFPROTO_IPV4: u8 = 2;
pub(crate) const NFPROTO_IPV6: u8 = 10;
