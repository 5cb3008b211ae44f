//! Which state follows which, and who drives it.
//!
//! ```text
//! API ──ask──► lifecycle (pure) ──► one transaction: resource, claim, todo
//!                                        │
//!          host's loop ◄── on/<host>/ ◄──┘──► todo/<shard> ──► due (a retry, a purge) ──► lifecycle again
//!          host's loop ──observation──► lifecycle (pure) ──► one transaction that compares the claim's token
//! ```
//! [`lifecycle`] holds the rules for instances as pure functions; [`orchestrator`] reads, asks them, and writes; [`status`]
//! takes what a host saw; [`handlers`] lets programs outside have a part in it; [`failover`] looks after what lost hosts ran;
//! [`native`] writes down what Docker started by itself; [`floating`] has addresses lead to instances; [`volumes`] gives them disks, of which [`snapshots`] are taken; [`todo`] drives what waits for a time or was left behind by an agent that died; [`names`] go with each write of an instance.

mod creation;
mod credentials;
mod drain;
pub mod failover;
mod floating;
pub mod handlers;
mod hosts;
pub mod house;
mod image;
mod links;
pub mod lifecycle;
mod machine;
pub mod names;
mod native;
mod orchestrator;
mod ports;
mod record;
mod resize;
pub mod seed;
mod service;
mod snapshots;
mod status;
pub mod todo;
mod volumes;
pub mod workload;

pub use floating::Hold;
pub use handlers::Publication;
pub use orchestrator::{KEY_NAMES, Orchestrator};
pub use service::{Draft, Service, ServiceError, Written};
pub use snapshots::RootSeen;
pub use status::{StatusError, Told};
pub use volumes::{DiskWish, VolumeSeen};
