//! A store in memory that behaves as etcd does, well or badly: what the simulation runs its agents on.
//!
//! There is one [`Simulated`] for the cluster, and a [`Client`] for each agent with a [`Link`] of its own that can be cut.
//! What etcd promises holds in any [`Weather`]: reads are linearizable, a transaction is done once or never, a watch that
//! goes on tells every change in order. What it does not promise is tried: answers are slow or lost, and a write without
//! an answer was done, was not, or is done later; watches lag behind one another and break off; history is compacted; a
//! lease ends at its very deadline, before it, or much later, since a new leader renews all of them; a snapshot is put in
//! its place.
//!
//! ```text
//! client ──link──► there ──► done, at one moment ──► back ──link──► client
//!                    │ lost: not done, or later        │ lost: done
//! ```

mod client;
mod link;
mod server;
mod watch;
mod weather;

pub use client::Client;
pub use link::{Link, Way};
pub use server::{Committed, Saved, Simulated};
pub use weather::Weather;
