//! What this host runs and a store that went back knows nothing of keeps its address.
//!
//! It is left running ([`super::plan`]), so nobody else may get what it has. In the new generation its address is free, and
//! perhaps the block too. Both are taken before this host is alive in it: nothing is placed here earlier than that. Where
//! the store says that the address is another's, which had it at the time of the snapshot, that one waits ([`Kept`]).

use crate::environment::Environment;
use crate::membership::Patience;
use crate::network::{self, SubnetSpec};
use crate::resource::assignment::{Assignment, Desired};
use crate::resource::native::HOLDER;
use crate::resource::{Resource, identifier, instance};
use crate::store::ledger::Ledger;
use crate::store::{self, Store, key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// With which addresses instances of earlier generations run on this host, until they are started anew.
#[derive(Debug, Default)]
pub struct Kept(Mutex<BTreeMap<Ipv4Addr, String>>);

impl Kept {
    fn addresses(&self) -> MutexGuard<'_, BTreeMap<Ipv4Addr, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who else had the address that `assignment` is to have.
    pub fn other(&self, assignment: &Assignment) -> Option<String> {
        let address = assignment.address()?;
        self.addresses().get(&address).filter(|holder| **holder != assignment.id).cloned()
    }

    /// It is down: from now on it has what its ledger says.
    pub fn forget(&self, instance: &str) {
        self.addresses().retain(|_, holder| holder != instance);
    }
}

/// Takes the addresses of what the ledger has from an earlier generation and the store does not know here. Waits while the store
/// cannot be reached.
///
/// # Errors
/// What the store answers and no waiting helps against.
pub async fn addresses(
    store: &dyn Store,
    environment: &Environment,
    (host, subnet): (&str, &SubnetSpec),
    ledger: &Ledger,
    generation: u64,
) -> Result<Kept, store::Error> {
    let kept = Kept::default();
    let mut patience = Patience::new(environment, "the addresses of what runs here");
    // One that cannot be read is told of when its instance is looked at.
    let known = ledger.assignments().map(|(found, _)| found).unwrap_or_default();
    for (known, address) in known.iter().filter_map(|known| Some((known, held(known, generation)?))) {
        kept.addresses().insert(address, known.id.clone());
        loop {
            let hold = async {
                match is_here(store, known, host).await? {
                    true => Ok(()),
                    false => network::hold(store, subnet, host, &known.id, address).await,
                }
            };
            if let Some(result) = patience.settle(hold.await).await {
                break result?;
            }
        }
    }
    Ok(kept)
}

/// The same of the addresses that this host keeps for Docker: its containers have them, whatever the store says.
///
/// # Errors
/// What the store answers and no waiting helps against.
pub async fn for_docker(
    store: &dyn Store,
    environment: &Environment,
    (host, subnet): (&str, &SubnetSpec),
    kept: &BTreeSet<Ipv4Addr>,
) -> Result<(), store::Error> {
    let mut patience = Patience::new(environment, "the addresses that are kept for Docker");
    for address in kept {
        loop {
            let hold = async {
                match store.get(&key::address(subnet.network, *address)).await?.entry {
                    Some(_) => Ok(()),
                    None => network::hold(store, subnet, host, HOLDER, *address).await,
                }
            };
            if let Some(result) = patience.settle(hold.await).await {
                break result?;
            }
        }
    }
    Ok(())
}

/// Whether the store says that it is here.
async fn is_here(store: &dyn Store, known: &Assignment, host: &str) -> Result<bool, store::Error> {
    let Some(number) = identifier::parse(instance::BASE, &known.id) else { return Ok(false) };
    let Some(entry) = store.get(&key::resource(instance::BASE, number)).await?.entry else { return Ok(false) };
    let row: Resource = store::decode(&entry)?;
    Ok(row.uuid == known.uuid && row.get::<String>(instance::HOST_NAME).as_deref() == Some(host))
}

/// What is exclusive has ended long since: nothing of another generation goes on under a lease of this one.
fn held(known: &Assignment, generation: u64) -> Option<Ipv4Addr> {
    let runs = known.exclusive.is_none() && known.native.is_none() && known.desired == Desired::Running;
    known.address().filter(|_| runs && known.token.generation < generation)
}
