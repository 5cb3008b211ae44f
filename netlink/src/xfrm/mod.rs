//! IPsec in the kernel (XFRM): security associations, policies, what became of them.
//!
//! An *association* holds the key and the sequence of one direction between two addresses; a *policy* says which packets must go
//! through one, which are dropped and which pass. They meet by the request id. Associations are always ESP with AES-GCM (RFC 4106)
//! and extended sequence numbers; the rest is as wanted: transport or tunnel, UDP encapsulation, marks, lifetimes, interface id.
//!
//! Ours carry a number of their own ([`REQUEST_ID`], [`PRIORITIES`]), so that a reconcile removes our own only:
//! `ip xfrm state list reqid 183` lists them.
//!
//! Keys are wiped from memory, here and in the buffers they travel through, and no `Debug`, error or log line holds one.
//! That is why the messages are written and read by a codec of our own, after struct and enum of the kernel's
//! include/uapi/linux/xfrm.h: netlink-packet-xfrm prints keys and leaves copies behind. A test holds the two against each other.
//!
//! **A key and a sequence number must never meet twice.** A reconcile therefore never replaces an association by one with the same key:
//! what the kernel can change in place is changed, and for the rest there is [`Error::KeyInUse`]. That a key which was used and removed does not
//! come back is the caller's part.

mod apply;
mod association;
mod encapsulation;
mod event;
mod key;
mod message;
mod parts;
mod policy;
mod statistics;
mod table;
#[cfg(test)]
mod tests;
mod wire;

pub use apply::Xfrm;
pub use association::{
    Association, AssociationChange, AssociationId, AssociationPlan, AssociationSpec, plan_associations,
};
pub use encapsulation::encapsulation_socket;
pub use event::{XfrmEvent, XfrmMonitor};
pub use key::AeadKey;
pub use message::{Understood, understand};
pub use parts::{Lifetimes, Limits, Mark, Mode, Selector, UdpEncapsulation};
pub use policy::{Action, Direction, Policy, PolicyChange, PolicyId, PolicySpec, Template, plan_policies};
pub use statistics::Statistics;
pub use table::AssociationTable;

use std::ops::RangeInclusive;

#[cfg(doc)]
use crate::Error;

/// The request id of our associations and of our policies' templates.
pub const REQUEST_ID: u32 = 183;

/// Policies with a priority in here are ours. The lower number wins.
pub const PRIORITIES: RangeInclusive<u32> = 183_000..=183_999;
