//! What the agent answers instances by itself, names, metadata and addresses, as it begins to: without a cluster yet, since there is something to
//! say without one.

use crate::environment::Environment;
use crate::membership::Hosts;
use crate::network::SubnetSpec;
use crate::network::dhcp::Dhcp;
use crate::network::dns::{self, Askers, Dns, Files, OwnNames};
use crate::network::metadata::{self, Metadata};
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

/// All three; dropping them ends them.
#[derive(Debug)]
pub struct Answering {
    _names: Dns,
    _metadata: Metadata,
    _addresses: Dhcp,
}

/// What is answered here.
#[derive(Debug)]
pub struct Own<'a> {
    pub subnet: SubnetSpec,
    /// This host's name.
    pub host: String,
    pub askers: &'a Askers,
    pub ledger: &'a Ledger,
    pub links: Arc<dyn OwnNames>,
}

/// Begins to answer.
pub fn start(own: Own<'_>, hosts: &Hosts, store: &Arc<dyn Store>, environment: &Environment) -> Answering {
    let Own { subnet, host, askers, ledger, links } = own;
    let (alive, files) = (hosts.alive().clone(), Files::default());
    let names = dns::Settings { subnet, askers: askers.clone(), own_names: Some(links), alive, files };
    let metadata = metadata::Settings { subnet, askers: askers.clone(), host, ledger: ledger.clone() };
    Answering {
        _names: Dns::start(names, store.clone(), environment),
        _metadata: Metadata::start(metadata, store.clone(), environment),
        _addresses: Dhcp::start(subnet, askers.clone(), ledger.clone(), environment),
    }
}

/// Nobody is answered: an agent before this one may have been told otherwise.
pub fn forget() {
    dns::forget();
    metadata::forget();
}
