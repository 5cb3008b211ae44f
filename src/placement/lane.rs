//! One host's placements by this agent, one transaction at a time.
//!
//! All placements on a host write its `alloc/<host>`, so two transactions at once would only conflict. They queue here instead;
//! what has queued up while one transaction was under way goes into the next one together. Alone, a placement is one flat
//! transaction, which may go together with other hosts' ([`super::group`]). Several are one outer transaction, which compares and writes `alloc/<host>`, of nested ones, each of
//! which fails alone; the shares of those that failed are taken out of `alloc/<host>` again (and an agent that dies before
//! it does leaves too much promised, never too little; the audit finds it).
//!
//! A spawned task does the work, so that a caller that goes away takes nobody else's placement along.

use super::filter::{self, Promised};
use super::group::Group;
use super::record::{Allocation, Promise};
use super::verdict::{self, Failure};
use crate::environment::{Backoff, Environment};
use crate::membership::record::Capacity;
use crate::resource::constraint::Constraint;
use crate::store::mirror::Mirror;
use crate::store::{self, Answer, Compare, Entry, Error, Operation, Revision, Store, Transaction, key};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The most placements in one transaction.
const BATCH: usize = 16;
/// The largest placement that goes with others: nested, the store counts its operations on top of the outer ones (128).
const NESTED: usize = 100;
/// Tries against other agents that place on the same host.
const TRIES: usize = 12;
/// How long a decision may take; every call to the store has a shorter limit of its own.
const DECIDING: Duration = Duration::from_secs(60);

/// One placement, complete but for `alloc/<host>`.
#[derive(Debug)]
pub(super) struct Piece {
    /// `1i54`.
    pub instance: String,
    pub promise: Arc<Promise>,
    /// What may be promised of the host in all.
    pub capacity: Capacity,
    /// Whom it must have beside it.
    pub affinity: Vec<Constraint>,
    pub compares: Vec<Compare>,
    pub operations: Vec<Operation>,
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Verdict {
    Placed(Revision),
    /// It does not fit any more.
    NoRoom,
    /// Its own compares did not hold.
    Failed(Vec<Failure>),
    /// Other agents were always faster.
    Contended,
    Store(Error),
}

/// `alloc/<host>` as it was at a revision.
#[derive(Clone, Debug, Default)]
struct Known {
    allocation: Arc<Allocation>,
    mod_revision: Option<Revision>,
    as_of: Revision,
}

impl Known {
    fn compare(&self, key: &str) -> Compare {
        match self.mod_revision {
            Some(revision) => Compare::ModRevision { key: key.to_owned(), revision },
            None => Compare::Absent { key: key.to_owned() },
        }
    }
}

type Waiting = (Piece, oneshot::Sender<Verdict>);

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Waiting>,
    flushing: bool,
    /// How many of the queue's first go alone, because together they were too large.
    alone: usize,
    /// Chosen for this host and not decided.
    under_way: BTreeMap<String, Arc<Promise>>,
    /// From our own transactions; the mirror may be ahead of it or behind.
    known: Known,
}

/// Hosts whose lanes know something new, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched(Arc<Mutex<BTreeSet<String>>>);

impl Touched {
    fn add(&self, host: &str) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !hosts.contains(host) {
            hosts.insert(host.to_owned());
        }
    }

    pub fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Debug)]
pub(super) struct Lane {
    store: Arc<dyn Store>,
    environment: Environment,
    mirror: Mirror<Allocation>,
    touched: Touched,
    /// Where its transactions go together with other hosts'.
    group: Arc<Group>,
    host: String,
    state: Mutex<State>,
}

/// A placement on its way to a host, counted as promised until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay {
    lane: Arc<Lane>,
    instance: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.lane.state().under_way.remove(&self.instance);
        self.lane.touched.add(&self.lane.host);
    }
}

impl Lane {
    pub fn new(
        store: Arc<dyn Store>,
        environment: &Environment,
        mirror: Mirror<Allocation>,
        touched: Touched,
        group: Arc<Group>,
        host: &str,
    ) -> Arc<Self> {
        let (environment, host) = (environment.clone(), host.to_owned());
        Arc::new(Self { store, environment, mirror, touched, group, host, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is promised of the host, with what is on its way there.
    pub fn promised(&self) -> Promised {
        let state = self.state();
        Promised::new(self.newest(&state.known).allocation, state.under_way.clone())
    }

    /// Counts `instance` as promised.
    pub fn choose(self: &Arc<Self>, instance: &str, promise: Arc<Promise>) -> UnderWay {
        self.state().under_way.insert(instance.to_owned(), promise);
        self.touched.add(&self.host);
        UnderWay { lane: self.clone(), instance: instance.to_owned() }
    }

    /// The later of what our own transactions and the mirror tell.
    fn newest(&self, own: &Known) -> Known {
        // The freshness first: the view may be ahead of it, never behind.
        let seen = self.mirror.freshness().revision;
        match self.mirror.get(&self.host) {
            Some(item) if item.mod_revision > own.as_of => Known {
                allocation: item.value.clone(),
                mod_revision: Some(item.mod_revision),
                as_of: item.mod_revision,
            },
            None if seen > own.as_of => Known { as_of: seen, ..Known::default() },
            _ => own.clone(),
        }
    }

    /// Decides `piece`, with others that wait.
    pub async fn submit(self: &Arc<Self>, piece: Piece) -> Verdict {
        let (reply, verdict) = oneshot::channel();
        let idle = {
            let mut state = self.state();
            state.queue.push_back((piece, reply));
            !std::mem::replace(&mut state.flushing, true)
        };
        if idle {
            tokio::spawn(self.clone().flush());
        }
        match tokio::time::timeout(DECIDING, verdict).await {
            Ok(Ok(verdict)) => verdict,
            _ => Verdict::Store(Error::OutcomeUnknown { message: "the placing was not decided".into() }),
        }
    }

    async fn flush(self: Arc<Self>) {
        loop {
            let batch = {
                let mut state = self.state();
                let batch = take(&mut state);
                if batch.is_empty() {
                    state.flushing = false;
                    return;
                }
                batch
            };
            self.decide(batch).await;
        }
    }

    async fn decide(&self, mut batch: Vec<Waiting>) {
        let mut backoff = Backoff::new(&self.environment, Duration::from_millis(2), Duration::from_millis(200));
        for _ in 0..TRIES {
            let known = self.newest(&self.state().known);
            let mut allocation = Allocation::clone(&known.allocation);
            batch = batch.into_iter().filter_map(|waiting| admit(&mut allocation, waiting)).collect();
            if batch.is_empty() {
                return;
            }
            let allocation = Arc::new(allocation);
            let decided = match batch.as_slice() {
                [(piece, _)] => self.commit_one(&known, &allocation, piece).await.map(|one| one.map(|it| vec![it])),
                pieces => self.commit_many(&known, &allocation, pieces).await,
            };
            match decided {
                Ok(Some(verdicts)) => {
                    for ((_, reply), verdict) in batch.into_iter().zip(verdicts) {
                        let _ = reply.send(verdict);
                    }
                    return;
                }
                Ok(None) => backoff.wait().await,
                Err(Error::TooLarge { .. }) if batch.len() > 1 => {
                    let mut state = self.state();
                    state.alone = batch.len();
                    batch.into_iter().rev().for_each(|waiting| state.queue.push_front(waiting));
                    return;
                }
                Err(error) => {
                    for (_, reply) in batch {
                        let _ = reply.send(Verdict::Store(error.clone()));
                    }
                    return;
                }
            }
        }
        for (_, reply) in batch {
            let _ = reply.send(Verdict::Contended);
        }
    }

    /// One flat transaction; `None` where only `alloc/<host>` was in the way, which is known anew then.
    async fn commit_one(
        &self,
        known: &Known,
        allocation: &Arc<Allocation>,
        piece: &Piece,
    ) -> Result<Option<Verdict>, Error> {
        let alloc = key::alloc(&self.host);
        let mut compares = vec![known.compare(&alloc)];
        compares.extend(piece.compares.iter().cloned());
        let mut success = vec![Operation::put(&alloc, store::encode(&alloc, allocation.as_ref())?)];
        success.extend(piece.operations.iter().cloned());
        let failure = verdict::reads(&compares);
        let outcome = self.group.commit(Transaction { compares: compares.clone(), success, failure }).await?;
        if outcome.succeeded {
            self.learn(allocation.clone(), Some(outcome.revision), outcome.revision);
            return Ok(Some(Verdict::Placed(outcome.revision)));
        }
        self.learn_found(outcome.answers.first(), outcome.revision)?;
        let failures = verdict::failures(&piece.compares, outcome.answers.get(1..).unwrap_or_default());
        Ok((!failures.is_empty()).then_some(Verdict::Failed(failures)))
    }

    /// One transaction of nested ones; `None` as for [`Self::commit_one`].
    async fn commit_many(
        &self,
        known: &Known,
        allocation: &Arc<Allocation>,
        pieces: &[Waiting],
    ) -> Result<Option<Vec<Verdict>>, Error> {
        let alloc = key::alloc(&self.host);
        let compare = known.compare(&alloc);
        let mut transaction = Transaction::new()
            .when(compare)
            .then(Operation::put(&alloc, store::encode(&alloc, allocation.as_ref())?))
            .or_else(Operation::get(&alloc));
        for (piece, _) in pieces {
            transaction = transaction.then(Operation::Nested(Transaction {
                compares: piece.compares.clone(),
                success: piece.operations.clone(),
                failure: verdict::reads(&piece.compares),
            }));
        }
        let outcome = self.store.commit(transaction).await?;
        if !outcome.succeeded {
            self.learn_found(outcome.answers.first(), outcome.revision)?;
            return Ok(None);
        }
        self.learn(allocation.clone(), Some(outcome.revision), outcome.revision);
        let answers = outcome.answers.get(1..).unwrap_or_default();
        let mut verdicts = Vec::with_capacity(pieces.len());
        let mut withdrawn = Vec::new();
        for (at, (piece, _)) in pieces.iter().enumerate() {
            verdicts.push(match answers.get(at) {
                Some(Answer::Nested(inner)) if inner.succeeded => Verdict::Placed(outcome.revision),
                Some(Answer::Nested(inner)) => {
                    let failures = verdict::failures(&piece.compares, &inner.answers);
                    let claim = key::on(&self.host, &piece.instance);
                    // Where its claim stands already, its share belongs there.
                    if !failures.iter().any(|failure| verdict::key(&failure.compare) == claim) {
                        withdrawn.push(piece.instance.as_str());
                    }
                    Verdict::Failed(failures)
                }
                _ => Verdict::Store(Error::OutcomeUnknown { message: "an answer is missing".into() }),
            });
        }
        if !withdrawn.is_empty() {
            self.withdraw(&withdrawn).await;
        }
        Ok(Some(verdicts))
    }

    /// Takes shares of what was not placed out of `alloc/<host>` again. Whose claim stands by then was placed here by another
    /// agent in between, and its share stays.
    async fn withdraw(&self, instances: &[&str]) {
        let mut instances = instances.to_vec();
        let mut backoff = Backoff::new(&self.environment, Duration::from_millis(2), Duration::from_millis(200));
        for _ in 0..TRIES {
            match self.try_withdraw(&mut instances).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(host = self.host, %error, "too much stays promised until the next audit");
                    return;
                }
            }
            backoff.wait().await;
        }
        tracing::warn!(host = self.host, "too much stays promised until the next audit");
    }

    /// Whether it is done; those of `instances` that stay are taken out.
    async fn try_withdraw(&self, instances: &mut Vec<&str>) -> Result<bool, Error> {
        let alloc = key::alloc(&self.host);
        let known = self.newest(&self.state().known);
        let mut allocation = Allocation::clone(&known.allocation);
        allocation.instances.retain(|instance, _| !instances.contains(&instance.as_str()));
        if allocation == *known.allocation {
            return Ok(true);
        }
        let put = Operation::put(&alloc, store::encode(&alloc, &allocation)?);
        let mut transaction = Transaction::new().when(known.compare(&alloc)).then(put).or_else(Operation::get(&alloc));
        for instance in instances.iter() {
            let claim = key::on(&self.host, instance);
            transaction = transaction.absent(&claim).or_else(Operation::get(claim));
        }
        let outcome = self.store.commit(transaction).await?;
        if outcome.succeeded {
            self.learn(Arc::new(allocation), Some(outcome.revision), outcome.revision);
            return Ok(true);
        }
        self.learn_found(outcome.answers.first(), outcome.revision)?;
        let mut claims = outcome.answers.iter().skip(1);
        instances.retain(|_| !matches!(claims.next(), Some(Answer::Entries(found)) if !found.is_empty()));
        Ok(false)
    }

    fn learn(&self, allocation: Arc<Allocation>, mod_revision: Option<Revision>, as_of: Revision) {
        self.state().known = Known { allocation, mod_revision, as_of };
        self.touched.add(&self.host);
    }

    fn learn_found(&self, answer: Option<&Answer>, as_of: Revision) -> Result<(), Error> {
        let entry: Option<&Entry> = match answer {
            Some(Answer::Entries(entries)) => entries.first(),
            _ => None,
        };
        let allocation: Allocation = entry.map(store::decode).transpose()?.unwrap_or_default();
        self.learn(Arc::new(allocation), entry.map(|entry| entry.mod_revision), as_of);
        Ok(())
    }
}

fn tenants(allocation: &Allocation) -> impl Iterator<Item = (&String, &Promise)> + Clone {
    allocation.instances.iter().map(|(instance, promise)| (instance, promise.as_ref()))
}

/// Adds the share where it fits; else answers.
fn admit(allocation: &mut Allocation, (piece, reply): Waiting) -> Option<Waiting> {
    let own = allocation.instances.remove(&piece.instance);
    let room = filter::room(piece.capacity, allocation.sum(), piece.promise.share)
        .and_then(|()| filter::company(tenants(allocation), &piece.promise, &piece.affinity));
    if let (Some(own), Err(_)) = (own, &room) {
        // Of an earlier try whose answer was lost.
        allocation.instances.insert(piece.instance.clone(), own);
    }
    match room {
        Ok(()) => {
            allocation.instances.insert(piece.instance.clone(), piece.promise.clone());
            Some((piece, reply))
        }
        Err(reason) => {
            let instance = piece.instance;
            tracing::debug!(instance, %reason, "it does not fit there any more");
            let _ = reply.send(Verdict::NoRoom);
            None
        }
    }
}

/// The next ones that can go together: no key is written by two of them.
fn take(state: &mut State) -> Vec<Waiting> {
    let mut batch = Vec::new();
    let mut written = HashSet::new();
    let most = if state.alone > 0 { 1 } else { BATCH };
    state.alone = state.alone.saturating_sub(1);
    while batch.len() < most {
        let Some((piece, _)) = state.queue.front() else { break };
        let keys = nestable(piece);
        let fits = keys.as_ref().is_some_and(|keys| keys.iter().all(|key| !written.contains(key)));
        if !batch.is_empty() && !fits {
            break;
        }
        let alone = keys.is_none();
        written.extend(keys.unwrap_or_default());
        batch.extend(state.queue.pop_front());
        if alone {
            break;
        }
    }
    batch
}

/// The keys that it writes; `None` where it has to go alone.
fn nestable(piece: &Piece) -> Option<Vec<String>> {
    if piece.compares.len().max(piece.operations.len()) > NESTED {
        return None;
    }
    piece
        .operations
        .iter()
        .filter(|operation| !matches!(operation, Operation::Get { .. } | Operation::Range { .. }))
        .map(|operation| match operation {
            Operation::Put { key, .. } | Operation::Delete { key } => Some(key.clone()),
            _ => None,
        })
        .collect()
}
