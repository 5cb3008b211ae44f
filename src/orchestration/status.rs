//! What a host saw, into the store: one transaction that compares the claim's token, so that a host that lost its claim
//! changes nothing.

use super::handlers::Cause;
use super::orchestrator::{Orchestrator, with_todo, woken};
use super::record::Tombstone;
use super::{ServiceError, lifecycle};
use crate::placement::Writes;
use crate::placement::release::{self, Holding, ReleaseError};
use crate::resource::assignment::Token;
use crate::resource::{Resource, State, identifier, instance, link};
use crate::store::{self, Compare, Entry, Operation, Revision, Transaction, decode, encode, key};
use bytes::Bytes;
use std::net::Ipv4Addr;

/// Tries of one status before it is left to the next look.
const TRIES: usize = 6;

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The claim is another's, or gone: what runs here is nobody's any more.
    #[error("the claim is no longer held")]
    ClaimLost,
    #[error("others kept changing it; it is looked at again")]
    Busy,
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

/// A host that is gone, as it was seen.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub host: String,
    /// The create_revision of its `lost/`: it was gone without a break since then.
    pub lost: Revision,
}

/// What became of something that a host saw.
#[derive(Clone, Debug)]
pub enum Told {
    /// It changes nothing.
    Nothing,
    /// The row as it is now.
    Written(Entry),
    /// The instance is not this host's any more.
    GivenUp,
}

impl Orchestrator {
    /// Writes what `host` saw of an instance; `read` is its row as the host last read or wrote it.
    pub async fn observed(
        &self,
        host: &str,
        token: Token,
        read: &Entry,
        seen: &lifecycle::Observation,
    ) -> Result<Told, StatusError> {
        self.observed_exposing(host, token, read, seen, None).await
    }

    /// The same, and what its image exposes where the host found that too.
    pub async fn observed_exposing(
        &self,
        host: &str,
        token: Token,
        read: &Entry,
        seen: &lifecycle::Observation,
        exposed: Option<&link::Ports>,
    ) -> Result<Told, StatusError> {
        let row = read.key.clone();
        let Resource { id, generation, .. } = decode(read)?;
        // Mostly nobody wrote it since: the transaction compares that, and only then it is read again.
        let mut known = Some(read.clone());
        for _ in 0..TRIES {
            let entry = match known.take() {
                Some(entry) => entry,
                None => self.store().get(&row).await?.entry.ok_or(StatusError::ClaimLost)?,
            };
            let current: Resource = decode(&entry)?;
            let now = self.environment().clock.now();
            let observed = lifecycle::observe(&current, generation, seen, now);
            let news = exposed.filter(|_| !link::knows_image_ports(&current));
            let Some(mut next) = observed.or_else(|| news.map(|_| current.clone())) else {
                return Ok(Told::Nothing);
            };
            if let Some(exposed) = news {
                link::set_image_ports(&mut next, exposed);
            }
            let held = Compare::CreateRevision {
                key: key::on(host, &identifier::instance(id)),
                revision: Revision(token.revision),
            };
            let free = lifecycle::to_deallocate(&next) && next.state == State::Stopped;
            if next.state == State::Purged || free {
                let next = if free { lifecycle::deallocated(&next) } else { next };
                let homeless = lifecycle::drive(&next, now) == lifecycle::Next::Place;
                match self.given_up(host, token, &current, entry.mod_revision, next, Vec::new()).await {
                    Ok(()) => {
                        if homeless {
                            self.drive_besides(instance::BASE, id);
                        }
                        return Ok(Told::GivenUp);
                    }
                    Err(ReleaseError::Conflict { .. } | ReleaseError::Contended) => continue,
                    Err(ReleaseError::NotHeld { .. }) => return Err(StatusError::ClaimLost),
                    Err(ReleaseError::Store(error)) => return Err(error.into()),
                }
            }
            let next = self.pass(instance::BASE, Some(&current), next, Cause::Seen).await?;
            if next == current {
                return Ok(Told::Nothing);
            }
            let on = key::on(host, &identifier::instance(id));
            let value = encode(&row, &next)?;
            let transaction = self
                .written(host, &current, &next, value.clone())
                .await?
                .when(held)
                .unchanged(&row, entry.mod_revision)
                .or_else(Operation::get(on));
            let outcome = self.store().commit(transaction).await?;
            if outcome.succeeded {
                return Ok(Told::Written(Entry { value, mod_revision: outcome.revision, ..entry }));
            }
            let still_ours = outcome.answers.iter().any(|answer| match answer {
                store::Answer::Entries(entries) => {
                    entries.iter().any(|entry| entry.create_revision.0 == token.revision)
                }
                _ => false,
            });
            if !still_ours {
                return Err(StatusError::ClaimLost);
            }
        }
        Err(StatusError::Busy)
    }

    /// The new row; and the claim's generation where the host itself changed what is wanted.
    async fn written(
        &self,
        host: &str,
        current: &Resource,
        next: &Resource,
        value: Bytes,
    ) -> Result<Transaction, StatusError> {
        let row = key::resource(instance::BASE, next.id);
        let mut transaction = Transaction::new().then(Operation::put(&row, value));
        if next.generation != current.generation {
            let on = key::on(host, &identifier::instance(next.id));
            let entry = self.store().get(&on).await?.entry.ok_or(StatusError::ClaimLost)?;
            transaction = woken(transaction, &entry, next.generation)?;
        }
        Ok(with_todo(transaction, instance::BASE, current, next, self.environment().clock.now())?)
    }

    /// Takes an instance off a host that is gone, in one transaction with its row as it is to be then.
    pub(super) async fn taken_off(
        &self,
        gone: &Gone,
        token: Token,
        current: &Resource,
        revision: Revision,
        next: Resource,
    ) -> Result<(), ReleaseError> {
        let also = vec![
            Compare::Absent { key: key::alive(&gone.host) },
            Compare::CreateRevision { key: key::lost(&gone.host), revision: gone.lost },
        ];
        self.given_up(&gone.host, token, current, revision, next, also).await
    }

    /// The new row, without claim, address and share; with a tombstone where it was purged.
    async fn given_up(
        &self,
        host: &str,
        token: Token,
        current: &Resource,
        revision: Revision,
        next: Resource,
        also: Vec<Compare>,
    ) -> Result<(), ReleaseError> {
        let now = self.environment().clock.now();
        let row = key::resource(instance::BASE, next.id);
        let purged = next.state == State::Purged;
        let next = self.pass(instance::BASE, Some(current), next, Cause::Seen).await?;
        let mut transaction =
            Transaction::new().unchanged(&row, revision).then(Operation::put(&row, encode(&row, &next)?));
        if purged {
            let gone = key::gone(&next.uuid);
            let tombstone = Tombstone { id: next.id, kind: next.kind.clone(), purged: now };
            transaction = transaction.then(Operation::put(&gone, encode(&gone, &tombstone)?));
        }
        let transaction = with_todo(transaction, instance::BASE, current, &next, now)?;
        let compares = transaction.compares.into_iter().chain(also).collect();
        let also = Writes { compares, operations: transaction.success };
        // A native container has one of those that its host keeps for Docker.
        let own = current.get::<Ipv4Addr>(instance::ADDRESS).filter(|_| !instance::is_native(current));
        let address = own.and_then(|address| self.placer().release(address));
        let holding = Holding { id: next.id, host: host.to_owned(), token, address };
        release::release(self.store().as_ref(), self.environment(), &holding, &also).await?;
        Ok(())
    }
}
