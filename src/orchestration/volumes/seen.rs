//! What a volume's host saw of it, into its row.

use super::{TRIES, freed, without_host};
use crate::orchestration::orchestrator::Orchestrator;
use crate::orchestration::{ServiceError, StatusError};
use crate::resource::snapshot::Layers;
use crate::resource::{Resource, State, Transitioning, volume};
use crate::store::Transaction;

/// What a volume's host saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSeen {
    /// It is on the disk: from its next start on its instance has it.
    Made,
    /// Its instance has it, or will have it when it starts.
    Attached,
    /// Its instance has it no more.
    Detached,
    /// It lies there as it is to be.
    Kept,
    /// Nothing of it is left.
    Purged,
    /// Of two of its layers the upper one is in the lower one now, and lies there for nothing.
    Merged { over: u32, under: u32 },
    /// It is waited for something.
    Waits { message: String },
    /// It could not be done, and is tried again.
    Failed { message: String },
}

impl Orchestrator {
    /// Writes what `host` saw of a volume, for the generation that it acted on.
    ///
    /// # Errors
    /// [`StatusError::ClaimLost`] where it is not that host's any more.
    pub async fn volume_seen(
        &self,
        host: &str,
        id: u64,
        generation: u64,
        seen: &VolumeSeen,
    ) -> Result<(), StatusError> {
        for _ in 0..TRIES {
            let (current, entry) = match self.read(volume::BASE, id).await {
                Err(ServiceError::NotFound) => return Err(StatusError::ClaimLost),
                found => found?,
            };
            if volume::host(&current).as_deref() != Some(host) {
                return Err(StatusError::ClaimLost);
            }
            // It is about to see the newer wish, and says something better.
            if current.generation != generation {
                return Ok(());
            }
            let next = observed(&current, seen);
            let mut transaction = Transaction::new();
            if let Some(instance) = volume::instance_of(&current) {
                let (made, gone) = (*seen == VolumeSeen::Made, *seen == VolumeSeen::Detached);
                if made || gone || matches!(seen, VolumeSeen::Merged { .. }) {
                    let layers = Layers::of(&next).told();
                    transaction = self
                        .with_instance(transaction, instance, |all| {
                            all.retain(|one| !gone || one.id != id);
                            all.iter_mut().filter(|one| one.id == id).for_each(|one| {
                                one.ready |= made;
                                one.layers.clone_from(&layers);
                            });
                        })
                        .await?;
                }
            }
            let nothing_new = next == current && !transaction.writes();
            if nothing_new || self.write_volume(transaction, (&current, &entry), next).await?.is_some() {
                return Ok(());
            }
        }
        Err(StatusError::Busy)
    }
}

/// With its layers as its host found them, or made them.
fn with_layers(mut volume: Resource, change: impl FnOnce(&mut Layers)) -> Resource {
    let mut layers = Layers::of(&volume);
    change(&mut layers);
    layers.set(&mut volume);
    volume
}

/// What its host saw, onto the row.
fn observed(current: &Resource, seen: &VolumeSeen) -> Resource {
    let mut next = current.clone();
    match (seen, current.state) {
        (VolumeSeen::Made, _) => next.set(volume::ALLOCATION_STATE, "active"),
        (VolumeSeen::Attached, State::Activating | State::UpdatingActive | State::Active) => {
            next = with_layers(next, Layers::done);
            next.enter(State::Active);
            next.set(volume::ATTACHED_STATE, "active");
        }
        (VolumeSeen::Merged { over, under }, _) => next = with_layers(next, |layers| layers.merged(*over, *under)),
        (VolumeSeen::Detached, State::Deactivating) => next = freed(current),
        (VolumeSeen::Kept, State::UpdatingInactive) => {
            next = with_layers(next, Layers::done);
            next.enter(State::Inactive);
        }
        (VolumeSeen::Purged, State::Purging) => {
            next = without_host(current);
            next.enter(State::Purged);
            next.removed.get_or_insert(current.created);
        }
        (VolumeSeen::Waits { message }, state) if state.in_transition() => {
            next.enter(state);
            next.transitioning = Transitioning::Yes;
            next.transitioning_message = Some(message.clone());
        }
        (VolumeSeen::Failed { message }, state) => {
            next = with_layers(next, |layers| {
                layers.failure = layers.snapshots.iter().any(|one| !one.made).then(|| message.clone());
            });
            next.fail(state, message.as_str());
        }
        _ => {}
    }
    next
}
