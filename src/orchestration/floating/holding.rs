//! Which host has a floating address: `holder/<address>`, one host and one of its lives.
//!
//! A host takes an address for itself by a transaction that finds nobody else there, and has it only while its fence's deadline
//! holds: its kernel drops it after that by itself. It gives it back when it has dropped it. Who comes after one that does
//! not give it back, because it is dead or cut off, waits until that one's life has ended in the store, and then as long as its
//! kernel may take.

use crate::membership::fence;
use crate::orchestration::ServiceError;
use crate::orchestration::orchestrator::{Orchestrator, unchanged, with_todo};
use crate::resource::{Resource, State, floating, identifier, instance};
use crate::store::{Compare, Entry, Operation, Revision, Transaction, decode, encode, key};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A lifetime is a number of whole seconds, and the kernel looks at it up to a second late.
const KERNEL: Duration = Duration::from_secs(2);
/// Where a host has not said how long to wait for it, it is one of before there were fences, with the usual lease.
const USUAL_LEASE: Duration = Duration::from_secs(10);

/// `holder/<address>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    host: String,
    /// The create_revision of its `alive/`.
    life: i64,
}

/// What became of an attempt to take an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// It is this host's as long as this life's deadline holds.
    Held,
    /// Another host has it still.
    Waits { host: String },
    /// It leads elsewhere, or nowhere.
    NotOurs,
}

impl Orchestrator {
    async fn holder(&self, address: u64) -> Result<Option<(Holder, Entry)>, ServiceError> {
        let Some(entry) = self.store().get(&key::holder(address)).await?.entry else { return Ok(None) };
        Ok(Some((decode(&entry)?, entry)))
    }

    /// Takes an address for `host` in its present life, for an instance that it has.
    ///
    /// # Errors
    /// What the store answers; nothing is known then.
    pub async fn hold_address(&self, host: &str, life: i64, address: u64, instance: u64) -> Result<Hold, ServiceError> {
        let (row, entry) = match self.read(floating::BASE, address).await {
            Ok(found) => found,
            Err(ServiceError::NotFound) => return Ok(Hold::NotOurs),
            Err(error) => return Err(error),
        };
        if floating::target(&row) != Some(instance) {
            return Ok(Hold::NotOurs);
        }
        let key = key::holder(address);
        let own = Holder { host: host.to_owned(), life };
        let mut transaction = match self.holder(address).await? {
            Some((holder, held)) if holder.host == host => Transaction::new().unchanged(&held.key, held.mod_revision),
            Some((holder, _)) => return Ok(Hold::Waits { host: holder.host }),
            None => Transaction::new().absent(&key),
        };
        transaction = transaction
            .when(unchanged(&entry))
            .when(Compare::CreateRevision { key: key::alive(host), revision: Revision(life) })
            .when(Compare::Exists { key: key::on(host, &identifier::instance(instance)) })
            .then(Operation::put(&key, encode(&key, &own)?));
        if row.state == State::Associating {
            let mut next = row.clone();
            next.enter(State::Associated);
            transaction = transaction.then(Operation::put(&entry.key, encode(&entry.key, &next)?));
            transaction = with_todo(transaction, floating::BASE, &row, &next, self.now())?;
        }
        match self.store().commit(transaction).await?.succeeded {
            true => Ok(Hold::Held),
            false => Err(ServiceError::busy()),
        }
    }

    /// Whether an address leads to an instance of `host`.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn leads_to(&self, host: &str, address: u64) -> Result<bool, ServiceError> {
        let (row, _) = self.read(floating::BASE, address).await?;
        let Some(instance) = floating::target(&row) else { return Ok(false) };
        let (instance, _) = self.read(instance::BASE, instance).await?;
        Ok(instance.get::<String>(instance::HOST_NAME).as_deref() == Some(host))
    }

    /// Gives an address back that this host's kernel has not any more; with `seen` only where nothing became of that since.
    ///
    /// # Errors
    /// What the store answers; it is to be asked again.
    pub async fn release_address(&self, host: &str, address: u64, seen: Option<Revision>) -> Result<(), ServiceError> {
        match self.holder(address).await? {
            // Taken again meanwhile: by who wants it now.
            Some((_, entry)) if seen.is_some_and(|seen| seen != entry.mod_revision) => Ok(()),
            Some((holder, entry)) if holder.host == host => match self.without_holder(address, &entry, None).await? {
                true => Ok(()),
                false => Err(ServiceError::busy()),
            },
            _ => Ok(()),
        }
    }

    /// What `host` is said to have, of this life or an earlier one, and since when.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn held_by(&self, host: &str) -> Result<Vec<(u64, Revision)>, ServiceError> {
        let prefix = key::holders();
        let entries = self.store().range(&prefix).await?.entries;
        let own = entries.iter().filter(|entry| decode::<Holder>(entry).is_ok_and(|holder| holder.host == host));
        let id = |entry: &Entry| key::last(&prefix, &entry.key).trim_end_matches('/').parse().ok();
        Ok(own.filter_map(|entry| Some((id(entry)?, entry.mod_revision))).collect())
    }

    /// Nobody has it any more; a row that waited for that goes on.
    async fn without_holder(&self, address: u64, held: &Entry, also: Option<Compare>) -> Result<bool, ServiceError> {
        let mut transaction =
            Transaction::new().unchanged(&held.key, held.mod_revision).then(Operation::delete(&held.key));
        transaction.compares.extend(also);
        let row = key::resource(floating::BASE, address);
        match self.store().get(&row).await?.entry {
            None => transaction = transaction.absent(&row),
            Some(entry) => {
                let current: Resource = decode(&entry)?;
                transaction = transaction.when(unchanged(&entry));
                if current.state == State::Disassociating {
                    let mut next = current.clone();
                    next.enter(State::Active);
                    transaction = transaction.then(Operation::put(&entry.key, encode(&entry.key, &next)?));
                    transaction = with_todo(transaction, floating::BASE, &current, &next, self.now())?;
                }
            }
        }
        Ok(self.store().commit(transaction).await?.succeeded)
    }

    /// Takes an address back from a host whose life has ended; whether nobody has it then.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn take_back(&self, address: u64) -> Result<bool, ServiceError> {
        let Some((holder, entry)) = self.holder(address).await? else { return Ok(true) };
        let alive = key::alive(&holder.host);
        let ended = |entry: Option<&Entry>| entry.is_none_or(|entry| entry.create_revision.0 != holder.life);
        if !ended(self.store().get(&alive).await?.entry.as_ref()) {
            return Ok(false);
        }
        let wait = match self.store().get(&key::fence(&holder.host)).await?.entry {
            Some(entry) => Duration::from_millis(decode::<fence::Wait>(&entry)?.wait_millis),
            None => fence::wait(USUAL_LEASE),
        };
        tokio::time::sleep(wait + KERNEL).await;
        let now = self.store().get(&alive).await?.entry;
        if !ended(now.as_ref()) {
            return Ok(false);
        }
        let still_ended = match now {
            None => Compare::Absent { key: alive },
            Some(entry) => Compare::CreateRevision { key: alive, revision: entry.create_revision },
        };
        let freed = self.without_holder(address, &entry, Some(still_ended)).await?;
        if freed {
            tracing::info!(address, host = holder.host, "taken back from a host whose lease has ended");
        }
        Ok(freed)
    }

    /// [`Self::take_back`] of all that `host` has; nobody would look for it under a name that is out of the cluster.
    pub(in crate::orchestration) async fn take_all_back(&self, host: &str) -> Result<bool, ServiceError> {
        let held = self.held_by(host).await?;
        let taken = try_join_all(held.iter().map(|(address, _)| self.take_back(*address))).await?;
        Ok(taken.into_iter().all(|taken| taken))
    }

    /// [`Self::take_back`], beside what was asked; where that fails, it is found again in `todo/`.
    pub(in crate::orchestration) fn take_back_besides(&self, address: u64) {
        let orchestrator = self.clone();
        tokio::spawn(async move {
            if let Err(error) = orchestrator.take_back(address).await {
                tracing::debug!(address, %error, "not taken back yet");
            }
        });
    }
}
