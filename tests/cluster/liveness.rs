//! The lease: restarted, lost, waited for, and what others see of it.

use crate::server::Server;
use crate::{alive, join, machine, until, within};
use stampede::environment::{Clock, Environment, Timestamp};
use stampede::membership::{Connect, JoinError, Liveness, Membership, Place};
use stampede::store::{Operation, Store, Transaction, key};
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_goes_on_with_its_lease() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directory = tempfile::tempdir().unwrap();
    let first = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap();
    let (before, entry) = alive(&store, "h1").await.unwrap();

    let error = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap_err();
    assert!(error.to_string().contains("another agent runs on this host"), "{error}");

    first.stop().await;
    let second = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap();
    let (after, again) = alive(&store, "h1").await.unwrap();
    assert_eq!(before, after);
    assert_eq!((entry.lease, entry.create_revision), (again.lease, again.create_revision));
    second.stop().await;

    // Its file is lost, but not the boot: what is in the store tells the lease as well.
    std::fs::remove_file(directory.path().join("run/lease.json")).unwrap();
    let third = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap();
    assert_eq!(alive(&store, "h1").await.unwrap().1.lease, entry.lease);

    // And the other way round: the key is deleted by hand, the lease lives.
    third.stop().await;
    store.commit(Transaction::new().then(Operation::delete(key::alive("h1")))).await.unwrap();
    let _fourth = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap();
    let (after, again) = alive(&store, "h1").await.unwrap();
    assert_eq!((again.lease, after.incarnation), (entry.lease, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_boot_waits_for_the_old_lease() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directory = tempfile::tempdir().unwrap();
    let first = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap();
    let old = alive(&store, "h1").await.unwrap().1;
    first.stop().await;
    let lives = store.time_to_live(old.lease.unwrap()).await.unwrap();
    assert!(lives.is_some());

    let joining = tokio::spawn(Membership::join(join(&store, &machine(1, "b"), "h1", directory.path())));
    // As long as the old key is there, it is the old one.
    until("the old lease to end", async || match alive(&store, "h1").await {
        Some((found, entry)) if entry.create_revision == old.create_revision => {
            assert_eq!(found.boot_id, "a");
            false
        }
        _ => true,
    })
    .await;
    let second = within("the new boot", joining).await.unwrap().unwrap();
    let (found, entry) = alive(&store, "h1").await.unwrap();
    assert_eq!((found.boot_id.as_str(), found.incarnation), ("b", 2));
    assert_ne!(entry.lease, old.lease);
    assert_eq!(second.host().id, 1);
}

/// A clock on which a second is a minute.
#[derive(Debug)]
struct Hasty(Environment);

impl Clock for Hasty {
    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
    fn boottime(&self) -> Duration {
        self.0.clock.boottime() * 60
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_disk_does_not_wait_for_ever() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let host = Membership::join(join(&store, &machine(1, "a"), "h1", directories[0].path())).await.unwrap();
    std::fs::create_dir(directories[1].path().join("state")).unwrap();
    std::fs::copy(directories[0].path().join("state/identity"), directories[1].path().join("state/identity")).unwrap();
    let copy = machine(1, "b");
    let hasty = Environment { clock: Arc::new(Hasty(copy.clone())), ..copy };
    let joining = Membership::join(join(&store, &hasty, "h1", directories[1].path()));
    let error = within("the refusal", joining).await.unwrap_err();
    assert!(matches!(error, JoinError::StillAlive { .. }), "{error}");
    assert!(error.to_string().contains("alive at h1.test:9080 in another boot"), "{error}");
    let (found, _) = alive(&store, "h1").await.unwrap();
    assert_eq!((found.boot_id.as_str(), found.incarnation), ("a", 1));
    assert!(host.deadline().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_lease_is_followed_by_a_new_one() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directory = tempfile::tempdir().unwrap();
    let host = Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())).await.unwrap();
    let mut liveness = host.liveness();
    for incarnation in 2..4 {
        let (_, old) = alive(&store, "h1").await.unwrap();
        store.revoke_lease(old.lease.unwrap()).await.unwrap();
        until("the host to be alive again", async || alive(&store, "h1").await.is_some()).await;
        let (found, entry) = alive(&store, "h1").await.unwrap();
        assert_eq!(found.incarnation, incarnation);
        assert_ne!(entry.lease, old.lease);
        let lease = entry.lease.unwrap();
        within(
            "the new lease to be told",
            liveness.wait_for(|it| matches!(it, Liveness::Alive { lease: of, .. } if *of == lease)),
        )
        .await
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_store_loses_the_deadline_and_gives_it_back() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect_within(Duration::from_secs(1));
    let directory = tempfile::tempdir().unwrap();
    let environment = machine(1, "a");
    let host = Membership::join(join(&store, &environment, "h1", directory.path())).await.unwrap();
    let mut liveness = host.liveness();
    server.stop(0).await;
    let deadline = host.deadline().unwrap();
    let lost =
        within("the loss", liveness.wait_for(|it| matches!(it, Liveness::Lost { .. }))).await.unwrap().to_owned();
    let Liveness::Lost { since } = lost else { panic!("{lost:?}") };
    // Not before the last confirmed deadline, and soon after the latest that may have been confirmed meanwhile.
    assert!(since >= deadline, "{since:?} {deadline:?}");
    assert!(since < deadline + Duration::from_secs(4), "{since:?} {deadline:?}");
    assert_eq!(host.deadline(), None);
    server.resume(0);
    within("the way back", liveness.wait_for(|it| matches!(it, Liveness::Alive { .. }))).await.unwrap();
    until("alive/ to be there", async || store.get(&key::alive("h1")).await.is_ok_and(|found| found.entry.is_some()))
        .await;
    assert!(host.deadline().unwrap() > environment.clock.boottime());
}

/// The agent's runtime hangs for longer than the lease lives; the thread of the keepalives does not.
#[tokio::test]
#[allow(clippy::disallowed_methods)]
async fn a_blocked_agent_keeps_its_lease() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let directory = tempfile::tempdir().unwrap();
    let urls = server.urls();
    let connect = Connect::new(move || {
        let store: Arc<dyn Store> = crate::server::connect(urls.clone(), Duration::from_secs(5));
        async move { Ok(store) }
    });
    let joining = join(&store, &machine(1, "a"), "h1", directory.path());
    let host = Membership::join(stampede::membership::Join { keepalive: connect, place: Place::Thread, ..joining })
        .await
        .unwrap();
    let (before, entry) = alive(&store, "h1").await.unwrap();
    std::thread::sleep(Duration::from_secs(6));
    assert!(host.deadline().is_some());
    let (after, again) = alive(&store, "h1").await.unwrap();
    assert_eq!((before, entry.create_revision), (after, again.create_revision));
    host.leave().await.unwrap();
    assert!(alive(&store, "h1").await.is_none());
    assert!(!directory.path().join("run/lease.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_comes_late_is_waited_for() {
    let mut server = Server::start().await;
    let store: Arc<dyn Store> = server.connect_within(Duration::from_secs(1));
    server.kill(0);
    let directory = tempfile::tempdir().unwrap();
    let joining = tokio::spawn(Membership::join(join(&store, &machine(1, "a"), "h1", directory.path())));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!joining.is_finished());
    server.restart(0);
    let host: Result<Membership, JoinError> = within("the joining", joining).await.unwrap();
    assert_eq!(host.unwrap().host().id, 1);
}
