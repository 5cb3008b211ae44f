//! Supervisors as tasks of the agent, where systemd is not PID 1.
//!
//! What a supervisor does comes in from outside ([`Run`]); here is only what systemd would do with it: one at most for
//! each instance, started again after [`EXIT_AGAIN`] and after a panic, told to stop by a token where systemd sends
//! SIGTERM. When the agent ends, its supervisors end with it and touch nothing; the next agent starts them and they take
//! over what runs.

use super::notify::Announce;
use super::{Change, EXIT_AGAIN, Error, Supervision, UnitState};
use crate::environment::{Backoff, Environment};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// A supervisor: given the instance, the token that tells it to stop, and where to say how far it is, it returns its
/// exit code.
pub type Run = Arc<dyn Fn(String, CancellationToken, Arc<dyn Announce>) -> BoxFuture<'static, u8> + Send + Sync>;

/// The supervisors of this process.
pub struct Tasks {
    run: Run,
    environment: Environment,
    tasks: Mutex<BTreeMap<String, Task>>,
    changes: broadcast::Sender<String>,
    /// Ends them all when this is dropped, without a word to them.
    all: CancellationToken,
}

struct Task {
    stop: CancellationToken,
    state: watch::Receiver<UnitState>,
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").finish_non_exhaustive()
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.all.cancel();
    }
}

impl Tasks {
    pub fn new(environment: &Environment, run: Run) -> Self {
        Self {
            run,
            environment: environment.clone(),
            tasks: Mutex::default(),
            changes: broadcast::channel(1024).0,
            all: CancellationToken::new(),
        }
    }

    fn tasks(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of the supervisor of `id`, to wait on; `None` where there never was one.
    fn watch(&self, id: &str) -> Option<watch::Receiver<UnitState>> {
        self.tasks().get(id).map(|task| task.state.clone())
    }

    fn spawn(&self, id: &str) -> watch::Receiver<UnitState> {
        let mut tasks = self.tasks();
        if let Some(task) = tasks.get(id)
            && matches!(*task.state.borrow(), UnitState::Active | UnitState::Activating)
        {
            return task.state.clone();
        }
        let (state, watched) = watch::channel(UnitState::Activating);
        let before = tasks.get(id).map(|task| task.state.clone());
        let stop = CancellationToken::new();
        let heard = Arc::new(Heard { id: id.to_owned(), state, changes: self.changes.clone() });
        let keeper = keep(before, self.run.clone(), id.to_owned(), stop.clone(), heard, self.environment.clone());
        let all = self.all.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = all.cancelled() => {}
                () = keeper => {}
            }
        });
        tasks.insert(id.to_owned(), Task { stop, state: watched.clone() });
        watched
    }
}

/// Runs the supervisor of one instance until it is done with it.
async fn keep(
    before: Option<watch::Receiver<UnitState>>,
    run: Run,
    id: String,
    stop: CancellationToken,
    heard: Arc<Heard>,
    environment: Environment,
) {
    // One that is just being stopped comes to its end first.
    if let Some(mut before) = before {
        let _ = before.wait_for(|state| !state.alive()).await;
    }
    let mut backoff = Backoff::new(&environment, Duration::from_millis(100), Duration::from_secs(10));
    loop {
        let announce: Arc<dyn Announce> = heard.clone();
        // In a task of its own, so that a panic is that supervisor's alone. Aborted with this one.
        let work = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(run(id.clone(), stop.clone(), announce)));
        match work.await {
            Ok(EXIT_AGAIN) if !stop.is_cancelled() => {
                backoff.reset();
                heard.set(UnitState::Activating);
            }
            Ok(code) => return heard.set(UnitState::Inactive { exit_code: Some(i32::from(code)) }),
            Err(error) if !stop.is_cancelled() => {
                tracing::error!(instance = id, %error, "the supervisor broke; starting it again");
                heard.set(UnitState::Activating);
                tokio::select! {
                    () = backoff.wait() => {}
                    () = stop.cancelled() => {}
                }
            }
            Err(_) => return heard.set(UnitState::Failed { result: "panic".to_owned(), exit_code: None }),
        }
    }
}

/// Where a task's supervisor says how far it is.
#[derive(Debug)]
struct Heard {
    id: String,
    state: watch::Sender<UnitState>,
    changes: broadcast::Sender<String>,
}

impl Heard {
    fn set(&self, state: UnitState) {
        self.state.send_replace(state);
        // Nobody may be listening.
        let _ = self.changes.send(self.id.clone());
    }
}

impl Announce for Heard {
    fn ready(&self) {
        self.set(UnitState::Active);
    }

    fn status(&self, text: &str) {
        tracing::debug!(instance = self.id, status = text, "supervisor");
        let _ = self.changes.send(self.id.clone());
    }

    fn extend(&self, _span: Duration) {}

    fn stopping(&self) {
        self.set(UnitState::Deactivating);
    }
}

#[async_trait::async_trait]
impl Supervision for Tasks {
    async fn start(&self, id: &str, limit: Duration) -> Result<UnitState, Error> {
        let mut state = self.spawn(id);
        let over = state.wait_for(|state| *state != UnitState::Activating);
        // Past the limit, it is still on its way.
        let _ = tokio::time::timeout(limit, over).await;
        self.state(id).await
    }

    async fn stop(&self, id: &str, limit: Duration) -> Result<UnitState, Error> {
        let Some(mut state) = self.watch(id) else { return Ok(UnitState::NotLoaded) };
        if let Some(task) = self.tasks().get(id) {
            task.stop.cancel();
        }
        let over = state.wait_for(|state| !state.alive());
        let _ = tokio::time::timeout(limit, over).await;
        self.state(id).await
    }

    async fn state(&self, id: &str) -> Result<UnitState, Error> {
        Ok(self.watch(id).map_or(UnitState::NotLoaded, |state| state.borrow().clone()))
    }

    async fn list(&self) -> Result<BTreeMap<String, UnitState>, Error> {
        Ok(self.tasks().iter().map(|(id, task)| (id.clone(), task.state.borrow().clone())).collect())
    }

    /// Takes away what is left of one that ended, so that the list is no longer than there is work.
    async fn forget(&self, id: &str) -> Result<(), Error> {
        self.tasks().retain(|other, task| other != id || task.state.borrow().alive());
        Ok(())
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        futures::stream::unfold(self.changes.subscribe(), |mut changes| async move {
            match changes.recv().await {
                Ok(id) => Some((Change::Instance(id), changes)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Change::Resync, changes)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}
