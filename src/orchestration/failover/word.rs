//! The operator's word about a host that is gone: move what moves, or it never comes back.

use crate::membership::lost::{Lost, Word};
use crate::orchestration::{Orchestrator, ServiceError, Written};
use crate::store::{Operation, Transaction, decode, encode, key};

/// Tries against those who look after the host, and the host itself.
const TRIES: usize = 8;

impl Orchestrator {
    /// Writes it down for those who look after the host.
    pub(in crate::orchestration) async fn say_of_host(&self, id: u64, word: Word) -> Result<Written, ServiceError> {
        for _ in 0..TRIES {
            let found = self.find_host(id).await?;
            let name = &found.host.name;
            if found.alive.is_some() {
                return Err(ServiceError::Conflict(format!(
                    "{name} is alive; this is for hosts that are gone. Stop its agent first, or let it be"
                )));
            }
            if word == Word::Remove && self.store().range(&key::all_on(name)).await?.entries.is_empty() {
                return self.remove_host(id).await;
            }
            let key = key::lost(name);
            let entry = self.store().get(&key).await?.entry;
            let transaction = Transaction::new().absent(key::alive(name));
            let (transaction, lost) = match &entry {
                Some(entry) => (transaction.unchanged(&key, entry.mod_revision), decode::<Lost>(entry)?),
                None => (transaction.absent(&key), Lost::new(self.now(), None)),
            };
            let lost = Lost { word: Some(word), ..lost };
            let outcome = self.store().commit(transaction.then(Operation::put(&key, encode(&key, &lost)?))).await?;
            if outcome.succeeded {
                let mut row = found.host.resource(None);
                lost.show(&mut row);
                return Ok(Written::one(row, found.entry.mod_revision));
            }
        }
        Err(ServiceError::Conflict("it comes and goes; try again".into()))
    }
}
