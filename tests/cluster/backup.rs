//! A cluster's state to a file and back: between both kinds of store, and never half.

use crate::server::Server;
use crate::{environment, join, machine, put_host};
use stampede::membership::backup::{self, Error, Item, LIFT};
use stampede::membership::{Cluster, ClusterSettings, Counter, Membership, ensure_cluster};
use stampede::store::embedded::Embedded;
use stampede::store::{self, Operation, Store, Transaction, key};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn file(directory: &Path, name: &str) -> Arc<dyn Store> {
    Arc::new(Embedded::open(&directory.join(name), &environment()).unwrap())
}

fn memory() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory(&environment()).unwrap())
}

async fn put(store: &dyn Store, key: String, value: &str) {
    let operation = Operation::put(key, bytes::Bytes::copy_from_slice(value.as_bytes()));
    store.commit(Transaction::new().then(operation)).await.unwrap();
}

async fn all(store: &dyn Store) -> BTreeMap<String, String> {
    let snapshot = store.range("").await.unwrap();
    let text = |entry: store::Entry| (entry.key, String::from_utf8(entry.value.to_vec()).unwrap());
    snapshot.entries.into_iter().map(text).collect()
}

async fn cluster(store: &dyn Store) -> Cluster {
    store::decode(&store.get(&key::cluster()).await.unwrap().entry.unwrap()).unwrap()
}

/// A cluster with a host, more keys than fit a transaction, and blocks in an order of their own.
async fn filled(store: &Arc<dyn Store>) -> Cluster {
    let cluster = ensure_cluster(store.as_ref(), &environment(), ClusterSettings::default()).await.unwrap();
    Counter::new(store.clone(), &environment(), "instance").next().await.unwrap();
    for block in ["10.42.3.0", "10.42.1.0", "10.42.2.0"] {
        put(store.as_ref(), format!("{}10.42.0.0/{block}", key::all_blocks()), r#"{"host":"h1"}"#).await;
    }
    for id in 0..300 {
        put(store.as_ref(), key::resource("instance", id), &format!(r#"{{"id":{id},"later":[null,1.50]}}"#)).await;
    }
    cluster
}

async fn exported(store: &dyn Store) -> Vec<Item> {
    let (header, text) = backup::export(store, &environment()).await.unwrap();
    let (read, items) = backup::read(text.as_bytes()).unwrap();
    assert_eq!((&read, items.len()), (&header, header.keys));
    items
}

/// Everything as before but the generation and the counters.
async fn assert_next(before: &BTreeMap<String, String>, after: &dyn Store, lifts: u64) {
    let mut expected = before.clone();
    expected.retain(|key, _| !key.starts_with(&key::all_alive()));
    for (key, value) in &mut expected {
        if key.starts_with(&key::counters()) {
            *value = (value.parse::<u64>().unwrap() + lifts * LIFT).to_string();
        } else if *key == key::cluster() {
            *value = value.replace(r#""generation":1"#, &format!(r#""generation":{}"#, 1 + lifts));
        }
    }
    assert_eq!(all(after).await, expected);
}

async fn blocks(store: &dyn Store) -> Vec<String> {
    let mut entries = store.range(&key::all_blocks()).await.unwrap().entries;
    entries.sort_by_key(|entry| entry.create_revision);
    assert!(entries.windows(2).all(|two| two[0].create_revision < two[1].create_revision));
    entries.into_iter().map(|entry| entry.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_file_to_etcd_and_back() {
    let directory = tempfile::tempdir().unwrap();
    let first = file(directory.path(), "first");
    filled(&first).await;
    let host = directory.path().join("host");
    let joined = Membership::join(join(&first, &machine(1, "a"), "h1", &host)).await.unwrap();
    let id = joined.host().id;
    let before = all(first.as_ref()).await;
    let items = exported(first.as_ref()).await;
    assert!(!items.iter().any(|item| item.key.starts_with(&key::all_alive())), "who is alive says so itself");
    drop((joined, first));

    let server = Server::start().await;
    let etcd: Arc<dyn Store> = server.connect();
    assert_eq!(backup::import(etcd.as_ref(), &environment(), items, false).await.unwrap(), 2);
    assert_next(&before, etcd.as_ref(), 1).await;
    assert_eq!(blocks(etcd.as_ref()).await.len(), 3);
    assert!(blocks(etcd.as_ref()).await[0].ends_with("10.42.3.0"), "a host's first block stays its first");
    // The same host is at home there, and no number comes twice.
    let joined = Membership::join(join(&etcd, &machine(1, "a"), "h1", &host)).await.unwrap();
    assert_eq!(joined.host().id, id);
    assert!(Counter::new(etcd.clone(), &environment(), "instance").next().await.unwrap() > LIFT);
    joined.leave().await.unwrap();

    let mut before = all(etcd.as_ref()).await;
    let items = exported(etcd.as_ref()).await;
    let last = file(directory.path(), "last");
    assert_eq!(backup::import(last.as_ref(), &environment(), items, false).await.unwrap(), 3);
    assert!(blocks(last.as_ref()).await[0].ends_with("10.42.3.0"));
    // Since it was read once, both are one on.
    let value = before.get_mut(&key::cluster()).unwrap();
    *value = value.replace(r#""generation":2"#, r#""generation":1"#);
    for (_, value) in before.iter_mut().filter(|(key, _)| key.starts_with(&key::counters())) {
        *value = (value.parse::<u64>().unwrap() - LIFT).to_string();
    }
    assert_next(&before, last.as_ref(), 2).await;
    drop(last);
    let again = file(directory.path(), "last");
    assert_eq!(cluster(again.as_ref()).await.generation, 3);
}

#[tokio::test]
async fn a_store_that_holds_something_is_left_alone() {
    let source = memory();
    filled(&source).await;
    let items = exported(source.as_ref()).await;
    let store = memory();
    let other = ensure_cluster(store.as_ref(), &environment(), ClusterSettings::default()).await.unwrap();
    put(store.as_ref(), key::counter("instance"), "700000").await;
    put(store.as_ref(), key::counter("volume"), "9").await;
    put(store.as_ref(), key::resource("volume", 3), "{}").await;
    let before = all(store.as_ref()).await;
    let error = backup::import(store.as_ref(), &environment(), items.clone(), false).await.unwrap_err();
    assert!(matches!(&error, Error::Occupied { id, .. } if *id == other.id), "{error}");
    assert_eq!(all(store.as_ref()).await, before);

    // Not even by force where somebody works on it.
    let lease = store.grant_lease(Duration::from_secs(600)).await.unwrap();
    let alive = Operation::Put { key: key::alive("h7"), value: "{}".into(), lease: Some(lease) };
    store.commit(Transaction::new().then(alive)).await.unwrap();
    let error = backup::import(store.as_ref(), &environment(), items.clone(), true).await.unwrap_err();
    assert!(matches!(&error, Error::Alive { hosts, .. } if *hosts == ["h7"]), "{error}");
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(all(store.as_ref()).await, before);

    backup::import(store.as_ref(), &environment(), items, true).await.unwrap();
    let after = all(store.as_ref()).await;
    assert_eq!(after[&key::counter("instance")], (700_000 + LIFT).to_string(), "above both");
    assert_eq!(after[&key::counter("volume")], (9 + LIFT).to_string());
    assert!(!after.contains_key(&key::resource("volume", 3)));
    assert_eq!(after.len(), all(source.as_ref()).await.len() + 1);
}

#[tokio::test]
async fn half_a_backup_is_no_cluster_and_the_next_import_begins_anew() {
    let source = memory();
    let made = filled(&source).await;
    let before = all(source.as_ref()).await;
    let items = exported(source.as_ref()).await;
    let store = memory();
    // As an import leaves it that was killed.
    put(store.as_ref(), key::importing(), "\"somebody\"").await;
    put(store.as_ref(), key::resource("instance", 999), "{}").await;
    put(store.as_ref(), key::counter("instance"), "5").await;
    let error = backup::export(store.as_ref(), &environment()).await.unwrap_err();
    assert!(matches!(error, Error::Half { .. }), "{error}");
    // An agent that comes now waits, and makes no cluster of its own.
    let (waiting, there) = (store.clone(), environment());
    let waits =
        tokio::spawn(
            async move { ensure_cluster(waiting.as_ref(), &there, ClusterSettings::default()).await.unwrap() },
        );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waits.is_finished());
    assert!(store.get(&key::cluster()).await.unwrap().entry.is_none());
    backup::import(store.as_ref(), &environment(), items, false).await.unwrap();
    assert_next(&before, store.as_ref(), 1).await;
    let found = crate::within("the agent to go on", waits).await.unwrap();
    assert_eq!((found.id, found.generation), (made.id, 2));
}

#[tokio::test]
async fn answers_that_are_lost_do_not_matter() {
    let source = memory();
    filled(&source).await;
    let before = all(source.as_ref()).await;
    let items = exported(source.as_ref()).await;
    let inner = memory();
    let shaky = crate::shaky::Shaky { store: inner.clone(), environment: environment(), one_of: 9 };
    // Where an answer is lost too often it says so, and can be run again.
    let mut done = backup::import(&shaky, &environment(), items.clone(), false).await;
    for _ in 0..20 {
        if done.is_ok() {
            break;
        }
        done = backup::import(&shaky, &environment(), items.clone(), false).await;
    }
    assert_eq!(done.unwrap(), 2);
    assert_next(&before, inner.as_ref(), 1).await;
}

#[tokio::test]
async fn nothing_is_exported_where_nothing_is() {
    let store = memory();
    put_host(&store, 1, 64).await;
    let error = backup::export(store.as_ref(), &environment()).await.unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_gives_nothing_out_twice() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let error = backup::restored(store.as_ref(), &environment()).await.unwrap_err();
    assert!(matches!(error, Error::Empty { .. }), "{error}");
    filled(&store).await;
    let directory = tempfile::tempdir().unwrap();
    let joined = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap();
    let error = backup::restored(store.as_ref(), &environment()).await.unwrap_err();
    assert!(matches!(&error, Error::Alive { hosts, .. } if *hosts == ["h1"]), "{error}");
    joined.leave().await.unwrap();
    let before = all(store.as_ref()).await;
    assert_eq!(backup::restored(store.as_ref(), &environment()).await.unwrap(), 2);
    assert_next(&before, store.as_ref(), 1).await;
    // Once more does no harm, also where answers are lost.
    let shaky = crate::shaky::Shaky { store: store.clone(), environment: environment(), one_of: 6 };
    assert_eq!(backup::restored(&shaky, &environment()).await.unwrap(), 3);
    assert_next(&before, store.as_ref(), 2).await;
}
