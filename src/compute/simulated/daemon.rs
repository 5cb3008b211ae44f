//! The daemon's own state, and what befalls it.

use super::{Running, Why, Witness};
use crate::compute::{Daemon, Error, Observed};
use crate::environment::Environment;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How it goes about its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gait {
    /// A call takes up to so long.
    pub call: Duration,
    /// A start takes up to so long.
    pub start: Duration,
    /// From being told to stop to the end, at the most.
    pub stop: Duration,
    /// From being killed to the end, at the most.
    pub kill: Duration,
    /// Containers stand in their instances' slices, which can be closed.
    pub slices: bool,
    /// Containers outlive the daemon.
    pub live_restore: bool,
}

impl Default for Gait {
    fn default() -> Self {
        Self {
            call: Duration::from_millis(5),
            start: Duration::from_millis(300),
            stop: Duration::from_millis(500),
            kill: Duration::from_millis(100),
            slices: true,
            live_restore: false,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) enum Condition {
    #[default]
    Answers,
    /// It is there and does nothing; what it was at goes on when it comes to.
    Hung,
    Away,
}

#[derive(Debug)]
pub(super) struct Container {
    pub what: Running,
    pub running: bool,
    /// A start is under way.
    pub starting: bool,
    /// Wall-clock milliseconds.
    pub started_at: Option<i64>,
    pub exit_code: Option<i64>,
    /// Being killed; gone by then, by the boot clock.
    pub dying: Option<Duration>,
    /// The events that fail with it.
    pub faults: BTreeSet<String>,
}

impl Container {
    pub fn observed(&self) -> Observed {
        Observed {
            instance: self.what.instance.clone(),
            uuid: self.what.uuid.clone(),
            token: Some(self.what.token),
            generation: Some(self.what.generation),
            external_id: self.what.external_id.clone(),
            running: self.running,
            exit_code: self.exit_code.filter(|_| !self.running),
            started_at: self.started_at,
            message: None,
            oom: false,
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub environment: Environment,
    pub containers: BTreeMap<String, Container>,
    pub images: BTreeSet<String>,
    /// Instances whose slice takes no container.
    pub sealed: BTreeSet<String>,
    pub made: u64,
    /// When the daemon was started, by the wall clock.
    pub since: i64,
    /// How often the power went: what was begun before goes on no more.
    pub boot: u64,
}

/// See the module's text. Cheap to clone.
#[derive(Clone)]
pub struct Simulated {
    pub(super) gait: Gait,
    name: String,
    state: Arc<Mutex<State>>,
    condition: Arc<watch::Sender<Condition>>,
    /// Moves with every change.
    changed: Arc<watch::Sender<u64>>,
    witness: Arc<dyn Witness>,
}

impl Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Simulated {
    /// `name` tells one host's containers from another's.
    pub fn new(environment: &Environment, name: &str, gait: Gait, witness: Arc<dyn Witness>) -> Self {
        let state = State {
            environment: environment.clone(),
            containers: BTreeMap::new(),
            images: BTreeSet::new(),
            sealed: BTreeSet::new(),
            made: 0,
            since: environment.clock.now().0,
            boot: 0,
        };
        Self {
            gait,
            name: name.to_owned(),
            state: Arc::new(Mutex::new(state)),
            condition: Arc::new(watch::Sender::new(Condition::Answers)),
            changed: Arc::new(watch::Sender::new(0)),
            witness,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn environment(&self) -> Environment {
        self.state().environment.clone()
    }

    /// All that runs.
    pub fn running(&self) -> Vec<Running> {
        self.state().containers.values().filter(|one| one.running).map(|one| one.what.clone()).collect()
    }

    /// It hangs: nothing is answered and nothing gets on until [`Self::answer`].
    pub fn hang(&self) {
        self.condition.send_replace(Condition::Hung);
    }

    /// It goes away, with its containers where they do not outlive it.
    pub fn go_away(&self) {
        self.condition.send_replace(Condition::Away);
        self.state().containers.values_mut().for_each(|one| one.starting = false);
        if !self.gait.live_restore {
            self.end_all(Why::Daemon);
        }
    }

    /// It is there again: it comes to, or was started anew.
    pub fn answer(&self) {
        if *self.condition.borrow() == Condition::Away {
            let mut state = self.state();
            state.since = state.environment.clock.now().0;
        }
        self.condition.send_replace(Condition::Answers);
    }

    /// One ends by itself.
    pub fn finish(&self, external_id: &str, exit_code: i64) {
        self.end(external_id, Why::Own, exit_code);
    }

    /// The power goes.
    pub fn power_off(&self) {
        self.condition.send_replace(Condition::Away);
        self.end_all(Why::Power);
        let mut state = self.state();
        state.boot += 1;
        state.sealed.clear();
        state.containers.values_mut().for_each(|one| one.starting = false);
    }

    /// The machine boots, and the daemon with it; time is this boot's.
    pub fn power_on(&self, environment: &Environment) {
        {
            let mut state = self.state();
            state.environment = environment.clone();
            state.since = environment.clock.now().0;
        }
        self.condition.send_replace(Condition::Answers);
    }

    pub(super) fn condition(&self) -> Condition {
        *self.condition.borrow()
    }

    /// Refuses `action` where the container is to fail at it.
    pub(super) fn succeeds(&self, external_id: &str, event: &str, action: &'static str) -> Result<(), Error> {
        match self.state().containers.get(external_id) {
            Some(container) => succeeds(&container.faults, event, action),
            None => Ok(()),
        }
    }

    /// Waits until the daemon is not as it is now.
    pub(super) async fn until(&self, so: impl Fn(Condition) -> bool) {
        let mut condition = self.condition.subscribe();
        // The sender is ours.
        let _ = condition.wait_for(|now| so(*now)).await;
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(super) fn name_next(&self, state: &mut State) -> String {
        state.made += 1;
        format!("{}-container-{:06}", self.name, state.made)
    }

    /// A start comes to its end.
    pub(super) fn begin(&self, external_id: &str) -> Result<(), Error> {
        let begun = self.try_begin(external_id);
        self.changed.send_modify(|count| *count += 1);
        begun
    }

    fn try_begin(&self, external_id: &str) -> Result<(), Error> {
        let what = {
            let mut state = self.state();
            let now = state.environment.clock.now().0;
            let State { containers, sealed, .. } = &mut *state;
            let Some(container) = containers.get_mut(external_id) else { return Err(absent("start the container")) };
            container.starting = false;
            if container.running {
                return Ok(());
            }
            if self.gait.slices && sealed.contains(&container.what.instance) {
                let message = "cannot make a cgroup: its slice is closed".to_owned();
                return Err(Error::Refused { action: "start the container", status: Some(500), message });
            }
            container.running = true;
            container.started_at = Some(now);
            container.exit_code = None;
            container.dying = None;
            container.what.clone()
        };
        self.witness.began(&what);
        Ok(())
    }

    /// Whether it ran.
    pub(super) fn end(&self, external_id: &str, why: Why, exit_code: i64) -> bool {
        let ended = {
            let mut state = self.state();
            state.containers.get_mut(external_id).filter(|one| one.running).map(|container| {
                container.running = false;
                container.exit_code = Some(exit_code);
                container.dying = None;
                container.what.clone()
            })
        };
        if let Some(what) = &ended {
            self.witness.ended(what, why);
            self.changed.send_modify(|count| *count += 1);
        }
        ended.is_some()
    }

    fn end_all(&self, why: Why) {
        for what in self.running() {
            self.end(&what.external_id, why, 137);
        }
    }

    pub(super) fn forget(&self, external_id: &str) {
        self.end(external_id, Why::Removed, 137);
        self.state().containers.remove(external_id);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Refuses `action` where its event is among those that are to fail.
pub(super) fn succeeds(faults: &BTreeSet<String>, event: &str, action: &'static str) -> Result<(), Error> {
    if faults.contains(event) {
        let message = format!("{event} fails, as the instance's data says ({event}::fail)");
        return Err(Error::Refused { action, status: Some(500), message });
    }
    Ok(())
}

pub(super) fn absent(action: &'static str) -> Error {
    Error::Refused { action, status: Some(404), message: "no such container".to_owned() }
}

pub(super) fn gone(action: &'static str) -> Error {
    Error::Gone { daemon: Daemon::Docker, action, source: "the simulated daemon is away".into() }
}
