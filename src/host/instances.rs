//! The loop over this host's instances: fetch, plan, apply, look again.

use super::chain;
use super::exclusive::Exclusives;
use super::first::Firsts;
use super::floating::Floats;
use super::machines;
use super::natives::Natives;
use super::plan::{self, Seen, Step, Unit, Wanted, plan};
use super::queue::{Again, Queue};
use super::reclaim::Kept;
use crate::compute::{self, Driver, Drivers, halt, supervisor};
use crate::environment::Environment;
use crate::network::{Addressing, Links, Published, dns::Askers};
use crate::orchestration::lifecycle::{self, Observation};
use crate::orchestration::{Orchestrator, StatusError, Told, workload};
use crate::placement::record::{Claim, token};
use crate::resource::assignment::{Assignment, Desired, Exclusive, GuestData, Token};
use crate::resource::{Resource, State, identifier, instance, link, port};
use crate::store::ledger::{self, Ledger, Report};
use crate::store::mirror::{Item, Mirror};
use crate::store::{self, Entry, Store, decode, key};
use crate::systemd::{self, Change, Supervision, UnitState};
use futures::StreamExt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Instances looked at side by side: enough for Docker, which does about nine starts a second.
const SIDE_BY_SIDE: usize = 32;
/// Rounds of plan and apply in one look.
const ROUNDS: usize = 6;
/// After a failure, and while a supervisor is at work without a word.
const SOON: Duration = Duration::from_secs(1);
const LATER: Duration = Duration::from_secs(10);
/// The unit of what runs already waits about so long for other first starts: thirty at once take four seconds on two
/// processors. Whatever happens to the instance meanwhile has it begun at once.
const LULL: Duration = Duration::from_secs(6);
/// What the cluster does not know is looked at, and told of, this often.
const UNKNOWN: Duration = Duration::from_secs(60);
/// How long a start is waited for in place.
const START_PATIENCE: Duration = Duration::from_millis(1500);
/// The loop turns at least this often, so that the watchdog sees that it can.
const PULSE: Duration = Duration::from_secs(5);
/// How long a stop is: Docker's grace of 10 s, and some.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Everything a look needs. One for the agent's life.
#[derive(Debug)]
pub struct Instances {
    pub host: String,
    pub environment: Environment,
    pub store: Arc<dyn Store>,
    pub orchestrator: Orchestrator,
    pub ledger: Ledger,
    pub supervision: Arc<dyn Supervision>,
    pub drivers: Drivers,
    /// `None` on a host without the managed network.
    pub network: Option<Addressing>,
    /// The public ports that it opens, and whom its instances are linked to, where it sees to that.
    pub led: Option<(Published, Links, Floats)>,
    /// Who may ask for names here, and whose.
    pub askers: Askers,
    pub cluster_generation: u64,
    pub exclusives: Exclusives,
    pub firsts: Firsts,
    pub natives: Natives,
    /// What of an earlier generation runs here, by its addresses.
    pub kept: Kept,
    /// Where supervisors keep what may be lost with the boot.
    pub run_directory: PathBuf,
    /// Grows with each turn of the loop: the watchdog's sign of progress.
    pub beats: Arc<AtomicU64>,
}

/// Why a look ended early; it is tried again.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("the store")]
    Store(#[from] store::Error),
    #[error("the ledger")]
    Ledger(#[from] ledger::Error),
    #[error("the unit")]
    Supervision(#[from] systemd::Error),
    #[error("the driver")]
    Driver(#[from] compute::Error),
    #[error("the status")]
    Status(#[from] StatusError),
    #[error("Docker is at its start yet, though that was given up; it is stopped when that is over")]
    Starting,
}

impl Instances {
    /// Runs until `stop`; what runs on the host goes on.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let claims: Mirror<Claim> = Mirror::start(self.store.clone(), &self.environment, key::all_on(&self.host));
        let mut wanted = claims.changes();
        let mut units = self.supervision.changes();
        let mut queue = Queue::new(SIDE_BY_SIDE);
        let mut pulse = tokio::time::interval(PULSE);
        pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !claims.listed(LATER).await {
            if stop.is_cancelled() {
                return;
            }
        }
        self.exclusives.begin(&self.ledger);
        let mut lives = self.exclusives.lives();
        self.known().await.into_iter().for_each(|id| queue.wake(id));
        let (wake, mut woken) = mpsc::channel(SIDE_BY_SIDE);
        let _natives = AbortOnDropHandle::new(tokio::spawn(self.clone().keep_natives(wake)));
        loop {
            queue.start(|id| self.clone().look_logged(claims.clone(), id));
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.next() => changed.into_iter().for_each(|id| queue.wake(id)),
                change = units.next() => match change {
                    Some(Change::Instance(id)) => queue.wake(id),
                    Some(Change::Resync) => self.known().await.into_iter().for_each(|id| queue.wake(id)),
                    None => return,
                },
                Some(id) = woken.recv() => queue.wake(id),
                () = lives.next() => self.exclusives.all().into_iter().for_each(|id| queue.wake(id)),
                () = queue.step() => {}
                _ = pulse.tick() => {}
            }
            self.beats.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All that the ledger or systemd knows.
    async fn known(&self) -> Vec<String> {
        let mut known: Vec<String> = match self.ledger.assignments() {
            Ok((found, broken)) => {
                for error in broken {
                    tracing::error!(error = chain(&error), "a ledger file cannot be read; it is left alone");
                }
                found.into_iter().map(|assignment| assignment.id).collect()
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the ledger cannot be read");
                Vec::new()
            }
        };
        match self.supervision.list().await {
            Ok(units) => known.extend(units.into_keys()),
            Err(error) => tracing::warn!(error = chain(&error), "units cannot be listed"),
        }
        known
    }

    async fn look_logged(self: Arc<Self>, claims: Mirror<Claim>, id: String) -> Again {
        match self.look(&claims, &id).await {
            Ok(again) => again,
            Err(LookError::Status(StatusError::ClaimLost)) => {
                tracing::warn!(instance = id, "its claim is no longer ours");
                Again::After(SOON)
            }
            Err(error) => {
                tracing::warn!(instance = id, error = chain(&error), "looked at again soon");
                Again::After(self.environment.jitter(SOON * 2))
            }
        }
    }

    async fn look(&self, claims: &Mirror<Claim>, id: &str) -> Result<Again, LookError> {
        // Nothing is concluded from a list that may be old: with no store, hands off.
        if claims.freshness().stale_since.is_some() {
            return Ok(Again::After(SOON));
        }
        if let Some(again) = self.look_at_native(claims.get(id).as_ref(), id).await? {
            return Ok(again);
        }
        for _ in 0..ROUNDS {
            let claim = claims.get(id);
            let Some((seen, current)) = self.fetch(claim.as_ref(), id).await? else {
                return Ok(Again::After(SOON));
            };
            let steps = plan(&seen);
            let unknown = steps.contains(&Step::Quarantine);
            match self.apply_all(id, &seen, current.as_ref(), steps).await? {
                Acted::Yes => {}
                Acted::No => {
                    return Ok(match seen.unit {
                        Unit::Moving => Again::After(SOON),
                        // Nothing here tells that it was purged, or found another host.
                        _ if unknown => Again::After(UNKNOWN),
                        _ if seen.occupied.is_some() => Again::After(LATER),
                        _ => Again::OnChange,
                    });
                }
                Acted::Enough => return Ok(Again::After(LULL + self.environment.jitter(SOON))),
            }
        }
        Ok(Again::After(SOON))
    }

    /// What is wanted and what is there; `None` where the two are of different times and it is worth another look.
    async fn fetch(&self, claim: Option<&Item<Claim>>, id: &str) -> Result<Option<(Seen, Option<Current>)>, LookError> {
        let row = async {
            match claim {
                Some(claim) => Ok(self.store.get(&key::resource(instance::BASE, claim.value.id)).await?.entry),
                None => Ok::<_, LookError>(None),
            }
        };
        let (state, row) = tokio::join!(self.supervision.state(id), row);
        let (state, row) = (state?, row?);
        // After the state: a supervisor reports before it says that it is ready.
        let ledger = self.ledger.assignment(id)?;
        let report =
            self.ledger.report(id)?.filter(|report: &Report| report.boot_id == self.environment.identity.boot_id);
        let (mut wanted, mut tombstone, mut elsewhere, mut current) = (None, false, false, None);
        let mut at_rest = false;
        if let Some(claim) = claim {
            let token = token(self.cluster_generation, claim.create_revision);
            let Some(entry) = row else { return Ok(None) };
            let resource: Resource = decode(&entry)?;
            // The list is a little behind: the claim was just given up.
            let host = resource.get::<String>(instance::HOST_NAME);
            if resource.uuid != claim.value.uuid || host.as_deref() != Some(self.host.as_str()) {
                return Ok(None);
            }
            let Some(exclusive) =
                self.exclusives.allowed(id, &resource, token, ledger.as_ref(), !state.alive()).await?
            else {
                return Ok(None);
            };
            at_rest = resource.state == State::Stopped && report.as_ref().is_none_or(Report::is_over);
            let told = machines::told(&*self.store, &self.host, &resource).await?;
            wanted = Some(self.wanted(&resource, token, exclusive, told));
            current = Some(Current { token, generation: resource.generation, row: Mutex::new(entry) });
        } else if let Some(ledger) = &ledger {
            tombstone = self.store.get(&key::gone(&ledger.uuid)).await?.entry.is_some();
            elsewhere = self.is_elsewhere(ledger).await?;
        }
        let occupied = match &wanted {
            Some(wanted) => self.occupied(&wanted.assignment).await?,
            _ => None,
        };
        let mut seen = Seen { wanted, tombstone, elsewhere, ledger, report, unit: unit(state), occupied };
        // What Docker was asked to start may yet run, whatever it says now.
        if seen.is_to_be_down() && self.firsts.goes_on(id) {
            return Ok(None);
        }
        if !at_rest && seen.is_to_be_down() && self.runs(id, self.driver(&seen)).await? {
            seen.unit = Unit::Left;
        }
        Ok(Some((seen, current)))
    }

    /// Who of an earlier generation has its address on this host, and is still up with it.
    async fn occupied(&self, assignment: &Assignment) -> Result<Option<String>, LookError> {
        let Some(other) = self.kept.other(assignment) else { return Ok(None) };
        let known = self.ledger.assignment(&other)?;
        if self.supervision.state(&other).await?.alive() || self.runs(&other, self.drivers.of(known.as_ref())).await? {
            return Ok(Some(other));
        }
        self.kept.forget(&other);
        Ok(None)
    }

    async fn runs(&self, id: &str, driver: &Arc<dyn Driver>) -> Result<bool, LookError> {
        Ok(driver.observe(id).await?.is_some_and(|found| found.running))
    }

    /// What runs it here.
    fn driver(&self, seen: &Seen) -> &Arc<dyn Driver> {
        self.drivers.of(seen.wanted.as_ref().map(|wanted| &wanted.assignment).or(seen.ledger.as_ref()))
    }

    /// Whether its row says that it is on another host, or on none. What stays, is to run and has no host by its row found one
    /// after the snapshot from which the store was restored: nobody asked for its end.
    async fn is_elsewhere(&self, known: &Assignment) -> Result<bool, LookError> {
        let Some(number) = identifier::parse(instance::BASE, &known.id) else { return Ok(false) };
        let Some(entry) = self.store.get(&key::resource(instance::BASE, number)).await?.entry else { return Ok(false) };
        let resource: Resource = decode(&entry)?;
        let host = resource.get::<String>(instance::HOST_NAME);
        let lost = host.is_none() && known.exclusive.is_none() && instance::desired(&resource) == Desired::Running;
        Ok(resource.uuid == known.uuid && host.as_deref() != Some(self.host.as_str()) && !lost)
    }

    fn wanted(&self, resource: &Resource, token: Token, exclusive: Option<Exclusive>, told: GuestData) -> Wanted {
        let address = resource
            .get::<Ipv4Addr>(instance::ADDRESS)
            .and_then(|address| self.network.as_ref().map(|network| network.managed(address)));
        let image_uuid = resource.get::<String>(instance::IMAGE_UUID).unwrap_or_default();
        let image = workload::image(&image_uuid).map(|(_, reference)| reference.to_owned()).unwrap_or_default();
        Wanted {
            assignment: workload::assignment(
                resource,
                token,
                workload::Given { image, network: address, told },
                exclusive,
            ),
            purge: instance::desired(resource) == Desired::Purged,
            deallocate: lifecycle::to_deallocate(resource),
        }
    }

    async fn apply_all(
        &self,
        id: &str,
        seen: &Seen,
        current: Option<&Current>,
        steps: Vec<Step>,
    ) -> Result<Acted, LookError> {
        let mut acted = false;
        let mut steps = steps.into_iter().peekable();
        while let Some(step) = steps.next() {
            // That it starts is told while it starts: the store's answer is not waited for first.
            if matches!(step, Step::Say(_)) && steps.next_if_eq(&Step::StartUnit).is_some() {
                let (said, running) = tokio::join!(self.apply(id, seen, current, step), self.first_start(seen));
                said?;
                let Some(running) = running else {
                    acted |= self.apply(id, seen, current, Step::StartUnit).await?;
                    continue;
                };
                if self.firsts.busy() {
                    self.apply(id, seen, current, Step::Say(running)).await?;
                    return Ok(Acted::Enough);
                }
                let (started, said) = tokio::join!(
                    self.apply(id, seen, current, Step::StartUnit),
                    self.apply(id, seen, current, Step::Say(running)),
                );
                said?;
                acted |= started?;
            } else {
                acted |= self.apply(id, seen, current, step).await?;
            }
        }
        Ok(if acted { Acted::Yes } else { Acted::No })
    }

    /// Where nothing of it was here before, the agent starts it; what is to be said of it then.
    async fn first_start(&self, seen: &Seen) -> Option<Observation> {
        let wanted = seen.wanted.as_ref().filter(|_| seen.ledger.is_none())?;
        let phase = self.firsts.start(self.driver(seen), &self.ledger, &self.environment, &wanted.assignment).await?;
        plan::runs(&phase)
    }

    /// What its image exposes, where the cluster does not know that yet: once it runs, its container tells. It is published
    /// where that was asked for.
    async fn expose(
        &self,
        current: &Current,
        driver: &Arc<dyn Driver>,
        seen: &Observation,
    ) -> Result<Option<link::Ports>, LookError> {
        let Observation::Running { external_id, .. } = seen else { return Ok(None) };
        let row: Resource = decode(&current.row())?;
        let publish = port::wants_exposed(&row);
        if !publish && link::knows_image_ports(&row) {
            return Ok(None);
        }
        let exposed = driver.exposed(external_id).await?;
        if publish {
            self.orchestrator.exposed(&self.host, current.token, row.id, &exposed).await?;
        }
        Ok(Some(exposed))
    }

    /// Its supervisor ends it; where that could not (it was killed, or had hardly begun), this does.
    async fn stop(&self, id: &str, driver: &Arc<dyn Driver>) -> Result<(), LookError> {
        self.supervision.stop(id, STOP_PATIENCE).await?;
        if self.firsts.goes_on(id) {
            return Err(LookError::Starting);
        }
        if let Some(found) = driver.observe(id).await? {
            halt(&**driver, &found, driver.grace()).await?;
        }
        Ok(())
    }

    /// Its ports, links and floating addresses lead to it, and it is answered.
    pub(super) fn begin_to_serve(&self, assignment: &Assignment) {
        if let Some((published, links, floating)) = &self.led {
            published.put(assignment);
            links.put(assignment);
            floating.put(assignment);
        }
        self.askers.put(assignment);
    }

    pub(super) fn end_serving(&self, id: &str) {
        if let Some((published, links, floating)) = &self.led {
            published.forget(id);
            links.forget(id);
            floating.forget(id);
        }
        self.askers.forget(id);
    }

    /// Does one step. True where it may have changed what is there.
    async fn apply(&self, id: &str, seen: &Seen, current: Option<&Current>, step: Step) -> Result<bool, LookError> {
        tracing::debug!(instance = id, ?step, "applying");
        match step {
            // It waits for the disk, which must not keep others waiting.
            Step::WriteLedger(assignment) => {
                self.begin_to_serve(&assignment);
                self.ledger.keep_assignment(*assignment).await?;
            }
            Step::ForgetReport => self.ledger.forget_report(id)?,
            Step::StopUnit => self.stop(id, self.driver(seen)).await?,
            // What became of it stands in its report. A long start (an image on its way) goes on without us, so that a stop
            // that is asked for meanwhile is heard.
            Step::StartUnit => {
                if seen.wanted.as_ref().is_some_and(|wanted| self.exclusives.is_given_up(&wanted.assignment)) {
                    return Ok(true);
                }
                self.kept.forget(id);
                self.exclusives.lift(id);
                drop(self.supervision.start(id, START_PATIENCE).await?);
            }
            Step::RemoveWorkload => {
                let driver = self.driver(seen);
                let observed = driver.observe(id).await?;
                if let Some(observed) = &observed {
                    driver.remove(&observed.external_id).await?;
                }
                return Ok(observed.is_some());
            }
            Step::ForgetLedger => {
                self.ledger.forget(id)?;
                self.end_serving(id);
                self.exclusives.forget(id);
                supervisor::forget(&self.run_directory, id);
                self.supervision.forget(id).await?;
                return Ok(false);
            }
            Step::Say(observation) => {
                if let Some(current) = current {
                    let exposed = self.expose(current, self.driver(seen), &observation).await;
                    let (read, ports) = (current.row(), exposed.as_ref().ok().and_then(Option::as_ref));
                    let said =
                        self.orchestrator.observed_exposing(&self.host, current.token, &read, &observation, ports);
                    let told = said.await?;
                    if let Told::Written(row) = told {
                        current.is_now(row)?;
                    }
                    // That it runs is said all the same.
                    exposed?;
                }
                // What was said needs no second look; a newer wish comes with a change of the claim.
                return Ok(false);
            }
            Step::Quarantine => {
                let uuid = seen.ledger.as_ref().map(|known| known.uuid.as_str()).unwrap_or_default();
                tracing::warn!(
                    instance = id,
                    uuid,
                    "runs here, and the cluster knows nothing of it: left alone (docs/inspect.md says what to do)"
                );
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What became of a plan's steps.
enum Acted {
    /// They may have changed what is there.
    Yes,
    No,
    /// It runs; the rest can wait until others run too.
    Enough,
}

/// What a status is written against.
#[derive(Debug)]
struct Current {
    token: Token,
    generation: u64,
    row: Mutex<Entry>,
}

impl Current {
    fn row(&self) -> Entry {
        self.row.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What this host wrote itself it need not read again. Where that made it another wish, what is done is of the one before.
    fn is_now(&self, row: Entry) -> Result<(), store::Error> {
        if decode::<Resource>(&row)?.generation == self.generation {
            *self.row.lock().unwrap_or_else(PoisonError::into_inner) = row;
        }
        Ok(())
    }
}

fn unit(state: UnitState) -> Unit {
    match state {
        UnitState::Active => Unit::Up,
        UnitState::Activating | UnitState::Deactivating => Unit::Moving,
        UnitState::Inactive { .. } | UnitState::NotLoaded => Unit::Down,
        UnitState::Failed { .. } => Unit::Failed,
    }
}
