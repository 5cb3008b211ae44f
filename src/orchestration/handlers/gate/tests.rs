use super::*;
use crate::orchestration::lifecycle::{Observation, ask, drive, observe};
use crate::resource::assignment::Desired;
use crate::store::Operation;
use proptest::prelude::*;
use serde_json::{Map, json};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_000_000);

fn handler(id: u64, priority: i64, processes: &[&str]) -> Handler {
    Handler {
        id,
        name: format!("h{id}"),
        priority,
        retries: 2,
        timeout: Duration::from_secs(10),
        processes: processes.iter().map(|name| (*name).to_owned()).collect(),
    }
}

fn instance(state: &str, desired: &str) -> Resource {
    serde_json::from_value(json!({
        "id": 7, "kind": "container", "uuid": "u", "created": 5, "state": state, "generation": 3, "desired": desired,
        "hostName": "h1", "hostId": 1,
    }))
    .unwrap()
}

/// Does something with a gate of these handlers.
fn at<T>(handlers: &[Handler], now: Timestamp, work: impl FnOnce(&Gate<'_>) -> T) -> T {
    let count = Cell::new(0);
    let id = || {
        count.set(count.get() + 1);
        format!("event-{}-{}", now.0, count.get())
    };
    work(&Gate { handlers, now, id: &id })
}

fn asked(handlers: &[Handler], row: &Resource, action: &str) -> Resource {
    let next = ask(row, action, &Map::new(), NOW).unwrap();
    at(handlers, NOW, |gate| gate.pass(instance::BASE, Some(row), next, Cause::Asked(action)).unwrap())
}

fn done(handlers: &[Handler], row: &Resource) -> Resource {
    let hold = hold::of(row).unwrap();
    at(handlers, Timestamp(NOW.0 + 1), |gate| gate.done(instance::BASE, row, hold).unwrap())
}

fn waits_for(row: &Resource) -> Option<String> {
    hold::of(row).map(|hold| format!("{} {}", hold.steps[0].handler_name, hold.steps[0].name))
}

fn seen(handlers: &[Handler], row: &Resource, seen: &Observation) -> Option<Resource> {
    let next = observe(row, row.generation, seen, NOW)?;
    Some(at(handlers, NOW, |gate| gate.pass(instance::BASE, Some(row), next, Cause::Seen).unwrap()))
}

fn running() -> Observation {
    Observation::Running { external_id: "c".into(), started_at: 1 }
}

#[test]
fn without_handlers_all_passes() {
    let row = instance("stopped", "stopped");
    assert_eq!(asked(&[], &row, "start"), ask(&row, "start", &Map::new(), NOW).unwrap());
    let others = [handler(1, 1, &["instance.stop", "account.create"])];
    assert_eq!(asked(&others, &row, "start"), ask(&row, "start", &Map::new(), NOW).unwrap());
}

#[test]
fn before_in_order_of_priority_and_its_host_is_not_woken() {
    let handlers = [handler(1, 9, &["pre.instance.start"]), handler(2, 3, &["pre.container.start"])];
    let row = instance("stopped", "stopped");
    let first = asked(&handlers, &row, "start");
    assert_eq!((first.state, waits_for(&first).as_deref()), (State::Starting, Some("h2 pre.container.start")));
    assert_eq!((instance::desired(&first), first.generation), (Desired::Stopped, 3));
    let second = done(&handlers, &first);
    assert_eq!(waits_for(&second).as_deref(), Some("h1 pre.instance.start"));
    assert_eq!((instance::desired(&second), second.generation), (Desired::Stopped, 3));
    let free = done(&handlers, &second);
    assert_eq!(free, ask(&row, "start", &Map::new(), NOW).unwrap());
}

#[test]
fn instead_leads_to_the_end_and_its_host_does_nothing() {
    let handlers = [handler(1, 1, &["instance.start", "post.instance.start"])];
    let held = asked(&handlers, &instance("stopped", "stopped"), "start");
    let after = done(&handlers, &held);
    assert_eq!(waits_for(&after).as_deref(), Some("h1 post.instance.start"));
    let free = done(&handlers, &after);
    assert_eq!((free.state, instance::desired(&free), free.generation), (State::Running, Desired::Stopped, 3));
    assert!(!hold::is_held(&free));
}

#[test]
fn what_is_to_leave_its_host_ends_there_whatever_a_handler_did() {
    let handlers = [handler(1, 1, &["instance.stop"])];
    let row = instance("running", "running");
    let input = json!({"deallocateFromHost": true});
    let next = ask(&row, "stop", input.as_object().unwrap(), NOW).unwrap();
    let held = at(&handlers, NOW, |gate| gate.pass("instance", Some(&row), next, Cause::Asked("stop")).unwrap());
    let free = done(&handlers, &held);
    assert_eq!((free.state, instance::desired(&free), free.generation), (State::Stopping, Desired::Stopped, 4));
}

#[test]
fn after_it_runs_it_is_running_only_when_the_handler_says_so() {
    let handlers = [handler(1, 1, &["post.instance.start"])];
    let row = instance("starting", "running");
    let held = seen(&handlers, &row, &running()).unwrap();
    assert_eq!((held.state, held.get::<String>("externalId").as_deref()), (State::Starting, Some("c")));
    assert_eq!(seen(&handlers, &held, &running()), Some(held.clone()), "seen again is nothing new");
    assert_eq!(done(&handlers, &held).state, State::Running);
    // It ended by itself: nobody waits for the handler any more.
    let ended = Observation::Ended { exit_code: Some(3), message: None };
    let stopped = seen(&handlers, &held, &ended).unwrap();
    assert_eq!((stopped.state, hold::is_held(&stopped)), (State::Stopped, false));
}

#[test]
fn a_step_that_fails_says_why() {
    let handlers =
        [handler(1, 1, &["pre.instance.start", "pre.instance.stop", "post.instance.start", "pre.account.create"])];
    let fail = |row: &Resource| {
        let hold = hold::of(row).unwrap();
        at(&handlers, NOW, |gate| gate.failed("instance", row, hold, "no disk").unwrap())
    };
    let held = asked(&handlers, &instance("stopped", "stopped"), "start");
    let failed = fail(&held);
    assert_eq!((failed.state, failed.transitioning_message.as_deref()), (State::Stopped, Some("no disk")));
    let failed = fail(&asked(&handlers, &instance("running", "running"), "stop"));
    assert_eq!((failed.state, instance::desired(&failed)), (State::Running, Desired::Running));
    let after = seen(&handlers, &instance("starting", "running"), &running()).unwrap();
    let failed = fail(&after);
    assert_eq!((failed.state, failed.transitioning), (State::Running, crate::resource::Transitioning::Error));
    let new = Resource { kind: "account".into(), ..instance("active", "stopped") };
    let held = at(&handlers, NOW, |gate| gate.pass("account", None, new, Cause::Asked("create")).unwrap());
    assert_eq!((held.state, fail(&held).state), (State::Registering, State::Removed));
}

#[test]
fn no_answer_is_told_again_and_then_failed() {
    let handlers = [handler(1, 1, &["pre.instance.start"])];
    let mut row = asked(&handlers, &instance("stopped", "stopped"), "start");
    let mut told = 1;
    while let Some(hold) = hold::of(&row) {
        assert_eq!(hold.told, told);
        assert_eq!(drive(&row, NOW), lifecycle::Next::Wait(hold.due));
        let late = hold.due;
        assert_eq!(drive(&row, late), lifecycle::Next::Overdue);
        row = at(&handlers, late, |gate| gate.overdue("instance", &row, hold).unwrap());
        told += 1;
    }
    assert_eq!((told, row.state), (4, State::Stopped));
    assert!(row.transitioning_message.unwrap().contains("h1 did not answer pre.instance.start: told 3 times"));
}

#[test]
fn more_time_and_no_handler() {
    let handlers = [handler(1, 1, &["pre.instance.start"])];
    let row = asked(&handlers, &instance("stopped", "stopped"), "start");
    let hold = hold::of(&row).unwrap();
    let later = Timestamp(NOW.0 + 9_000);
    let busy = at(&handlers, later, |gate| gate.progress(&row, hold.clone(), Some("half".into()), Some(50)));
    assert_eq!(hold::of(&busy).unwrap().due, later.after(Duration::from_secs(10)));
    assert_eq!((busy.transitioning_progress, busy.transitioning_message.as_deref()), (Some(50), Some("half")));
    let free = at(&[], hold.due, |gate| gate.overdue("instance", &busy, hold::of(&busy).unwrap()).unwrap());
    assert_eq!((free.state, instance::desired(&free), free.generation), (State::Starting, Desired::Running, 4));
}

#[test]
fn a_new_one_waits_before_it_has_a_host() {
    let handlers = [handler(1, 1, &["pre.instance.create", "post.instance.create", "instance.start"])];
    let mut new = instance("creating", "running");
    new.set(instance::HOST_NAME, serde_json::Value::Null);
    let held = at(&handlers, NOW, |gate| gate.pass("instance", None, new.clone(), Cause::Asked("create")).unwrap());
    assert_eq!((held.state, waits_for(&held).as_deref()), (State::Creating, Some("h1 pre.instance.create")));
    let started = done(&handlers, &done(&handlers, &done(&handlers, &held)));
    assert_eq!((started.state, hold::is_held(&started)), (State::Running, false));
    // With nobody to start it, it is placed as ever.
    let only = [handler(1, 1, &["pre.instance.create"])];
    let held = at(&only, NOW, |gate| gate.pass("instance", None, new, Cause::Asked("create")).unwrap());
    assert_eq!(drive(&done(&only, &held), NOW), lifecycle::Next::Place);
}

#[derive(Clone, Debug)]
enum Did {
    Ask(&'static str),
    See(Observation),
    Drive,
    Done,
    Fail,
    Late,
}

fn anything() -> impl Strategy<Value = Did> {
    let actions = vec!["start", "stop", "restart", "remove", "restore", "purge"];
    let ended = Observation::Ended { exit_code: None, message: None };
    let seen =
        vec![running(), Observation::Stopped, ended, Observation::Purged, Observation::Starting { message: None }];
    prop_oneof![
        3 => prop::sample::select(actions).prop_map(Did::Ask),
        3 => prop::sample::select(seen).prop_map(Did::See),
        1 => Just(Did::Drive),
        4 => Just(Did::Done),
        1 => Just(Did::Fail),
        1 => Just(Did::Late),
    ]
}

proptest! {
    /// Whatever happens in whatever order: a row that waits has one event, and what is wanted of it stays as it was; and
    /// when all handlers are gone, nothing waits.
    #[test]
    fn one_event_for_each_that_waits(mask in 0..128_usize, did in prop::collection::vec(anything(), 1..60)) {
        let names = ["pre.instance.start", "instance.start", "post.instance.start", "pre.instance.stop", "instance.stop",
            "post.instance.remove", "pre.instance.purge"];
        let chosen: Vec<&str> = names.iter().enumerate().filter(|(at, _)| mask & (1 << at) != 0).map(|(_, name)| *name).collect();
        let handlers = [handler(1, 1, &chosen)];
        let mut row = instance("stopped", "stopped");
        let mut events = BTreeSet::new();
        let mut now = NOW;
        for (step, did) in did.into_iter().enumerate() {
            now = Timestamp(NOW.0 + 1000 * i64::try_from(step).unwrap());
            let hold = hold::of(&row);
            let change = at(&handlers, now, |gate| match (&did, hold) {
                (Did::Ask(action), _) => {
                    let next = ask(&row, action, &Map::new(), now).ok()?;
                    gate.pass("instance", Some(&row), next, Cause::Asked(action)).ok()
                }
                (Did::See(seen), _) => {
                    let next = observe(&row, row.generation, seen, now)?;
                    gate.pass("instance", Some(&row), next, Cause::Seen).ok()
                }
                (Did::Drive, None) => match drive(&row, now) {
                    lifecycle::Next::Write(next) => gate.pass("instance", Some(&row), *next, Cause::Driven).ok(),
                    _ => None,
                },
                (Did::Done, Some(hold)) => gate.done("instance", &row, hold).ok(),
                (Did::Fail, Some(hold)) => gate.failed("instance", &row, hold, "no").ok(),
                (Did::Late, Some(hold)) => gate.overdue("instance", &row, hold).ok(),
                _ => None,
            });
            let Some(next) = change else { continue };
            for operation in hold::operations("instance", Some(&row), &next).unwrap() {
                match operation {
                    Operation::Put { key, .. } => drop(events.insert(key)),
                    Operation::Delete { key } => prop_assert!(events.remove(&key), "{key} was not there"),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let expected: BTreeSet<String> = hold::of(&next).map(|hold| crate::store::key::event(&hold.event)).into_iter().collect();
            prop_assert_eq!(&events, &expected, "{:?}", next);
            if let (true, true) = (hold::is_held(&next), lifecycle::placed(&next)) {
                let before_it = hold::is_held(&row) || next.generation == row.generation;
                prop_assert!(before_it && next.state.in_transition(), "{next:?}");
            }
            row = next;
        }
        for _ in 0..20 {
            let Some(hold) = hold::of(&row) else { break };
            row = at(&[], now, |gate| gate.overdue("instance", &row, hold).unwrap());
        }
        prop_assert!(!hold::is_held(&row));
    }
}
