//! Who may join, and what is written when.

use crate::server::Server;
use crate::{alive, description, environment, join, machine};
use stampede::membership::{ClusterSettings, Counter, Hosts, JoinError, Membership, ensure_cluster};
use stampede::store::embedded::Embedded;
use stampede::store::{Store, key};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn hosts_get_numbers_and_are_seen() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let (one, two) = tokio::join!(
        Membership::join(join(&store, &machine(1, "a"), "h1", directories[0].path())),
        Membership::join(join(&store, &machine(2, "a"), "h2", directories[1].path())),
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(BTreeSet::from([one.host().id, two.host().id]), BTreeSet::from([1, 2]));
    assert!(one.deadline().is_some());
    let uuid = store.get(&key::uuid(&one.host().uuid)).await.unwrap().entry.unwrap();
    assert_eq!(uuid.value, format!("\"host/{}\"", one.host().id));

    let hosts = Hosts::start(store.clone(), &environment());
    let list = hosts.list(Duration::from_secs(5)).await.unwrap();
    let names: Vec<&str> = list.iter().map(|it| it.host.name.as_str()).collect();
    assert_eq!(names, ["h1", "h2"]);
    let created = alive(&store, "h1").await.unwrap().1.create_revision;
    assert_eq!(list[0].alive_created, Some(created));

    two.leave().await.unwrap();
    assert!(alive(&store, "h2").await.is_none());
    crate::until("h2 to be seen gone", async || hosts.list(Duration::from_secs(5)).await.unwrap()[1].alive.is_none())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_of_the_same_name_is_refused() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = Membership::join(join(&store, &machine(1, "a"), "h1", directories[0].path())).await.unwrap();
    let before = store.get(&key::host("h1")).await.unwrap().entry.unwrap();

    let error = Membership::join(join(&store, &machine(2, "a"), "h1", directories[1].path())).await.unwrap_err();
    assert!(matches!(error, JoinError::NameTaken { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&format!("`h1` belongs to another host (machine-id {:032x})", 1)), "{text}");
    assert!(text.contains("--name"), "{text}");
    assert_eq!(store.get(&key::host("h1")).await.unwrap().entry.unwrap(), before);

    // The same machine that lost its state directory is refused in other words.
    let error = Membership::join(join(&store, &machine(1, "a"), "h1", directories[1].path())).await.unwrap_err();
    assert!(matches!(error, JoinError::IdentityLost { .. }), "{error}");
    drop(first);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_host_of_the_same_machine_id_is_refused() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = Membership::join(join(&store, &machine(1, "a"), "h1", directories[0].path())).await.unwrap();
    let error = Membership::join(join(&store, &machine(1, "b"), "h2", directories[1].path())).await.unwrap_err();
    assert!(matches!(error, JoinError::MachineIdTaken { .. }), "{error}");
    assert!(error.to_string().contains("systemd-machine-id-setup"), "{error}");
    assert!(store.get(&key::host("h2")).await.unwrap().entry.is_none());
    assert!(alive(&store, "h2").await.is_none());

    // It does what it is told, and may join.
    let second = Membership::join(join(&store, &machine(2, "b"), "h2", directories[1].path())).await.unwrap();
    assert_eq!(second.host().id, 2);

    // The first one under another name is known by its identity.
    first.stop().await;
    let error = Membership::join(join(&store, &machine(1, "a"), "h3", directories[0].path())).await.unwrap_err();
    assert!(matches!(error, JoinError::Renamed { ref holder } if holder == "h1"), "{error}");

    // It gets a machine id of its own: the same host, and the old id is free.
    let first = Membership::join(join(&store, &machine(7, "a"), "h1", directories[0].path())).await.unwrap();
    assert_eq!(first.host().id, 1);
    assert!(store.get(&key::name("machine", &format!("{:032x}", 1))).await.unwrap().entry.is_none());
    assert!(store.get(&key::name("machine", &format!("{:032x}", 7))).await.unwrap().entry.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_machine_ids_that_are_none() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directory = tempfile::tempdir().unwrap();
    let error = Membership::join(join(&store, &machine(1, "a"), "h1/x", directory.path())).await.unwrap_err();
    assert!(matches!(error, JoinError::Name(_)), "{error}");
    let mut broken = machine(1, "a");
    broken.identity.machine_id = "uninitialized".into();
    let error = Membership::join(join(&store, &broken, "h1", directory.path())).await.unwrap_err();
    assert!(matches!(error, JoinError::MachineId(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_says_the_same_writes_nothing() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directory = tempfile::tempdir().unwrap();
    let host = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap();
    let before = store.get(&key::host("h1")).await.unwrap();
    host.describe(&description("h1")).await.unwrap();
    let after = store.get(&key::host("h1")).await.unwrap();
    assert_eq!(before.revision, after.revision);

    let mut more = description("h1");
    more.versions.insert("docker".into(), "28.0".into());
    host.describe(&more).await.unwrap();
    assert_eq!(host.host().versions["docker"], "28.0");
    let after = store.get(&key::host("h1")).await.unwrap();
    assert_eq!(after.revision.0, before.revision.0 + 1);
    assert_eq!(host.host().id, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_see_one_cluster() {
    let server = Server::start().await;
    let stores: Vec<Arc<dyn Store>> = (0..6).map(|_| server.connect() as Arc<dyn Store>).collect();
    let environment = environment();
    let clusters = futures::future::join_all(
        stores.iter().map(|store| ensure_cluster(store.as_ref(), &environment, ClusterSettings::default())),
    )
    .await;
    let first = clusters[0].as_ref().unwrap();
    assert_eq!((first.generation, first.subnet.to_string().as_str(), first.block_size), (1, "10.42.0.0/16", 26));
    assert!(clusters.iter().all(|cluster| cluster.as_ref().unwrap() == first));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_is_given_twice() {
    let server = Server::start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let counter = Arc::new(Counter::new(server.connect(), &environment(), "instance"));
        for _ in 0..2 {
            let counter = counter.clone();
            tasks.spawn(async move {
                let mut mine = Vec::new();
                for _ in 0..125 {
                    mine.push(counter.next().await.unwrap());
                }
                mine
            });
        }
    }
    let all: Vec<u64> = tasks.join_all().await.into_iter().flatten().collect();
    let distinct: BTreeSet<u64> = all.iter().copied().collect();
    assert_eq!((all.len(), distinct.len()), (2000, 2000));
    assert_eq!(distinct.first(), Some(&1));
    // Runs of 100: eight agents leave at most 99 numbers each.
    assert!(*distinct.last().unwrap() < 2000 + 8 * 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_file_serves_one_host() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let file = directories[0].path().join("store");
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&file, &environment()).unwrap());
    let first = Membership::join(join(&store, &machine(1, "a"), "h1", directories[0].path())).await.unwrap();
    let error = Membership::join(join(&store, &machine(2, "a"), "h2", directories[1].path())).await.unwrap_err();
    assert!(matches!(error, JoinError::SingleHost { ref holder, .. } if holder == "h1"), "{error}");
    assert!(error.to_string().contains("serves one host only"), "{error}");

    // Agent and store are restarted together. The store ends leases when it is opened; nobody has to wait for anything.
    first.stop().await;
    drop(store);
    let store: Arc<dyn Store> = Arc::new(Embedded::open(&file, &environment()).unwrap());
    let second = Membership::join(join(&store, &machine(1, "a"), "h1", directories[0].path())).await.unwrap();
    assert_eq!((second.host().id, alive(&store, "h1").await.unwrap().0.incarnation), (1, 2));
}
