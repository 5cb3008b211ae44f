//! What the store holds of addresses, and the order of a host's blocks.
//!
//! | key | value |
//! |---|---|
//! | `block/<subnet>/<block>` | [`Block`]: the host that routes these addresses for itself |
//! | `address/<subnet>/<ip>` | [`Holder`]: the instance that has the address |

use super::subnet::SubnetSpec;
use crate::store::Revision;
use crate::store::mirror::{Changes, Item, Mirror, View};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashMap};
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
    let mut blocks: Vec<_> = view.iter().filter_map(|(key, item)| Taken::of(key, item, subnet)).collect();
    blocks.sort();
    blocks
}

impl Taken {
    fn of(key: &str, item: &Item<Block>, subnet: &SubnetSpec) -> Option<Self> {
        let block: Ipv4Addr = key.parse().ok()?;
        let ours = subnet.contains(block) && subnet.block_of(block) == block;
        ours.then(|| Self { created: item.create_revision, block, host: item.value.host.clone() })
    }
}

/// The taken blocks by host, brought up to date with what changed since: to ask for one host's does not cost a look at
/// those of all others.
#[derive(Debug)]
pub struct ByHost {
    changes: Changes,
    blocks: HashMap<Ipv4Addr, Taken>,
    hosts: HashMap<String, BTreeSet<Taken>>,
}

impl ByHost {
    pub fn of(mirror: &Mirror<Block>) -> Self {
        Self { changes: mirror.changes(), blocks: HashMap::new(), hosts: HashMap::new() }
    }

    pub fn refresh(&mut self, mirror: &Mirror<Block>, subnet: &SubnetSpec) {
        for key in self.changes.take() {
            let Ok(block) = key.parse::<Ipv4Addr>() else { continue };
            if let Some(known) = self.blocks.remove(&block)
                && let Some(blocks) = self.hosts.get_mut(&known.host)
            {
                blocks.remove(&known);
                if blocks.is_empty() {
                    self.hosts.remove(&known.host);
                }
            }
            if let Some(taken) = mirror.get(&key).and_then(|item| Taken::of(&key, &item, subnet)) {
                self.hosts.entry(taken.host.clone()).or_default().insert(taken.clone());
                self.blocks.insert(block, taken);
            }
        }
    }

    pub fn knows(&self, block: Ipv4Addr) -> bool {
        self.blocks.contains_key(&block)
    }

    /// The oldest first.
    pub fn blocks_of(&self, host: &str) -> impl Iterator<Item = &Taken> {
        self.hosts.get(host).into_iter().flatten()
    }
}
