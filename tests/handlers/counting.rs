//! A store that counts what it is asked, and may be late to tell what changed.

use futures::StreamExt;
use stampede::store::{Difference, Error, LeaseId, Lookup, Outcome, Revision, Snapshot, Store, Transaction, Watch};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

#[derive(Debug)]
pub struct Counting {
    pub inner: Arc<dyn Store>,
    pub reads: AtomicUsize,
    pub writes: AtomicUsize,
    /// Milliseconds from a change to word of it.
    pub late: AtomicU64,
}

impl Counting {
    pub fn of(inner: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { inner, reads: AtomicUsize::new(0), writes: AtomicUsize::new(0), late: AtomicU64::new(0) })
    }

    pub fn counts(&self) -> (usize, usize) {
        (self.reads.load(Ordering::SeqCst), self.writes.load(Ordering::SeqCst))
    }

    fn read(&self) {
        self.reads.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait::async_trait]
impl Store for Counting {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        self.read();
        self.inner.get(key).await
    }
    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.read();
        self.inner.range(prefix).await
    }
    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        self.read();
        self.inner.changed_since(prefix, after).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        self.writes.fetch_add(1, Ordering::SeqCst);
        self.inner.commit(transaction).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let late = Duration::from_millis(self.late.load(Ordering::SeqCst));
        let told = self.inner.watch(prefix, from).await?.then(move |event| async move {
            tokio::time::sleep(late).await;
            event
        });
        Ok(told.boxed())
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.inner.keep_alive(lease).await
    }
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        self.inner.time_to_live(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke_lease(lease).await
    }
    fn single_host(&self) -> bool {
        self.inner.single_host()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}
