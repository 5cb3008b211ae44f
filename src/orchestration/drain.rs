//! Emptying a host: what may move leaves it, a few at a time, and what stays is left alone unless it is to be stopped.
//!
//! ```text
//! drain asked ──► host: drain {…} + todo ──► look ──► plan (pure) ──► written ──► some told to leave ──► look again … ──► done
//!                                             ▲                                                  │
//!                                             └── 1 s while some are on their way; else when there may be room
//! ```
//! Each look starts from what is stored: who asked, and who looked before, may be gone. Who is about to be told to leave is written
//! down first, and each is told in a transaction that compares the host's record: so no more are down at once than may be,
//! and nobody is told once it is undone. An instance leaves by itself, as
//! [`super::lifecycle`] has it: stopped, given up, and placed anew by whoever is its shard's owner then.
//!
//! What stays (`onHostLoss` is `stay`) has something on this host that no other has, or it would say `move`: it goes on running
//! until the machine itself goes down, and comes up with it. With `stopStaying` it is stopped in good order, for work on
//! the machine with nobody on it, and started again with `activate`.

use super::ServiceError;
use super::lifecycle;
use super::orchestrator::{Orchestrator, todo, unchanged};
use super::record::Todo;
use crate::membership::record::{Drain, Host};
use crate::placement::PlaceError;
use crate::placement::record::Claim;
use crate::resource::assignment::Desired;
use crate::resource::{Resource, State, identifier, instance};
use crate::store::{Compare, Entry, Operation, Transaction, decode, encode, key};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often it is looked at while instances are on their way.
const LOOK: Duration = Duration::from_secs(1);

/// An instance as far as leaving goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Guest {
    /// Runs here and may move.
    Movable,
    /// Was told to leave and is not down yet.
    Leaving,
    /// Runs here and stays.
    Staying,
    /// Is down, and takes nothing with it.
    Down,
}

impl Guest {
    fn of(instance: &Resource) -> Self {
        if lifecycle::moving_away(instance) {
            Self::Leaving
        } else if instance::desired(instance) != Desired::Running {
            Self::Down
        } else if instance::is_exclusive(instance) {
            Self::Movable
        } else {
            Self::Staying
        }
    }
}

/// What a host holds, and that each is still as it was read.
#[derive(Default)]
struct Guests {
    rows: Vec<Resource>,
    as_read: BTreeMap<u64, Compare>,
}

/// What follows from a look.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    leave: Vec<u64>,
    stop: Vec<u64>,
    /// As it is to be stored.
    drain: Drain,
}

/// `guests` are those that the host holds; `arrived` those of the ones on their way that need no more waiting for.
fn plan(drain: &Drain, guests: &BTreeMap<u64, Guest>, arrived: &BTreeSet<u64>) -> Plan {
    let of = |kind: Guest| guests.iter().filter(move |(_, guest)| **guest == kind).map(|(id, _)| *id);
    let mut next = drain.clone();
    // Some were never told: who was about to is gone.
    next.moving.retain(|id| !arrived.contains(id) && guests.get(id) != Some(&Guest::Movable));
    next.moving.extend(of(Guest::Leaving));
    next.moved += drain.moving.intersection(arrived).count();
    let movable: Vec<u64> = of(Guest::Movable).filter(|id| !next.moving.contains(id)).collect();
    let leave: Vec<u64> = movable.iter().take(drain.at_once.saturating_sub(next.moving.len())).copied().collect();
    let stop: Vec<u64> = of(Guest::Staying).filter(|_| drain.stop_staying).collect();
    let staying = of(Guest::Staying).count();
    next.left = movable.len();
    next.done = next.moving.is_empty() && movable.is_empty() && stop.is_empty();
    let stays = match staying {
        0 => String::new(),
        count if drain.stop_staying => format!(", {count} are being stopped"),
        count => format!(", {count} stay (onHostLoss)"),
    };
    next.message = if next.done {
        format!("drained: {} moved{stays}", next.moved)
    } else {
        format!("{} moved, {} on their way, {} to go{stays}", next.moved, next.moving.len(), next.left)
    };
    Plan { leave, stop, drain: next }
}

impl Orchestrator {
    /// Does the next that is to be done for a host that is drained, or was.
    pub(super) async fn drive_host(&self, id: u64) -> Result<(), ServiceError> {
        let found = match self.find_host(id).await {
            Ok(found) => found,
            // A number is given once only: nothing waits for this one again.
            Err(ServiceError::NotFound) => {
                return self.forget_todo("host", id, Compare::Exists { key: todo("host", id) }).await;
            }
            Err(error) => return Err(error),
        };
        let Guests { rows, as_read } = self.guests(&found.host.name).await?;
        let Some(drain) = found.host.drain.as_ref().filter(|drain| !drain.done) else {
            return self.start_again(&found.host, &found.entry, &rows).await;
        };
        if found.alive.is_none() {
            // Nobody there to stop anything; what moves on a host's loss, moves because of that.
            return self.look_again(&found.host, found.entry, found.host.clone(), Vec::new(), true).await.map(drop);
        }
        let guests = rows.iter().map(|row| (row.id, Guest::of(row))).collect();
        let arrived = self.arrived(drain, &rows).await?;
        let mut plan = plan(drain, &guests, &arrived.keys().copied().collect());
        // Whoever wrote down that they leave may be late in telling them: they are left out only as they were seen.
        let left_out = drain.moving.difference(&plan.drain.moving);
        let as_seen =
            left_out.filter_map(|id| arrived.get(id).cloned().flatten().or_else(|| as_read.get(id).cloned())).collect();
        let mut reasons = BTreeSet::new();
        let mut leave = Vec::new();
        for row in rows.iter().filter(|row| plan.leave.contains(&row.id)) {
            match self.placer().would_fit(&self.request(row).await?, &found.host.name).await {
                Ok(()) => leave.push(row.id),
                Err(error @ PlaceError::NoHost { .. }) => {
                    reasons.insert(format!("{} has no place to go to: {error}", identifier::instance(row.id)));
                }
                Err(error) => tracing::debug!(instance = row.id, %error, "its leaving is tried again"),
            }
        }
        plan.drain.moving.extend(&leave);
        plan.drain.left = plan.drain.left.saturating_sub(leave.len());
        if let Some(reason) = reasons.first() {
            plan.drain.message = format!("{}; {reason}", plan.drain.message);
        }
        let homeless = self.homeless(&plan.drain).await?;
        if !homeless.is_empty() {
            let names: Vec<String> = homeless.iter().map(|id| identifier::instance(*id)).collect();
            plan.drain.message = format!("{}; no host has room for {}", plan.drain.message, names.join(", "));
        }
        let none_moves = plan.drain.moving.len() == homeless.len();
        let waits = (!reasons.is_empty() || !homeless.is_empty()) && none_moves && plan.stop.is_empty();
        plan.drain.stuck = waits;
        let next = Host { drain: Some(plan.drain), ..found.host.clone() };
        // Before anybody is told: who looks next knows who may be on the way, whatever becomes of this one.
        let Some(drained) = self.look_again(&found.host, found.entry, next, as_seen, waits).await? else {
            return Ok(());
        };
        self.tell(&found.host.name, &drained, &leave, lifecycle::move_away).await?;
        self.tell(&found.host.name, &drained, &plan.stop, lifecycle::stop_for_drain).await
    }

    /// Those of `ids` that are still on the host go down as `how` has it, as long as its record is as `drained` says: one that
    /// is no longer drained tells nobody to leave.
    async fn tell(
        &self,
        host: &str,
        drained: &Compare,
        ids: &[u64],
        how: fn(&Resource) -> Option<Resource>,
    ) -> Result<(), ServiceError> {
        for id in ids {
            // Looked at again: it may have been stopped, or moved, since.
            let here = |row: &Resource| row.get::<String>(instance::HOST_NAME).as_deref() == Some(host);
            let next = |row: &Resource| how(row).filter(|_| here(row));
            match self.change_while(instance::BASE, *id, drained.clone(), next).await {
                // One that is gone needs not be told.
                Ok(()) | Err(ServiceError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Those that the host holds.
    async fn guests(&self, host: &str) -> Result<Guests, ServiceError> {
        let mut guests = Guests::default();
        for entry in self.store().range(&key::all_on(host)).await?.entries {
            let claim: Claim = decode(&entry)?;
            match self.read(instance::BASE, claim.id).await {
                Ok((row, entry)) if row.get::<String>(instance::HOST_NAME).as_deref() == Some(host) => {
                    guests.as_read.insert(row.id, unchanged(&entry));
                    guests.rows.push(row);
                }
                Ok(_) | Err(ServiceError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(guests)
    }

    /// Those that were told to leave, and now run elsewhere, or are no longer to run; and that they are so still.
    async fn arrived(&self, drain: &Drain, here: &[Resource]) -> Result<BTreeMap<u64, Option<Compare>>, ServiceError> {
        let mut arrived = BTreeMap::new();
        for id in &drain.moving {
            let still_here =
                |row: &Resource| row.id == *id && matches!(Guest::of(row), Guest::Movable | Guest::Leaving);
            if here.iter().any(still_here) {
                continue;
            }
            match self.read(instance::BASE, *id).await {
                Ok((row, entry)) => {
                    let on_its_way = instance::desired(&row) == Desired::Running && row.state != State::Running;
                    if !on_its_way {
                        arrived.insert(*id, Some(unchanged(&entry)));
                    }
                }
                // A number is given once only: it stays gone.
                Err(ServiceError::NotFound) => {
                    arrived.insert(*id, None);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(arrived)
    }

    /// Those on their way that are down and wait for room.
    async fn homeless(&self, drain: &Drain) -> Result<Vec<u64>, ServiceError> {
        let mut homeless = Vec::new();
        for id in &drain.moving {
            match self.read(instance::BASE, *id).await {
                Ok((row, _)) if lifecycle::waits_for_room(&row) => homeless.push(*id),
                Ok(_) | Err(ServiceError::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(homeless)
    }

    /// The host is no longer drained: what was stopped because of it is started.
    async fn start_again(&self, host: &Host, entry: &Entry, rows: &[Resource]) -> Result<(), ServiceError> {
        if host.drain.is_none() {
            for row in rows.iter().filter(|row| lifecycle::stopped_by_drain(row)) {
                let now = self.now();
                let none = serde_json::Map::new();
                let started =
                    self.change(instance::BASE, row.id, |current| lifecycle::ask(current, "start", &none, now)).await;
                if let Err(error) = started {
                    // Still on its way down, or somebody else did something with it: looked at again.
                    tracing::debug!(instance = row.id, %error, "not started yet");
                    return Ok(());
                }
            }
        }
        self.forget_todo("host", host.id, unchanged(entry)).await
    }

    /// Writes what came out, where it is something new and `as_seen` holds, and when to look next. What holds as long as nobody
    /// wrote the host's record since; `None` where this look was overtaken by another, or by an undo.
    async fn look_again(
        &self,
        host: &Host,
        entry: Entry,
        next: Host,
        as_seen: Vec<Compare>,
        waits: bool,
    ) -> Result<Option<Compare>, ServiceError> {
        let todo = todo("host", host.id);
        let transaction = Transaction::new().unchanged(&entry.key, entry.mod_revision);
        let mut transaction = as_seen.into_iter().fold(transaction, Transaction::when);
        let changes = next != *host;
        if !changes && waits && host.drain.as_ref().is_some_and(|drain| drain.stuck) {
            // It waits for room already.
            return Ok(Some(unchanged(&entry)));
        }
        if changes {
            transaction = transaction.then(Operation::put(&entry.key, encode(&entry.key, &next)?));
        }
        let done = next.drain.as_ref().is_none_or(|drain| drain.done);
        transaction = if done {
            tracing::info!(host = host.name, "drained");
            transaction.then(Operation::delete(&todo))
        } else {
            let again = Todo { not_before: self.now().after(LOOK), room: waits };
            transaction.then(Operation::put(&todo, encode(&todo, &again)?))
        };
        let outcome = self.store().commit(transaction).await?;
        let revision = if changes { outcome.revision } else { entry.mod_revision };
        Ok(outcome.succeeded.then_some(Compare::ModRevision { key: entry.key, revision }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(at_once: usize) -> Drain {
        Drain { at_once, ..Drain::default() }
    }

    #[test]
    fn only_what_may_move_is_told_to_leave() {
        let guests = BTreeMap::from([(1, Guest::Movable), (2, Guest::Staying), (3, Guest::Down), (4, Guest::Leaving)]);
        let Plan { leave, stop, drain: next } = plan(&drain(4), &guests, &BTreeSet::new());
        assert_eq!((leave, stop), (vec![1], vec![]));
        assert_eq!(next.message, "0 moved, 1 on their way, 1 to go, 1 stay (onHostLoss)");
        let asked = Drain { stop_staying: true, ..drain(4) };
        assert_eq!(plan(&asked, &guests, &BTreeSet::new()).stop, [2]);
        let left = BTreeMap::from([(2, Guest::Staying), (3, Guest::Down)]);
        let last = plan(&drain(4), &left, &BTreeSet::new()).drain;
        assert!(last.done);
        assert_eq!(last.message, "drained: 0 moved, 1 stay (onHostLoss)");
    }

    #[test]
    fn one_that_was_never_told_is_not_on_its_way() {
        let guests = BTreeMap::from([(1, Guest::Movable), (2, Guest::Movable), (3, Guest::Leaving)]);
        let known = Drain { moving: BTreeSet::from([1, 3, 9]), ..drain(3) };
        let Plan { leave, drain: next, .. } = plan(&known, &guests, &BTreeSet::new());
        assert_eq!((next.moving, leave), (BTreeSet::from([3, 9]), vec![1]));
    }

    proptest! {
        #[test]
        fn never_more_at_once_and_in_the_end_none_is_left(
            at_once in 1..6usize, kinds in prop::collection::vec(0..3usize, 0..30), paces in prop::collection::vec(0..4usize, 200),
        ) {
            let mut guests: BTreeMap<u64, Guest> = kinds.iter().zip(1..)
                .map(|(kind, id)| (id, [Guest::Movable, Guest::Staying, Guest::Down][*kind])).collect();
            let movable = kinds.iter().filter(|kind| **kind == 0).count();
            let mut current = drain(at_once);
            let mut away: BTreeSet<u64> = BTreeSet::new();
            for pace in paces {
                let Plan { leave, stop, mut drain } = plan(&current, &guests, &BTreeSet::new());
                prop_assert!(stop.is_empty());
                drain.moving.extend(&leave);
                prop_assert!(drain.moving.len() <= at_once);
                for id in leave {
                    guests.insert(id, Guest::Leaving);
                }
                // Some go down, some of those come up elsewhere.
                let down: Vec<u64> = guests.iter().filter(|(_, guest)| **guest == Guest::Leaving).map(|(id, _)| *id).take(pace).collect();
                for id in down {
                    guests.remove(&id);
                    away.insert(id);
                }
                let arrived: BTreeSet<u64> = away.iter().take(pace).copied().collect();
                away.retain(|id| !arrived.contains(id));
                current = plan(&drain, &guests, &arrived).drain;
            }
            if current.done {
                prop_assert_eq!(current.moved, movable);
                prop_assert!(guests.values().all(|guest| matches!(guest, Guest::Staying | Guest::Down)));
            }
        }
    }
}
