//! The way back: a purged instance gives up its claim, its share and its address, in one transaction. And the way in of what was
//! not placed.

use super::Writes;
use super::record::{Allocation, Claim, Promise};
use super::verdict;
use crate::environment::{Backoff, Environment};
use crate::resource::assignment::Token;
use crate::resource::identifier;
use crate::store::{self, Answer, Compare, Entry, Error, Operation, Revision, Store, Transaction, key};
use std::sync::Arc;
use std::time::Duration;

/// Tries against others that place on the same host.
const TRIES: usize = 20;

/// What an instance holds of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Number of the instance.
    pub id: u64,
    pub host: String,
    pub token: Token,
    /// What gives its address back ([`super::AddressSource::release`]), if it has one.
    pub address: Option<Operation>,
}

/// Why it was not released.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The claim is gone, or another one: released already, or not ours to release.
    #[error("the claim is another one now, or gone")]
    NotHeld { found: Option<Box<Claim>> },
    /// What the caller compared was changed.
    #[error("changed by somebody else meanwhile: {}", keys.join(", "))]
    Conflict { keys: Vec<String> },
    #[error("others that place on the same host were always faster")]
    Contended,
    #[error(transparent)]
    Store(#[from] Error),
}

/// The compares and operations that release `holding`, where `alloc/<host>` is as found. Nothing for an allocation that the
/// instance is not in.
///
/// # Errors
/// Where the allocation cannot be read.
pub fn plan(holding: &Holding, alloc: Option<&Entry>) -> Result<Writes, Error> {
    let instance = identifier::instance(holding.id);
    let on = key::on(&holding.host, &instance);
    let fence = Compare::CreateRevision { key: on.clone(), revision: Revision(holding.token.revision) };
    let mut writes = Writes { compares: vec![fence], operations: vec![Operation::delete(on)] };
    writes.operations.extend(holding.address.clone());
    if let Some(entry) = alloc {
        let mut allocation: Allocation = store::decode(entry)?;
        if allocation.instances.remove(&instance).is_some() {
            writes.compares.push(Compare::ModRevision { key: entry.key.clone(), revision: entry.mod_revision });
            writes.operations.push(Operation::put(&entry.key, store::encode(&entry.key, &allocation)?));
        }
    }
    Ok(writes)
}

/// The way in of what is on `host` already and was not placed there: the compares and operations that write down `claim` with
/// what it is promised, where `alloc/<host>` is as found.
///
/// # Errors
/// Where the allocation cannot be read.
pub fn claimed(host: &str, claim: &Claim, promise: Promise, alloc: Option<&Entry>) -> Result<Writes, Error> {
    let instance = identifier::instance(claim.id);
    let (on, alloc_key) = (key::on(host, &instance), key::alloc(host));
    let mut allocation: Allocation = alloc.map(store::decode).transpose()?.unwrap_or_default();
    allocation.instances.insert(instance, Arc::new(promise));
    let as_found = match alloc {
        Some(entry) => Compare::ModRevision { key: alloc_key.clone(), revision: entry.mod_revision },
        None => Compare::Absent { key: alloc_key.clone() },
    };
    let operations = vec![
        Operation::put(&on, store::encode(&on, claim)?),
        Operation::put(&alloc_key, store::encode(&alloc_key, &allocation)?),
    ];
    Ok(Writes { compares: vec![Compare::Absent { key: on }, as_found], operations })
}

/// Releases `holding` together with `also` (the resource's own last write, its tombstone).
///
/// # Errors
/// See [`ReleaseError`]. After an unknown outcome, look and run it again.
pub async fn release(
    store: &dyn Store,
    environment: &Environment,
    holding: &Holding,
    also: &Writes,
) -> Result<Revision, ReleaseError> {
    let alloc = key::alloc(&holding.host);
    let mut backoff = Backoff::new(environment, Duration::from_millis(2), Duration::from_millis(200));
    let mut entry = store.get(&alloc).await?.entry;
    for _ in 0..TRIES {
        let mut writes = plan(holding, entry.as_ref())?;
        let fence = writes.compares.first().map(|compare| verdict::key(compare).to_owned());
        writes.compares.extend(also.compares.iter().cloned());
        writes.operations.extend(also.operations.iter().cloned());
        let mut failure = verdict::reads(&writes.compares);
        failure.push(Operation::get(&alloc));
        let transaction = Transaction { compares: writes.compares.clone(), success: writes.operations, failure };
        let outcome = store.commit(transaction).await?;
        if outcome.succeeded {
            return Ok(outcome.revision);
        }
        let mut keys = Vec::new();
        for failure in verdict::failures(&writes.compares, &outcome.answers) {
            let key = verdict::key(&failure.compare);
            if Some(key) == fence.as_deref() {
                let found = failure.found.as_ref().map(store::decode::<Claim>).transpose()?.map(Box::new);
                return Err(ReleaseError::NotHeld { found });
            }
            if key != alloc {
                keys.push(key.to_owned());
            }
        }
        if !keys.is_empty() {
            return Err(ReleaseError::Conflict { keys });
        }
        entry = match outcome.answers.into_iter().next_back() {
            Some(Answer::Entries(entries)) => entries.into_iter().next(),
            _ => None,
        };
        backoff.wait().await;
    }
    Err(ReleaseError::Contended)
}
