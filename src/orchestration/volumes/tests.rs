use super::*;
use crate::environment::Environment;
use crate::membership::Hosts;
use crate::orchestration::Service;
use crate::placement::Placer;
use crate::store::embedded::Embedded;
use crate::store::{Store, decode};
use std::sync::Arc;

const HOST: &str = "h1";

async fn put(store: &Arc<dyn Store>, key: String, value: Value) {
    let operation = Operation::put(&key, encode(&key, &value).unwrap());
    store.commit(Transaction::new().then(operation)).await.unwrap();
}

/// Two virtual machines of one account, 54 on `h1` and 57 on `h2`.
async fn world() -> (Arc<dyn Store>, Orchestrator) {
    let environment = Environment::system().unwrap();
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
    for (id, host) in [(54, HOST), (57, "h2")] {
        let capacity = json!({"cpuMillis": 8000, "memoryMb": 8000, "diskMb": 8000});
        let record = json!({"id": id, "uuid": "u", "name": host, "identity": "i", "machineId": "m", "created": 5, "capacity": capacity});
        put(&store, key::host(host), record).await;
        let row = json!({"id": id, "kind": "virtualMachine", "uuid": format!("u{id}"), "created": 1, "accountId": 1,
            "state": "running", "desired": "running", "hostName": host, "hostId": id, "machineImage": {}, "imageId": 3, "firstRunning": 1});
        put(&store, key::resource(instance::BASE, id), row).await;
        put(&store, key::on(host, &identifier::instance(id)), json!({"id": id, "uuid": "u", "generation": 0})).await;
    }
    put(&store, key::counter(instance::BASE), json!(100)).await;
    let hosts = Hosts::start(store.clone(), &environment);
    let placer = Placer::new(store.clone(), &environment, 1, hosts, None);
    (store.clone(), Orchestrator::new(store, environment, placer))
}

async fn made(orchestrator: &Orchestrator, fields: Value) -> Result<Resource, ServiceError> {
    let fields = fields.as_object().unwrap().clone();
    let draft = Draft { base: volume::SHOWN.into(), account_id: Some(1), fields, ..Draft::default() };
    Ok(orchestrator.create(draft).await?.resources.remove(0))
}

async fn update(orchestrator: &Orchestrator, id: u64, changes: Value) -> Result<Resource, ServiceError> {
    let changes = changes.as_object().unwrap().clone();
    Ok(orchestrator.update_if(volume::SHOWN, id, changes, None).await?.resources.remove(0))
}

async fn row(store: &Arc<dyn Store>, base: &str, id: u64) -> Resource {
    decode(&store.get(&key::resource(base, id)).await.unwrap().entry.unwrap()).unwrap()
}

async fn seen(orchestrator: &Orchestrator, store: &Arc<dyn Store>, id: u64, seen: VolumeSeen) -> Resource {
    let generation = row(store, volume::BASE, id).await.generation;
    orchestrator.volume_seen(HOST, id, generation, &seen).await.unwrap();
    row(store, volume::BASE, id).await
}

fn code<T: std::fmt::Debug>(result: Result<T, ServiceError>) -> &'static str {
    match result.unwrap_err() {
        ServiceError::Invalid { code, .. } => code,
        ServiceError::ActionNotAvailable { .. } => "ActionNotAvailable",
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_disk_is_one_instance_s_from_when_it_is_asked_for_until_its_guest_has_let_go() {
    let (store, orchestrator) = world().await;
    let volume = made(&orchestrator, json!({"virtualSizeMb": 64})).await.unwrap();
    assert_eq!((volume.kind.as_str(), volume.state), ("volume", State::Inactive));
    let id = volume.id;
    let attached = update(&orchestrator, id, json!({"instanceId": 54})).await.unwrap();
    assert_eq!((attached.state, attached.get::<u8>(volume::SLOT)), (State::Activating, Some(1)));
    assert_eq!(code(update(&orchestrator, id, json!({"instanceId": 57})).await), "InvalidOption");
    let wish = key::disk(HOST, &volume::name(id));
    assert!(store.get(&wish).await.unwrap().entry.is_some(), "its host is woken");
    assert!(!volume::of(&row(&store, instance::BASE, 54).await)[0].ready, "it is not made yet");
    seen(&orchestrator, &store, id, VolumeSeen::Made).await;
    assert!(volume::of(&row(&store, instance::BASE, 54).await)[0].ready);
    assert_eq!(seen(&orchestrator, &store, id, VolumeSeen::Attached).await.state, State::Active);
    assert_eq!(code(orchestrator.act_on_volume(id, "remove", None).await), "ActionNotAvailable");

    update(&orchestrator, id, json!({"instanceId": null})).await.unwrap();
    // What its host saw before it heard of that changes nothing.
    orchestrator.volume_seen(HOST, id, 1, &VolumeSeen::Attached).await.unwrap();
    assert_eq!(row(&store, volume::BASE, id).await.state, State::Deactivating);
    assert!(!volume::of(&row(&store, instance::BASE, 54).await)[0].ready, "no start brings it along any more");
    assert_eq!(code(update(&orchestrator, id, json!({"instanceId": 57})).await), "InvalidOption");
    let free = seen(&orchestrator, &store, id, VolumeSeen::Detached).await;
    assert_eq!((free.state, volume::instance_of(&free)), (State::Inactive, None));
    assert_eq!(volume::of(&row(&store, instance::BASE, 54).await), []);
    // It stays where it was made.
    assert_eq!(code(update(&orchestrator, id, json!({"instanceId": 57})).await), "InvalidOption");

    orchestrator.act_on_volume(id, "remove", None).await.unwrap();
    orchestrator.act_on_volume(id, "purge", None).await.unwrap();
    assert_eq!(row(&store, volume::BASE, id).await.state, State::Purging);
    assert_eq!(seen(&orchestrator, &store, id, VolumeSeen::Purged).await.state, State::Purged);
    assert!(store.get(&wish).await.unwrap().entry.is_none());
}

#[tokio::test]
async fn a_volume_only_grows() {
    let (store, orchestrator) = world().await;
    let id = made(&orchestrator, json!({"virtualSizeMb": 64})).await.unwrap().id;
    assert_eq!(code(update(&orchestrator, id, json!({"virtualSizeMb": 63})).await), "MinLimitExceeded");
    assert_eq!(code(update(&orchestrator, id, json!({"virtualSizeMb": null})).await), "MinLimitExceeded");
    assert_eq!(update(&orchestrator, id, json!({"virtualSizeMb": 65})).await.unwrap().state, State::Inactive);
    update(&orchestrator, id, json!({"instanceId": 54})).await.unwrap();
    seen(&orchestrator, &store, id, VolumeSeen::Made).await;
    seen(&orchestrator, &store, id, VolumeSeen::Attached).await;
    assert_eq!(update(&orchestrator, id, json!({"virtualSizeMb": 128})).await.unwrap().state, State::UpdatingActive);
    assert_eq!(seen(&orchestrator, &store, id, VolumeSeen::Attached).await.state, State::Active);
    // An instance's own.
    let root = update(&orchestrator, 54, json!({"virtualSizeMb": 512})).await.unwrap();
    assert_eq!((root.id, root.get::<u64>(volume::SIZE_MB)), (54, Some(512)));
    assert!(store.get(&key::disk(HOST, "1i54")).await.unwrap().entry.is_some(), "its host is woken");
    assert_eq!(row(&store, instance::BASE, 54).await.get::<u64>(instance::DISK_MB), Some(512));
    assert_eq!(code(update(&orchestrator, 54, json!({"virtualSizeMb": 511})).await), "MinLimitExceeded");
    assert_eq!(code(update(&orchestrator, 54, json!({"name": "x"})).await), "InvalidOption");
}

#[tokio::test]
async fn what_is_attached_outlives_its_instance() {
    let (store, orchestrator) = world().await;
    let id = made(&orchestrator, json!({"virtualSizeMb": 64, "instanceId": 54})).await.unwrap().id;
    seen(&orchestrator, &store, id, VolumeSeen::Made).await;
    seen(&orchestrator, &store, id, VolumeSeen::Attached).await;
    assert_eq!(
        code(
            orchestrator
                .act_if(
                    instance::BASE,
                    54,
                    "stop",
                    json!({"deallocateFromHost": true}).as_object().unwrap().clone(),
                    None
                )
                .await
        ),
        "InvalidOption"
    );
    let key = key::resource(instance::BASE, 54);
    let purging = Resource { state: State::Purging, ..row(&store, instance::BASE, 54).await };
    put(&store, key, json!(purging)).await;
    orchestrator.drive(instance::BASE, 54).await.unwrap();
    let free = row(&store, volume::BASE, id).await;
    assert_eq!((free.state, volume::instance_of(&free)), (State::Inactive, None));
    assert_eq!(volume::of(&row(&store, instance::BASE, 54).await), []);
}

#[tokio::test]
async fn what_was_on_a_host_that_is_gone_for_good_is_not_waited_for() {
    let (store, orchestrator) = world().await;
    let id = made(&orchestrator, json!({"virtualSizeMb": 64, "instanceId": 54})).await.unwrap().id;
    store.commit(Transaction::new().then(Operation::delete(key::host(HOST)))).await.unwrap();
    let free = update(&orchestrator, id, json!({"instanceId": null})).await.unwrap();
    assert_eq!(free.state, State::Inactive);
    orchestrator.act_on_volume(id, "remove", None).await.unwrap();
    orchestrator.act_on_volume(id, "purge", None).await.unwrap();
    orchestrator.drive(volume::BASE, id).await.unwrap();
    assert_eq!(row(&store, volume::BASE, id).await.state, State::Purged);
}

#[tokio::test]
async fn nothing_is_attached_where_it_cannot_be() {
    let (store, orchestrator) = world().await;
    let mut container = row(&store, instance::BASE, 54).await;
    container.set(instance::MACHINE_IMAGE, Value::Null);
    put(&store, key::resource(instance::BASE, 54), json!(container)).await;
    let create = async |instance: u64| made(&orchestrator, json!({"virtualSizeMb": 1, "instanceId": instance})).await;
    assert_eq!(code(create(54).await), "InvalidOption");
    assert_eq!(code(create(99).await), "InvalidReference");
    for _ in 0..volume::MOST {
        create(57).await.unwrap();
    }
    assert_eq!(code(create(57).await), "MaxLimitExceeded");
}

async fn taken(orchestrator: &Orchestrator, volume: u64) -> Result<Resource, ServiceError> {
    let fields = json!({ "volumeId": volume }).as_object().unwrap().clone();
    let draft = Draft { base: "snapshot".into(), account_id: Some(1), fields, ..Draft::default() };
    Ok(orchestrator.create(draft).await?.resources.remove(0))
}

async fn act(orchestrator: &Orchestrator, snapshot: u64, action: &str) -> Result<Resource, ServiceError> {
    Ok(orchestrator.act_if("snapshot", snapshot, action, Map::new(), None).await?.resources.remove(0))
}

#[tokio::test]
async fn a_snapshot_is_taken_and_gone_back_to_while_nothing_runs() {
    let (store, orchestrator) = world().await;
    let id = made(&orchestrator, json!({"virtualSizeMb": 64, "instanceId": 54})).await.unwrap().id;
    assert_eq!(code(taken(&orchestrator, id).await), "ActionNotAvailable", "it is not made yet");
    seen(&orchestrator, &store, id, VolumeSeen::Made).await;
    seen(&orchestrator, &store, id, VolumeSeen::Attached).await;
    let snapshot = taken(&orchestrator, id).await.unwrap();
    assert_eq!((snapshot.state, snapshot.get::<u64>("volumeId")), (State::Activating, Some(id)));
    assert_eq!(
        volume::of(&row(&store, instance::BASE, 54).await)[0].layers,
        [1, 0],
        "its next start has the same layers"
    );
    assert_eq!(code(act(&orchestrator, snapshot.id, "remove").await), "ActionNotAvailable");
    let failed = seen(&orchestrator, &store, id, VolumeSeen::Failed { message: "full".into() }).await;
    assert_eq!(types::snapshots(volume::BASE, &failed)[0].transitioning_message.as_deref(), Some("full"));
    let active = seen(&orchestrator, &store, id, VolumeSeen::Attached).await;
    assert_eq!(types::snapshots(volume::BASE, &active)[0].state, State::Active);
    assert_eq!(code(act(&orchestrator, snapshot.id, "revert").await), "ActionNotAvailable", "its instance runs");
    let mut stopped = row(&store, instance::BASE, 54).await;
    stopped.state = State::Stopped;
    put(&store, key::resource(instance::BASE, 54), json!(stopped)).await;
    act(&orchestrator, snapshot.id, "revert").await.unwrap();
    assert_eq!(volume::of(&row(&store, instance::BASE, 54).await)[0].layers, [2, 0]);
    seen(&orchestrator, &store, id, VolumeSeen::Attached).await;
    assert_eq!(act(&orchestrator, snapshot.id, "remove").await.unwrap().state, State::Removed);
    assert!(matches!(act(&orchestrator, snapshot.id, "remove").await, Err(ServiceError::NotFound)));
}

#[tokio::test]
async fn a_machine_s_own_disk_has_snapshots_too() {
    let (store, orchestrator) = world().await;
    let snapshot = taken(&orchestrator, 54).await.unwrap();
    assert_eq!(snapshot.state, State::Activating);
    let wish = store.get(&key::disk(HOST, "1i54")).await.unwrap().entry.unwrap();
    let entry = store.get(&key::resource(instance::BASE, 54)).await.unwrap().entry.unwrap();
    orchestrator.root_seen(HOST, &entry, wish.mod_revision, &crate::orchestration::RootSeen::Done).await.unwrap();
    let machine = row(&store, instance::BASE, 54).await;
    assert_eq!(types::snapshots(instance::BASE, &machine)[0].state, State::Active);
    assert!(store.get(&key::disk(HOST, "1i54")).await.unwrap().entry.is_none(), "there is nothing more to do");
    for _ in 1..crate::resource::snapshot::MOST {
        taken(&orchestrator, 54).await.unwrap();
    }
    assert_eq!(code(taken(&orchestrator, 54).await), "MaxLimitExceeded");
    assert_eq!(code(taken(&orchestrator, 99).await), "InvalidReference");
}

#[tokio::test]
async fn memory_and_processors_change_while_it_is_stopped_as_its_host_has_room() {
    let (store, orchestrator) = world().await;
    let host = json!({"id": 54, "uuid": "u", "name": HOST, "identity": "i", "machineId": "m", "created": 5,
        "capacity": {"cpuMillis": 2000, "memoryMb": 1000, "diskMb": 1000}});
    put(&store, key::host(HOST), host).await;
    put(&store, key::alloc(HOST), json!({"instances": {"1i9": {"memoryMb": 500, "cpuMillis": 0}}})).await;
    let update = async |changes: Value| {
        orchestrator.update_if(instance::BASE, 54, changes.as_object().unwrap().clone(), None).await
    };
    assert_eq!(code(update(json!({"memoryMb": 300})).await), "ActionNotAvailable");
    let mut stopped = row(&store, instance::BASE, 54).await;
    stopped.state = State::Stopped;
    put(&store, key::resource(instance::BASE, 54), json!(stopped)).await;
    assert_eq!(code(update(json!({"memoryMb": 501})).await), "MaxLimitExceeded");
    assert_eq!(code(update(json!({"vcpu": 0})).await), "MinLimitExceeded");
    update(json!({"memoryMb": 500, "vcpu": 2})).await.unwrap();
    let alloc = store.get(&key::alloc(HOST)).await.unwrap().entry.unwrap();
    let promised: Value = decode(&alloc).unwrap();
    assert_eq!(promised["instances"]["1i54"]["memoryMb"], 500);
    assert_eq!(promised["instances"]["1i54"]["cpuMillis"], 2000);
}
