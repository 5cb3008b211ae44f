//! Which host runs an instance: filter, score, claim.
//!
//! ```text
//! hosts, allocations ─► filter ─► score ─► pick ─► address ─► one transaction ─► placed
//!        ▲                                                         │
//!        └── look again, with what the failed transaction read ────┘
//! ```
//! Any agent places. What it goes by may be old; the transaction compares what the decision hangs on: that the host's lease is the one
//! that was seen (the *create_revision* of `alive/<host>`), that what is promised of it is what was counted
//! (`alloc/<host>`), that nobody has the address, and whatever the resource's writer asks. It writes the resource, the
//! claim `on/<host>/<instance>`, the sums and the address together. A claim's create_revision is its token.
//!
//! [`filter`] says whether a host can take it, [`score`] how well it suits, and the [`index`] which hosts are worth a look; all
//! three are pure. What two instances ask of each other (affinity, ports) is decided by the same compare as the sums, since
//! `alloc/<host>` holds what newcomers must know. Taking over what a lost host ran is a [`Request`] whose writer
//! compares the old claim.

mod address;
pub mod audit;
mod filter;
mod fleet;
mod group;
mod index;
mod lane;
mod placer;
mod pool;
pub mod ports;
pub mod record;
pub mod release;
mod room;
mod score;
pub mod share;
mod verdict;

pub use address::{AddressError, AddressSource, Reserved};
pub use filter::{Policy, Wanted};
pub use placer::Placer;
pub use release::{Holding, ReleaseError};
pub use room::{Room, RoomWatch};

use crate::resource::assignment::{ManagedAddress, Token};
use crate::store::{Compare, Error, Operation, Revision};

/// What is to be placed.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Number of the instance.
    pub id: u64,
    pub uuid: String,
    /// The resource's generation with which it is written.
    pub generation: u64,
    pub wanted: Wanted,
}

/// Where it is to go: what the resource's writer makes its bytes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    pub host: String,
    pub host_id: u64,
    pub address: Option<ManagedAddress>,
    /// Public ports for those that were to be chosen, in order.
    pub ports: Vec<u16>,
}

/// A part of a transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes {
    pub compares: Vec<Compare>,
    pub operations: Vec<Operation>,
}

/// Makes the resource's part: that it is absent or unchanged, and its new bytes. Called once a try.
pub type ResourceWriter<'a> = &'a (dyn Fn(&Choice) -> Result<Writes, Error> + Send + Sync);

/// Where it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub host: String,
    pub host_id: u64,
    pub address: Option<ManagedAddress>,
    pub ports: Vec<u16>,
    pub token: Token,
    /// Of the transaction.
    pub revision: Revision,
}

/// Why something was not placed.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("Failed to find a placement: {}", reasons.join("; "))]
    NoHost { reasons: Vec<String> },
    /// What the writer compared, or the claim, was changed by somebody else.
    #[error("changed by somebody else meanwhile: {}", keys.join(", "))]
    Conflict { keys: Vec<String> },
    /// Many agents place at once; later it goes.
    #[error("others that place at the same time were always faster")]
    Contended,
    #[error(transparent)]
    Address(AddressError),
    #[error(transparent)]
    Store(#[from] Error),
}
