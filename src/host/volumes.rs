//! The loop over this host's data volumes: what is wanted of each, what is there, what is to be done, and again.
//!
//! ```text
//!  disk/<host>/ ──► look: the row, its instance, what its guest has ──► plan (pure) ──► libvirt ──► what was seen, into the row
//!                    ▲
//!                    └── a domain began or ended; something failed a while ago
//! ```
//! A guest that starts brings along what its host's ledger says. What that did not say yet is given to it here, once it runs.

use super::chain;
use super::queue::{Again, Queue};
use crate::compute::libvirt::{Disk, Libvirt, LiveDisks};
use crate::compute::{self, Driver, Event};
use crate::environment::Environment;
use crate::orchestration::{DiskWish, Orchestrator, RootSeen, StatusError, VolumeSeen};
use crate::resource::assignment::MachineVolume;
use crate::resource::snapshot::Layers;
use crate::resource::volume;
use crate::resource::{Resource, State, Transitioning, identifier, instance};
use crate::store::mirror::Mirror;
use crate::store::{self, Revision, Store, decode, key};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;

/// Volumes looked at side by side.
const SIDE_BY_SIDE: usize = 4;
/// How often it is looked whether there is any libvirt.
const PRESENCE: Duration = Duration::from_secs(60);
/// While there is none to follow.
const LISTING: Duration = Duration::from_secs(10);
/// After a failure.
const LATER: Duration = Duration::from_secs(10);
/// A guest that was asked to let go is looked at this often, a few times; and then less so.
const SOON: Duration = Duration::from_millis(500);
const LOOKS: usize = 10;

/// See the module's text. One for the agent's life.
#[derive(Debug)]
pub struct Volumes {
    pub host: String,
    pub environment: Environment,
    pub store: Arc<dyn Store>,
    pub orchestrator: Orchestrator,
    pub libvirt: Libvirt,
}

/// Why a look ended early; it is tried again.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("the store")]
    Store(#[from] store::Error),
    #[error(transparent)]
    Driver(#[from] compute::Error),
    #[error("the status")]
    Status(#[from] StatusError),
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Its first layer is there.
    Make,
    /// Its files are there, as large as they are to be.
    Keep,
    Attach,
    /// Its guest writes to the layer that it is to write to.
    Switch,
    /// What is no layer of it any more goes.
    Sweep,
    Merge(u32, u32),
    Grow,
    Detach,
    Remove,
    Say(VolumeSeen),
}

/// What is known of a volume.
struct Known {
    row: Resource,
    /// Its instance's uuid.
    instance: Option<String>,
    /// Its instance is to have it from its next start on.
    ready: bool,
    /// What its guest has, where that runs.
    live: Option<LiveDisks>,
}

impl Known {
    fn is_made(&self) -> bool {
        self.row.get::<String>(volume::ALLOCATION_STATE).as_deref() == Some("active")
    }

    fn capacity(&self) -> u64 {
        self.row.get::<u64>(volume::SIZE_MB).unwrap_or(1).saturating_mul(1 << 20)
    }

    fn machine_volume(&self) -> MachineVolume {
        MachineVolume {
            name: volume::name(self.row.id),
            slot: self.row.get(volume::SLOT).unwrap_or(1),
            layers: Layers::of(&self.row).chain(),
        }
    }
}

/// What is to be done, in order.
fn plan(known: &Known) -> Vec<Step> {
    let (row, name) = (&known.row, volume::name(known.row.id));
    let has = known.live.as_ref().map(|live| live.has(&name));
    match row.state {
        State::Purging => vec![Step::Remove, Step::Say(VolumeSeen::Purged)],
        State::UpdatingInactive => vec![Step::Keep, Step::Sweep, Step::Say(VolumeSeen::Kept)],
        State::Deactivating => match has {
            Some(true) => vec![Step::Detach],
            _ => vec![Step::Say(VolumeSeen::Detached)],
        },
        State::Activating | State::UpdatingActive | State::Active => {
            let settled = row.state == State::Active && row.transitioning == Transitioning::No;
            let layers = Layers::of(row);
            let mut steps = Vec::new();
            if !known.is_made() {
                steps.push(Step::Make);
            }
            if has != Some(true) && !(settled && has.is_none()) {
                steps.push(Step::Keep);
            }
            if !known.ready || !known.is_made() {
                steps.push(Step::Say(VolumeSeen::Made));
            }
            match has {
                Some(false) => steps.push(Step::Attach),
                Some(true) => steps.extend([Step::Switch, Step::Grow]),
                None => {}
            }
            if layers.last > 0 && !(settled && has.is_none()) {
                steps.push(Step::Sweep);
            }
            if !settled {
                steps.push(Step::Say(VolumeSeen::Attached));
            }
            if let (Some(true), Some((over, under))) = (has, layers.mergeable()) {
                steps.push(Step::Merge(over, under));
            }
            steps
        }
        _ => Vec::new(),
    }
}

impl Volumes {
    /// Sees to them for ever.
    pub async fn keep(self: Arc<Self>) {
        while !self.libvirt.is_there() {
            tokio::time::sleep(self.environment.jitter(PRESENCE)).await;
        }
        let wanted: Mirror<DiskWish> = Mirror::start(self.store.clone(), &self.environment, key::disks(&self.host));
        let mut changes = wanted.changes();
        while !wanted.listed(LISTING).await {}
        let mut queue = Queue::new(SIDE_BY_SIDE);
        let mut events = self.libvirt.events();
        loop {
            queue.start(|id| self.clone().look_logged(wanted.clone(), id));
            // Nobody listens on a host without volumes.
            let some = !wanted.view().is_empty();
            tokio::select! {
                changed = changes.next() => changed.into_iter().for_each(|id| queue.wake(id)),
                event = events.next(), if some => if event.is_some_and(|event| matters(&event)) {
                    let known: Vec<String> = wanted.view().keys().cloned().collect();
                    known.into_iter().for_each(|id| queue.wake(id));
                },
                () = queue.step() => {}
            }
        }
    }

    async fn look_logged(self: Arc<Self>, wanted: Mirror<DiskWish>, id: String) -> Again {
        let Some(wish) = wanted.get(&id) else { return Again::OnChange };
        let looked = match identifier::parse(instance::BASE, &id) {
            Some(number) => self.look_at_root(&id, number, wish.mod_revision).await,
            None => self.look(&id).await,
        };
        match looked {
            Ok(again) => again,
            Err(error) => {
                tracing::warn!(volume = id, error = chain(&error), "looked at again soon");
                Again::After(self.environment.jitter(LATER))
            }
        }
    }

    async fn look(&self, id: &str) -> Result<Again, LookError> {
        let Some(known) = self.fetch(id).await? else { return Ok(Again::OnChange) };
        let (number, generation) = (known.row.id, known.row.generation);
        for step in plan(&known) {
            tracing::debug!(volume = id, ?step, "applying");
            let result = self.apply(&known, &step).await;
            let (seen, again) = match result {
                Ok(seen) => (seen, Again::OnChange),
                Err(LookError::Driver(error)) if error.is_gone() => return Err(error.into()),
                Err(error @ LookError::Driver(_)) => {
                    tracing::warn!(volume = id, error = chain(&error), ?step, "cannot be done; tried again later");
                    (Some(VolumeSeen::Failed { message: chain(&error) }), Again::After(self.environment.jitter(LATER)))
                }
                Err(error) => return Err(error),
            };
            if let Some(seen) = seen {
                let waits = matches!(seen, VolumeSeen::Waits { .. });
                let merged = matches!(seen, VolumeSeen::Merged { .. });
                self.orchestrator.volume_seen(&self.host, number, generation, &seen).await?;
                if merged {
                    return Ok(Again::After(SOON));
                }
                if again != Again::OnChange || waits {
                    return Ok(Again::After(self.environment.jitter(LATER)));
                }
            }
        }
        Ok(Again::OnChange)
    }

    /// `None` where it is no volume of this host's, or no longer.
    async fn fetch(&self, id: &str) -> Result<Option<Known>, LookError> {
        let Some(number) = identifier::parse(volume::SHOWN, id) else { return Ok(None) };
        let Some(entry) = self.store.get(&key::resource(volume::BASE, number)).await?.entry else { return Ok(None) };
        let row: Resource = decode(&entry)?;
        if volume::host(&row).as_deref() != Some(self.host.as_str()) {
            return Ok(None);
        }
        let owner = match volume::instance_of(&row) {
            Some(owner) => self.store.get(&key::resource(instance::BASE, owner)).await?.entry,
            None => None,
        };
        let owner: Option<Resource> = owner.as_ref().map(decode).transpose()?;
        let ready = owner.iter().flat_map(volume::of).any(|one| one.id == number && one.ready);
        let instance = owner.map(|owner| owner.uuid);
        let live = match &instance {
            Some(uuid) => self.libvirt.live_disks(uuid).await?,
            None => None,
        };
        Ok(Some(Known { row, instance, ready, live }))
    }

    /// Does one step; what there is to be said then.
    async fn apply(&self, known: &Known, step: &Step) -> Result<Option<VolumeSeen>, LookError> {
        let name = volume::name(known.row.id);
        let volume = known.machine_volume();
        let disk = Disk::data(&volume);
        let instance = known.instance.as_deref().unwrap_or_default();
        match step {
            Step::Say(seen) => return Ok(Some(seen.clone())),
            Step::Make => self.libvirt.make_volume(&disk, known.capacity()).await?,
            Step::Keep => self.libvirt.ensure_layers(&disk, known.capacity(), None, false).await?,
            Step::Attach => self.libvirt.attach(instance, &volume).await?,
            Step::Grow => self.libvirt.grow(instance, &disk, known.capacity()).await?,
            Step::Switch => {
                if let Some(live) = &known.live {
                    self.libvirt.switch_layer(instance, live, &disk).await?;
                }
            }
            Step::Sweep => {
                // As it is now: what it had open before it does not have any more.
                let live = if known.live.is_some() { self.libvirt.live_disks(instance).await? } else { None };
                self.libvirt.sweep(&disk, &Layers::of(&known.row).all(), live.as_ref()).await?;
            }
            Step::Merge(over, under) => {
                let seen = if self.libvirt.merge(instance, &disk, *over, *under).await? {
                    VolumeSeen::Merged { over: *over, under: *under }
                } else {
                    VolumeSeen::Waits { message: "its layers are being merged".to_owned() }
                };
                return Ok(Some(seen));
            }
            Step::Remove => self.libvirt.remove_volume(&name).await?,
            Step::Detach => {
                self.libvirt.detach(instance, &volume).await?;
                for _ in 0..LOOKS {
                    if !self.libvirt.live_disks(instance).await?.is_some_and(|live| live.has(&name)) {
                        return Ok(Some(VolumeSeen::Detached));
                    }
                    tokio::time::sleep(SOON).await;
                }
                let message = "the guest was asked to let go of it, and has not yet: unmount it there, or stop it";
                return Ok(Some(VolumeSeen::Waits { message: message.to_owned() }));
            }
        }
        Ok(None)
    }

    /// An instance's own disk is to be other than it was.
    async fn look_at_root(&self, id: &str, number: u64, wish: Revision) -> Result<Again, LookError> {
        let entry = self.store.get(&key::resource(instance::BASE, number)).await?.entry;
        let row: Option<Resource> = entry.as_ref().map(decode).transpose()?;
        let here = |row: &Resource| {
            let host = row.get::<String>(instance::HOST_NAME);
            !matches!(row.state, State::Purging | State::Purged) && host.as_deref() == Some(self.host.as_str())
        };
        let (Some(entry), Some(row)) = (entry, row.filter(here)) else {
            // Its disk goes with it.
            self.orchestrator.forget_root(&self.host, number, wish).await?;
            return Ok(Again::OnChange);
        };
        let (seen, again) = match self.root(id, &row).await {
            Ok(Some(seen)) => {
                let over = seen == RootSeen::Done && Layers::of(&row).mergeable().is_none();
                (seen, if over { Again::OnChange } else { Again::After(SOON) })
            }
            // When its guest runs.
            Ok(None) => return Ok(Again::OnChange),
            Err(LookError::Driver(error)) if !error.is_gone() => {
                tracing::warn!(
                    instance = id,
                    error = chain(&error),
                    "its disk is not as it is to be; tried again later"
                );
                (RootSeen::Failed { message: chain(&error) }, Again::After(self.environment.jitter(LATER)))
            }
            Err(error) => return Err(error),
        };
        self.orchestrator.root_seen(&self.host, &entry, wish, &seen).await?;
        Ok(again)
    }

    /// What was done; `None` where the rest waits for its guest to run.
    async fn root(&self, id: &str, row: &Resource) -> Result<Option<RootSeen>, LookError> {
        let layers = Layers::of(row);
        let disk = Disk::root(id, &layers.chain());
        let live = self.libvirt.live_disks(&row.uuid).await?;
        let capacity = row.get::<u64>(instance::DISK_MB).unwrap_or(0).saturating_mul(1 << 20);
        if let Some(live) = &live {
            self.libvirt.switch_layer(&row.uuid, live, &disk).await?;
            self.libvirt.grow(&row.uuid, &disk, capacity).await?;
        } else if layers.last > 0 {
            self.libvirt.ensure_layers(&disk, capacity, None, false).await?;
        }
        if layers.last > 0 {
            let live = self.libvirt.live_disks(&row.uuid).await?;
            self.libvirt.sweep(&disk, &layers.all(), live.as_ref()).await?;
        }
        if layers.snapshots.iter().any(|one| !one.made) || layers.failure.is_some() {
            return Ok(Some(RootSeen::Done));
        }
        match (layers.mergeable(), live) {
            (None, _) => Ok(Some(RootSeen::Done)),
            (Some(_), None) => Ok(None),
            (Some((over, under)), Some(_)) => {
                let merged = self.libvirt.merge(&row.uuid, &disk, over, under).await?;
                Ok(Some(if merged { RootSeen::Merged { over, under } } else { RootSeen::Merging }))
            }
        }
    }
}

/// Whether what a guest has may be other than before.
fn matters(event: &Event) -> bool {
    match event {
        Event::Resync => true,
        Event::Instance { kind, .. } => matches!(kind.as_str(), "Started" | "Stopped" | "Crashed" | "Undefined"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known(fields: serde_json::Value, live: Option<&[&str]>, ready: bool) -> Known {
        let mut row = json!({"id": 55, "kind": "dataVolume", "uuid": "u", "created": 1, "state": "active",
            "instanceId": 54, "virtualSizeMb": 64, "deviceNumber": 1});
        row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let live = live.map(LiveDisks::of);
        Known { row: serde_json::from_value(row).unwrap(), instance: Some("i".into()), ready, live }
    }

    #[test]
    fn a_volume_is_made_before_its_guest_has_it() {
        let new = |live| plan(&known(json!({"state": "activating", "allocationState": "inactive"}), live, false));
        let (made, attached) = (Step::Say(VolumeSeen::Made), Step::Say(VolumeSeen::Attached));
        assert_eq!(new(None), [Step::Make, Step::Keep, made.clone(), attached.clone()]);
        assert_eq!(new(Some(&[])), [Step::Make, Step::Keep, made, Step::Attach, attached]);
    }

    #[test]
    fn what_is_as_it_is_to_be_is_left_alone() {
        let active = |live| plan(&known(json!({"allocationState": "active"}), live, true));
        assert_eq!(active(None), []);
        // A start that did not know of it yet.
        assert_eq!(active(Some(&["1v9"])), [Step::Keep, Step::Attach]);
        assert_eq!(active(Some(&["1v55"])), [Step::Switch, Step::Grow]);
        for state in ["inactive", "removed", "purged"] {
            assert_eq!(plan(&known(json!({ "state": state }), None, false)), []);
        }
    }

    #[test]
    fn a_guest_lets_go_before_another_may_have_it() {
        let leaving = |live| plan(&known(json!({"state": "deactivating"}), live, false));
        assert_eq!(leaving(Some(&["1v55"])), [Step::Detach]);
        assert_eq!(leaving(Some(&["1v9"])), [Step::Say(VolumeSeen::Detached)]);
        assert_eq!(leaving(None), [Step::Say(VolumeSeen::Detached)]);
    }
}
