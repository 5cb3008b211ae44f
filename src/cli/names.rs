//! The DNS of the managed network, as the agent begins it: without a cluster yet, since names that are not ours need none.

use crate::environment::Environment;
use crate::membership::Hosts;
use crate::network::SubnetSpec;
use crate::network::dns::{Askers, Dns, Files, OwnNames, Settings};
use crate::store::Store;
use crate::store::ledger::{self, Ledger};
use std::sync::Arc;

/// Who may ask at the beginning: all of the ledger.
///
/// # Errors
/// Where the ledger cannot be read.
pub fn askers(ledger: &Ledger) -> Result<Askers, ledger::Error> {
    let (known, _) = ledger.assignments()?;
    Ok(Askers::new(&known))
}

/// Begins to answer.
pub fn start(
    subnet: SubnetSpec,
    askers: &Askers,
    own: Arc<dyn OwnNames>,
    hosts: &Hosts,
    store: &Arc<dyn Store>,
    environment: &Environment,
) -> Dns {
    let alive = hosts.alive().clone();
    let settings = Settings { subnet, askers: askers.clone(), own_names: Some(own), alive, files: Files::default() };
    Dns::start(settings, store.clone(), environment)
}
