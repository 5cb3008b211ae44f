//! Native containers ([`crate::resource::native`]) on this host: found, written down, and followed.
//!
//! ```text
//!  Docker's events, a minute ─► list ─┬─ unknown ──► adopted: row and claim ─┐
//!                                     └─ changed, or gone ──────────────────►├─► a look: fetch, plan (pure), apply
//!  claims in the store (somebody asked over the API) ───────────────────────►┘
//! ```
//! What is listed decides, events only wake: what came and went while there was no agent is seen at the next list.

use super::chain;
use super::instances::{Instances, LookError};
use super::queue::Again;
use crate::compute;
use crate::compute::native::{Glimpse, Natives as Driver};
use crate::network::Spares;
use crate::orchestration::lifecycle::Observation;
use crate::orchestration::{Told, workload};
use crate::placement::record::{Claim, token};
use crate::resource::assignment::{Assignment, Desired, GuestData};
use crate::resource::native::Native;
use crate::resource::{Resource, State, identifier, instance};
use crate::store::mirror::Item;
use crate::store::{Entry, decode, key};
use futures::{FutureExt, StreamExt};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// A list without a reason this often.
const PERIOD: Duration = Duration::from_secs(60);
/// What happens within this time is looked at together.
const GATHER: Duration = Duration::from_millis(200);
/// After a failure.
const SOON: Duration = Duration::from_secs(2);
const LATER: Duration = Duration::from_secs(10);
/// Rounds of plan and apply in one look.
const ROUNDS: usize = 6;

/// What is known of those on this host. One for the agent's life.
#[derive(Debug, Default)]
pub struct Natives {
    /// `None` where there is no Docker, or no managed network.
    pub site: Option<Site>,
    known: Mutex<BTreeMap<String, Known>>,
}

/// Where they are.
#[derive(Debug)]
pub struct Site {
    pub driver: Arc<dyn Driver>,
    pub spares: Spares,
    /// This host's number.
    pub host_id: u64,
}

/// By Docker's id.
#[derive(Debug)]
struct Known {
    /// `1i54`
    instance: String,
    /// As it was listed last.
    looks: String,
}

/// What is there of one, and what is wanted.
#[derive(Debug)]
struct Seen<'a> {
    row: &'a Resource,
    assignment: &'a Assignment,
    ledger: Option<&'a Assignment>,
    found: Option<&'a Native>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Start,
    Stop,
    Restart,
    Remove,
    /// From then on it is done what this asked for.
    WriteLedger,
    ForgetLedger,
    Say(Observation),
}

fn plan(seen: &Seen) -> Vec<Step> {
    let Seen { row, assignment, ledger, found } = *seen;
    let runs = found.is_some_and(|found| found.running);
    let desired = instance::desired(row);
    if desired == Desired::Purged {
        // Of one that was taken off the network, the row alone goes: the container is not ours to remove any more.
        let remove = found.map(|_| Step::Remove);
        return remove.into_iter().chain([Step::ForgetLedger, Step::Say(Observation::Purged)]).collect();
    }
    // Of this very wish: one that ended at once is not begun again.
    let done =
        ledger.is_some_and(|ledger| (ledger.generation, ledger.token) == (assignment.generation, assignment.token));
    match (row.state, desired) {
        (State::Stopping, Desired::Stopped) if runs => return vec![Step::Stop],
        (State::Starting, Desired::Running) if found.is_some() && !runs && !done => {
            return vec![Step::Start, Step::WriteLedger];
        }
        (State::Restarting, Desired::Running) if found.is_some() && !done => {
            return vec![Step::Restart, Step::WriteLedger];
        }
        _ => {}
    }
    let mut steps = Vec::new();
    if ledger != Some(assignment) {
        steps.push(Step::WriteLedger);
    }
    steps.push(Step::Say(Observation::Native(found.cloned().map(Box::new))));
    steps
}

impl Natives {
    pub fn new(site: Site) -> Self {
        Self { site: Some(site), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From what the ledger has: what is gone since is missed at the first list.
    fn begin(&self, ledger: &[Assignment]) {
        let natives = ledger.iter().filter_map(|known| Some((known.native.clone()?, known.id.clone())));
        let known = natives.map(|(external_id, instance)| (external_id, Known { instance, looks: String::new() }));
        self.known().extend(known);
    }

    /// Nothing here is of that instance any more: if Docker has its container yet, it is a new one.
    fn forget(&self, instance: &str) {
        self.known().retain(|_, known| known.instance != instance);
    }

    /// What of a list is unknown, and which instances are to be looked at because of it.
    fn compare(&self, listed: Vec<Glimpse>) -> (Vec<Glimpse>, Vec<String>) {
        let mut listed: BTreeMap<String, Glimpse> =
            listed.into_iter().map(|glimpse| (glimpse.external_id.clone(), glimpse)).collect();
        let mut changed = Vec::new();
        self.known().retain(|external_id, known| {
            let Some(glimpse) = listed.remove(external_id) else {
                changed.push(known.instance.clone());
                return false;
            };
            if known.looks != glimpse.looks {
                changed.push(known.instance.clone());
                known.looks = glimpse.looks;
            }
            true
        });
        (listed.into_values().filter(|glimpse| glimpse.counts).collect(), changed)
    }
}

/// Why a turn ended early; the next goes on.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("the driver")]
    Driver(#[from] compute::Error),
    #[error("it is not adopted")]
    Adopt(#[from] crate::orchestration::ServiceError),
    #[error("addresses for Docker")]
    Spares(#[from] crate::network::spares::Error),
}

impl Instances {
    /// Lists, adopts and sees to the spares, for ever; instances that are to be looked at are told to `wake`.
    pub(super) async fn keep_natives(self: Arc<Self>, wake: mpsc::Sender<String>) {
        let Some(site) = &self.natives.site else { return };
        self.natives.begin(&self.ledger.assignments().map(|(found, _)| found).unwrap_or_default());
        let mut events = site.driver.native_events();
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                Some(()) = events.next() => {}
                () = tokio::time::sleep(pause) => {}
            }
            tokio::time::sleep(GATHER).await;
            while let Some(Some(())) = events.next().now_or_never() {}
            pause = match self.turn(site, &wake).await {
                Ok(()) => self.environment.jitter(PERIOD),
                Err(TurnError::Driver(error)) if error.is_gone() => PERIOD,
                Err(error) => {
                    tracing::warn!(error = chain(&error), "what Docker started by itself is looked at again soon");
                    self.environment.jitter(SOON)
                }
            };
        }
    }

    async fn turn(&self, site: &Site, wake: &mpsc::Sender<String>) -> Result<(), TurnError> {
        let tended = site.spares.tend().await;
        // Its events begin again with it.
        if !site.driver.answers().await {
            return Ok(tended?);
        }
        let listed = site.driver.natives().await?;
        let endpoints = listed.iter().filter_map(|glimpse| glimpse.endpoint.clone()).collect();
        let swept = site.spares.sweep(&endpoints).await;
        let (unknown, changed) = self.natives.compare(listed);
        for instance in changed {
            // Where nobody hears, all ends.
            let _ = wake.send(instance).await;
        }
        // One that cannot be written down keeps no other from it.
        let mut adopted = Ok(());
        for glimpse in unknown {
            match self.adopt(site, glimpse).await {
                Ok(Some(instance)) => drop(wake.send(instance).await),
                Ok(None) => {}
                Err(error) => adopted = Err(error),
            }
        }
        adopted?;
        tended?;
        Ok(swept?)
    }

    /// Writes down what is unknown; the instance that it is from now on.
    async fn adopt(&self, site: &Site, glimpse: Glimpse) -> Result<Option<String>, TurnError> {
        let Some(native) = site.driver.native(&glimpse.external_id).await? else { return Ok(None) };
        let number = self.orchestrator.adopt(&self.host, site.host_id, &native).await?;
        let instance = identifier::instance(number);
        let known = Known { instance: instance.clone(), looks: glimpse.looks };
        self.natives.known().insert(glimpse.external_id, known);
        Ok(Some(instance))
    }

    /// A look at a native container; `None` where it is none.
    pub(super) async fn look_at_native(
        &self,
        claim: Option<&Item<Claim>>,
        id: &str,
    ) -> Result<Option<Again>, LookError> {
        let Some(claim) = claim else {
            if self.ledger.assignment(id)?.is_none_or(|known| known.native.is_none()) {
                return Ok(None);
            }
            // Taken from this host by force, or unknown to a store that went back. Docker's own is Docker's: where it is
            // there yet, it is adopted anew.
            self.forget_native(id)?;
            return Ok(Some(Again::OnChange));
        };
        if !claim.value.native {
            return Ok(None);
        }
        // Its network was turned off on this host: Docker has it, and nobody here has a hand in it.
        let Some(site) = &self.natives.site else { return Ok(Some(Again::OnChange)) };
        if !site.driver.answers().await {
            return Ok(Some(Again::After(LATER)));
        }
        for _ in 0..ROUNDS {
            let row = key::resource(instance::BASE, claim.value.id);
            let Some(entry) = self.store.get(&row).await?.entry else { return Ok(Some(Again::After(SOON))) };
            let resource: Resource = decode(&entry)?;
            let host = resource.get::<String>(instance::HOST_NAME);
            if resource.uuid != claim.value.uuid || host.as_deref() != Some(self.host.as_str()) {
                return Ok(Some(Again::After(SOON)));
            }
            let external_id: String = resource.get(instance::EXTERNAL_ID).unwrap_or_default();
            let found = match site.driver.native(&external_id).await {
                Ok(found) => found,
                // Nothing is concluded from Docker's silence; it is listed anew when it is back.
                Err(error) if error.is_gone() => return Ok(Some(Again::After(LATER))),
                Err(error) => return Err(error.into()),
            };
            let assignment = self.native_assignment(&resource, claim);
            let ledger = self.ledger.assignment(id)?;
            let seen = Seen { row: &resource, assignment: &assignment, ledger: ledger.as_ref(), found: found.as_ref() };
            let mut again = false;
            for step in plan(&seen) {
                tracing::debug!(instance = id, ?step, "applying");
                again |= match self.apply_to_native(site, &external_id, &assignment, &entry, step).await {
                    Err(LookError::Driver(error)) if error.is_gone() => return Ok(Some(Again::After(LATER))),
                    result => result?,
                };
            }
            if !again {
                return Ok(Some(Again::OnChange));
            }
        }
        Ok(Some(Again::After(SOON)))
    }

    fn native_assignment(&self, resource: &Resource, claim: &Item<Claim>) -> Assignment {
        let address = resource
            .get::<Ipv4Addr>(instance::ADDRESS)
            .and_then(|address| self.network.as_ref().map(|network| network.managed(address)));
        let image_uuid = resource.get::<String>(instance::IMAGE_UUID).unwrap_or_default();
        let image = workload::image(&image_uuid).map(|(_, reference)| reference.to_owned()).unwrap_or_default();
        let token = token(self.cluster_generation, claim.create_revision);
        let given = workload::Given { image, network: address, told: GuestData::default() };
        workload::assignment(resource, token, given, None)
    }
    /// Does one step. True where that changed what there is to be looked at.
    async fn apply_to_native(
        &self,
        site: &Site,
        external_id: &str,
        assignment: &Assignment,
        row: &Entry,
        step: Step,
    ) -> Result<bool, LookError> {
        let grace = compute::GRACE;
        let said = match step {
            Step::Stop => {
                site.driver.stop_native(external_id, grace).await?;
                return Ok(true);
            }
            Step::Remove => {
                site.driver.remove_native(external_id).await?;
                return Ok(false);
            }
            Step::WriteLedger => {
                self.begin_to_serve(assignment);
                self.ledger.keep_assignment(assignment.clone()).await?;
                return Ok(false);
            }
            Step::ForgetLedger => {
                self.forget_native(&assignment.id)?;
                return Ok(false);
            }
            Step::Say(observation) => observation,
            Step::Start | Step::Restart => {
                let done = match step {
                    Step::Start => site.driver.start_native(external_id).await,
                    _ => site.driver.restart_native(external_id, grace).await,
                };
                match done {
                    Ok(()) => return Ok(true),
                    Err(error) if error.is_gone() => return Err(error.into()),
                    Err(error) => Observation::Failed { message: error.to_string() },
                }
            }
        };
        let told = self.orchestrator.observed(&self.host, assignment.token, row, &said).await?;
        Ok(matches!(told, Told::Written(_)))
    }

    fn forget_native(&self, id: &str) -> Result<(), LookError> {
        self.ledger.forget(id)?;
        self.end_serving(id);
        self.natives.forget(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(state: &str, desired: &str) -> Resource {
        let row = json!({"id": 5, "kind": "container", "uuid": "u", "created": 1, "state": state, "generation": 2,
            "desired": desired, "nativeContainer": true, "externalId": "c1", "imageUuid": "docker:busybox"});
        serde_json::from_value(row).unwrap()
    }

    fn found(running: bool) -> Option<Native> {
        Some(Native { external_id: "c1".into(), running, ..Native::default() })
    }

    fn steps(row: &Resource, ledger: Option<u64>, found: Option<&Native>) -> Vec<Step> {
        let assignment = Assignment { generation: row.generation, ..Assignment::example("1i5") };
        let ledger = ledger.map(|generation| Assignment { generation, ..assignment.clone() });
        plan(&Seen { row, assignment: &assignment, ledger: ledger.as_ref(), found })
    }

    fn says(found: Option<Native>) -> Step {
        Step::Say(Observation::Native(found.map(Box::new)))
    }

    #[test]
    fn only_what_was_asked_for_is_done_to_it() {
        let (up, down) = (found(true), found(false));
        for (state, desired) in [("running", "running"), ("stopped", "stopped"), ("removed", "stopped")] {
            for found in [&up, &down, &None] {
                assert_eq!(steps(&row(state, desired), Some(2), found.as_ref()), [says(found.clone())], "{state}");
            }
        }
        assert_eq!(steps(&row("stopping", "stopped"), Some(1), up.as_ref()), [Step::Stop]);
        let starting = row("starting", "running");
        assert_eq!(steps(&starting, Some(1), down.as_ref()), [Step::Start, Step::WriteLedger]);
        assert_eq!(steps(&starting, Some(2), down.as_ref()), [says(down.clone())], "it was begun, and has ended");
        assert_eq!(steps(&starting, Some(1), None), [Step::WriteLedger, says(None)], "it is gone");
        assert_eq!(steps(&row("restarting", "running"), Some(1), up.as_ref()), [Step::Restart, Step::WriteLedger]);
        // Held back by an external handler.
        assert_eq!(steps(&row("stopping", "running"), Some(2), up.as_ref()), [says(up.clone())]);
        let purged = [Step::Remove, Step::ForgetLedger, Step::Say(Observation::Purged)];
        assert_eq!(steps(&row("purging", "purged"), None, up.as_ref()), purged);
        assert_eq!(steps(&row("purging", "purged"), None, None), purged[1..], "it was taken off the network");
    }

    #[test]
    fn a_list_tells_what_came_changed_and_went() {
        let glimpse = |external_id: &str, counts, looks: &str| Glimpse {
            external_id: external_id.into(),
            counts,
            endpoint: None,
            looks: looks.into(),
        };
        let natives = Natives::default();
        let ledger = |id: &str| Assignment { native: Some(format!("c-{id}")), ..Assignment::example(id) };
        natives.begin(&[ledger("1i5"), ledger("1i6"), Assignment::example("1i7")]);
        let list = || vec![glimpse("c-1i5", true, "a"), glimpse("c-new", true, "b"), glimpse("c-made", false, "c")];
        let (unknown, changed) = natives.compare(list());
        assert_eq!(unknown, [glimpse("c-new", true, "b")], "what was never started is nobody's yet");
        assert_eq!(changed, ["1i5", "1i6"]);
        assert_eq!(natives.compare(list()).1, Vec::<String>::new(), "as it was");
        natives.forget("1i5");
        assert_eq!(natives.compare(list()).0.len(), 2);
    }
}
