//! Keeps the host's one lease alive, and `alive/<name>` under it.
//!
//! ```text
//!             established                     deadline passed unconfirmed
//!  ┌─────────┐ ─────────► ┌─────────────────┐ ─────────────────────────► ┌──────┐
//!  │ joining │            │ alive, keepalive │ ◄───────────────────────── │ lost │
//!  └─────────┘            │ every TTL / 3    │    confirmed after all,    └──────┘
//!                         └─────────────────┘  or a new lease taken
//! ```
//! Nothing here ends because the store is away: it is said once and tried again. A lease that is gone is followed by a new one
//! and `alive/` comes back with the next incarnation; what runs on the host is not touched by any of it. The loop runs on
//! a thread with a runtime and a connection of its own, so that an agent busy elsewhere does not lose its lease.

use super::fence::{self, DeadlineFile, Fence, Wait};
use super::identity;
use super::lease::{LeaseFile, LeaseRecord, millis};
use super::patience::Patience;
use super::record::Alive;
use super::register::JoinError;
use crate::environment::{Backoff, Environment};
use crate::store::{self, Entry, Error, LeaseId, Operation, Revision, Store, Transaction, key};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A look at `alive/` this often, against hands that deleted it.
const AUDIT: Duration = Duration::from_secs(60);
/// How often the old lease of another boot is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long another boot's lease is waited for at least; it lives for up to two TTL longer where etcd's leader changed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the end of a lease may take when the host leaves.
const LEAVING: Duration = Duration::from_secs(5);

/// Whether this host is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    Joining,
    /// Up to `deadline` (boottime) the lease lives for certain.
    Alive {
        lease: LeaseId,
        deadline: Duration,
    },
    /// Since then nobody can be sure that it lives; the cluster may think this host is gone.
    Lost {
        since: Duration,
    },
}

/// What the keeper is told.
#[derive(Debug)]
pub(super) enum Command {
    /// Give the lease back, then end.
    Leave(oneshot::Sender<Result<(), Error>>),
    /// End, and let the lease live.
    Stop(oneshot::Sender<()>),
}

/// Tells somebody that the keeper has ended.
pub(super) type Ended = Box<dyn FnOnce() + Send>;

/// The keeper's own state; `_locks` are held as long as it lives.
pub(super) struct Keeper {
    pub environment: Environment,
    pub name: String,
    pub identity: String,
    pub address: String,
    pub state: PathBuf,
    pub file: LeaseFile,
    pub ttl: Duration,
    pub liveness: watch::Sender<Liveness>,
    /// Whether anything exclusive is run: then keepalives come so often that the fence's deadline moves on in time.
    pub exclusive: watch::Receiver<bool>,
    pub deadline_file: DeadlineFile,
    pub fence: watch::Sender<Option<Fence>>,
    pub _locks: Vec<File>,
}

/// A lease that `alive/` is under.
#[derive(Clone, Copy, Debug)]
struct Held {
    lease: LeaseId,
    incarnation: u64,
    /// The create_revision of `alive/`.
    life: Revision,
    deadline: Duration,
}

/// What to do about `alive/<name>` as it is found.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nobody's: take a lease and put it.
    Create,
    /// Of this boot: go on with its lease.
    Adopt { lease: LeaseId, alive: Alive },
    /// Of another boot: its lease must end first.
    Wait { address: String },
}

fn plan(found: Option<(&Alive, Option<LeaseId>)>, identity: &str, boot_id: &str) -> Step {
    match found {
        None => Step::Create,
        Some((alive, Some(lease))) if alive.identity == identity && alive.boot_id == boot_id => {
            Step::Adopt { lease, alive: alive.clone() }
        }
        Some((alive, _)) => Step::Wait { address: alive.address.clone() },
    }
}

impl Keeper {
    /// Establishes liveness, tells `joined`, and keeps it until the commands end. Who waits for the end is returned, to be told
    /// when locks and connection are gone too: then another may start.
    pub async fn run(
        self,
        store: Arc<dyn Store>,
        joined: oneshot::Sender<Result<u64, JoinError>>,
        mut commands: tokio::sync::mpsc::Receiver<Command>,
    ) -> Option<Ended> {
        let limit = PATIENCE.max(self.ttl * 6);
        let first = tokio::select! {
            first = self.first(store.as_ref(), limit) => first,
            // Nobody waits any more for the answer, or it is to end.
            _ = commands.recv() => return None,
        };
        let mut held = match first {
            Ok(held) => held,
            Err(error) => {
                let _ = joined.send(Err(error));
                return None;
            }
        };
        let _ = joined.send(Ok(held.incarnation));
        let command = tokio::select! {
            () = self.keep(store.as_ref(), &mut held) => None,
            command = commands.recv() => command,
        };
        match command? {
            Command::Leave(done) => {
                let left = self.leave(store.as_ref(), held).await;
                Some(Box::new(move || {
                    let _ = done.send(left);
                }))
            }
            Command::Stop(done) => Some(Box::new(move || {
                let _ = done.send(());
            })),
        }
    }

    async fn first(&self, store: &dyn Store, limit: Duration) -> Result<Held, JoinError> {
        let mut patience = Patience::new(&self.environment, "the host's lease");
        loop {
            if let Some(result) = patience.settle(self.establish(store, Some(limit)).await).await {
                return result;
            }
        }
    }

    /// Never ends.
    async fn keep(&self, store: &dyn Store, held: &mut Held) {
        let mut exclusive = self.exclusive.clone();
        let mut interval = self.interval();
        let mut backoff = self.patience(interval);
        let mut told = false;
        let mut audited = self.environment.clock.boottime();
        let mut wait = interval;
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.until_deadline(held).map_or(wait, |left| wait.min(left))) => {}
                // Nobody who could say so any more: this is about to end.
                Ok(()) = exclusive.changed() => {
                    interval = self.interval();
                    backoff = self.patience(interval);
                }
            }
            self.look_at_deadline(held);
            let result = match self.confirm(store, held).await {
                Ok(()) if self.environment.clock.boottime().saturating_sub(audited) >= AUDIT => {
                    audited = self.environment.clock.boottime();
                    self.audit(store, held).await
                }
                result => result,
            };
            wait = match result {
                Ok(()) => {
                    if std::mem::take(&mut told) {
                        tracing::info!(lease = held.lease.0, "the host's lease is kept alive again");
                    }
                    backoff.reset();
                    interval
                }
                Err(Error::LeaseGone(_)) => {
                    tracing::warn!(lease = held.lease.0, "the host's lease is gone; taking a new one");
                    self.lost();
                    *held = self.established(store).await;
                    interval
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(lease = held.lease.0, %error, "cannot keep the host's lease alive; trying on");
                    }
                    backoff.next_delay()
                }
            };
        }
    }

    fn interval(&self) -> Duration {
        if *self.exclusive.borrow() { fence::wait(self.ttl) / 4 } else { self.ttl / 3 }
    }

    fn patience(&self, interval: Duration) -> Backoff {
        Backoff::new(&self.environment, (interval / 8).min(Duration::from_millis(200)), interval)
    }

    /// One keepalive. It has less than the usual limit, so that a late answer does not hide that the deadline passed.
    async fn confirm(&self, store: &dyn Store, held: &mut Held) -> Result<(), Error> {
        let sent = self.environment.clock.boottime();
        let exclusive = *self.exclusive.borrow();
        let limit = match exclusive {
            true => fence::wait(self.ttl) / 2,
            false => (self.ttl / 3).max(Duration::from_secs(1)),
        };
        let confirmed = async {
            if !exclusive {
                return store.keep_alive(held.lease).await;
            }
            // A lease may live whose key was deleted by hand, and who takes over goes by the key.
            let key = key::alive(&self.name);
            let (ttl, alive) = futures::try_join!(store.keep_alive(held.lease), store.get(&key))?;
            match alive.entry {
                Some(entry) if entry.create_revision == held.life => Ok(ttl),
                _ => Err(Error::LeaseGone(held.lease)),
            }
        };
        let ttl = match tokio::time::timeout(limit, confirmed).await {
            Ok(answer) => answer?,
            Err(_) => return Err(Error::Unavailable { message: format!("no answer within {limit:?}") }),
        };
        held.deadline = sent + ttl;
        if exclusive {
            self.put_fence(*held, sent, ttl);
        }
        self.publish(*held, ttl);
        Ok(())
    }

    /// Nothing exclusive is started or goes on but for this.
    fn put_fence(&self, held: Held, sent: Duration, ttl: Duration) {
        // A lease that an agent with other settings took may be longer or shorter; the others wait by its shorter F.
        let ttl = ttl.min(self.ttl);
        let fence = Fence { life: held.life.0, deadline: sent + fence::wait(ttl).saturating_sub(fence::lead(ttl)) };
        match self.deadline_file.write(fence) {
            Ok(()) => drop(self.fence.send_replace(Some(fence))),
            Err(error) => {
                tracing::error!(%error, "what is exclusive ends soon: the fence's deadline cannot be written")
            }
        }
    }

    /// Whether `alive/` is still there, under our lease.
    async fn audit(&self, store: &dyn Store, held: &Held) -> Result<(), Error> {
        match store.get(&key::alive(&self.name)).await?.entry {
            Some(entry) if entry.lease == Some(held.lease) => Ok(()),
            _ => Err(Error::LeaseGone(held.lease)),
        }
    }

    fn until_deadline(&self, held: &Held) -> Option<Duration> {
        held.deadline.checked_sub(self.environment.clock.boottime()).filter(|left| !left.is_zero())
    }

    fn look_at_deadline(&self, held: &Held) {
        if self.until_deadline(held).is_none() {
            self.lost();
        }
    }

    fn lost(&self) {
        let since = self.environment.clock.boottime();
        self.liveness.send_if_modified(|liveness| match liveness {
            Liveness::Lost { .. } => false,
            _ => {
                *liveness = Liveness::Lost { since };
                true
            }
        });
    }

    fn publish(&self, held: Held, ttl: Duration) {
        self.liveness.send_replace(Liveness::Alive { lease: held.lease, deadline: held.deadline });
        let record = LeaseRecord {
            host: self.name.clone(),
            identity: self.identity.clone(),
            boot_id: self.environment.identity.boot_id.clone(),
            lease: held.lease,
            incarnation: held.incarnation,
            ttl_millis: millis(ttl),
            deadline_millis: millis(held.deadline),
        };
        if let Err(error) = self.file.write(&record) {
            // The store's own record of the lease is found by the next agent as well.
            tracing::warn!(%error, "cannot note the host's lease");
        }
    }

    /// As [`Self::establish`], until it succeeds.
    async fn established(&self, store: &dyn Store) -> Held {
        let mut backoff = Backoff::new(&self.environment, Duration::from_millis(100), Duration::from_secs(5));
        let mut told = false;
        loop {
            match self.establish(store, None).await {
                Ok(held) => return held,
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(%error, "cannot take a new lease; trying on");
                    }
                    backoff.wait().await;
                }
            }
        }
    }

    /// A lease that lives, with `alive/` under it: this boot's own, or a new one. Another boot's is waited for, up to `limit`.
    async fn establish(&self, store: &dyn Store, limit: Option<Duration>) -> Result<Held, JoinError> {
        let key = key::alive(&self.name);
        let begun = self.environment.clock.boottime();
        let mut told = Duration::ZERO;
        loop {
            let entry = store.get(&key).await?.entry;
            let found = entry.as_ref().map(|entry| Ok((store::decode::<Alive>(entry)?, entry.lease))).transpose();
            let found: Option<(Alive, Option<LeaseId>)> = found.map_err(|error: Error| error)?;
            let found = found.as_ref().map(|(alive, lease)| (alive, *lease));
            match (plan(found, &self.identity, &self.environment.identity.boot_id), &entry) {
                (Step::Adopt { lease, alive }, Some(entry)) => {
                    if let Some(held) = self.adopt(store, entry, lease, alive).await? {
                        return Ok(held);
                    }
                }
                (Step::Wait { address }, _) => {
                    let waited = self.environment.clock.boottime().saturating_sub(begun);
                    if limit.is_some_and(|limit| waited >= limit) {
                        return Err(JoinError::StillAlive { name: self.name.clone(), address, waited });
                    }
                    if waited >= told {
                        told = waited + waited.max(Duration::from_secs(5));
                        let seconds = waited.as_secs();
                        tracing::info!(
                            host = self.name,
                            address,
                            seconds,
                            "waiting for the lease of another boot to end"
                        );
                    }
                    tokio::time::sleep(self.environment.jitter(LOOK)).await;
                }
                _ => {
                    if let Some(held) = self.create(store).await? {
                        return Ok(held);
                    }
                }
            }
        }
    }

    /// Goes on with `alive/` as it is; `None` where its lease ended meanwhile.
    async fn adopt(
        &self,
        store: &dyn Store,
        entry: &Entry,
        lease: LeaseId,
        alive: Alive,
    ) -> Result<Option<Held>, JoinError> {
        let mut held =
            Held { lease, incarnation: alive.incarnation, life: entry.create_revision, deadline: Duration::ZERO };
        match self.confirm(store, &mut held).await {
            Ok(()) => {}
            Err(Error::LeaseGone(_)) => {
                // Its keys go with it, if they are not gone already.
                tokio::time::sleep(self.environment.jitter(LOOK)).await;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
        if alive.address != self.address {
            let value = store::encode(&entry.key, &Alive { address: self.address.clone(), ..alive })?;
            let put = Operation::Put { key: entry.key.clone(), value, lease: Some(lease) };
            if !store.commit(Transaction::new().unchanged(&entry.key, entry.mod_revision).then(put)).await?.succeeded {
                return Ok(None);
            }
        }
        tracing::info!(lease = lease.0, incarnation = held.incarnation, "going on with the host's lease");
        Ok(Some(held))
    }

    /// Puts `alive/` under a lease; `None` where it has to be looked at again.
    async fn create(&self, store: &dyn Store) -> Result<Option<Held>, JoinError> {
        let incarnation = identity::incarnation(&self.state).saturating_add(1);
        let (lease, sent, ttl) = match self.own_lease(store).await? {
            Some(own) => own,
            None => {
                let sent = self.environment.clock.boottime();
                (store.grant_lease(self.ttl).await?, sent, self.ttl)
            }
        };
        let alive = Alive {
            identity: self.identity.clone(),
            incarnation,
            boot_id: self.environment.identity.boot_id.clone(),
            address: self.address.clone(),
        };
        let key = key::alive(&self.name);
        let put = Operation::Put { key: key.clone(), value: store::encode(&key, &alive)?, lease: Some(lease) };
        // Counted before it is used: a number may be left out, none comes twice.
        identity::put_incarnation(&self.state, incarnation)?;
        // With the same stroke nobody takes anything over any more: who began to finds another life, or this one.
        let fence_key = key::fence(&self.name);
        let wait = Wait { wait_millis: millis(fence::wait(self.ttl)) };
        let transaction = Transaction::new()
            .absent(&key)
            .then(put)
            .then(Operation::put(&fence_key, store::encode(&fence_key, &wait)?))
            .then(Operation::delete(key::lost(&self.name)));
        match store.commit(transaction).await {
            Ok(outcome) if outcome.succeeded => {
                let held = Held { lease, incarnation, life: outcome.revision, deadline: sent + ttl };
                if *self.exclusive.borrow() {
                    self.put_fence(held, sent, ttl);
                }
                self.publish(held, ttl);
                tracing::info!(lease = lease.0, incarnation, "the host is alive");
                Ok(Some(held))
            }
            Ok(_) | Err(Error::LeaseGone(_)) => {
                tokio::time::sleep(self.environment.jitter(Duration::from_millis(50))).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The lease of this boot's last agent, if it lives: its `alive/` was deleted by hand, or never put.
    async fn own_lease(&self, store: &dyn Store) -> Result<Option<(LeaseId, Duration, Duration)>, Error> {
        let boot_id = &self.environment.identity.boot_id;
        let Some(record) = self.file.read().filter(|it| it.identity == self.identity && it.boot_id == *boot_id) else {
            return Ok(None);
        };
        if store.time_to_live(record.lease).await?.is_none() {
            return Ok(None);
        }
        let sent = self.environment.clock.boottime();
        match store.keep_alive(record.lease).await {
            Ok(ttl) => Ok(Some((record.lease, sent, ttl))),
            Err(Error::LeaseGone(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn leave(&self, store: &dyn Store, held: Held) -> Result<(), Error> {
        let revoked = match tokio::time::timeout(LEAVING, store.revoke_lease(held.lease)).await {
            Ok(Ok(()) | Err(Error::LeaseGone(_))) => Ok(()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::OutcomeUnknown { message: format!("no answer within {LEAVING:?}") }),
        };
        if revoked.is_ok() {
            self.lost();
            self.file.remove();
        }
        revoked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_it_is() {
        let alive = |identity: &str, boot: &str| Alive {
            identity: identity.into(),
            incarnation: 3,
            boot_id: boot.into(),
            address: "a".into(),
        };
        let lease = Some(LeaseId(7));
        assert_eq!(plan(None, "i", "b"), Step::Create);
        let own = alive("i", "b");
        assert_eq!(plan(Some((&own, lease)), "i", "b"), Step::Adopt { lease: LeaseId(7), alive: own.clone() });
        for (other, lease) in [(alive("i", "c"), lease), (alive("j", "b"), lease), (alive("i", "b"), None)] {
            assert_eq!(plan(Some((&other, lease)), "i", "b"), Step::Wait { address: "a".into() });
        }
    }
}
