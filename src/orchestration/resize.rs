//! More memory, processors or disk for a virtual machine, and less of the first two: as its host has room for it.

use super::orchestrator::{Orchestrator, as_expected, invalid, updated};
use super::ports::refused;
use super::{ServiceError, Written};
use crate::membership::record::Host;
use crate::placement::share::{self, ShareError};
use crate::resource::types::virtual_machine;
use crate::resource::{Resource, State, identifier, instance};
use crate::store::{Compare, Revision, Transaction, decode, key};
use serde_json::{Map, Value};

/// Tries of one change against others who change the same, or place on the same host.
const TRIES: usize = 20;

/// Whether something is to change that its host promises, and its guest has from its start on.
pub(super) fn asks(changes: &Map<String, Value>) -> bool {
    virtual_machine::SIZES.iter().any(|field| changes.contains_key(*field))
}

impl Orchestrator {
    /// Changes an instance's memory and processors, with whatever else is asked for.
    pub(super) async fn resize(
        &self,
        id: u64,
        changes: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        virtual_machine::check_sizes(changes).map_err(refused)?;
        for _ in 0..TRIES {
            let (current, entry) = self.read(instance::BASE, id).await?;
            as_expected(&entry, expected)?;
            if !matches!(current.state, State::Stopped) {
                let field = virtual_machine::SIZES.iter().find(|field| changes.contains_key(**field));
                let message = format!(
                    "{} is {}: stop it first, and it has this from its next start on",
                    identifier::instance(id),
                    current.state
                );
                return Err(invalid("ActionNotAvailable", field.copied().unwrap_or_default(), message));
            }
            let next = updated(&current, changes);
            let transaction = self.shared(Transaction::new(), &next, instance::MEMORY_MB).await?;
            let transaction = self.changed_instance(transaction, (&current, &entry), &next).await?;
            let outcome = self.store().commit(transaction).await?;
            if outcome.succeeded {
                return Ok(Written::one(next, outcome.revision));
            }
        }
        Err(ServiceError::busy())
    }

    /// `transaction`, with what its host promises to `next`, where it has a host; `field` is what is too much otherwise.
    pub(super) async fn shared(
        &self,
        mut transaction: Transaction,
        next: &Resource,
        field: &str,
    ) -> Result<Transaction, ServiceError> {
        let Some(name) = next.get::<String>(instance::HOST_NAME) else { return Ok(transaction) };
        let (host, alloc) = (key::host(&name), key::alloc(&name));
        let (host, alloc) = tokio::join!(self.store().get(&host), self.store().get(&alloc));
        // Its host is just being taken out of the cluster.
        let Some(host) = host?.entry else { return Ok(transaction.when(Compare::Exists { key: key::host(&name) })) };
        let writes = share::hold(&decode::<Host>(&host)?, alloc?.entry, next).map_err(|error| match error {
            ShareError::Refused(refusal) => invalid("MaxLimitExceeded", field, format!("{name}: {refusal}")),
            ShareError::Store(error) => error.into(),
        })?;
        transaction.compares.extend(writes.compares);
        transaction.success.extend(writes.operations);
        Ok(transaction)
    }
}
