//! A store that counts what goes through it.

use futures::StreamExt;
use stampede::store::{
    Answer, Difference, Error, LeaseId, Lookup, Operation, Outcome, Revision, Snapshot, Store, Transaction, Watch,
    WatchEvent, key,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// See the module's text.
#[derive(Debug)]
pub struct Counting {
    store: Arc<dyn Store>,
    pub counts: Arc<Counts>,
}

/// Since the store was made.
#[derive(Debug, Default)]
pub struct Counts {
    /// Transactions sent, those inside others not counted.
    pub transactions: AtomicU64,
    /// Single keys and prefixes read.
    pub reads: AtomicU64,
    /// Claims that were made, and such as failed because something was not as it was thought to be.
    pub claimed: AtomicU64,
    pub refused: AtomicU64,
    /// Changes that watches told.
    pub changes: AtomicU64,
}

impl Counts {
    /// All of them as they are now, in the order in which they stand above.
    pub fn now(&self) -> [u64; 5] {
        [&self.transactions, &self.reads, &self.claimed, &self.refused, &self.changes].map(|count| count.load(Relaxed))
    }

    /// Counts the claims of a transaction; those inside one that failed failed too.
    fn claims(&self, transaction: &Transaction, outcome: &Outcome) {
        if !outcome.succeeded {
            self.refused.fetch_add(claims_in(transaction), Relaxed);
            return;
        }
        for (operation, answer) in transaction.success.iter().zip(&outcome.answers) {
            match (operation, answer) {
                (Operation::Nested(inner), Answer::Nested(outcome)) => self.claims(inner, outcome),
                _ => drop(self.claimed.fetch_add(u64::from(is_claim(operation)), Relaxed)),
            }
        }
    }
}

fn claims_in(transaction: &Transaction) -> u64 {
    let each = transaction.success.iter().map(|operation| match operation {
        Operation::Nested(inner) => claims_in(inner),
        operation => u64::from(is_claim(operation)),
    });
    each.sum()
}

fn is_claim(operation: &Operation) -> bool {
    matches!(operation, Operation::Put { key, .. } if key.strip_prefix(key::ROOT).is_some_and(|key| key.starts_with("on/")))
}

impl Counting {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, counts: Arc::default() }
    }
}

#[async_trait::async_trait]
impl Store for Counting {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        self.counts.reads.fetch_add(1, Relaxed);
        self.store.get(key).await
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.counts.reads.fetch_add(1, Relaxed);
        self.store.range(prefix).await
    }

    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        self.store.changed_since(prefix, after).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        self.counts.transactions.fetch_add(1, Relaxed);
        let outcome = self.store.commit(transaction.clone()).await?;
        self.counts.claims(&transaction, &outcome);
        Ok(outcome)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let counts = self.counts.clone();
        let watch = self.store.watch(prefix, from).await?;
        let counted = watch.inspect(move |event| {
            if let Ok(WatchEvent::Changed { changes, .. }) = event {
                counts.changes.fetch_add(changes.len() as u64, Relaxed);
            }
        });
        Ok(counted.boxed())
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.store.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.store.keep_alive(lease).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        self.store.time_to_live(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke_lease(lease).await
    }

    fn single_host(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}
