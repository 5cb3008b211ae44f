//! Native containers ([`crate::resource::native`]): how a row comes to be for what Docker has, and follows it.
//!
//! ```text
//!  Docker has it, no row ──adopt──► row, claim and promise in one transaction: running, or stopped
//!  asked over the API    ──────────► starting, stopping, …: its host has Docker do it ──observe──► as Docker has it then
//!  by docker start, stop, rename, rm ─────────────────────────────────────────────────observe──► the same
//! ```

use super::image::resource;
use super::orchestrator::{Orchestrator, invalid, with_todo};
use super::{Draft, ServiceError, lifecycle, seed};
use crate::environment::Timestamp;
use crate::placement::record::{Claim, Promise};
use crate::placement::{Writes, release};
use crate::resource::assignment::Desired;
use crate::resource::native::Native;
use crate::resource::{Resource, State, identifier, instance};
use crate::store::{self, Operation, Transaction, decode, encode, key};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

/// Tries against others who place on the same host.
const TRIES: usize = 20;

/// The same for the same container each time: who adopts it a second time finds that it was. Docker's ids alone may be in two
/// places, where a host's disk was copied. `round` tells one that was purged, and came again, from what it was before.
fn uuid(host_id: u64, external_id: &str, round: usize) -> String {
    let digest: [u8; 32] = Sha256::digest(format!("native {host_id} {external_id} {round}")).into();
    let (mut bytes, half) = ([0; 16], digest.len() / 2);
    bytes.copy_from_slice(&digest[..half]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// What cannot be asked of one.
pub(super) fn check(instance: &Resource, action: &str, input: &Map<String, Value>) -> Result<(), ServiceError> {
    if !instance::is_native(instance) {
        return Ok(());
    }
    let deallocate = "deallocateFromHost";
    if input.get(deallocate).and_then(Value::as_bool).unwrap_or(false) {
        let message = "Docker made it on its host, and no other can have it: leave this out";
        return Err(invalid("InvalidOption", deallocate, message));
    }
    if action == "start" && !lifecycle::placed(instance) {
        return Err(ServiceError::ActionNotAvailable { action: action.to_owned(), state: instance.state });
    }
    Ok(())
}

fn up(next: &mut Resource, now: Timestamp) {
    next.removed = None;
    next.remove_time = None;
    if instance::desired(next) != Desired::Running {
        lifecycle::want(next, Desired::Running);
    }
    next.enter(State::Running);
    if next.get::<i64>(instance::FIRST_RUNNING).is_none() {
        next.set(instance::FIRST_RUNNING, now.0);
    }
}

fn down(next: &mut Resource, exit_code: Option<i64>) {
    if instance::desired(next) != Desired::Stopped {
        lifecycle::want(next, Desired::Stopped);
    }
    next.enter(State::Stopped);
    next.set("exitCode", exit_code);
}

/// The row, where this is what Docker has.
pub(super) fn observe(instance: &Resource, found: Option<&Native>, now: Timestamp) -> Resource {
    use State::{Purged, Purging, Removed, Removing, Restarting, Running, Starting, Stopped, Stopping};
    let mut next = instance.clone();
    let Some(native) = found else {
        if !matches!(instance.state, Removing | Removed | Purging | Purged) {
            next.set(instance::ADDRESS, Value::Null);
            lifecycle::vanish(&mut next, now);
        }
        return next;
    };
    native.describe(&mut next);
    match (native.is_up(), instance.state) {
        // Its host is about to end it.
        (true, Stopping | Removing | Purging | Purged) | (false, Removing | Removed | Purging | Purged) => {}
        // What failed meanwhile, like a stop, is still to be read.
        (true, Running) | (false, Stopped) => {}
        (true, _) => up(&mut next, now),
        (false, Stopping) => {
            next.set("exitCode", native.exit_code);
            lifecycle::settle(&mut next, now);
        }
        // Held back by an external handler: it is not begun yet.
        (false, Starting) if instance::desired(instance) != Desired::Running => {}
        (false, Starting | Running | Restarting) => down(&mut next, native.exit_code),
        (false, _) => next.enter(State::Stopped),
    }
    next
}

impl Orchestrator {
    /// Writes down that `host` has a native container; the number of its row, which may have been there.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn adopt(&self, host: &str, host_id: u64, native: &Native) -> Result<u64, ServiceError> {
        let alloc = key::alloc(host);
        let (mut round, mut made) = (0, None);
        for _ in 0..TRIES {
            let uuid = uuid(host_id, &native.external_id, round);
            if let Some(number) = self.adopted(&uuid).await? {
                match self.read(instance::BASE, number).await {
                    Ok((row, _)) if row.state == State::Purged => round += 1,
                    Ok(_) => return Ok(number),
                    // Forgotten in this very moment.
                    Err(ServiceError::NotFound) => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            let row = match made.take() {
                Some(row) => Resource { uuid: uuid.clone(), ..row },
                None => self.described(&uuid, (host, host_id), native).await?,
            };
            let promised = self.store().get(&alloc).await?.entry;
            let claim = Claim { id: row.id, uuid, generation: row.generation, native: true, ..Claim::default() };
            let here = release::claimed(host, &claim, Promise::of(&row), promised.as_ref())?;
            if self.store().commit(self.adoption(&row, here)?).await?.succeeded {
                tracing::info!(instance = identifier::instance(row.id), name = native.name, "adopted from Docker");
                return Ok(row.id);
            }
            made = Some(row);
        }
        Err(ServiceError::Conflict("others that place on the same host were always faster".into()))
    }

    /// The number of the row with that uuid.
    async fn adopted(&self, uuid: &str) -> Result<Option<u64>, ServiceError> {
        let Some(entry) = self.store().get(&key::uuid(uuid)).await?.entry else { return Ok(None) };
        let owner: String = decode(&entry)?;
        let number = owner.strip_prefix("instance/").and_then(|number| number.parse().ok());
        number.map(Some).ok_or_else(|| self.duplicate(uuid))
    }

    /// Its row, as Docker has it.
    async fn described(
        &self,
        uuid: &str,
        (host, host_id): (&str, u64),
        native: &Native,
    ) -> Result<Resource, ServiceError> {
        let image_uuid = format!("docker:{}", native.image);
        let image_id = self.images().ensure(&image_uuid).await?;
        let draft = Draft {
            base: instance::BASE.into(),
            kind: "container".into(),
            uuid: Some(uuid.to_owned()),
            // As what root asks for by the Unix socket: who may speak to Docker is root.
            account_id: Some(seed::ADMIN),
            ..Draft::default()
        };
        let id = self.number(instance::BASE).await?;
        let state = if native.is_up() { State::Running } else { State::Stopped };
        let mut row = resource(id, draft, self.environment(), state, self.now());
        native.describe(&mut row);
        row.set(instance::IMAGE_UUID, image_uuid);
        row.set(instance::IMAGE_ID, image_id);
        row.set(instance::HOST, host_id);
        row.set(instance::HOST_NAME, host);
        row.set(instance::DESIRED, json!(if native.is_up() { Desired::Running } else { Desired::Stopped }));
        if native.is_up() {
            row.set(instance::FIRST_RUNNING, self.now().0);
        }
        Ok(row)
    }

    fn adoption(&self, row: &Resource, here: Writes) -> Result<Transaction, store::Error> {
        let (name, key) = (key::uuid(&row.uuid), key::resource(instance::BASE, row.id));
        let transaction = Transaction { compares: here.compares, success: here.operations, ..Transaction::new() }
            .absent(&name)
            .absent(&key)
            .then(Operation::put(&name, encode(&name, &json!(format!("{}/{}", instance::BASE, row.id)))?))
            .then(Operation::put(&key, encode(&key, row)?));
        let mut before = Resource { state: State::Creating, ..row.clone() };
        before.set(instance::ADDRESS, Value::Null);
        with_todo(transaction, instance::BASE, &before, row, self.now())
    }
}

#[cfg(test)]
mod tests;
