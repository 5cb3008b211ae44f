//! Whether the store went back in time: a backup of etcd was restored under this agent, with or without its knowledge.
//!
//! ```text
//!  every answer: which store it is of, and its revision against the highest seen, in answers and watches, before it was asked
//!        │ another, or lower              ▲ the cluster is a new generation (`stampede store restored`):
//!        ▼                                │ the agent starts anew with it
//!   hands off: every call fails, as if the store could not be reached ─┘
//! ```
//! What an older store says was true once; to act on it would remove what was made since and give ids out twice. So
//! nothing is done with it, keepalives included, until somebody has said that this is how it is to be from now on: then
//! the generation is higher. The highest (generation, revision) lies in `<state>/store.json`, for an agent that was down
//! meanwhile; it is at most a minute old.
//!
//! An etcd that was restored with another `--initial-cluster-token` says in each answer that it is another cluster. Where it was
//! restored with the same, the revision alone tells, and a store that was restored long ago may have come further than the one
//! before it. It is while etcd is away that it is restored. So after each call that failed, and where nothing was heard of the store for
//! a moment (a lost connection is made anew unseen), it is looked at before the next write.

use super::identity;
use crate::store::{
    Difference, Error, LeaseId, Lookup, Outcome, Revision, Snapshot, Store, StoreId, Transaction, Watch, WatchEvent,
    key,
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The file is written this often, where there is something new.
const SAVED: Duration = Duration::from_secs(60);
/// No etcd is stopped, restored and started within this: that is two processes and an election; on a disk of memory it took 180 ms.
const MOMENT: Duration = Duration::from_millis(50);
/// A store that went back is looked at this often.
const LOOK: Duration = Duration::from_secs(5);

/// The file's form.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Known {
    cluster: String,
    generation: u64,
    /// The highest revision seen in it.
    revision: Revision,
    /// The store that it is in, where that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<StoreId>,
    /// At which revision the store was seen that had gone back, or is another.
    #[serde(skip_serializing_if = "Option::is_none")]
    back: Option<Revision>,
}

#[derive(Debug, Default)]
struct State {
    known: Known,
    saved: Known,
    /// When it last was the same store for certain: something was asked then and answered, a moment after the time before, back
    /// to a look at it. `None` after a call that failed.
    sure: Option<Instant>,
    /// The generation with which this agent works; `None` before its first look.
    working: Option<u64>,
}

/// Revisions of one generation follow one another; those of two have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Floor {
    generation: u64,
    revision: Revision,
}

impl Known {
    fn floor(&self) -> Floor {
        Floor { generation: self.generation, revision: self.revision }
    }

    /// Whether `answered` is not the store in which it was seen, by its own word.
    fn is_of_another(&self, answered: Option<StoreId>) -> bool {
        self.store.zip(answered).is_some_and(|(known, answered)| known != answered)
    }

    /// What is written down at once where it changes.
    fn place(&self) -> (&str, u64, Option<StoreId>) {
        (&self.cluster, self.generation, self.store)
    }
}

/// What one agent knows of its store's history; shared by all its connections.
#[derive(Clone, Debug)]
pub struct History(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
}

/// A call that was sent.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// What no answer to it can be behind.
    floor: Floor,
    at: Instant,
}

/// `cluster`, as far as it matters here.
#[derive(Deserialize)]
struct Cluster {
    id: String,
    generation: u64,
}

impl History {
    /// As the host's disk has it.
    ///
    /// # Errors
    /// Where the file is there and cannot be read: without it nobody can tell.
    pub fn open(state: &Path) -> Result<Self, identity::Error> {
        let path = state.join("store.json");
        let known: Known = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| identity::Error::File {
                action: "read",
                path: path.clone(),
                source: source.into(),
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Known::default(),
            Err(source) => return Err(identity::Error::File { action: "read", path, source }),
        };
        let state = State { saved: known.clone(), known, sure: None, working: None };
        Ok(Self(Arc::new(Shared { path, state: Mutex::new(state) })))
    }

    /// `store`, with every answer held against what is known.
    pub fn guard(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(Guarded { store, history: self.clone() })
    }

    /// Keeps the file, and looks at a store that went back; ends when the cluster is a new generation, with which the agent
    /// has to start anew. `store` is one that is not guarded.
    pub async fn keep(&self, store: Arc<dyn Store>) {
        let mut saved = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let unsure = {
                let state = self.state();
                state.known.back.is_some() || (state.working.is_some() && state.sure.is_none())
            };
            if unsure {
                let _ = self.look(store.as_ref()).await;
            } else if saved.elapsed() >= SAVED {
                self.save();
                saved = Instant::now();
            }
            if self.state().is_new_generation() {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before a call. Where it is not sure that it is the same store still, that is seen to before a write, and before anything
    /// at all is asked for the first time.
    async fn before(&self, store: &dyn Store, writes: bool) -> Result<Asked, Error> {
        let look = {
            let state = self.state();
            if state.working.is_some() {
                state.refused()?;
            }
            state.working.is_none() || (writes && !state.sure_at(Instant::now()))
        };
        if look {
            self.look(store).await?;
        }
        let state = self.state();
        // It may have seen a new generation, for which this call was not meant.
        state.refused()?;
        Ok(Asked { floor: state.known.floor(), at: Instant::now() })
    }

    /// After it.
    fn after(&self, Asked { floor, at }: Asked, seen: Revision, store: Option<StoreId>) -> Result<(), Error> {
        let mut state = self.state();
        if state.known.generation == floor.generation {
            if seen < floor.revision || state.known.is_of_another(store) {
                return self.went_back(state, seen);
            }
            state.refused()?;
            state.known.revision = seen.max(state.known.revision);
            if state.sure_at(at) {
                state.sure = state.sure.max(Some(at));
            }
            return Ok(());
        }
        // Another one saw a new generation meanwhile: of which of the two this answer is, it does not tell.
        state.refused()
    }

    /// From a watch: all that an agent sees that asks for nothing.
    fn heard(&self, generation: u64, revision: Revision) {
        let known = &mut self.state().known;
        if known.generation == generation && known.back.is_none() {
            known.revision = revision.max(known.revision);
        }
    }

    fn failed(&self, error: Error) -> Error {
        if matches!(error, Error::Unavailable { .. } | Error::OutcomeUnknown { .. }) {
            self.state().sure = None;
        }
        error
    }

    fn went_back(&self, mut state: MutexGuard<'_, State>, seen: Revision) -> Result<(), Error> {
        let first = state.known.back.is_none();
        state.known.back.get_or_insert(seen);
        let refused = state.refused();
        drop(state);
        if let (true, Err(error)) = (first, &refused) {
            tracing::error!(%error, "hands off");
            self.save();
        }
        refused
    }

    /// Is it the same store still?
    async fn look(&self, store: &dyn Store) -> Result<(), Error> {
        // What others hear while this answer is on its way does not make it an old one.
        let before = self.state().known.clone();
        let at = Instant::now();
        let floor = before.floor();
        let lookup = store.get(&key::cluster()).await?;
        let answered = store.identity();
        let cluster: Option<Cluster> = lookup.entry.as_ref().map(crate::store::decode).transpose()?;
        let mut state = self.state();
        let known = &mut state.known;
        match cluster {
            Some(found) if found.id != known.cluster || found.generation > known.generation => {
                // Another cluster's is looked at by who joins it: its certificates tell.
                let (generation, revision) = (found.generation, lookup.revision);
                *known = Known { cluster: found.id, generation, revision, store: answered, back: None };
                state.working.get_or_insert(found.generation);
            }
            // Another look saw a new generation meanwhile, and this answer is of the time before.
            found
                if known.generation != floor.generation
                    && found.as_ref().is_none_or(|found| found.generation != known.generation) =>
            {
                return Err(Error::Unavailable { message: "its cluster became a new generation meanwhile".into() });
            }
            Some(found)
                if (Floor { generation: found.generation, revision: lookup.revision }) < floor
                    || known.is_of_another(answered) =>
            {
                return self.went_back(state, lookup.revision);
            }
            Some(found) => {
                state.working.get_or_insert(found.generation);
                // One that went back once has been another store since, however far it has come.
                state.refused()?;
                state.known.revision = lookup.revision.max(state.known.revision);
                state.known.store = state.known.store.or(answered);
            }
            // Before the first agent made it; or of a store that was lost, or into which a backup is being read.
            None if before.cluster.is_empty() => {}
            None => return self.went_back(state, lookup.revision),
        }
        state.sure = Some(at);
        let new = state.known.place() != state.saved.place();
        drop(state);
        if new {
            self.save();
        }
        Ok(())
    }

    fn save(&self) {
        let known = {
            let mut state = self.state();
            if state.saved == state.known || state.known.cluster.is_empty() {
                return;
            }
            state.saved = state.known.clone();
            state.known.clone()
        };
        let written = serde_json::to_vec(&known)
            .map_err(std::io::Error::from)
            .map_err(|source| identity::Error::File { action: "write", path: self.0.path.clone(), source });
        if let Err(error) = written.and_then(|bytes| identity::replace(&self.0.path, &bytes)) {
            tracing::warn!(%error, "a restored backup of the store may go unnoticed when this agent starts again");
        }
    }
}

impl State {
    fn refused(&self) -> Result<(), Error> {
        let message = match self.known.back {
            Some(back) => {
                let how = if back < self.known.revision {
                    format!("it went back from revision {} to {back}", self.known.revision)
                } else {
                    let store = self.known.store.map(|store| format!(" {store}")).unwrap_or_default();
                    format!("it is not the etcd cluster{store} any more in which this host knows its own")
                };
                format!(
                    "{how}: a backup was restored, or another store put in its place. What runs goes on, and nothing is \
                     done with it. If it is to be so, run `stampede store restored` on one host; if this host is to forget \
                     the cluster, remove store.json from its state directory"
                )
            }
            None if self.is_new_generation() => {
                "its cluster is a new generation, with which this agent has to start anew".to_owned()
            }
            None => return Ok(()),
        };
        Err(Error::Unavailable { message })
    }

    /// Whether what is asked `at` this time is asked of the same store as before.
    fn sure_at(&self, at: Instant) -> bool {
        self.sure.is_some_and(|sure| at.saturating_duration_since(sure) <= MOMENT)
    }

    fn is_new_generation(&self) -> bool {
        self.working.is_some_and(|working| working < self.known.generation)
    }
}

#[derive(Debug)]
struct Guarded {
    store: Arc<dyn Store>,
    history: History,
}

impl Guarded {
    async fn seen<T>(
        &self,
        writes: bool,
        call: impl Future<Output = Result<T, Error>>,
        revision: fn(&T) -> Revision,
    ) -> Result<T, Error> {
        let asked = self.history.before(self.store.as_ref(), writes).await?;
        let answer = call.await.map_err(|error| self.history.failed(error))?;
        self.history.after(asked, revision(&answer), self.store.identity())?;
        Ok(answer)
    }

    /// Of what has no revision.
    async fn unseen<T>(&self, writes: bool, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        self.history.before(self.store.as_ref(), writes).await?;
        call.await.map_err(|error| self.history.failed(error))
    }
}

#[async_trait::async_trait]
impl Store for Guarded {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        self.seen(false, self.store.get(key), |lookup| lookup.revision).await
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.seen(false, self.store.range(prefix), |snapshot| snapshot.revision).await
    }

    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        self.seen(false, self.store.changed_since(prefix, after), |difference| difference.revision).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        self.seen(true, self.store.commit(transaction), |outcome| outcome.revision).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let watch = self.unseen(false, self.store.watch(prefix, from)).await?;
        let (history, generation) = (self.history.clone(), self.history.state().known.generation);
        let heard = watch.map(move |message| {
            if let Ok(WatchEvent::Changed { revision, .. } | WatchEvent::Progress { revision }) = &message {
                history.heard(generation, *revision);
            }
            message.map_err(|error| history.failed(error))
        });
        Ok(heard.boxed())
    }

    async fn attend(&self) {
        self.store.attend().await;
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.unseen(true, self.store.grant_lease(ttl)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.unseen(false, self.store.keep_alive(lease)).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        self.unseen(false, self.store.time_to_live(lease)).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.unseen(true, self.store.revoke_lease(lease)).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.unseen(true, self.store.compact(revision)).await
    }

    fn identity(&self) -> Option<StoreId> {
        self.store.identity()
    }

    fn single_host(&self) -> bool {
        self.store.single_host()
    }

    fn describe(&self) -> String {
        self.store.describe()
    }
}

#[cfg(test)]
mod tests;
