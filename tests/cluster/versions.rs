//! What a newer agent wrote survives the work of an older one, and an agent too old for its cluster stays away.

use crate::pool::Pool;
use crate::{environment, put_host};
use serde_json::{Map, Value, json};
use stampede::membership::protocol::PROTOCOL;
use stampede::membership::{ClusterSettings, Hosts, ensure_cluster};
use stampede::orchestration::lifecycle::Observation;
use stampede::orchestration::{Draft, Orchestrator, Service, Told};
use stampede::placement::Placer;
use stampede::resource::assignment::Token;
use stampede::store::embedded::Embedded;
use stampede::store::{self, Entry, Operation, Store, Transaction, key};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a newer version adds.
const FIELD: &str = "fromTheFuture";

fn later() -> Value {
    json!({"a": [1, {"b": null}], "c": 0.5})
}

async fn all(store: &Arc<dyn Store>) -> Vec<Entry> {
    store.range(key::ROOT).await.unwrap().entries
}

/// Adds the field to each record that is one, and to the promises within `alloc/`; the keys that have it now.
async fn plant(store: &Arc<dyn Store>) -> BTreeSet<String> {
    let mut planted = BTreeSet::new();
    for entry in all(store).await {
        let mut value: Value = store::decode(&entry).unwrap();
        // What waits, and where what runs is reached, is written anew from its row each time: nothing of its own is in it.
        let follows = ["todo/", "endpoint/"].map(|part| format!("{}{part}", key::ROOT));
        if follows.iter().any(|part| entry.key.starts_with(part)) || !value.is_object() {
            continue;
        }
        if let Some(promises) = value.get_mut("instances").and_then(Value::as_object_mut) {
            promises.values_mut().for_each(|promise| promise[FIELD] = later());
        }
        value[FIELD] = later();
        let put = Operation::put(&entry.key, store::encode(&entry.key, &value).unwrap());
        let transaction = Transaction::new().unchanged(&entry.key, entry.mod_revision).then(put);
        assert!(store.commit(transaction).await.unwrap().succeeded, "{}", entry.key);
        planted.insert(entry.key);
    }
    planted
}

async fn row(store: &Arc<dyn Store>, id: u64) -> Entry {
    store.get(&key::resource("instance", id)).await.unwrap().entry.unwrap()
}

async fn saw(orchestrator: &Orchestrator, store: &Arc<dyn Store>, id: u64, seen: Observation) {
    let on = store.get(&key::on("h1", &format!("1i{id}"))).await.unwrap().entry.unwrap();
    let token = Token { generation: 1, revision: on.create_revision.0 };
    let told = orchestrator.observed("h1", token, &row(store, id).await, &seen).await.unwrap();
    match told {
        Told::Written(written) => assert_eq!(written, row(store, id).await, "{seen:?}"),
        Told::GivenUp => {}
        Told::Nothing => panic!("nothing was written of {seen:?}"),
    }
}

async fn create(orchestrator: &Orchestrator, fields: Value) -> u64 {
    let Value::Object(mut fields) = fields else { panic!("{fields}") };
    fields.insert("imageUuid".into(), json!("docker:busybox"));
    let draft = Draft {
        base: "instance".into(),
        kind: "container".into(),
        account_id: None,
        uuid: None,
        name: None,
        description: None,
        data: Map::new(),
        fields,
    };
    orchestrator.create(draft).await.unwrap().resources[0].id
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_agent_wrote_survives() {
    let environment = environment();
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
    put_host(&store, 1, 4096).await;
    let hosts = Hosts::start(store.clone(), &environment);
    let placer = Placer::new(store.clone(), &environment, 1, hosts, Some(Pool::new(store.clone(), 110)));
    let orchestrator = Orchestrator::new(store.clone(), environment.clone(), placer);
    let running = |id: u64| Observation::Running { external_id: format!("c{id}"), started_at: 1 };

    let restarted = create(&orchestrator, json!({"instanceTriggeredStop": "stop"})).await;
    let ends = create(&orchestrator, json!({"instanceTriggeredStop": "stop"})).await;
    for id in [restarted, ends] {
        saw(&orchestrator, &store, id, running(id)).await;
    }
    let planted = plant(&store).await;
    for part in ["host/h1", "alloc/h1", "on/h1/", "resource/instance/"] {
        assert!(planted.iter().any(|key| key.starts_with(&format!("{}{part}", key::ROOT))), "no {part}");
    }

    // What is wanted changes, over the API and by its own end; status changes; the host's record and its sums change.
    let before = all(&store).await;
    orchestrator.act("instance", restarted, "stop", Map::new()).await.unwrap();
    saw(&orchestrator, &store, restarted, Observation::Stopped).await;
    orchestrator.update("instance", restarted, map(json!({"name": "renamed"}))).await.unwrap();
    orchestrator.act("instance", restarted, "start", Map::new()).await.unwrap();
    saw(&orchestrator, &store, ends, Observation::Ended { exit_code: Some(3), message: None }).await;
    create(&orchestrator, json!({})).await;
    orchestrator.update("host", 1, map(json!({"description": "in the cellar", "labels": {"a": "b"}}))).await.unwrap();
    for action in ["deactivate", "drain", "activate"] {
        orchestrator.act("host", 1, action, Map::new()).await.unwrap();
    }
    orchestrator.act("instance", ends, "remove", Map::new()).await.unwrap();

    let after = all(&store).await;
    let mut written = BTreeSet::new();
    for key in &planted {
        let find = |entries: &[Entry]| entries.iter().find(|entry| entry.key == *key).cloned();
        let (Some(old), Some(new)) = (find(&before), find(&after)) else { panic!("{key} is gone") };
        if old.mod_revision == new.mod_revision {
            continue;
        }
        written.insert(key.rsplit_once('/').unwrap().0.to_owned());
        let value: Value = store::decode(&new).unwrap();
        assert_eq!(value[FIELD], later(), "{key}: {value}");
        for id in [restarted, ends].iter().filter(|_| key.contains("/alloc/")) {
            assert_eq!(value["instances"][format!("1i{id}")][FIELD], later(), "{key}: {value}");
        }
    }
    let expected = ["alloc", "host", "on/h1", "resource/instance"].map(|part| format!("{}{part}", key::ROOT));
    assert_eq!(written, BTreeSet::from(expected), "the operations did not write what they are to be tried on");
}

#[tokio::test]
async fn an_agent_too_old_for_its_cluster_stays_away() {
    let environment = environment();
    let store = Embedded::in_memory(&environment).unwrap();
    let settings = ClusterSettings::default();
    ensure_cluster(&store, &environment, settings).await.unwrap();
    for (minimum, refused) in [(0, false), (PROTOCOL, false), (PROTOCOL + 1, true)] {
        let entry = store.get(&key::cluster()).await.unwrap().entry.unwrap();
        let mut cluster: Value = store::decode(&entry).unwrap();
        cluster["minimumProtocol"] = minimum.into();
        let put = Operation::put(&entry.key, store::encode(&entry.key, &cluster).unwrap());
        assert!(store.commit(Transaction::new().then(put)).await.unwrap().succeeded);
        match ensure_cluster(&store, &environment, settings).await {
            Ok(_) => assert!(!refused, "{minimum}"),
            Err(error) => {
                assert!(refused, "{error}");
                assert!(error.to_string().contains("install a newer Stampede on this host"), "{error}");
            }
        }
    }
}
