//! Which state follows which: one table.
//!
//! ```text
//! create      requested → registering → inactive
//! activate    inactive|registering → activating → active
//! deactivate  active|activating|updating-* → deactivating → inactive
//! remove      requested|inactive|activating|deactivating|registering|updating-* → removing → removed
//! restore     removed → restoring → inactive
//! purge       removed → purging → purged
//! failover    disconnected → reconnecting → disconnected: a host's, what it ran is moved
//! update      active → updating-active → active; inactive → updating-inactive → inactive
//! ```
//! Instances say start and stop, and name their states after that: registering is creating, inactive stopped, active
//! running, and so on; they add restart and migrate, both running → … → running. A host adds drain, active|inactive →
//! draining → inactive; one that is cut off can be removed. A floating address is associated and disassociated, active →
//! associating → associated → disassociating → active, and acquired from an active pool, which stays so. A volume is reverted to an active
//! snapshot, which stays so.

use super::State;
use super::{floating, instance, snapshot};

struct Row {
    action: &'static str,
    from: &'static [State],
    through: State,
    to: State,
}

const fn row(action: &'static str, from: &'static [State], through: State, to: State) -> Row {
    Row { action, from, through, to }
}

use State::{
    Activating, Active, Associated, Associating, Creating, Deactivating, Disassociating, Disconnected, Draining,
    Inactive, Migrating, Purged, Purging, Reconnecting, Registering, Removed, Removing, Requested, Restarting,
    Restoring, Running, Starting, Stopped, Stopping, UpdatingActive, UpdatingInactive, UpdatingRunning,
    UpdatingStopped,
};

const PLAIN: &[Row] = &[
    row("create", &[Requested], Registering, Inactive),
    row("activate", &[Inactive, Registering], Activating, Active),
    row("deactivate", &[Active, Activating, UpdatingActive, UpdatingInactive], Deactivating, Inactive),
    row(
        "remove",
        &[Requested, Inactive, Activating, Deactivating, Registering, UpdatingActive, UpdatingInactive],
        Removing,
        Removed,
    ),
    row("failover", &[Disconnected], Reconnecting, Disconnected),
    row("restore", &[Removed], Restoring, Inactive),
    row("purge", &[Removed], Purging, Purged),
    row("update", &[Active], UpdatingActive, Active),
    row("update", &[Inactive], UpdatingInactive, Inactive),
];

const HOST: &[Row] = &[
    row("activate", &[Inactive, Registering, Draining], Activating, Active),
    row("deactivate", &[Active, Activating, Draining], Deactivating, Inactive),
    row("drain", &[Active, Inactive], Draining, Inactive),
    row("remove", &[Requested, Inactive, Activating, Deactivating, Registering, Disconnected], Removing, Removed),
    row("restore", &[Removed], Restoring, Inactive),
    row("purge", &[Removed], Purging, Purged),
    row("update", &[Active], UpdatingActive, Active),
    row("update", &[Inactive, Draining], UpdatingInactive, Inactive),
];

const INSTANCE: &[Row] = &[
    row("create", &[Requested], Creating, Stopped),
    row("start", &[Stopped, Creating], Starting, Running),
    row("stop", &[Running, Starting, Restarting, UpdatingRunning, UpdatingStopped], Stopping, Stopped),
    row(
        "remove",
        &[Requested, Stopped, Starting, Stopping, Creating, UpdatingRunning, UpdatingStopped],
        Removing,
        Removed,
    ),
    row("restore", &[Removed], Restoring, Stopped),
    row("purge", &[Removed], Purging, Purged),
    row("update", &[Running], UpdatingRunning, Running),
    row("update", &[Stopped], UpdatingStopped, Stopped),
    row("restart", &[Running], Restarting, Running),
    row("migrate", &[Running], Migrating, Running),
];

const POOL: &[Row] = &[
    row("create", &[Requested], Registering, Inactive),
    row("activate", &[Inactive, Registering], Activating, Active),
    row("deactivate", &[Active, Activating, UpdatingActive, UpdatingInactive], Deactivating, Inactive),
    row(
        "remove",
        &[Requested, Inactive, Activating, Deactivating, Registering, UpdatingActive, UpdatingInactive],
        Removing,
        Removed,
    ),
    row("restore", &[Removed], Restoring, Inactive),
    row("purge", &[Removed], Purging, Purged),
    row("update", &[Active], UpdatingActive, Active),
    row("update", &[Inactive], UpdatingInactive, Inactive),
    row("acquire", &[Active], UpdatingActive, Active),
];

const ADDRESS: &[Row] = &[
    row("associate", &[Active, Associated, Associating], Associating, Associated),
    row("disassociate", &[Associated, Associating], Disassociating, Active),
    row("remove", &[Active], Removing, Removed),
    row("restore", &[Removed], Restoring, Active),
    row("purge", &[Removed], Purging, Purged),
];

const SNAPSHOT: &[Row] =
    &[row("remove", &[Active], Removing, Removed), row(snapshot::REVERT, &[Active], UpdatingActive, Active)];

fn table(base: &str) -> &'static [Row] {
    match base {
        instance::BASE => INSTANCE,
        "host" => HOST,
        floating::POOL => POOL,
        snapshot::BASE => SNAPSHOT,
        floating::SHOWN | floating::BASE => ADDRESS,
        _ => PLAIN,
    }
}

/// The state that `action` leads through, where it is possible in `state`.
pub fn allowed(base: &str, action: &str, state: State) -> Option<State> {
    table(base).iter().find(|row| row.action == action && row.from.contains(&state)).map(|row| row.through)
}

/// The state that `action` leads through, from wherever it is asked for.
pub fn through(base: &str, action: &str) -> Option<State> {
    table(base).iter().find(|row| row.action == action).map(|row| row.through)
}

/// The action that leads through `state`.
pub fn leading_through(base: &str, state: State) -> Option<&'static str> {
    table(base).iter().find(|row| row.through == state).map(|row| row.action)
}

/// The action that leads from one state of rest to another.
pub fn between(base: &str, from: State, to: State) -> Option<&'static str> {
    table(base).iter().find(|row| row.from.contains(&from) && row.to == to).map(|row| row.action).or_else(|| {
        // What is active is deactivated on the way.
        (from == Active && to == Removed).then_some("remove")
    })
}

/// All that `action` does to states: from where, through what, to where.
pub fn paths(base: &str, action: &str) -> impl Iterator<Item = (State, State, State)> + use<> {
    let action = action.to_owned();
    let rows = table(base).iter().filter(move |row| row.action == action);
    rows.flat_map(|row| row.from.iter().map(|from| (*from, row.through, row.to)))
}

/// The actions that are possible in `state`.
pub fn actions_of(base: &str, state: State) -> impl Iterator<Item = &'static str> + use<> {
    table(base).iter().filter(move |row| row.from.contains(&state)).map(|row| row.action)
}

/// Where a transition ends when all goes well; `None` for a state that is no transition.
pub fn end(base: &str, through: State) -> Option<State> {
    table(base).iter().find(|row| row.through == through).map(|row| row.to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bases() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["instance", "account", "host"])
    }

    fn states() -> impl Strategy<Value = State> {
        prop::sample::select(State::ALL)
    }

    #[test]
    fn as_the_contract_has_them() {
        let of = |state| actions_of("instance", state).collect::<Vec<_>>();
        assert_eq!(of(Running), ["stop", "update", "restart", "migrate"]);
        assert_eq!(of(Stopped), ["start", "remove", "update"]);
        assert_eq!(of(Removed), ["restore", "purge"]);
        assert_eq!(of(Purged), [""; 0]);
        assert_eq!(allowed("account", "deactivate", Active), Some(Deactivating));
        assert_eq!(allowed("account", "remove", Active), None);
        assert_eq!(end("account", UpdatingInactive), Some(Inactive));
        assert_eq!(end("instance", Removing), Some(Removed));
    }

    proptest! {
        #[test]
        fn a_transition_leads_through_one_and_rests_in_the_end(base in bases(), state in states()) {
            for action in actions_of(base, state) {
                let through = allowed(base, action, state).unwrap();
                prop_assert!(through.in_transition());
                prop_assert!(!end(base, through).unwrap().in_transition());
            }
            // What is at rest leads nowhere by itself.
            prop_assert_eq!(end(base, state).is_some() && !state.in_transition(), false);
        }

        #[test]
        fn the_list_and_the_question_agree(base in bases(), state in states(), action in "[a-z]{3,10}") {
            prop_assert_eq!(
                actions_of(base, state).any(|one| one == action),
                allowed(base, &action, state).is_some()
            );
        }

        #[test]
        fn whatever_is_done_it_can_be_purged_in_the_end(base in bases(), path in prop::collection::vec(0..8_usize, 0..20)) {
            let mut state = Requested;
            for choice in path {
                let actions: Vec<_> = actions_of(base, state).collect();
                if actions.is_empty() {
                    break;
                }
                state = end(base, allowed(base, actions[choice % actions.len()], state).unwrap()).unwrap();
            }
            for action in ["stop", "deactivate", "remove", "purge"] {
                if let Some(through) = allowed(base, action, state) {
                    state = end(base, through).unwrap();
                }
            }
            prop_assert_eq!(state, Purged);
        }
    }
}
