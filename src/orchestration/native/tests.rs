use super::*;
use crate::environment::Environment;
use crate::membership::Hosts;
use crate::orchestration::lifecycle::{Next, Observation, PURGE_AFTER, ask, drive, host_removed};
use crate::placement::Placer;
use crate::placement::record::Allocation;
use crate::resource::{Transitioning, link};
use crate::store::Store;
use crate::store::embedded::Embedded;
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::sync::Arc;

const NOW: Timestamp = Timestamp(1_000_000);

fn native(running: bool) -> Native {
    Native {
        external_id: "c1".into(),
        name: "web".into(),
        image: "nginx".into(),
        running,
        started_at: Some(7),
        exit_code: (!running).then_some(3),
        address: running.then_some(Ipv4Addr::new(10, 42, 7, 9)),
        ..Native::default()
    }
}

fn row(state: State, desired: Desired) -> Resource {
    let mut row: Resource = serde_json::from_value(json!({
        "id": 7, "kind": "container", "uuid": "u", "created": 1000, "state": state, "generation": 3,
        "hostName": "h1", "hostId": 1, "desired": desired,
    }))
    .unwrap();
    native(matches!(state, State::Running | State::Stopping | State::Restarting)).describe(&mut row);
    row.enter(state);
    row
}

fn seen(row: &Resource, found: Option<&Native>) -> Resource {
    let seen = Observation::Native(found.cloned().map(Box::new));
    lifecycle::observe(row, row.generation, &seen, NOW).unwrap_or_else(|| row.clone())
}

fn asked(row: &Resource, action: &str) -> Resource {
    ask(row, action, &Map::new(), NOW).unwrap()
}

#[test]
fn what_people_do_with_docker_shows() {
    let running = row(State::Running, Desired::Running);
    let stopped = seen(&running, Some(&native(false)));
    assert_eq!((stopped.state, instance::desired(&stopped)), (State::Stopped, Desired::Stopped));
    assert_eq!((stopped.get::<i64>("exitCode"), stopped.get::<String>(instance::ADDRESS)), (Some(3), None));
    let moved = Native { address: Some(Ipv4Addr::new(10, 42, 7, 10)), name: "front".into(), ..native(true) };
    let again = seen(&stopped, Some(&moved));
    assert_eq!((again.state, again.name.as_deref()), (State::Running, Some("front")));
    assert_eq!(again.get::<String>(instance::ADDRESS).as_deref(), Some("10.42.7.10"));
    let gone = seen(&again, None);
    assert_eq!((gone.state, gone.remove_time), (State::Removed, Some(NOW.after(PURGE_AFTER))));
    let Next::Write(purging) = drive(&gone, NOW.after(PURGE_AFTER)) else { panic!("not purged by itself") };
    assert_eq!(purging.state, State::Purging);
    // Somebody was faster with docker start than the purge.
    assert_eq!(
        seen(&seen(&asked(&running, "remove"), Some(&native(false))), Some(&native(true))).state,
        State::Running
    );
}

#[test]
fn what_the_api_asks_for_ends_where_docker_has_it() {
    let running = row(State::Running, Desired::Running);
    let stopping = asked(&running, "stop");
    assert_eq!(seen(&stopping, Some(&native(true))).state, State::Stopping, "not yet");
    let stopped = seen(&stopping, Some(&native(false)));
    assert_eq!((stopped.state, stopped.transitioning), (State::Stopped, Transitioning::No));
    let starting = asked(&stopped, "start");
    assert_eq!(seen(&starting, Some(&native(true))).state, State::Running);
    assert_eq!(seen(&starting, Some(&native(false))).state, State::Stopped, "it has ended at once");
    assert_eq!(seen(&asked(&running, "restart"), Some(&native(true))).state, State::Running);
    let removed = seen(&asked(&running, "remove"), Some(&native(false)));
    assert_eq!(removed.state, State::Removed);
    let failed = Observation::Failed { message: "no such image".into() };
    let failed = lifecycle::observe(&starting, starting.generation, &failed, NOW).unwrap();
    assert_eq!((failed.state, failed.transitioning), (State::Stopped, Transitioning::Error));
    assert_eq!(
        seen(&failed, Some(&native(false))).transitioning,
        Transitioning::Error,
        "what failed is yet to be read"
    );
}

#[test]
fn no_other_host_has_it() {
    let running = row(State::Running, Desired::Running);
    let input = json!({"deallocateFromHost": true}).as_object().unwrap().clone();
    assert!(matches!(ask(&running, "stop", &input, NOW), Err(ServiceError::Invalid { .. })));
    let gone = host_removed(&running, "h1", NOW);
    assert_eq!(gone.state, State::Removed);
    let mut restored = gone;
    restored.enter(State::Stopped);
    assert!(matches!(ask(&restored, "start", &Map::new(), NOW), Err(ServiceError::ActionNotAvailable { .. })));
}

proptest! {
    #[test]
    fn it_comes_to_rest_and_tells_the_truth(
        state in prop::sample::select(vec![State::Running, State::Stopped, State::Stopping, State::Starting, State::Restarting,
            State::Removed, State::Restoring]),
        running in any::<bool>(), there in any::<bool>(),
    ) {
        let desired = match state {
            State::Running | State::Starting | State::Restarting => Desired::Running,
            _ => Desired::Stopped,
        };
        let found = there.then(|| native(running));
        let first = seen(&row(state, desired), found.as_ref());
        let second = seen(&first, found.as_ref());
        prop_assert_eq!(&seen(&second, found.as_ref()), &second, "nothing flaps");
        match (there, running) {
            (true, true) if state == State::Stopping => prop_assert_eq!(second.state, State::Stopping),
            (true, true) => prop_assert_eq!(second.state, State::Running),
            (true, false) => prop_assert!(matches!(second.state, State::Stopped | State::Removed)),
            (false, _) => prop_assert_eq!(second.state, State::Removed),
        }
        let up = there && running;
        prop_assert_eq!(second.get::<String>(instance::ADDRESS).is_some(), up);
        let settled = second.state != State::Stopping;
        prop_assert!(!settled || (instance::desired(&second) == Desired::Running) == up);
    }
}

#[tokio::test]
async fn adopted_once_with_all_that_goes_with_it() {
    let environment = Environment::system().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
    seed::seed(store.as_ref(), &environment).await.unwrap();
    let hosts = Hosts::start(store.clone(), &environment);
    let placer = Placer::new(store.clone(), &environment, 1, hosts, None);
    let orchestrator = Orchestrator::new(store.clone(), environment, placer);
    let number = orchestrator.adopt("h1", 3, &native(true)).await.unwrap();
    let before = store.get("x").await.unwrap().revision;
    assert_eq!(orchestrator.adopt("h1", 3, &native(true)).await.unwrap(), number);
    assert_eq!(store.get("x").await.unwrap().revision, before, "a second time is no write");
    let other = orchestrator.adopt("h2", 4, &native(true)).await.unwrap();
    assert_ne!(other, number, "a copied disk has the same ids on another host");

    let id = identifier::instance(number);
    let entry = store.get(&key::resource(instance::BASE, number)).await.unwrap().entry.unwrap();
    let row: Resource = decode(&entry).unwrap();
    assert_eq!((row.state, row.name.as_deref(), row.account_id), (State::Running, Some("web"), Some(seed::ADMIN)));
    assert!(instance::is_native(&row) && link::knows_image_ports(&row));
    let claim: Claim = decode(&store.get(&key::on("h1", &id)).await.unwrap().entry.unwrap()).unwrap();
    assert!(claim.native);
    let alloc: Allocation = decode(&store.get(&key::alloc("h1")).await.unwrap().entry.unwrap()).unwrap();
    assert_eq!(alloc.instances[&id].share, crate::placement::record::Share::default(), "nobody was asked for room");
    assert!(store.get(&key::dns(seed::ADMIN, "web", &id)).await.unwrap().entry.is_some());
    assert!(store.get(&key::endpoint(&id)).await.unwrap().entry.is_some());

    // What was purged, and is there again, is another.
    let purged = Resource { state: State::Purged, ..row };
    let put = Operation::put(&entry.key, encode(&entry.key, &purged).unwrap());
    store.commit(Transaction::new().then(put)).await.unwrap();
    let again = orchestrator.adopt("h1", 3, &native(true)).await.unwrap();
    assert_ne!(again, number);
    assert_eq!(orchestrator.adopt("h1", 3, &native(true)).await.unwrap(), again);
}
