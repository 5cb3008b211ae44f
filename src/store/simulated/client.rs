//! One agent's way into the store.

use super::link::Link;
use super::server::Simulated;
use super::watch::listen;
use super::weather::{Course, Fate};
use crate::store::{
    Difference, Entry, Error, LeaseId, Lookup, Outcome, Revision, Snapshot, Store, StoreId, Transaction, Watch,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long an answer is waited for, unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What takes longer than this on its way there is done also where its caller has given up meanwhile.
const SLOW: Duration = Duration::from_millis(100);

/// See the module's text.
#[derive(Debug)]
pub struct Client {
    server: Simulated,
    name: String,
    link: Link,
    timeout: Duration,
    /// Who did what was asked last; 0 before the first.
    answered: Arc<AtomicU64>,
}

impl Client {
    pub(super) fn new(server: Simulated, name: &str) -> Self {
        Self { server, name: name.to_owned(), link: Link::default(), timeout: TIMEOUT, answered: Arc::default() }
    }

    /// Over this way, which others may share.
    #[must_use]
    pub fn over(self, link: Link) -> Self {
        Self { link, ..self }
    }

    /// Waits this long for an answer.
    #[must_use]
    pub fn patient_for(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Sends something there, has it done, and brings the answer back, if all of that comes about.
    async fn call<T: Send + 'static>(
        &self,
        writes: bool,
        act: impl FnOnce(&Simulated, &str) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (begun, restores) = (Instant::now(), self.server.restores());
        let answered = self.answered.clone();
        let act = move |server: &Simulated, name: &str| {
            answered.store(server.identity().0, Ordering::Relaxed);
            act(server, name)
        };
        let Course { there, back, fate } = self.server.course(writes);
        let open = self.link.pass().await;
        if fate == Fate::Refused {
            return Err(Error::Unavailable { message: "refused".into() });
        }
        if !open || fate == Fate::Lost {
            return self.lost(begun, writes).await;
        }
        if let Fate::Late(late) = fate {
            self.besides(restores, late, act);
            return self.lost(begun, writes).await;
        }
        let result = if writes && there > SLOW {
            let (answer, answered) = tokio::sync::oneshot::channel();
            self.besides(restores, there, move |server, name| {
                // Nobody may wait for it any more.
                let _ = answer.send(act(server, name));
                Ok(())
            });
            tokio::time::timeout_at(begun + self.timeout, answered).await.ok().and_then(Result::ok)
        } else {
            if !there.is_zero() {
                tokio::time::sleep(there).await;
            }
            self.server.takes(restores).then(|| act(&self.server, &self.name))
        };
        let Some(result) = result else { return self.lost(begun, writes).await };
        if fate == Fate::Unanswered || begun.elapsed() + back > self.timeout {
            return self.lost(begun, writes).await;
        }
        if !back.is_zero() {
            tokio::time::sleep(back).await;
        }
        if self.link.pass().await { result } else { self.lost(begun, writes).await }
    }

    /// Does it after a while, whatever its caller does meanwhile.
    fn besides<T: 'static>(
        &self,
        restores: u64,
        after: Duration,
        act: impl FnOnce(&Simulated, &str) -> Result<T, Error> + Send + 'static,
    ) {
        let (server, name) = (self.server.clone(), self.name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            if server.takes(restores) {
                drop(act(&server, &name));
            }
        });
    }

    /// No answer comes.
    async fn lost<T>(&self, begun: Instant, writes: bool) -> Result<T, Error> {
        tokio::time::sleep_until(begun + self.timeout).await;
        let message = format!("no answer within {:?}", self.timeout);
        Err(if writes { Error::OutcomeUnknown { message } } else { Error::Unavailable { message } })
    }
}

#[async_trait::async_trait]
impl Store for Client {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        let key = key.to_owned();
        self.call(false, move |server, _| {
            Ok(server.read(|state| Lookup { revision: state.revision, entry: state.entries.get(&key).cloned() }))
        })
        .await
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        let prefix = prefix.to_owned();
        self.call(false, move |server, _| {
            Ok(server
                .read(|state| Snapshot { revision: state.revision, entries: state.range(&prefix).cloned().collect() }))
        })
        .await
    }

    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        let prefix = prefix.to_owned();
        self.call(false, move |server, _| {
            Ok(server.read(|state| {
                let written = |entry: &&Entry| entry.mod_revision > after;
                Difference {
                    revision: state.revision,
                    written: state.range(&prefix).filter(written).cloned().collect(),
                    count: state.range(&prefix).count(),
                }
            }))
        })
        .await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        transaction.check()?;
        self.call(transaction.writes(), move |server, name| server.commit(name, &transaction)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let prefix = prefix.to_owned();
        let watcher = self.call(false, move |server, _| server.watch(&prefix, from)).await?;
        Ok(listen(watcher, self.link.clone()))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.call(true, move |server, _| Ok(server.grant(ttl))).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.call(false, move |server, _| server.keep_alive(lease)).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        self.call(false, move |server, _| Ok(server.time_to_live(lease))).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.call(true, move |server, _| server.end_lease(lease)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.call(true, move |server, _| server.compact(revision, false)).await
    }

    fn identity(&self) -> Option<StoreId> {
        match self.answered.load(Ordering::Relaxed) {
            0 => None,
            store => Some(StoreId(store)),
        }
    }

    fn single_host(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        "a simulated etcd".to_owned()
    }
}
