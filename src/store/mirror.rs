//! A prefix of the store kept in memory, decoded.
//!
//! ```text
//!            range                     changes, one event a revision
//!  ┌───────┐ ─────────► ┌────────────┐ ──────────────────────────────┐
//!  │ blind │            │ following  │ ◄─────────────────────────────┘
//!  └───────┘ ◄───────── └────────────┘
//!            cut off, compacted, odd
//! ```
//! What is shown while blind is the last known, marked stale. On the way back the new list is compared with the old, so
//! that what vanished meanwhile is noticed. Readers learn of changes by [`Changes`]: a set of keys to look at again, which
//! cannot lag or overflow; what a key holds is read from the mirror, never from the event.

mod follower;

use super::{Change, Entry, Revision, Store, decode};
use crate::environment::{Clock, Environment};
use follower::Follower;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// What was heard this long ago is as good as now to who reads.
const RECENT: Duration = Duration::from_secs(1);

/// One decoded value with its revisions.
#[derive(Debug)]
pub struct Item<T> {
    pub value: Arc<T>,
    pub create_revision: Revision,
    pub mod_revision: Revision,
}

impl<T> Clone for Item<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), create_revision: self.create_revision, mod_revision: self.mod_revision }
    }
}

/// How good what is shown is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// Everything up to it is in.
    pub revision: Revision,
    /// Whether it was ever listed whole.
    pub listed: bool,
    /// Since when ([`crate::environment::Clock::boottime`]) nothing is known for sure; `None` while it is followed.
    pub stale_since: Option<Duration>,
    /// When (by the same clock) it was last known that nothing is missed.
    pub heard: Duration,
}

impl Freshness {
    /// As good as the worse of two in each respect.
    pub fn worse(self, other: Self) -> Self {
        Self {
            revision: self.revision.min(other.revision),
            listed: self.listed && other.listed,
            stale_since: match (self.stale_since, other.stale_since) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            },
            heard: self.heard.min(other.heard),
        }
    }
}

/// The values of a prefix, by what comes behind the prefix in their keys.
pub type View<T> = BTreeMap<String, Item<T>>;

/// See the module's text. Cheap to clone; the following ends with the last clone.
#[derive(Debug)]
pub struct Mirror<T> {
    shared: Arc<Shared<T>>,
    _task: Arc<AbortOnDrop>,
}

impl<T> Clone for Mirror<T> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _task: self._task.clone() }
    }
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
struct Shared<T> {
    prefix: String,
    clock: Arc<dyn Clock>,
    view: RwLock<View<T>>,
    freshness: watch::Sender<Freshness>,
    readers: Mutex<Vec<Weak<Dirty>>>,
    /// Somebody wants to know whether it is still heard.
    asked: Notify,
    /// Somebody waits for what is known to be fresh again.
    hurry: Notify,
    /// One of many, whose troubles are told elsewhere.
    one_of_many: bool,
}

#[derive(Debug, Default)]
struct Dirty {
    keys: Mutex<BTreeSet<String>>,
    notify: Notify,
}

/// The keys that changed since they were last asked for.
#[derive(Debug)]
pub struct Changes(Arc<Dirty>);

impl Changes {
    /// What changed since, without waiting.
    pub fn take(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut *self.0.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until something changed; then all of it at once.
    pub async fn next(&mut self) -> BTreeSet<String> {
        loop {
            let keys = self.take();
            if !keys.is_empty() {
                return keys;
            }
            self.0.notify.notified().await;
        }
    }
}

impl<T: DeserializeOwned + Debug + Send + Sync + 'static> Mirror<T> {
    /// Begins to follow `prefix`, in a task of its own.
    pub fn start(store: Arc<dyn Store>, environment: &Environment, prefix: impl Into<String>) -> Self {
        Self::follow(store, environment, prefix.into(), false)
    }

    /// The same for one of many small ones: that the store cannot be followed is told by whoever has them all.
    pub fn one_of_many(store: Arc<dyn Store>, environment: &Environment, prefix: impl Into<String>) -> Self {
        Self::follow(store, environment, prefix.into(), true)
    }

    fn follow(store: Arc<dyn Store>, environment: &Environment, prefix: String, one_of_many: bool) -> Self {
        let now = environment.clock.boottime();
        let freshness = Freshness { revision: Revision(0), listed: false, stale_since: Some(now), heard: now };
        let shared = Arc::new(Shared {
            prefix,
            clock: environment.clock.clone(),
            view: RwLock::new(BTreeMap::new()),
            freshness: watch::Sender::new(freshness),
            readers: Mutex::new(Vec::new()),
            asked: Notify::new(),
            hurry: Notify::new(),
            one_of_many,
        });
        let task = tokio::spawn(Follower::new(shared.clone(), store, environment).run());
        Self { shared, _task: Arc::new(AbortOnDrop(task)) }
    }

    /// What is known. Do not hold it over an await.
    pub fn view(&self) -> RwLockReadGuard<'_, View<T>> {
        self.shared.view.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, key: &str) -> Option<Item<T>> {
        self.view().get(key).cloned()
    }

    pub fn freshness(&self) -> Freshness {
        *self.shared.freshness.borrow()
    }

    /// From now on, which keys change; at first, all that there are.
    pub fn changes(&self) -> Changes {
        let dirty = Arc::new(Dirty::default());
        self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&dirty));
        let there: Vec<String> = self.view().keys().cloned().collect();
        dirty.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(there);
        Changes(dirty)
    }

    /// Where it is cut off, it tries again now and not when its time has come: somebody waits for it.
    pub fn hasten(&self) {
        self.shared.hurry.notify_one();
    }

    /// Waits until it was listed once; false after `limit`.
    pub async fn listed(&self, limit: Duration) -> bool {
        self.wait(limit, |freshness| freshness.listed).await
    }

    /// Waits until everything up to `revision` is in; false after `limit`. The caller must have seen a write to *this
    /// prefix* at that revision: a mirror hears nothing of others.
    pub async fn reached(&self, revision: Revision, limit: Duration) -> bool {
        self.wait(limit, |freshness| freshness.listed && freshness.revision >= revision).await
    }

    /// Waits until it is followed; false after `limit`.
    pub async fn followed(&self, limit: Duration) -> bool {
        self.wait(limit, |freshness| freshness.stale_since.is_none()).await
    }

    /// Makes sure that what is shown as followed is: a member of etcd that is lost ends no watch, and pings tell only seconds
    /// later. Where nothing was heard for a moment ([`RECENT`]) it is asked for. False where that cannot be known within `limit`,
    /// and where it is stale.
    pub async fn attended(&self, limit: Duration) -> bool {
        let now = self.shared.clock.boottime();
        let known = self.freshness();
        if known.stale_since.is_none() && known.heard + RECENT < now {
            self.shared.asked.notify_one();
            let answered = |freshness: &Freshness| freshness.heard >= now || freshness.stale_since.is_some();
            return self.wait(limit, answered).await && self.freshness().stale_since.is_none();
        }
        known.stale_since.is_none()
    }

    async fn wait(&self, limit: Duration, until: impl FnMut(&Freshness) -> bool) -> bool {
        let mut freshness = self.shared.freshness.subscribe();
        matches!(tokio::time::timeout(limit, freshness.wait_for(until)).await, Ok(Ok(_)))
    }
}

impl<T: DeserializeOwned + Debug + Send + Sync + 'static> Shared<T> {
    fn item(entry: &Entry) -> Option<Item<T>> {
        match decode(entry) {
            Ok(value) => Some(Item {
                value: Arc::new(value),
                create_revision: entry.create_revision,
                mod_revision: entry.mod_revision,
            }),
            Err(error) => {
                tracing::error!(key = entry.key, %error, "a record cannot be read; it is left alone");
                None
            }
        }
    }

    /// One entry into the view; the key where that changed something.
    fn put(&self, view: &mut View<T>, entry: &Entry) -> Option<String> {
        let key = super::key::last(&self.prefix, &entry.key).to_owned();
        if view.get(&key).is_some_and(|known| known.mod_revision == entry.mod_revision) {
            return None;
        }
        // What cannot be read any more keeps its last readable form.
        view.insert(key.clone(), Self::item(entry)?);
        Some(key)
    }

    /// The whole prefix as it is at `revision`; the keys where that changed something.
    fn replace(&self, entries: &[Entry], revision: Revision) -> BTreeSet<String> {
        let mut changed = BTreeSet::new();
        {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            if revision < self.freshness.borrow().revision {
                // A backup was restored: the same revisions may mean something else now.
                changed.extend(std::mem::take(&mut *view).into_keys());
            }
            let there: BTreeSet<&str> =
                entries.iter().map(|entry| super::key::last(&self.prefix, &entry.key)).collect();
            view.retain(|key, _| {
                let stays = there.contains(key.as_str());
                if !stays {
                    changed.insert(key.clone());
                }
                stays
            });
            changed.extend(entries.iter().filter_map(|entry| self.put(&mut view, entry)));
        }
        self.tell(&changed, revision);
        changed
    }

    /// What one revision did.
    fn apply(&self, changes: &[Change], revision: Revision) {
        let mut changed = BTreeSet::new();
        {
            let mut view = self.view.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                match change {
                    Change::Put(entry) => changed.extend(self.put(&mut view, entry)),
                    Change::Deleted { key, .. } => {
                        let key = super::key::last(&self.prefix, key);
                        if view.remove(key).is_some() {
                            changed.insert(key.to_owned());
                        }
                    }
                }
            }
        }
        self.tell(&changed, revision);
    }

    fn tell(&self, changed: &BTreeSet<String>, revision: Revision) {
        // Who waits for a revision finds what it changed among the changes.
        if !changed.is_empty() {
            self.readers.lock().unwrap_or_else(PoisonError::into_inner).retain(|reader| match reader.upgrade() {
                Some(dirty) => {
                    dirty.keys.lock().unwrap_or_else(PoisonError::into_inner).extend(changed.iter().cloned());
                    dirty.notify.notify_one();
                    true
                }
                None => false,
            });
        }
        self.freshness.send_modify(|freshness| {
            freshness.revision = revision;
            freshness.listed = true;
            freshness.heard = self.clock.boottime();
        });
    }
}
