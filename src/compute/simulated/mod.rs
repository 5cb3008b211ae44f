//! Containers that are only said to run: a driver with nothing behind it, for hosts that are simulated.
//!
//! It behaves as Docker does towards who drives it: it takes its time, hangs in the middle of a start and goes on with it
//! later whoever has given up, goes away and takes its containers along, and has no say over what is killed through its
//! cgroup ([`Killer`]). Whoever wants to know what runs at any moment looks on as a [`Witness`]. An instance's own data can make
//! it fail at `storage.image.activate`, `storage.volume.activate`, `compute.instance.activate`, `compute.instance.deactivate` and
//! `compute.instance.remove`.
//!
//! One [`Simulated`] is one host's daemon, with its disk: what was made outlives the daemon and the power, what runs does not
//! outlive the power.

mod daemon;
mod driver;
mod killer;

pub use daemon::{Gait, Simulated};

use crate::resource::assignment::{Assignment, Token, Workload};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::net::Ipv4Addr;

/// What runs, or ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    pub instance: String,
    pub uuid: String,
    pub external_id: String,
    pub token: Token,
    pub generation: u64,
    pub address: Option<Ipv4Addr>,
    /// It must not run twice.
    pub exclusive: bool,
}

/// Why it runs no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// By itself.
    Own,
    /// It was told to stop.
    Stopped,
    Removed,
    /// Through its cgroup.
    Killed,
    /// Its daemon went away and took it along.
    Daemon,
    Power,
}

/// Sees everything that begins and ends to run, in the moment it does.
pub trait Witness: Debug + Send + Sync {
    fn began(&self, what: &Running);
    fn ended(&self, what: &Running, why: Why);
}

/// Looks away.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWitness;

impl Witness for NoWitness {
    fn began(&self, _what: &Running) {}
    fn ended(&self, _what: &Running, _why: Why) {}
}

impl Running {
    fn of(assignment: &Assignment, external_id: String) -> Self {
        Self {
            instance: assignment.id.clone(),
            uuid: assignment.uuid.clone(),
            external_id,
            token: assignment.token,
            generation: assignment.generation,
            address: assignment.address(),
            exclusive: assignment.exclusive.is_some(),
        }
    }
}

fn image(assignment: &Assignment) -> &str {
    match &assignment.workload {
        Workload::Container(container) => &container.image,
        Workload::VirtualMachine(machine) => &machine.image.url,
    }
}

fn faults(assignment: &Assignment) -> &BTreeSet<String> {
    const NONE: &BTreeSet<String> = &BTreeSet::new();
    match &assignment.workload {
        Workload::Container(container) => &container.faults,
        Workload::VirtualMachine(_) => NONE,
    }
}
