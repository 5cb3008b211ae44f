//! Whether `alloc/<host>` is the sum of what is on the host, and making it so.
//!
//! Claims and sums are written together, so they agree unless an agent died between a batch and its correction, a record was
//! edited by hand, or a backup came back. Each host looks after its own, at start and hourly.

use super::record::{Allocation, Promise};
use crate::environment::{Backoff, Environment};
use crate::resource::{Resource, identifier, instance};
use crate::store::{self, Compare, Error, Operation, Store, Transaction, key};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// How often a host looks.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Tries against placements at the same time.
const TRIES: usize = 20;

/// What was wrong with an allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corrections {
    /// Promised to instances that are not there (`1i54`).
    pub dropped: BTreeSet<String>,
    /// There, and not counted.
    pub added: BTreeSet<String>,
}

impl Corrections {
    pub fn is_empty(&self) -> bool {
        self.dropped.is_empty() && self.added.is_empty()
    }
}

/// What is to change where `claimed` are on the host. Shares of those that are in both stay as they were promised.
fn plan(allocation: &Allocation, claimed: &BTreeSet<String>) -> Corrections {
    Corrections {
        dropped: allocation.instances.keys().filter(|it| !claimed.contains(*it)).cloned().collect(),
        added: claimed.iter().filter(|it| !allocation.instances.contains_key(*it)).cloned().collect(),
    }
}

/// Audits `alloc/<host>` once.
///
/// # Errors
/// What the store answers; [`Error::Unavailable`] where others placed there all the time.
pub async fn audit(store: &dyn Store, environment: &Environment, host: &str) -> Result<Corrections, Error> {
    let alloc = key::alloc(host);
    let mut backoff = Backoff::new(environment, Duration::from_millis(10), Duration::from_millis(500));
    for _ in 0..TRIES {
        // The sums first: where they are unchanged at the write, so are the claims, which are never written without them.
        let entry = store.get(&alloc).await?.entry;
        let mut allocation: Allocation = entry.as_ref().map(store::decode).transpose()?.unwrap_or_default();
        let prefix = key::all_on(host);
        let claims = store.range(&prefix).await?;
        let claimed = claims.entries.iter().map(|claim| key::last(&prefix, &claim.key).to_owned()).collect();
        let corrections = plan(&allocation, &claimed);
        if corrections.is_empty() {
            return Ok(corrections);
        }
        allocation.instances.retain(|instance, _| !corrections.dropped.contains(instance));
        for instance in &corrections.added {
            allocation.instances.insert(instance.clone(), Arc::new(promise(store, instance).await?));
        }
        let unchanged = match &entry {
            Some(entry) => Compare::ModRevision { key: alloc.clone(), revision: entry.mod_revision },
            None => Compare::Absent { key: alloc.clone() },
        };
        let put = Operation::put(&alloc, store::encode(&alloc, &allocation)?);
        if store.commit(Transaction::new().when(unchanged).then(put)).await?.succeeded {
            tracing::warn!(host, dropped = ?corrections.dropped, added = ?corrections.added, "what is promised was wrong");
            return Ok(corrections);
        }
        backoff.wait().await;
    }
    Err(Error::Unavailable { message: format!("{alloc} changes all the time") })
}

/// Audits at once and then hourly, for ever.
pub async fn keep(store: Arc<dyn Store>, environment: Environment, host: String) {
    let mut backoff = Backoff::new(&environment, Duration::from_secs(1), Duration::from_secs(60));
    let mut told = false;
    loop {
        match audit(store.as_ref(), &environment, &host).await {
            Ok(_) => {
                told = false;
                backoff.reset();
                tokio::time::sleep(environment.jitter(INTERVAL)).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(host, %error, "cannot audit what is promised; trying on");
                }
                backoff.wait().await;
            }
        }
    }
}

/// What the instance asks for. One whose resource is not there or cannot be read counts as nothing: better than a host whose
/// sums are never put right because of it.
async fn promise(store: &dyn Store, id: &str) -> Result<Promise, Error> {
    let Some(number) = identifier::parse(instance::BASE, id) else { return Ok(Promise::default()) };
    let Some(entry) = store.get(&key::resource(instance::BASE, number)).await?.entry else {
        return Ok(Promise::default());
    };
    Ok(match store::decode::<Resource>(&entry) {
        Ok(resource) => Promise::of(&resource),
        Err(error) => {
            tracing::error!(instance = id, %error, "what it asks for is unknown; counted as nothing");
            Promise::default()
        }
    })
}
