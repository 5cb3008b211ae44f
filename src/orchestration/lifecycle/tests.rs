use super::*;
use crate::resource::Transitioning;

fn instance(state: State, desired: Desired) -> Resource {
    let mut instance: Resource = serde_json::from_value(json!({
        "id": 7, "kind": "container", "uuid": "u", "created": 1000, "state": state, "generation": 3,
        "hostName": "h1", "hostId": 1, "desired": desired,
    }))
    .unwrap();
    instance.enter(state);
    instance
}

const NOW: Timestamp = Timestamp(1_000_000);

fn asked(instance: &Resource, action: &str) -> Resource {
    ask(instance, action, &Map::new(), NOW).unwrap()
}

fn seen(instance: &Resource, seen: &Observation) -> Resource {
    observe(instance, instance.generation, seen, NOW).unwrap()
}

fn ended() -> Observation {
    Observation::Ended { exit_code: Some(3), message: None }
}

#[test]
fn from_start_to_purged() {
    let starting = asked(&instance(State::Stopped, Desired::Stopped), "start");
    assert_eq!((starting.state, starting.transitioning), (State::Starting, Transitioning::Yes));
    let running = seen(&starting, &Observation::Running { external_id: "c".into(), started_at: 1 });
    assert_eq!((running.state, running.transitioning), (State::Running, Transitioning::No));
    assert_eq!(running.get::<i64>(instance::FIRST_RUNNING), Some(NOW.0));
    let stopping = asked(&running, "remove");
    assert_eq!(stopping.state, State::Stopping);
    let removed = seen(&stopping, &Observation::Stopped);
    assert_eq!(removed.state, State::Removed);
    assert_eq!(removed.remove_time, Some(NOW.after(PURGE_AFTER)));
    assert_eq!(drive(&removed, NOW), Next::Wait(NOW.after(PURGE_AFTER)));
    let Next::Write(purging) = drive(&removed, NOW.after(PURGE_AFTER)) else { panic!("not purged by itself") };
    assert_eq!((purging.state, instance::desired(&purging)), (State::Purging, Desired::Purged));
    let purged = seen(&purging, &Observation::Purged);
    assert_eq!(purged.state, State::Purged);
    assert!(!placed(&purged));
    assert_eq!(drive(&purged, NOW.after(PURGE_AFTER + FORGET_AFTER)), Next::Forget);
}

#[test]
fn its_own_end_is_handled_as_it_says() {
    let mut running = instance(State::Running, Desired::Running);
    let stopped = seen(&running, &ended());
    assert_eq!((stopped.state, instance::desired(&stopped)), (State::Stopped, Desired::Stopped));
    assert_eq!(stopped.get::<i64>("exitCode"), Some(3));
    assert!(stopped.generation > running.generation);

    running.set(instance::TRIGGERED_STOP, "remove");
    assert_eq!(seen(&running, &ended()).state, State::Removed);

    running.set(instance::TRIGGERED_STOP, "restart");
    let again = seen(&running, &ended());
    assert_eq!((again.state, instance::desired(&again)), (State::Restarting, Desired::Running));
    assert_eq!(again.generation, running.generation);
}

#[test]
fn what_was_seen_of_an_older_wish_changes_nothing() {
    let stopping = asked(&instance(State::Running, Desired::Running), "stop");
    let late = Observation::Running { external_id: "c".into(), started_at: 1 };
    assert_eq!(observe(&stopping, stopping.generation - 1, &late, NOW), None);
    assert_eq!(observe(&stopping, stopping.generation, &late, NOW), None);
}

#[test]
fn the_same_twice_writes_once() {
    let starting = asked(&instance(State::Stopped, Desired::Stopped), "start");
    let up = Observation::Running { external_id: "c".into(), started_at: 1 };
    let running = seen(&starting, &up);
    assert_eq!(observe(&running, running.generation, &up, NOW.after(GRACE)), None);
}

#[test]
fn a_failed_start_keeps_its_words_until_the_next_success() {
    let starting = asked(&instance(State::Stopped, Desired::Stopped), "start");
    let failed = seen(&starting, &Observation::Failed { message: "No such image: x".into() });
    assert_eq!((failed.state, failed.transitioning), (State::Stopped, Transitioning::Error));
    assert_eq!(failed.transitioning_message.as_deref(), Some("No such image: x"));
    assert_eq!(observe(&failed, failed.generation, &Observation::Stopped, NOW), None);
    let again = asked(&failed, "start");
    assert_eq!(again.transitioning_message, None);
}

#[test]
fn without_a_host_nothing_waits_for_one() {
    let mut creating = instance(State::Creating, Desired::Running);
    creating.set(instance::HOST_NAME, Value::Null);
    assert_eq!(drive(&creating, NOW), Next::Place);
    assert!(!waits_for_room(&creating));
    let failed = not_placed(&creating, "Failed to find a placement", true);
    assert_eq!((failed.state, failed.transitioning), (State::Creating, Transitioning::Error));
    assert!(waits_for_room(&failed));
    assert_eq!(not_placed(&failed, "Failed to find a placement", true), failed, "the same reasons write nothing");
    assert!(!waits_for_room(&not_placed(&failed, "others were faster", false)));
    assert!(!waits_for_room(&chosen(&failed)));
    let removing = asked(&failed, "remove");
    assert_eq!(removing.state, State::Removing);
    let Next::Write(removed) = drive(&removing, NOW) else { panic!("not removed") };
    assert_eq!(removed.state, State::Removed);
}

#[test]
fn restored_before_the_purge_it_stays() {
    let mut removed = instance(State::Removed, Desired::Stopped);
    removed.removed = Some(NOW);
    removed.remove_time = Some(NOW.after(PURGE_AFTER));
    let restoring = asked(&removed, "restore");
    assert_eq!(restoring.removed, None);
    let Next::Write(stopped) = drive(&restoring, NOW.after(PURGE_AFTER)) else { panic!("not restored") };
    assert_eq!(stopped.state, State::Stopped);
    assert_eq!(drive(&stopped, NOW.after(PURGE_AFTER)), Next::Nothing);
}

#[test]
fn moving_it_goes_down_is_given_up_and_waits_for_another_host() {
    let running = instance(State::Running, Desired::Running);
    let stopping = move_away(&running).unwrap();
    assert_eq!((stopping.state, instance::desired(&stopping)), (State::Stopping, Desired::Stopped));
    assert!(to_deallocate(&stopping) && moving_away(&stopping));
    assert_eq!(move_away(&stopping), None, "told once");
    let stopped = seen(&stopping, &Observation::Stopped);
    let free = deallocated(&stopped);
    assert_eq!((free.state, instance::desired(&free)), (State::Starting, Desired::Running));
    assert!(!placed(&free) && !moving_away(&free));
    assert_eq!(drive(&free, NOW), Next::Place);
    // Removed on its way, it does not come up again.
    let removing = ask(&stopping, "remove", &Map::new(), NOW).unwrap();
    assert!(!to_deallocate(&removing));
}

#[test]
fn stopped_for_a_drain_it_is_started_after() {
    let stopping = stop_for_drain(&instance(State::Running, Desired::Running)).unwrap();
    let stopped = seen(&stopping, &Observation::Stopped);
    assert!(stopped_by_drain(&stopped) && placed(&stopped));
    assert!(!stopped_by_drain(&asked(&stopped, "start")));
    assert_eq!(stop_for_drain(&stopped), None);
}

#[test]
fn what_is_not_possible_is_refused() {
    let running = instance(State::Running, Desired::Running);
    for action in ["start", "restore", "purge", "nonsense"] {
        assert!(
            matches!(ask(&running, action, &Map::new(), NOW), Err(ServiceError::ActionNotAvailable { .. })),
            "{action}"
        );
    }
}

#[test]
fn what_is_linked_waits_for_its_targets_no_longer_than_it_may() {
    let mut linked = instance(State::Starting, Desired::Running);
    [instance::HOST, instance::HOST_NAME].into_iter().for_each(|field| linked.set(field, Value::Null));
    assert_eq!(drive(&linked, NOW), Next::Place);
    let until = NOW.after(Duration::from_secs(15));
    wait_for_targets(&mut linked, until, "waits for 1i5".into());
    assert_eq!((drive(&linked, NOW), due(&linked, NOW)), (Next::Wait(until), Some(until)));
    assert!(waits_for_targets(&linked) && !waits_for_room(&linked));
    assert_eq!(drive(&linked, until), Next::Place);
    assert!(!waits_for_targets(&chosen(&linked)));
    let failed = not_placed(&linked, "Failed to find a placement", true);
    assert!(waits_for_room(&failed) && !waits_for_targets(&failed), "from then on it waits for room alone");
    // Stopped meanwhile, it waits for nothing; and started again not for what it waited for then.
    let stopping = asked(&linked, "stop");
    assert!(!waits_for_targets(&stopping));
    let Next::Write(stopped) = drive(&stopping, NOW) else { panic!("it has no host that would have to stop it") };
    assert_eq!(drive(&asked(&stopped, "start"), NOW), Next::Place);
}
