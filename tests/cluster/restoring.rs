//! An etcd snapshot restored under a running agent: hands off, until somebody says that it is to be so.

use crate::server::Server;
use crate::{alive, environment, join, until, within};
use stampede::membership::{ClusterSettings, Counter, History, Membership, backup, ensure_cluster};
use stampede::store::{Error, Operation, Store, Transaction, key};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

fn guard(store: &Arc<dyn Store>, state: &Path) -> (History, Arc<dyn Store>) {
    std::fs::create_dir_all(state).unwrap();
    let history = History::open(state).unwrap();
    let guarded = history.guard(store.clone());
    (history, guarded)
}

async fn put(store: &dyn Store, id: u64) -> Result<(), Error> {
    let put = Operation::put(key::resource("instance", id), "{}".into());
    store.commit(Transaction::new().then(put)).await.map(drop)
}

fn is_another<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    match result {
        Err(Error::Unavailable { message }) => {
            message.contains("it is not the etcd cluster") && message.contains("store restored")
        }
        _ => false,
    }
}

/// All but who is alive.
async fn all(store: &dyn Store) -> BTreeMap<String, Vec<u8>> {
    let entries = store.range(key::ROOT).await.unwrap().entries;
    let lasting = entries.into_iter().filter(|entry| entry.lease.is_none());
    lasting.map(|entry| (entry.key, entry.value.to_vec())).collect()
}

fn went_back<T: std::fmt::Debug>(result: Result<T, Error>) -> bool {
    match result {
        Err(Error::Unavailable { message }) => message.contains("went back") && message.contains("store restored"),
        _ => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_restored_under_an_agent_stops_its_hands() {
    let mut server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let plain: Arc<dyn Store> = server.connect();
    let (history, store) = guard(&plain, &state);
    let cluster = ensure_cluster(store.as_ref(), &environment(), ClusterSettings::default()).await.unwrap();
    let membership = Membership::join(join(&store, &environment(), "h1", directory.path())).await.unwrap();
    let counter = Counter::new(store.clone(), &environment(), "instance");
    assert_eq!(counter.next().await.unwrap(), 1);
    put(store.as_ref(), 1).await.unwrap();
    let file = directory.path().join("snapshot");
    server.save(&file);
    // What is made after it, and what is removed.
    for id in 2..20 {
        put(store.as_ref(), id).await.unwrap();
    }
    let gone = Transaction::new().then(Operation::delete(key::resource("instance", 1)));
    store.commit(gone).await.unwrap();

    server.restore(&file);
    server.ready().await;
    let before = all(plain.as_ref()).await;
    until("the agent to see it", async || went_back(put(store.as_ref(), 99).await)).await;
    assert!(went_back(store.get("x").await) && went_back(store.range(key::ROOT).await));
    assert_eq!(all(plain.as_ref()).await, before, "nothing was written");
    // No keepalive either, so that the operator need not stop it first.
    until("its lease to end", async || alive(&plain, "h1").await.is_none()).await;
    assert_eq!(all(plain.as_ref()).await, before, "nothing was written");

    let looked_at = plain.clone();
    let keeping = tokio::spawn(async move { history.keep(looked_at).await });
    assert_eq!(backup::restored(plain.as_ref(), &environment()).await.unwrap(), cluster.generation + 1);
    within("the agent to see the new generation", keeping).await.unwrap();
    assert!(put(store.as_ref(), 99).await.is_err(), "it still works with the old one");
    drop(membership);

    // Begun anew.
    let (_, store) = guard(&plain, &state);
    let again = ensure_cluster(store.as_ref(), &environment(), ClusterSettings::default()).await.unwrap();
    assert_eq!((again.id, again.generation), (cluster.id, cluster.generation + 1));
    let membership = Membership::join(join(&store, &environment(), "h1", directory.path())).await.unwrap();
    assert!(Counter::new(store.clone(), &environment(), "instance").next().await.unwrap() > backup::LIFT);
    put(store.as_ref(), 99).await.unwrap();
    drop(membership);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_down_meanwhile_sees_it_too() {
    let mut server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let plain: Arc<dyn Store> = server.connect();
    ensure_cluster(plain.as_ref(), &environment(), ClusterSettings::default()).await.unwrap();
    let file = directory.path().join("snapshot");
    server.save(&file);
    for id in 0..20 {
        put(plain.as_ref(), id).await.unwrap();
    }
    let (_, store) = guard(&plain, directory.path());
    put(store.as_ref(), 20).await.unwrap();
    drop(store);

    server.restore(&file);
    server.ready().await;
    let (_, store) = guard(&plain, directory.path());
    assert!(went_back(store.get("x").await));
    // However far that store has come since.
    for id in 0..50 {
        put(plain.as_ref(), id).await.unwrap();
    }
    assert!(went_back(put(store.as_ref(), 99).await));
    let (_, store) = guard(&plain, directory.path());
    assert!(went_back(put(store.as_ref(), 99).await) && went_back(store.get("x").await));

    // Somebody says so while it is down.
    backup::restored(plain.as_ref(), &environment()).await.unwrap();
    let (_, store) = guard(&plain, directory.path());
    put(store.as_ref(), 99).await.unwrap();
}

/// It saw nothing that is newer than the snapshot: no revision tells, however far the new etcd has come.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_saw_nothing_newer_than_the_snapshot_sees_another_cluster() {
    let mut server = Server::start().await;
    let directory = tempfile::tempdir().unwrap();
    let plain: Arc<dyn Store> = server.connect();
    ensure_cluster(plain.as_ref(), &environment(), ClusterSettings::default()).await.unwrap();
    let (_, cut_off) = guard(&plain, &directory.path().join("cut off"));
    put(cut_off.as_ref(), 1).await.unwrap();
    let (_, down) = guard(&plain, &directory.path().join("down"));
    put(down.as_ref(), 2).await.unwrap();
    drop(down);
    let file = directory.path().join("snapshot");
    server.save(&file);

    server.restore_as(&file, Some("another-token"));
    server.ready().await;
    for id in 0..50 {
        put(plain.as_ref(), id).await.unwrap();
    }
    until("the agent that was cut off to see it", async || is_another(put(cut_off.as_ref(), 99).await)).await;
    assert!(is_another(cut_off.get("x").await));
    let (_, down) = guard(&plain, &directory.path().join("down"));
    assert!(is_another(put(down.as_ref(), 99).await));

    backup::restored(plain.as_ref(), &environment()).await.unwrap();
    let (_, down) = guard(&plain, &directory.path().join("down"));
    put(down.as_ref(), 99).await.unwrap();
}
