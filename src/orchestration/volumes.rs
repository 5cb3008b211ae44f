//! Data volumes: made, attached to virtual machines and taken from them, enlarged, removed.
//!
//! The volume's row and the instance's are changed in one transaction, so that no two instances have one disk. What is wanted of a
//! volume that has a host is written below `disk/<host>/`, which wakes that host's loop over volumes; what it saw comes back by
//! [`Orchestrator::volume_seen`].

mod seen;

pub use seen::VolumeSeen;

use super::orchestrator::{Orchestrator, as_expected, invalid, unchanged, updated, with_todo};
use super::ports::is_gone;
use super::snapshots::with_root_wish;
use super::{Draft, ServiceError, Written, image, lifecycle};
use crate::environment::Timestamp;
use crate::resource::snapshot::Layers;
use crate::resource::volume::{self, Attached};
use crate::resource::{Resource, State, identifier, instance, transition, types};
use crate::store::{self, Entry, Operation, Revision, Transaction, encode, key};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Tries of one change against others who change the same.
const TRIES: usize = 20;

/// `disk/<host>/<volume>`: what its host is woken by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskWish {
    pub generation: u64,
}

/// As clients are shown it.
fn shown(row: &Resource, revision: Revision) -> Written {
    let rows = types::volumes(volume::BASE, row);
    Written { resources: rows, revision, bases: vec![volume::BASE, instance::BASE] }
}

/// `transaction`, with what wakes the host of a volume of which something else is wanted.
pub(super) fn with_wish(
    transaction: Transaction,
    current: &Resource,
    next: &Resource,
) -> Result<Transaction, store::Error> {
    let name = volume::name(next.id);
    let wish = |host: String| key::disk(&host, &name);
    Ok(match (volume::host(current), volume::host(next)) {
        (_, Some(host)) if wakes(current, next) => {
            let key = wish(host);
            let value = encode(&key, &DiskWish { generation: next.generation })?;
            transaction.then(Operation::put(&key, value))
        }
        (Some(host), None) => transaction.then(Operation::delete(wish(host))),
        _ => transaction,
    })
}

fn wakes(current: &Resource, next: &Resource) -> bool {
    next.generation != current.generation || (next.state != current.state && next.state.in_transition())
}

/// Its data volumes and its host belong together.
pub(super) fn check_stop(instance: &Resource, input: &Map<String, Value>) -> Result<(), ServiceError> {
    const DEALLOCATE: &str = "deallocateFromHost";
    let leaves = input.get(DEALLOCATE).and_then(Value::as_bool).unwrap_or(false);
    if leaves && !volume::of(instance).is_empty() {
        let message = "it has data volumes, which stay on its host: take them from it first (instanceId: null)";
        return Err(invalid("InvalidOption", DEALLOCATE, message));
    }
    Ok(())
}

/// `volume` as its instance's no more.
fn freed(volume: &Resource) -> Resource {
    let mut next = volume.clone();
    if !matches!(volume.state, State::Removed | State::Purging | State::Purged) {
        next.enter(State::Inactive);
    }
    next.set(volume::INSTANCE, Value::Null);
    next.set(volume::SLOT, Value::Null);
    next.set(volume::ATTACHED_STATE, "inactive");
    next
}

/// What is asked for its size, onto `next`.
fn grow(current: &Resource, next: &mut Resource, wanted: Option<u64>) -> Result<(), ServiceError> {
    let known = current.get::<u64>(volume::SIZE_MB).unwrap_or(0);
    let wanted = larger(known, wanted)?;
    if wanted == known {
        return Ok(());
    }
    next.set(volume::SIZE_MB, wanted);
    next.generation += 1;
    match current.state {
        State::Active => next.enter(State::UpdatingActive),
        // One that no host has yet is made as large.
        State::Inactive if volume::host(current).is_some() => next.enter(State::UpdatingInactive),
        _ => {}
    }
    Ok(())
}

fn larger(known: u64, wanted: Option<u64>) -> Result<u64, ServiceError> {
    match wanted {
        Some(wanted) if wanted >= known => Ok(wanted),
        _ => {
            let message = format!("a volume only grows: give {known} or more");
            Err(invalid("MinLimitExceeded", volume::SIZE_MB, message))
        }
    }
}

/// Whether an instance may be given a volume of `account`.
fn check_target(found: Option<&Resource>, id: u64, account: Option<u64>) -> Result<String, ServiceError> {
    let shown = identifier::instance(id);
    let wrong = |code, message: String| Err(invalid(code, volume::INSTANCE, message));
    let Some(found) = found.filter(|found| found.account_id == account && !is_gone(found)) else {
        return wrong(
            "InvalidReference",
            format!("there is no instance {shown}; give one of the same account that is there"),
        );
    };
    if !found.fields.contains_key(instance::MACHINE_IMAGE) {
        return wrong("InvalidOption", format!("{shown} is no virtual machine; containers have dockerVolumes"));
    }
    match found.get::<String>(instance::HOST_NAME) {
        Some(host) => Ok(host),
        None => wrong("InvalidOption", format!("{shown} has no host yet, on which the volume would be: start it once")),
    }
}

impl Orchestrator {
    pub(super) async fn create_volume(&self, mut draft: Draft) -> Result<Written, ServiceError> {
        let id = self.number(instance::BASE).await?;
        draft.kind = volume::BASE.into();
        let target = draft.fields.remove(volume::INSTANCE).and_then(|target| target.as_u64());
        let mut made = image::resource(id, draft, self.environment(), State::Inactive, self.now());
        made.set(volume::FORMAT, "qcow2");
        made.set(volume::ATTACHED_STATE, "inactive");
        made.set(volume::ALLOCATION_STATE, "inactive");
        for _ in 0..TRIES {
            let mut next = made.clone();
            let mut transaction = Transaction::new();
            if let Some(target) = target {
                transaction = self.attached(transaction, &mut next, target).await?;
            }
            let (row, uuid) = (key::resource(volume::BASE, id), key::uuid(&next.uuid));
            if self.store().get(&uuid).await?.entry.is_some() {
                return Err(self.duplicate(&next.uuid));
            }
            let transaction = transaction
                .absent(&row)
                .absent(&uuid)
                .then(Operation::put(&uuid, encode(&uuid, &json!(format!("{}/{id}", volume::BASE)))?))
                .then(Operation::put(&row, encode(&row, &next)?));
            let outcome = self.store().commit(with_wish(transaction, &made, &next)?).await?;
            if outcome.succeeded {
                return Ok(shown(&next, outcome.revision));
            }
        }
        Err(ServiceError::busy())
    }

    /// `transaction`, in which `next` becomes a disk of the instance `target`.
    async fn attached(
        &self,
        transaction: Transaction,
        next: &mut Resource,
        target: u64,
    ) -> Result<Transaction, ServiceError> {
        let found = match self.read(instance::BASE, target).await {
            Ok(found) => Some(found),
            Err(ServiceError::NotFound) => None,
            Err(error) => return Err(error),
        };
        let host = check_target(found.as_ref().map(|(found, _)| found), target, next.account_id)?;
        let Some((found, entry)) = found else { return Err(ServiceError::NotFound) };
        if let Some(own) = volume::host(next).filter(|own| *own != host) {
            let message = format!("it is on the host {own}, and {} on {host}", identifier::instance(target));
            return Err(invalid("InvalidOption", volume::INSTANCE, message));
        }
        let mut all = volume::of(&found);
        let slot = volume::free_slot(&all).ok_or_else(|| {
            let message = format!("{} has {} data volumes; more cannot be", identifier::instance(target), volume::MOST);
            invalid("MaxLimitExceeded", volume::INSTANCE, message)
        })?;
        let layers = Layers::of(next).told();
        all.push(Attached { id: next.id, slot, ready: false, layers, rest: Map::new() });
        let mut with = found.clone();
        volume::set(&mut with, &all);
        next.set(volume::INSTANCE, target);
        next.set(volume::SLOT, slot);
        next.set(instance::HOST, found.get::<u64>(instance::HOST));
        next.set(instance::HOST_NAME, host);
        next.set(volume::ATTACHED_STATE, "activating");
        next.generation += 1;
        next.enter(State::Activating);
        self.changed_instance(transaction, (&found, &entry), &with).await
    }

    /// `transaction`, in which `next` is to be its instance's no more.
    async fn detached(
        &self,
        transaction: Transaction,
        next: &mut Resource,
        target: u64,
    ) -> Result<Transaction, ServiceError> {
        if !matches!(next.state, State::Active | State::Activating | State::UpdatingActive | State::Deactivating) {
            return Err(ServiceError::ActionNotAvailable { action: "update".into(), state: next.state });
        }
        // Nobody is there to say that it is done, and nothing runs that could have it.
        let lost = self.has_lost_host(next).await?;
        next.generation += 1;
        if lost {
            *next = freed(next);
        } else {
            next.enter(State::Deactivating);
            next.set(volume::ATTACHED_STATE, "deactivating");
        }
        let id = next.id;
        self.with_instance(transaction, target, |all| {
            if lost {
                all.retain(|one| one.id != id);
            }
            all.iter_mut().filter(|one| one.id == id).for_each(|one| one.ready = false);
        })
        .await
    }

    /// `transaction`, with what an instance has changed.
    pub(super) async fn with_instance(
        &self,
        transaction: Transaction,
        id: u64,
        change: impl FnOnce(&mut Vec<Attached>),
    ) -> Result<Transaction, ServiceError> {
        let (current, entry) = match self.read(instance::BASE, id).await {
            Ok(found) => found,
            Err(ServiceError::NotFound) => return Ok(transaction.absent(key::resource(instance::BASE, id))),
            Err(error) => return Err(error),
        };
        let mut all = volume::of(&current);
        change(&mut all);
        let mut next = current.clone();
        volume::set(&mut next, &all);
        if next == current {
            return Ok(transaction.when(unchanged(&entry)));
        }
        self.changed_instance(transaction, (&current, &entry), &next).await
    }

    /// Whether the host that has it is no more in the cluster.
    async fn has_lost_host(&self, volume: &Resource) -> Result<bool, ServiceError> {
        Ok(match volume::host(volume) {
            Some(host) => self.store().get(&key::host(&host)).await?.entry.is_none(),
            None => true,
        })
    }

    /// Changes a volume: what it is called, how large it is, whose disk it is.
    pub(super) async fn update_volume(
        &self,
        id: u64,
        changes: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        if changes.contains_key("imageId") {
            return Err(invalid("InvalidOption", "imageId", "what a volume was made from stays as it is"));
        }
        let mut plain = changes.clone();
        let target = plain.remove(volume::INSTANCE).map(|target| target.as_u64());
        let size = plain.remove(volume::SIZE_MB).map(|size| size.as_u64());
        for _ in 0..TRIES {
            let (current, entry) = match self.read(volume::BASE, id).await {
                Ok(found) => found,
                Err(ServiceError::NotFound) => return self.update_root(id, changes).await,
                Err(error) => return Err(error),
            };
            as_expected(&entry, expected)?;
            if is_gone(&current) {
                return Err(ServiceError::ActionNotAvailable { action: "update".into(), state: current.state });
            }
            let owned = volume::instance_of(&current);
            if owned.is_some() && plain.contains_key("accountId") {
                let message = "it is a disk of an instance of this account: take it from that first (instanceId: null)";
                return Err(invalid("InvalidOption", "accountId", message));
            }
            let mut next = updated(&current, &plain);
            if let Some(size) = size {
                grow(&current, &mut next, size)?;
            }
            let mut transaction = Transaction::new();
            match (owned, target) {
                (_, None) | (None, Some(None)) => {}
                (Some(owned), Some(Some(target))) if owned == target => {}
                (Some(owned), Some(Some(_))) => {
                    let owned = identifier::instance(owned);
                    let message = format!("it is a disk of {owned}: take it from that first (instanceId: null)");
                    return Err(invalid("InvalidOption", volume::INSTANCE, message));
                }
                (None, Some(Some(target))) => {
                    transaction = self.attached(transaction, &mut next, target).await?;
                }
                (Some(owned), Some(None)) => {
                    transaction = self.detached(transaction, &mut next, owned).await?;
                }
            }
            if let Some(written) = self.write_volume(transaction, (&current, &entry), next).await? {
                return Ok(written);
            }
        }
        Err(ServiceError::busy())
    }

    /// `None` where somebody else wrote meanwhile.
    pub(super) async fn write_volume(
        &self,
        transaction: Transaction,
        (current, entry): (&Resource, &Entry),
        next: Resource,
    ) -> Result<Option<Written>, ServiceError> {
        let transaction =
            transaction.when(unchanged(entry)).then(Operation::put(&entry.key, encode(&entry.key, &next)?));
        let transaction = with_todo(transaction, volume::BASE, current, &next, self.now())?;
        let outcome = self.store().commit(transaction).await?;
        Ok(outcome.succeeded.then(|| shown(&next, outcome.revision)))
    }

    /// The disk of an instance itself only grows: at once where it runs, else when it starts.
    async fn update_root(&self, id: u64, changes: &Map<String, Value>) -> Result<Written, ServiceError> {
        if let Some(other) = changes.keys().find(|field| *field != volume::SIZE_MB) {
            let message = "an instance's own disk has this from its instance; change it there";
            return Err(invalid("InvalidOption", other, message));
        }
        let wanted = changes.get(volume::SIZE_MB).and_then(Value::as_u64);
        for _ in 0..TRIES {
            let (current, entry) = self.read(instance::BASE, id).await?;
            if is_gone(&current) || !current.fields.contains_key(instance::MACHINE_IMAGE) {
                let message = "only disks of virtual machines that are there grow";
                return Err(invalid("InvalidOption", volume::SIZE_MB, message));
            }
            let mut next = current.clone();
            next.set(instance::DISK_MB, larger(current.get(instance::DISK_MB).unwrap_or(0), wanted)?);
            let transaction = self.shared(Transaction::new(), &next, volume::SIZE_MB).await?;
            let transaction = self.changed_instance(transaction, (&current, &entry), &next).await?;
            let outcome = self.store().commit(with_root_wish(transaction, &next)?).await?;
            if outcome.succeeded {
                let resources = types::volumes(instance::BASE, &next);
                return Ok(Written { resources, revision: outcome.revision, bases: vec![instance::BASE] });
            }
        }
        Err(ServiceError::busy())
    }

    pub(super) async fn act_on_volume(
        &self,
        id: u64,
        action: &str,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        for _ in 0..TRIES {
            let (current, entry) = match self.read(volume::BASE, id).await {
                Err(ServiceError::NotFound) => {
                    return Err(invalid("InvalidAction", "action", "an instance's own disk goes with its instance"));
                }
                found => found?,
            };
            as_expected(&entry, expected)?;
            let next = acted(&current, action, self.now())?;
            if let Some(written) = self.write_volume(Transaction::new(), (&current, &entry), next).await? {
                self.drive_besides(volume::BASE, id);
                return Ok(written);
            }
        }
        Err(ServiceError::busy())
    }

    /// Nothing is waited for of a host that is no more in the cluster; whether that was so.
    pub(super) async fn give_up_lost(&self, current: &Resource, entry: &Entry) -> Result<bool, ServiceError> {
        if current.state != State::Purging || volume::host(current).is_none() || !self.has_lost_host(current).await? {
            return Ok(false);
        }
        let next = without_host(current);
        Ok(self.write_volume(Transaction::new(), (current, entry), next).await?.is_some())
    }

    /// What an instance had that is purged is there by itself again. Whether there was anything.
    pub(super) async fn free_volumes(&self, current: &Resource, entry: &Entry) -> Result<bool, ServiceError> {
        let all = volume::of(current);
        let Some(one) = all.first() else { return Ok(false) };
        let mut without = current.clone();
        volume::set(&mut without, &all[1..]);
        let transaction = self.changed_instance(Transaction::new(), (current, entry), &without).await?;
        match self.read(volume::BASE, one.id).await {
            Ok((found, found_entry)) if volume::instance_of(&found) == Some(current.id) => {
                let next = freed(&found);
                self.write_volume(transaction, (&found, &found_entry), next).await?;
            }
            Ok((_, found_entry)) => drop(self.store().commit(transaction.when(unchanged(&found_entry))).await?),
            Err(ServiceError::NotFound) => {
                let absent = transaction.absent(key::resource(volume::BASE, one.id));
                self.store().commit(absent).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }
}

fn without_host(volume: &Resource) -> Resource {
    let mut next = volume.clone();
    next.set(instance::HOST, Value::Null);
    next.set(instance::HOST_NAME, Value::Null);
    next
}

/// What is asked of a volume.
fn acted(current: &Resource, action: &str, now: Timestamp) -> Result<Resource, ServiceError> {
    if transition::allowed(volume::BASE, action, current.state).is_none() {
        return Err(ServiceError::ActionNotAvailable { action: action.to_owned(), state: current.state });
    }
    if action == "remove" && volume::instance_of(current).is_some() {
        let message = "it is a disk of an instance: take it from that first (instanceId: null)";
        return Err(invalid("InvalidAction", volume::INSTANCE, message));
    }
    let mut next = current.clone();
    match action {
        "remove" => {
            next.enter(State::Removed);
            next.removed = Some(now);
            next.remove_time = Some(now.after(lifecycle::PURGE_AFTER));
        }
        "restore" => {
            next.enter(State::Inactive);
            (next.removed, next.remove_time) = (None, None);
        }
        "purge" => next.enter(State::Purging),
        _ => return Err(invalid("InvalidAction", "action", "a volume has no such action")),
    }
    Ok(next)
}

#[cfg(test)]
mod tests;
