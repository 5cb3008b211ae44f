//! What an agent that places keeps in memory: the hosts, what is promised of each, and the lanes that lead there.
//!
//! The index is brought up to date when somebody is about to choose, with what changed since; between two choices
//! nothing is done.

use super::filter::{Candidate, Refusal, Wanted};
use super::group::Group;
use super::index::Index;
use super::lane::{Lane, Touched, UnderWay};
use super::ports;
use super::record::{Allocation, Promise, Share};
use crate::environment::Environment;
use crate::membership::Hosts;
use crate::membership::record::{Alive, Host};
use crate::resource::port;
use crate::store::mirror::{Changes, Mirror};
use crate::store::{Store, key};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Fleet {
    store: Arc<dyn Store>,
    environment: Environment,
    hosts: Hosts,
    records: Mirror<Host>,
    alive: Mirror<Alive>,
    allocations: Mirror<Allocation>,
    /// Hosts whose lanes know something new.
    touched: Touched,
    group: Arc<Group>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    index: Index,
    lanes: HashMap<String, Arc<Lane>>,
    changes: [Changes; 3],
}

/// A host that was picked; counted as promised until it is dropped.
#[derive(Debug)]
pub(super) struct Pick {
    pub candidate: Candidate,
    /// What it is promised there.
    pub promise: Arc<Promise>,
    /// The public ports among that which were chosen there.
    pub ports: Vec<u16>,
    pub lane: Arc<Lane>,
    pub _under_way: UnderWay,
}

impl Fleet {
    pub fn start(store: Arc<dyn Store>, environment: &Environment, hosts: &Hosts) -> Arc<Self> {
        let allocations: Mirror<Allocation> = Mirror::start(store.clone(), environment, key::allocs());
        let (records, alive) = (hosts.records(), hosts.alive().clone());
        let changes = [records.changes(), alive.changes(), allocations.changes()];
        let state = State { index: Index::default(), lanes: HashMap::new(), changes };
        Arc::new(Self {
            group: Group::new(store.clone()),
            store,
            environment: environment.clone(),
            hosts: hosts.clone(),
            records,
            alive,
            allocations,
            touched: Touched::default(),
            state: Mutex::new(state),
        })
    }

    /// Whether all of it is known; waits up to `limit` for that.
    pub async fn listed(&self, limit: Duration) -> bool {
        self.records.listed(limit).await && self.alive.listed(limit).await && self.allocations.listed(limit).await
    }

    /// Waits for what others said of hosts before this call (their labels), up to `limit`: where that is not to be had, what is
    /// known has to do.
    pub async fn caught_up(&self, limit: Duration) {
        let known = self.records.freshness().revision;
        let newer = async {
            let newer = self.store.changed_since(&key::hosts(), known).await?.written;
            let last = newer.iter().map(|entry| entry.mod_revision).max();
            if let Some(last) = last {
                self.records.reached(last, limit).await;
            }
            Ok::<_, crate::store::Error>(())
        };
        if !matches!(tokio::time::timeout(limit, newer).await, Ok(Ok(()))) {
            tracing::debug!("what was said last of hosts is not known");
        }
    }

    /// Picks a host for `instance`.
    ///
    /// # Errors
    /// Why none of them can take it.
    pub fn choose(
        &self,
        instance: &str,
        wanted: &Wanted,
        avoid: &dyn Fn(&str) -> Option<Refusal>,
    ) -> Result<Pick, Vec<String>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut state);
        let candidate = state.index.choose(wanted, avoid, &mut |bound| self.environment.below(bound))?.clone();
        let lane = self.lane(&mut state, &candidate.view.host.name);
        let taken = candidate.promised.tenants().map(|(_, promise)| &promise.ports).chain([&wanted.promise.ports]);
        let chosen = ports::choose(&wanted.choose, taken, &mut |bound| self.environment.below(bound));
        let ports = chosen.map_err(|refusal| vec![format!("{}: {refusal}", candidate.view.host.name)])?;
        let mut promise = wanted.promise.clone();
        promise.ports.extend(wanted.choose.iter().zip(&ports).map(|(protocol, public)| port::key(*public, *protocol)));
        let promise = Arc::new(promise);
        // What is chosen counts as promised for the next one that chooses.
        let under_way = lane.choose(instance, promise.clone());
        Ok(Pick { candidate, promise, ports, lane, _under_way: under_way })
    }

    /// Whether any host could take it now.
    pub fn fits(&self, wanted: &Wanted, avoid: &dyn Fn(&str) -> Option<Refusal>) -> Result<(), Vec<String>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut state);
        state.index.choose(wanted, avoid, &mut |_| 0).map(drop)
    }

    fn refresh(&self, state: &mut State) {
        let mut changed: BTreeSet<String> = self.touched.take();
        for changes in &mut state.changes {
            changed.append(&mut changes.take());
        }
        for name in changed {
            match self.hosts.known(&name, &self.records) {
                Some(view) => {
                    let promised = self.lane(state, &name).promised();
                    let candidate = match state.index.candidate_of(&name) {
                        Some(known) => known.renewed(view, promised),
                        None => Candidate::new(view, promised),
                    };
                    state.index.put(candidate);
                }
                None => {
                    state.index.remove(&name);
                    state.lanes.remove(&name);
                }
            }
        }
    }

    fn lane(&self, state: &mut State, host: &str) -> Arc<Lane> {
        if let Some(lane) = state.lanes.get(host) {
            return lane.clone();
        }
        let (mirror, touched) = (self.allocations.clone(), self.touched.clone());
        let lane = Lane::new(self.store.clone(), &self.environment, mirror, touched, self.group.clone(), host);
        state.lanes.insert(host.to_owned(), lane.clone());
        lane
    }

    /// Waits, again and again, for what may be room for somebody who found none: a host that came or changed, a promise
    /// that went. Calls `tell` each time; the first time when all is known.
    pub async fn watch_room(&self, mut tell: impl FnMut()) {
        let (mut records, mut alive, mut allocations) =
            (self.records.changes(), self.alive.changes(), self.allocations.changes());
        let mut known: HashMap<String, (Share, usize, u64)> = HashMap::new();
        while !self.listed(Duration::from_secs(60)).await {}
        loop {
            let more = tokio::select! {
                _ = records.next() => true,
                _ = alive.next() => true,
                hosts = allocations.next() => hosts.into_iter().fold(false, |more, host| {
                    let now = self.allocations.get(&host).map(|item| {
                        (item.value.sum(), item.value.instances.len(), item.value.ports_digest())
                    });
                    let before = match now {
                        Some(now) => known.insert(host, now),
                        None => known.remove(&host),
                    };
                    let less = |before: (Share, usize, u64), now: (Share, usize, u64)| {
                        now.1 < before.1
                            || now.0.memory_mb < before.0.memory_mb
                            || now.0.cpu_millis < before.0.cpu_millis
                            || now.0.disk_mb < before.0.disk_mb
                            || now.2 != before.2
                    };
                    // Also where one more is there: it may be whom another wants to be near to.
                    more | before.is_none_or(|before| now.is_none_or(|now| less(before, now) || now.1 > before.1))
                }),
            };
            if more {
                tell();
            }
        }
    }
}
