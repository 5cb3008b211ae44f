//! The store of a single host: one file, and all of it in memory too.
//!
//! Reads and watches are served from memory. A commit waits in a queue; whoever finds nobody at the queue works through it,
//! on a blocking thread: all that wait are applied to a draft, one after the other, the draft is written to the file in one
//! synced step, and only then do they become visible and are answered. So many commits at once share one fsync.
//!
//! ```text
//! commit ─► queue ─► draft ─► file, synced ─► memory, history ─► answers, watches
//!                              └ failed: the file is opened anew, and its own revision tells what became of it
//! ```
//! Leases live in memory alone: those of an earlier process are gone with it, and their keys go when the file is opened. Their
//! time is counted by the boot clock. History lives in memory alone too, as much as fits a bound; a watch that wants older
//! revisions is told that they are compacted.

mod disk;
mod file;
mod history;
mod lease;

use super::draft::{Draft, State, Written};
use super::{Difference, Entry, Error, LeaseId, Lookup, Outcome, Revision, Snapshot, Store, Transaction, Watch};
use crate::environment::{Backoff, Environment};
use file::{File, Reopened};
use history::{Follower, History};
use lease::{Lease, Leases};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

/// How long a commit may take before its outcome counts as unknown.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The most commits that share one write.
const BATCH: usize = 256;

/// See the module's text.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
    reaper: tokio::task::JoinHandle<()>,
}

/// What is visible: what was written and synced.
#[derive(Debug)]
struct Live {
    state: State,
    history: History,
}

#[derive(Debug)]
struct Shared {
    environment: Environment,
    description: String,
    /// On a disk, so that writing it blocks.
    blocks: bool,
    live: Arc<RwLock<Live>>,
    /// Held by whoever works through the queue.
    file: Mutex<File>,
    queue: Mutex<Queue>,
    leases: Mutex<Leases>,
    leases_changed: Arc<Notify>,
    /// The newest visible revision. Watches end with it.
    newest: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Whether somebody works through it.
    busy: bool,
}

#[derive(Debug)]
struct Job {
    work: Work,
    answer: oneshot::Sender<Result<Outcome, Error>>,
}

#[derive(Debug)]
enum Work {
    Commit(Transaction),
    Revoke(LeaseId),
    /// Only where it was not kept alive meanwhile.
    Expire(LeaseId),
}

impl Embedded {
    /// Opens the store in the file, or makes it. To be called within a tokio runtime; reads all of the file.
    ///
    /// # Errors
    /// [`Error::Unusable`] where the file is damaged, something else, or open in another process; [`Error::Full`].
    pub fn open(path: &Path, environment: &Environment) -> Result<Self, Error> {
        let file = File::open(path)?;
        Self::start(file, format!("the file {}", path.display()), true, environment)
    }

    /// A store that ends with the process, for tests. It never blocks, and does its work in the calls themselves.
    ///
    /// # Errors
    /// None in practice.
    pub fn in_memory(environment: &Environment) -> Result<Self, Error> {
        Self::start(File::in_memory()?, "memory".into(), false, environment)
    }

    fn start(mut file: File, description: String, blocks: bool, environment: &Environment) -> Result<Self, Error> {
        let mut state = file.load().map_err(|failure| failure.opening(&description))?;
        let mut draft = Draft::of(&state);
        draft.end_all_leases();
        let written = draft.into_written();
        if !written.is_empty() {
            file.write(&written).map_err(|failure| failure.opening(&description))?;
            state.take(&written);
        }
        let shared = Arc::new(Shared {
            environment: environment.clone(),
            description,
            blocks,
            newest: watch::Sender::new(state.revision),
            live: Arc::new(RwLock::new(Live { history: History::after(state.revision), state })),
            file: Mutex::new(file),
            queue: Mutex::default(),
            leases: Mutex::default(),
            leases_changed: Arc::default(),
        });
        let reaper = tokio::spawn(reap(Arc::downgrade(&shared), environment.clone()));
        Ok(Self { shared, reaper })
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.shared.live.read().unwrap_or_else(PoisonError::into_inner).state)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        lock(&self.shared.leases)
    }

    fn now(&self) -> Duration {
        self.shared.environment.clock.boottime()
    }
}

impl Drop for Embedded {
    /// Afterwards the file can be opened again, also where a commit that nobody waits for was still under way.
    fn drop(&mut self) {
        self.reaper.abort();
        lock(&self.shared.file).close();
    }
}

#[async_trait::async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        Ok(self.read(|state| Lookup { revision: state.revision, entry: state.entries.get(key).cloned() }))
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        Ok(self.read(|state| Snapshot { revision: state.revision, entries: state.range(prefix).cloned().collect() }))
    }

    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        Ok(self.read(|state| {
            let written = |entry: &&Entry| entry.mod_revision > after;
            Difference {
                revision: state.revision,
                written: state.range(prefix).filter(written).cloned().collect(),
                count: state.range(prefix).count(),
            }
        }))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        transaction.check()?;
        Shared::submit(&self.shared, Work::Commit(transaction)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.shared.live.read().unwrap_or_else(PoisonError::into_inner).history.check(from)?;
        Ok(Follower::new(self.shared.live.clone(), self.shared.newest.subscribe(), prefix, from).into_watch())
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let mut bytes = [0; 8];
        self.shared.environment.random.fill(&mut bytes);
        let id = LeaseId((i64::from_le_bytes(bytes) & i64::MAX).max(1));
        let ttl = Duration::from_secs(ttl.as_secs().max(1));
        self.leases().insert(id, Lease { ttl, deadline: self.now() + ttl });
        self.shared.leases_changed.notify_one();
        Ok(id)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.leases().keep_alive(lease, self.now()).ok_or(Error::LeaseGone(lease))
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        Ok(self.leases().time_to_live(lease, self.now()))
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        Shared::submit(&self.shared, Work::Revoke(lease)).await.map(drop)
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut live = self.shared.live.write().unwrap_or_else(PoisonError::into_inner);
        if revision > live.state.revision {
            return Err(Error::Refused { message: format!("revision {revision} is still to come") });
        }
        live.history.compact(revision);
        Ok(())
    }

    fn single_host(&self) -> bool {
        true
    }

    fn describe(&self) -> String {
        self.shared.description.clone()
    }
}

impl Shared {
    async fn submit(this: &Arc<Self>, work: Work) -> Result<Outcome, Error> {
        let (answer, answered) = oneshot::channel();
        let idle = {
            let mut queue = lock(&this.queue);
            queue.jobs.push_back(Job { work, answer });
            !std::mem::replace(&mut queue.busy, true)
        };
        match (idle, this.blocks) {
            (true, true) => {
                let this = this.clone();
                tokio::task::spawn_blocking(move || this.work_through());
            }
            (true, false) => this.work_through(),
            (false, _) => {}
        }
        match tokio::time::timeout(TIMEOUT, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::OutcomeUnknown { message: "the writing of the file broke off".into() }),
            Err(_) => Err(Error::OutcomeUnknown { message: format!("the disk did not answer within {TIMEOUT:?}") }),
        }
    }

    fn work_through(&self) {
        let _idle = IdleAtEnd(self);
        let mut file = lock(&self.file);
        loop {
            let jobs: Vec<Job> = {
                let mut queue = lock(&self.queue);
                let count = queue.jobs.len().min(BATCH);
                if count == 0 {
                    queue.busy = false;
                    return;
                }
                queue.jobs.drain(..count).collect()
            };
            self.work(&mut file, jobs);
        }
    }

    /// One draft, one write, and all the answers.
    fn work(&self, file: &mut File, jobs: Vec<Job>) {
        if let Err(failure) = self.reopen(file) {
            for job in jobs {
                let _ = job.answer.send(Err(failure.undone()));
            }
            return;
        }
        let now = self.environment.clock.boottime();
        let mut ended: Vec<(LeaseId, Lease)> = Vec::new();
        let mut answers = Vec::with_capacity(jobs.len());
        let written = {
            let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
            let mut draft = Draft::of(&live.state);
            for job in jobs {
                let mut leases = lock(&self.leases);
                let outcome = match &job.work {
                    Work::Commit(transaction) => {
                        draft.apply(transaction, |lease| leases.time_to_live(lease, now).is_some())
                    }
                    Work::Revoke(lease) | Work::Expire(lease) => {
                        let expiring = matches!(job.work, Work::Expire(_));
                        match leases.remove(*lease, expiring.then_some(now)) {
                            Some(removed) => {
                                ended.push((*lease, removed));
                                Ok(draft.end_lease(*lease))
                            }
                            None => Err(Error::LeaseGone(*lease)),
                        }
                    }
                };
                answers.push((job.answer, outcome));
            }
            draft.into_written()
        };
        let failed = if written.is_empty() { None } else { self.write(file, &written).err() };
        if failed.is_some() {
            // Their keys are still there: the reaper will come for them again.
            let mut leases = lock(&self.leases);
            ended.into_iter().for_each(|(id, lease)| leases.insert(id, lease));
        }
        for (answer, outcome) in answers {
            let outcome = match (&failed, outcome) {
                (Some(failed), Ok(_)) => Err(failed.to_error()),
                (_, outcome) => outcome,
            };
            let _ = answer.send(outcome);
        }
    }

    /// Writes it, and shows it where it came to be.
    fn write(&self, file: &mut File, written: &Written) -> Result<(), Failed> {
        let failed = match file.write(written) {
            Ok(()) => None,
            Err(failure) => {
                tracing::warn!(store = self.description, error = %failure, "a write failed; opening the file anew");
                match file.reopen() {
                    // All that belongs to it came through, and opening has synced it: what failed was what redb had to do after.
                    Ok(Reopened { revision, durable: true }) if revision == written.revision => None,
                    Ok(Reopened { revision, durable: false }) if revision == written.revision => {
                        Some(Failed::Unknown(failure.to_string()))
                    }
                    Ok(_) => return Err(Failed::Undone(failure)),
                    Err(_) => return Err(Failed::Unknown(failure.to_string())),
                }
            }
        };
        {
            let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
            live.state.take(written);
            live.history.push(written);
        }
        self.newest.send_replace(written.revision);
        failed.map_or(Ok(()), Err)
    }

    /// Where an earlier failure left the file closed: opens it, and takes what it holds for the truth.
    fn reopen(&self, file: &mut File) -> Result<(), file::Failure> {
        if file.is_open() {
            return Ok(());
        }
        let revision = file.reopen()?.revision;
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        if revision != live.state.revision {
            live.state = file.load()?;
            live.history = History::after(revision);
            self.newest.send_replace(revision);
        }
        Ok(())
    }
}

/// What became of a write that failed.
enum Failed {
    Undone(file::Failure),
    Unknown(String),
}

impl Failed {
    fn to_error(&self) -> Error {
        match self {
            Self::Undone(failure) => failure.undone(),
            Self::Unknown(message) => Error::OutcomeUnknown { message: message.clone() },
        }
    }
}

/// Also where the work panics, so that the next commit does not wait for it.
struct IdleAtEnd<'a>(&'a Shared);

impl Drop for IdleAtEnd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = lock(&self.0.queue);
            queue.busy = false;
            queue.jobs.clear();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends leases when their time has come.
async fn reap(shared: std::sync::Weak<Shared>, environment: Environment) {
    let mut backoff = Backoff::new(&environment, Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let Some(this) = shared.upgrade() else { return };
        let now = environment.clock.boottime();
        let expired = lock(&this.leases).expired(now);
        let mut failed = false;
        for lease in expired {
            match Shared::submit(&this, Work::Expire(lease)).await {
                // Gone: it was kept alive or revoked meanwhile.
                Ok(_) | Err(Error::LeaseGone(_)) => {}
                Err(error) => {
                    tracing::warn!(lease = lease.0, %error, "the keys of an ended lease cannot be deleted yet");
                    failed = true;
                }
            }
        }
        if failed {
            drop(this);
            backoff.wait().await;
            continue;
        }
        backoff.reset();
        let next = lock(&this.leases).earliest();
        let changed = this.leases_changed.clone();
        // Waiting must not keep the file open.
        drop(this);
        match next {
            Some(at) => {
                let _ = tokio::time::timeout(at.saturating_sub(now), changed.notified()).await;
            }
            None => changed.notified().await,
        }
    }
}
