//! What the store holds of addresses, and the order of a host's blocks.
//!
//! | key | value |
//! |---|---|
//! | `block/<subnet>/<block>` | [`Block`]: the host that routes these addresses for itself |
//! | `address/<subnet>/<ip>` | [`Holder`]: the instance that has the address |

use super::subnet::SubnetSpec;
use crate::store::{Revision, mirror::View};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;

/// `block/<subnet>/<block>`: taken once, create-if-absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    pub host: String,
}

/// `address/<subnet>/<ip>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// As on the wire: `1i54`.
    pub instance: String,
    pub host: String,
}

/// A block with its place in the order in which blocks were taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Taken {
    /// First in the order, so that a host's first block stays its first when it takes one with a lower address.
    pub created: Revision,
    pub block: Ipv4Addr,
    pub host: String,
}

/// All blocks of the subnet that are taken, the oldest first. Keys that are no block of it are left out.
pub fn taken(view: &View<Block>, subnet: &SubnetSpec) -> Vec<Taken> {
    let mut blocks: Vec<_> = view
        .iter()
        .filter_map(|(key, item)| {
            let block: Ipv4Addr = key.parse().ok()?;
            let ours = subnet.contains(block) && subnet.block_of(block) == block;
            ours.then(|| Taken { created: item.create_revision, block, host: item.value.host.clone() })
        })
        .collect();
    blocks.sort();
    blocks
}
