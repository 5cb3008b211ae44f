//! Snapshots of volumes: taken, gone back to, removed.
//!
//! Which layers a volume is to have is decided here, in one transaction with its row; its host makes the files be those, and says so.

use super::orchestrator::{Orchestrator, invalid, unchanged};
use super::ports::is_gone;
use super::volumes::DiskWish;
use super::{Draft, ServiceError, StatusError, Written};
use crate::resource::snapshot::{self, Layers, Snapshot};
use crate::resource::volume;
use crate::resource::{Resource, State, identifier, instance, types};
use crate::store::{Entry, Operation, Revision, Transaction, encode, key};
use serde_json::Value;

/// Tries of one change against others who change the same.
const TRIES: usize = 20;

/// A volume's row, or that of an instance for its own disk.
struct Holder {
    base: &'static str,
    row: Resource,
    entry: Entry,
}

impl Holder {
    fn shown(&self, number: u32, row: &Resource, revision: Revision) -> Written {
        let id = snapshot::id(row.id, number);
        let mut resources = types::snapshots(self.base, row);
        resources.retain(|one| one.id == id);
        Written { resources, revision, bases: vec![volume::BASE, instance::BASE] }
    }
}

fn invalid_volume(message: impl Into<String>) -> ServiceError {
    invalid("InvalidOption", snapshot::VOLUME, message)
}

impl Orchestrator {
    async fn volume_holder(&self, id: u64) -> Result<Holder, ServiceError> {
        match self.read(volume::BASE, id).await {
            Ok((row, entry)) => Ok(Holder { base: volume::BASE, row, entry }),
            Err(ServiceError::NotFound) => {
                let (row, entry) = self.read(instance::BASE, id).await?;
                Ok(Holder { base: instance::BASE, row, entry })
            }
            Err(error) => Err(error),
        }
    }

    pub(super) async fn create_snapshot(&self, draft: Draft) -> Result<Written, ServiceError> {
        let absent = || {
            let message = "there is no such volume; give one of the same account that is there";
            invalid("InvalidReference", snapshot::VOLUME, message)
        };
        let id = draft.fields.get(snapshot::VOLUME).and_then(Value::as_u64).ok_or_else(absent)?;
        for _ in 0..TRIES {
            let holder = match self.volume_holder(id).await {
                Err(ServiceError::NotFound) => return Err(absent()),
                holder => holder?,
            };
            if holder.row.account_id != draft.account_id || is_gone(&holder.row) {
                return Err(absent());
            }
            check_taking(&holder)?;
            let mut layers = Layers::of(&holder.row);
            if layers.snapshots.len() >= snapshot::MOST {
                let message = format!("it has {} snapshots; remove one first", snapshot::MOST);
                return Err(invalid("MaxLimitExceeded", snapshot::VOLUME, message));
            }
            if layers.chain().len() >= snapshot::DEEPEST {
                let message =
                    "snapshots that were removed are still to be merged, which is done while its instance runs";
                return Err(invalid("MaxLimitExceeded", snapshot::VOLUME, message));
            }
            let size = if holder.base == volume::BASE { volume::SIZE_MB } else { instance::DISK_MB };
            let number = layers.active;
            layers.take(Snapshot {
                number,
                created: self.now(),
                made: false,
                size_mb: holder.row.get(size),
                name: draft.name.clone(),
                description: draft.description.clone(),
                data: draft.data.clone(),
            });
            if let Some((row, revision)) = self.write_layers(&holder, &layers).await? {
                return Ok(holder.shown(number, &row, revision));
            }
        }
        Err(ServiceError::busy())
    }

    pub(super) async fn act_on_snapshot(&self, id: u64, action: &str) -> Result<Written, ServiceError> {
        let (volume, number) = snapshot::parse_id(id);
        for _ in 0..TRIES {
            let holder = self.volume_holder(volume).await?;
            let mut layers = Layers::of(&holder.row);
            let found = layers.find(number).cloned().ok_or(ServiceError::NotFound)?;
            let before = holder.shown(number, &holder.row, holder.entry.mod_revision);
            if is_gone(&holder.row) || !found.made {
                let state = if found.made { holder.row.state } else { State::Activating };
                return Err(ServiceError::ActionNotAvailable { action: action.to_owned(), state });
            }
            match action {
                "remove" => layers.remove(number),
                snapshot::REVERT => {
                    self.check_reverting(&holder).await?;
                    layers.revert(number);
                }
                _ => return Err(invalid("InvalidAction", "action", "a snapshot has no such action")),
            }
            let Some((row, revision)) = self.write_layers(&holder, &layers).await? else { continue };
            let mut written = holder.shown(number, &row, revision);
            if action == "remove" {
                written.resources = before.resources;
                for one in &mut written.resources {
                    one.enter(State::Removed);
                    one.removed = Some(self.now());
                }
            }
            return Ok(written);
        }
        Err(ServiceError::busy())
    }

    /// Nothing goes on with what is given up: its guest is down, and stays so until this is written.
    async fn check_reverting(&self, holder: &Holder) -> Result<(), ServiceError> {
        let owner = match volume::instance_of(&holder.row).filter(|_| holder.base == volume::BASE) {
            Some(owner) => self.read(instance::BASE, owner).await?.0,
            None if holder.base == instance::BASE => holder.row.clone(),
            None => return check_taking(holder),
        };
        check_taking(holder)?;
        if owner.state == State::Stopped {
            return Ok(());
        }
        let message = format!("{} is {}: stop it first", identifier::instance(owner.id), owner.state);
        Err(invalid("ActionNotAvailable", "state", message))
    }

    /// `None` where somebody else wrote meanwhile.
    async fn write_layers(
        &self,
        holder: &Holder,
        layers: &Layers,
    ) -> Result<Option<(Resource, Revision)>, ServiceError> {
        let mut next = holder.row.clone();
        layers.set(&mut next);
        if holder.base == volume::BASE {
            next.generation += 1;
            next.enter(match holder.row.state {
                State::Active | State::UpdatingActive => State::UpdatingActive,
                _ => State::UpdatingInactive,
            });
            let mut transaction = Transaction::new();
            if let Some(owner) = volume::instance_of(&next) {
                let chain = layers.chain();
                transaction = self
                    .with_instance(transaction, owner, |all| {
                        all.iter_mut().filter(|one| one.id == next.id).for_each(|one| one.layers.clone_from(&chain));
                    })
                    .await?;
            }
            let written = self.write_volume(transaction, (&holder.row, &holder.entry), next.clone()).await?;
            return Ok(written.map(|written| (next, written.revision)));
        }
        let transaction = self.changed_instance(Transaction::new(), (&holder.row, &holder.entry), &next).await?;
        let outcome = self.store().commit(with_root_wish(transaction, &next)?).await?;
        Ok(outcome.succeeded.then_some((next, outcome.revision)))
    }

    /// Nothing more is to be done for an instance's own disk.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn forget_root(&self, host: &str, id: u64, wish: Revision) -> Result<(), StatusError> {
        let key = key::disk(host, &identifier::instance(id));
        self.store().commit(Transaction::new().unchanged(&key, wish).then(Operation::delete(&key))).await?;
        Ok(())
    }

    /// What a host saw of an instance's own disk: that it is as it is to be, or why not. What was `merged` is one layer by now.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn root_seen(&self, host: &str, row: &Entry, wish: Revision, seen: &RootSeen) -> Result<(), StatusError> {
        let current: Resource = crate::store::decode(row)?;
        let mut layers = Layers::of(&current);
        seen.tell(&mut layers);
        let mut next = current.clone();
        layers.set(&mut next);
        let key = key::disk(host, &identifier::instance(current.id));
        let mut transaction = Transaction::new().unchanged(&key, wish);
        if next != current {
            transaction = self.changed_instance(transaction, (&current, row), &next).await?;
        } else {
            transaction = transaction.when(unchanged(row));
        }
        // What is still to be merged waits for its guest to run.
        if *seen == RootSeen::Done && layers.mergeable().is_none() {
            transaction = transaction.then(Operation::delete(&key));
        }
        if transaction.writes() {
            self.store().commit(transaction).await?;
        }
        Ok(())
    }
}

/// What a host saw of an instance's own disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootSeen {
    /// It is as it is to be.
    Done,
    Merging,
    Merged {
        over: u32,
        under: u32,
    },
    Failed {
        message: String,
    },
}

impl RootSeen {
    fn tell(&self, layers: &mut Layers) {
        match self {
            Self::Done => layers.done(),
            Self::Merging => {}
            Self::Merged { over, under } => layers.merged(*over, *under),
            Self::Failed { message } => layers.failure = Some(message.clone()),
        }
    }
}

/// `transaction`, with what has a host see to an instance's own disk.
pub(super) fn with_root_wish(transaction: Transaction, instance: &Resource) -> Result<Transaction, ServiceError> {
    let Some(host) = instance.get::<String>(instance::HOST_NAME) else { return Ok(transaction) };
    let key = key::disk(&host, &identifier::instance(instance.id));
    let value = encode(&key, &DiskWish { generation: instance.generation })?;
    Ok(transaction.then(Operation::put(&key, value)))
}

/// Whether the volume is there and at rest.
fn check_taking(holder: &Holder) -> Result<(), ServiceError> {
    let row = &holder.row;
    if holder.base == volume::BASE {
        let made = row.get::<String>(volume::ALLOCATION_STATE).as_deref() == Some("active");
        return match row.state {
            State::Active | State::Inactive if made => Ok(()),
            State::Inactive => Err(invalid_volume("nothing was ever on it: it is on no host yet")),
            state => Err(ServiceError::ActionNotAvailable { action: "snapshot".into(), state }),
        };
    }
    if !row.fields.contains_key(instance::MACHINE_IMAGE) {
        return Err(invalid_volume("only volumes of virtual machines have snapshots"));
    }
    if row.get::<i64>(instance::FIRST_RUNNING).is_none() || row.get::<String>(instance::HOST_NAME).is_none() {
        return Err(invalid_volume("nothing was ever on it: start its instance once"));
    }
    match row.state {
        State::Running | State::Stopped => Ok(()),
        state => Err(ServiceError::ActionNotAvailable { action: "snapshot".into(), state }),
    }
}
