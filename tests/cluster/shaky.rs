//! A store that loses answers, before or after the write was done.

use stampede::environment::Environment;
use stampede::store::{Difference, Error, LeaseId, Lookup, Outcome, Revision, Snapshot, Store, Transaction, Watch};
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub struct Shaky {
    pub store: Arc<dyn Store>,
    pub environment: Environment,
    /// One of so many commits is lost before it is done, as many after.
    pub one_of: usize,
}

#[async_trait::async_trait]
impl Store for Shaky {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        self.store.get(key).await
    }
    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.store.range(prefix).await
    }
    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        self.store.changed_since(prefix, after).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        let lost = || Error::OutcomeUnknown { message: "lost".into() };
        match self.environment.below(self.one_of) {
            0 => Err(lost()),
            1 => self.store.commit(transaction).await.and_then(|_| Err(lost())),
            // Sent, given up, and done a while later.
            2 => {
                let (store, delay) = (self.store.clone(), self.environment.jitter(Duration::from_millis(200)));
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let _ = store.commit(transaction).await;
                });
                Err(lost())
            }
            _ => self.store.commit(transaction).await,
        }
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.store.watch(prefix, from).await
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
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.store.compact(revision).await
    }
    fn single_host(&self) -> bool {
        self.store.single_host()
    }
    fn describe(&self) -> String {
        self.store.describe()
    }
}
