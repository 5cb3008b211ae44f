//! The store itself: state, history, leases, and who watches.

use super::client::Client;
use super::watch::Watcher;
use super::weather::{Course, Weather};
use crate::environment::Environment;
use crate::store::draft::{Draft, State};
use crate::store::{Change, Entry, Error, LeaseId, Outcome, Revision, StoreId, Transaction, WatchEvent};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// As many revisions are kept.
const REVISIONS: usize = 8192;

/// One transaction that wrote, or the end of a lease, as it is done.
#[derive(Clone, Copy, Debug)]
pub struct Committed<'a> {
    /// Whose client it came from; empty where it is the store's own doing.
    pub by: &'a str,
    pub revision: Revision,
    pub changes: &'a [Change],
    /// All there is after it.
    pub entries: &'a BTreeMap<String, Entry>,
}

type Witness = Arc<dyn Fn(&Committed<'_>) + Send + Sync>;

/// The cluster's one store. Cheap to clone; made on a runtime.
#[derive(Clone)]
pub struct Simulated {
    pub(super) environment: Environment,
    inner: Arc<Mutex<Inner>>,
    leases_changed: Arc<Notify>,
}

impl Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Inner {
    state: State,
    compacted: Revision,
    history: VecDeque<(Revision, Vec<Change>)>,
    leases: BTreeMap<i64, Lease>,
    watchers: Vec<Weak<Watcher>>,
    weather: Weather,
    /// Without a leader until then, by the boot clock.
    leaderless: Option<Duration>,
    /// How often another state was put in the place of this one: what was sent before that never arrives.
    restores: u64,
    witness: Option<Witness>,
}

/// All that there is at one moment, as an etcd's snapshot has it.
#[derive(Clone, Debug)]
pub struct Saved {
    state: State,
    compacted: Revision,
    history: VecDeque<(Revision, Vec<Change>)>,
    leases: BTreeMap<i64, Lease>,
}

impl Saved {
    pub fn revision(&self) -> Revision {
        self.state.revision
    }

    pub fn contains(&self, key: &str) -> bool {
        self.state.entries.contains_key(key)
    }
}

#[derive(Clone, Copy, Debug)]
struct Lease {
    ttl: Duration,
    deadline: Duration,
}

impl Lease {
    fn left(&self, now: Duration) -> Option<Duration> {
        self.deadline.checked_sub(now).filter(|left| !left.is_zero())
    }
}

impl Simulated {
    /// An empty one. Its leases are counted by the environment's boot clock.
    pub fn new(environment: &Environment) -> Self {
        // Etcd's first revision is 1 too.
        let state = State { revision: Revision(1), ..State::default() };
        let inner = Inner { state, compacted: Revision(0), ..Inner::default() };
        let store = Self {
            environment: environment.clone(),
            inner: Arc::new(Mutex::new(inner)),
            leases_changed: Arc::default(),
        };
        let (weak, changed) = (Arc::downgrade(&store.inner), store.leases_changed.clone());
        tokio::spawn(reap(weak, changed, environment.clone()));
        store
    }

    /// A way in for `name`, with a link of its own.
    pub fn client(&self, name: &str) -> Client {
        Client::new(self.clone(), name)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.environment.clock.boottime()
    }

    pub fn set_weather(&self, weather: Weather) {
        self.inner().weather = weather;
    }

    /// `witness` sees every change in the moment it is done. It must not call back.
    pub fn set_witness(&self, witness: impl Fn(&Committed<'_>) + Send + Sync + 'static) {
        self.inner().witness = Some(Arc::new(witness));
    }

    pub fn revision(&self) -> Revision {
        self.inner().state.revision
    }

    /// Looks at all there is, without a client.
    pub fn look<T>(&self, look: impl FnOnce(&BTreeMap<String, Entry>) -> T) -> T {
        look(&self.inner().state.entries)
    }

    /// For `span` nothing is answered; then there is a new leader, and every lease begins anew, as etcd does it.
    pub fn lose_leader(&self, span: Duration) {
        self.inner().leaderless = Some(self.now() + span);
        self.leases_changed.notify_one();
    }

    pub fn save(&self) -> Saved {
        let inner = self.inner();
        Saved {
            state: inner.state.clone(),
            compacted: inner.compacted,
            history: inner.history.clone(),
            leases: inner.leases.clone(),
        }
    }

    /// It is stopped, `saved` is put in its place, and after `span` it is there again, with the leases of that time, each
    /// anew. What was on its way is lost, and all watches break off.
    pub fn restore(&self, saved: Saved, span: Duration) {
        let mut inner = self.inner();
        let Saved { state, compacted, history, leases } = saved;
        for watcher in inner.watchers() {
            watcher.tell(Err(Error::Unavailable { message: "it was stopped".into() }), Duration::ZERO);
        }
        (inner.state, inner.compacted, inner.history, inner.leases) = (state, compacted, history, leases);
        inner.watchers.clear();
        inner.restores += 1;
        inner.leaderless = Some(self.now() + span);
        drop(inner);
        self.leases_changed.notify_one();
    }

    pub(super) fn restores(&self) -> u64 {
        self.inner().restores
    }

    /// One that was made from a snapshot is another.
    pub(super) fn identity(&self) -> StoreId {
        StoreId(1 + self.restores())
    }

    /// Whether what was sent when there had been so many restores is done: there is a leader, who comes back in its time (see
    /// [`Self::lose_leader`]), and it is the same store.
    pub(super) fn takes(&self, restores: u64) -> bool {
        let now = self.now();
        let mut inner = self.inner();
        inner.leads(now) && inner.restores == restores
    }

    /// A key goes by somebody's hand.
    pub fn delete(&self, key: &str) {
        let mut inner = self.inner();
        let mut draft = Draft::of(&inner.state);
        draft.delete_key(key);
        let written = draft.into_written();
        inner.publish(&self.environment, "", written);
    }

    /// The lease goes by somebody's hand, or with the store's data: before its time.
    pub fn end_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner().end_lease(&self.environment, lease)?;
        self.leases_changed.notify_one();
        Ok(())
    }

    /// Lets history go; watches that are behind are told so, where that is wanted.
    pub fn compact(&self, revision: Revision, harsh: bool) -> Result<(), Error> {
        let mut inner = self.inner();
        if revision > inner.state.revision {
            return Err(Error::Refused { message: format!("revision {revision} is still to come") });
        }
        inner.compacted = inner.compacted.max(revision);
        let compacted = inner.compacted;
        inner.history.retain(|(past, _)| *past > compacted);
        if harsh {
            inner.watchers().for_each(|watcher| watcher.compacted(revision));
        }
        Ok(())
    }

    pub(super) fn course(&self, writes: bool) -> Course {
        let weather = self.inner().weather;
        weather.course(&self.environment, writes)
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        read(&self.inner().state)
    }

    pub(super) fn commit(&self, by: &str, transaction: &Transaction) -> Result<Outcome, Error> {
        let now = self.now();
        let mut inner = self.inner();
        let mut draft = Draft::of(&inner.state);
        let lives = |lease: LeaseId| inner.leases.get(&lease.0).is_some_and(|lease| lease.left(now).is_some());
        let outcome = draft.apply(transaction, lives)?;
        let written = draft.into_written();
        inner.publish(&self.environment, by, written);
        Ok(outcome)
    }

    pub(super) fn grant(&self, ttl: Duration) -> LeaseId {
        let mut bytes = [0; 8];
        self.environment.random.fill(&mut bytes);
        let id = (i64::from_le_bytes(bytes) & i64::MAX).max(1);
        let ttl = Duration::from_secs(ttl.as_secs().max(1));
        let deadline = self.now() + ttl;
        self.inner().leases.insert(id, Lease { ttl, deadline });
        self.leases_changed.notify_one();
        LeaseId(id)
    }

    pub(super) fn keep_alive(&self, id: LeaseId) -> Result<Duration, Error> {
        let now = self.now();
        let mut inner = self.inner();
        let lease = inner.leases.get_mut(&id.0).filter(|lease| lease.left(now).is_some());
        let lease = lease.ok_or(Error::LeaseGone(id))?;
        lease.deadline = now + lease.ttl;
        Ok(lease.ttl)
    }

    pub(super) fn time_to_live(&self, id: LeaseId) -> Option<Duration> {
        let now = self.now();
        self.inner().leases.get(&id.0).and_then(|lease| lease.left(now))
    }

    /// A watcher that has been told all that there is from `from` on.
    pub(super) fn watch(&self, prefix: &str, from: Revision) -> Result<Arc<Watcher>, Error> {
        let mut inner = self.inner();
        if from <= inner.compacted {
            return Err(Error::Compacted { revision: inner.compacted });
        }
        let watcher = Arc::new(Watcher::new(prefix, from));
        for (revision, changes) in &inner.history {
            if let Some(event) = watcher.concerns(*revision, changes) {
                watcher.tell(Ok(event), Duration::ZERO);
            }
        }
        inner.watchers.push(Arc::downgrade(&watcher));
        Ok(watcher)
    }
}

impl Inner {
    fn watchers(&mut self) -> impl Iterator<Item = Arc<Watcher>> + use<> {
        self.watchers.retain(|watcher| watcher.strong_count() > 0);
        self.watchers.iter().filter_map(Weak::upgrade).collect::<Vec<_>>().into_iter()
    }

    fn leads(&mut self, now: Duration) -> bool {
        match self.leaderless {
            None => true,
            Some(until) if until > now => false,
            Some(until) => {
                self.leaderless = None;
                for lease in self.leases.values_mut() {
                    lease.deadline = lease.deadline.max(until + lease.ttl);
                }
                true
            }
        }
    }

    fn end_lease(&mut self, environment: &Environment, id: LeaseId) -> Result<(), Error> {
        self.leases.remove(&id.0).ok_or(Error::LeaseGone(id))?;
        let mut draft = Draft::of(&self.state);
        draft.end_lease(id);
        let written = draft.into_written();
        self.publish(environment, "", written);
        Ok(())
    }

    /// Shows what was written, to all who watch too.
    fn publish(&mut self, environment: &Environment, by: &str, written: crate::store::draft::Written) {
        if written.is_empty() {
            return;
        }
        self.state.take(&written);
        for (revision, changes) in written.revisions {
            if let Some(witness) = self.witness.clone() {
                witness(&Committed { by, revision, changes: &changes, entries: &self.state.entries });
            }
            for watcher in self.watchers() {
                if let Some(event) = watcher.concerns(revision, &changes) {
                    tell(&watcher, event, &self.weather, environment);
                }
            }
            self.history.push_back((revision, changes));
        }
        while self.history.len() > REVISIONS {
            self.compacted = self.history.pop_front().map_or(self.compacted, |(revision, _)| revision);
        }
    }
}

fn tell(watcher: &Watcher, event: WatchEvent, weather: &Weather, environment: &Environment) {
    match weather.telling(environment) {
        Some(delay) => watcher.tell(Ok(event), delay),
        None => watcher.tell(Err(Error::Unavailable { message: "the watch broke off".into() }), Duration::ZERO),
    }
}

/// Ends leases at their deadlines, in the very moment; while there is no leader, none.
async fn reap(inner: Weak<Mutex<Inner>>, changed: Arc<Notify>, environment: Environment) {
    loop {
        let next = {
            let Some(inner) = inner.upgrade() else { return };
            let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
            let now = environment.clock.boottime();
            if inner.leads(now) {
                let over: Vec<i64> =
                    inner.leases.iter().filter(|(_, lease)| lease.left(now).is_none()).map(|(id, _)| *id).collect();
                for id in over {
                    // It is there: it was found a line above.
                    let _ = inner.end_lease(&environment, LeaseId(id));
                }
                inner.leases.values().map(|lease| lease.deadline).min().map(|next| next.saturating_sub(now))
            } else {
                inner.leaderless.map(|until| until.saturating_sub(now))
            }
        };
        match next {
            Some(wait) => drop(tokio::time::timeout(wait.max(Duration::from_millis(1)), changed.notified()).await),
            None => changed.notified().await,
        }
    }
}
