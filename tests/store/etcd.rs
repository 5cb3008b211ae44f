//! What etcd's members and the way to them can do to us.

use crate::conformance::put;
use crate::server::{Server, connect, free_url};
use crate::{environment, next, until, within};
use stampede::store::etcd::{EtcdLogin, EtcdOptions, EtcdStore, EtcdTls};
use stampede::store::{Error, Operation, Revision, Store, Transaction, WatchEvent};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn write(key: &str) -> Transaction {
    Transaction::new().then(Operation::put(key, "v".into()))
}

/// What `call` comes to, which must be within `limit`.
async fn soon<T>(limit: Duration, call: impl Future<Output = T>) -> T {
    let began = Instant::now();
    let outcome = within("an answer", call).await;
    assert!(began.elapsed() < limit, "it took {:?}", began.elapsed());
    outcome
}

#[tokio::test]
async fn a_server_that_hangs_is_an_error_within_the_deadline() {
    let server = Server::start().await;
    let store = server.connect_within(SECOND);
    put(&*store, "a", "1").await;
    let lease = store.grant_lease(60 * SECOND).await.unwrap();
    store.keep_alive(lease).await.unwrap();
    server.stop(0).await;
    let limit = Duration::from_millis(1500);
    let unknown = soon(limit, store.commit(write("unknown"))).await;
    assert!(matches!(unknown, Err(Error::OutcomeUnknown { .. })), "{unknown:?}");
    let reads = Transaction::new().then(Operation::get("a"));
    assert!(matches!(soon(limit, store.commit(reads)).await, Err(Error::Unavailable { .. })));
    assert!(matches!(soon(limit, store.get("a")).await, Err(Error::Unavailable { .. })));
    assert!(matches!(soon(limit, store.range("a")).await, Err(Error::Unavailable { .. })));
    assert!(matches!(soon(limit, store.keep_alive(lease)).await, Err(Error::Unavailable { .. })));
    assert!(matches!(soon(limit, store.time_to_live(lease)).await, Err(Error::Unavailable { .. })));
    assert!(matches!(soon(limit, store.revoke_lease(lease)).await, Err(Error::OutcomeUnknown { .. })));
    assert!(matches!(soon(limit, store.grant_lease(SECOND)).await, Err(Error::OutcomeUnknown { .. })));
    assert!(matches!(soon(limit, store.watch("a", Revision(1))).await.map(drop), Err(Error::Unavailable { .. })));
    server.resume(0);
    until("etcd", async || store.get("a").await.is_ok()).await;
    soon(limit, store.commit(write("b"))).await.unwrap();
}

#[tokio::test]
async fn a_commit_that_was_being_done_has_an_unknown_outcome() {
    let mut server = Server::start().await;
    let store = server.connect_within(5 * SECOND);
    put(&*store, "a", "1").await;
    server.stop(0).await;
    let pending = tokio::spawn({
        let store = store.clone();
        async move { store.commit(write("a")).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    // The connection breaks long before the deadline.
    server.kill(0);
    let outcome = soon(2 * SECOND, pending).await.unwrap();
    assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{outcome:?}");
    // Now nobody listens: this one was certainly not done.
    let outcome = soon(2 * SECOND, store.commit(write("a"))).await;
    assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
    assert!(matches!(soon(2 * SECOND, store.grant_lease(SECOND)).await, Err(Error::Unavailable { .. })));
    server.restart(0);
    until("etcd", async || store.commit(write("a")).await.is_ok()).await;
}

#[tokio::test]
async fn a_watch_ends_with_an_error_when_the_server_dies_or_hangs() {
    let mut server = Server::start().await;
    let store = server.connect_within(SECOND);
    let revision = put(&*store, "w/a", "1").await;
    let mut watch = store.watch("w/", revision).await.unwrap();
    next(&mut watch).await.unwrap();
    server.stop(0).await;
    assert!(matches!(next(&mut watch).await, Err(Error::Unavailable { .. })), "silence is noticed");
    server.resume(0);
    server.ready().await;
    let mut watch = store.watch("w/", revision).await.unwrap();
    next(&mut watch).await.unwrap();
    server.kill(0);
    assert!(matches!(next(&mut watch).await, Err(Error::Unavailable { .. })));
    server.restart(0);
    until("etcd", async || store.watch("w/", revision).await.is_ok()).await;
}

#[tokio::test]
async fn a_watch_hears_of_a_silent_member_from_who_got_no_answer_and_stays_where_it_answers() {
    let server = Server::start().await;
    let options = EtcdOptions { endpoints: server.urls(), timeout: SECOND, ..EtcdOptions::default() };
    let quick = EtcdOptions { timeout: SECOND / 4, ..options.clone() };
    let open = |options| EtcdStore::connect(options, &environment()).unwrap();
    let (store, other) = (open(options), open(quick));
    let revision = put(&store, "w/a", "1").await;
    let mut watch = store.watch("w/", revision).await.unwrap();
    next(&mut watch).await.unwrap();
    other.get("w/a").await.unwrap();

    server.stop(0).await;
    assert!(other.get("w/a").await.is_err());
    server.resume(0);
    put(&store, "w/a", "2").await;
    assert!(next(&mut watch).await.is_ok(), "it was asked, and answered");

    server.stop(0).await;
    assert!(other.get("w/a").await.is_err());
    // Pings alone take eight seconds.
    assert!(matches!(soon(3 * SECOND, next(&mut watch)).await, Err(Error::Unavailable { .. })));
}

#[tokio::test]
async fn a_lease_is_kept_alive_over_a_restart_of_the_server() {
    let mut server = Server::start().await;
    let store = server.connect_within(2 * SECOND);
    let lease = store.grant_lease(30 * SECOND).await.unwrap();
    for _ in 0..3 {
        assert_eq!(store.keep_alive(lease).await.unwrap(), 30 * SECOND);
    }
    server.kill(0);
    assert!(matches!(store.keep_alive(lease).await, Err(Error::Unavailable { .. })));
    server.restart(0);
    until("etcd", async || store.get("a").await.is_ok()).await;
    assert_eq!(store.keep_alive(lease).await.unwrap(), 30 * SECOND);
}

#[tokio::test]
async fn one_dead_endpoint_of_several_costs_nothing() {
    let server = Server::start().await;
    // Whichever is taken first.
    for _ in 0..6 {
        let endpoints = vec![free_url(), server.urls().remove(0), free_url()];
        let store = connect(endpoints, 5 * SECOND);
        soon(SECOND, store.commit(write("a"))).await.unwrap();
        soon(SECOND, store.get("a")).await.unwrap();
        soon(SECOND, store.watch("a", Revision(1))).await.map(drop).unwrap();
    }
}

#[tokio::test]
async fn with_a_majority_all_goes_on() {
    let mut server = Server::cluster(3).await;
    let stores: Vec<Arc<EtcdStore>> = (0..6).map(|_| server.connect_within(3 * SECOND)).collect();
    for store in &stores {
        put(&**store, "a", "1").await;
    }
    let leases = futures::future::join_all(stores.iter().map(|store| store.grant_lease(30 * SECOND))).await;
    for (store, lease) in stores.iter().zip(&leases) {
        store.keep_alive(*lease.as_ref().unwrap()).await.unwrap();
    }
    // One hangs, with a good chance of being the leader: reads go on after a while, then writes do.
    server.stop(0).await;
    for (store, lease) in stores.iter().zip(&leases) {
        until("a read", async || store.get("a").await.is_ok()).await;
        until("a write", async || store.commit(write("a")).await.is_ok()).await;
        soon(3 * SECOND, store.keep_alive(*lease.as_ref().unwrap())).await.unwrap();
    }
    server.resume(0);
    server.ready().await;
    // Two are dead: the last one refuses, it has no leader. Watches there end, too.
    let alone = connect(vec![server.urls().remove(0)], 3 * SECOND);
    let revision = alone.get("a").await.unwrap().revision;
    let mut watch = alone.watch("a", Revision(revision.0 + 1)).await.unwrap();
    server.kill(1);
    server.kill(2);
    assert!(matches!(next(&mut watch).await, Err(Error::Unavailable { .. })));
    until("no leader", async || matches!(alone.commit(write("a")).await, Err(Error::Unavailable { .. }))).await;
    assert!(alone.get("a").await.is_err(), "no reads from a member that may be behind");
    server.restart(1);
    until("a majority", async || stores[0].commit(write("a")).await.is_ok()).await;
}

#[tokio::test]
async fn a_full_etcd_is_full() {
    let server = Server::with(1, &["--quota-backend-bytes", "2000000"]).await;
    let store = server.connect();
    let large = "x".repeat(500_000);
    let mut outcome = Ok(());
    // It counts what is on the disk: a quick machine has written more by the time that it knows.
    for i in 0..400 {
        let put = Operation::put(format!("k{}", i % 40), large.clone().into());
        outcome = store.commit(Transaction::new().then(put)).await.map(drop);
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(Error::Full { .. })), "{outcome:?}");
    assert!(store.get("k0").await.unwrap().entry.is_some());
}

#[tokio::test]
async fn who_may_not_is_denied() {
    let server = Server::start().await;
    let mut admin = etcd_client::Client::connect(server.urls(), None).await.unwrap();
    for (user, role) in [("root", "root"), ("agent", "agent")] {
        admin.user_add(user, "secret", None).await.unwrap();
        admin.role_add(role).await.unwrap();
        admin.user_grant_role(user, role).await.unwrap();
    }
    let ours = etcd_client::Permission::read_write("/stampede/").with_prefix();
    admin.role_grant_permission("agent", ours).await.unwrap();
    admin.auth_enable().await.unwrap();
    let login = |user: &str, password: &str| {
        let options = EtcdOptions {
            endpoints: server.urls(),
            login: Some(EtcdLogin { user: user.into(), password: password.into() }),
            ..EtcdOptions::default()
        };
        EtcdStore::connect(options, &environment()).unwrap()
    };
    let agent = login("agent", "secret");
    let revision = agent.commit(write("/stampede/a")).await.unwrap().revision;
    agent.watch("/stampede/", revision).await.map(drop).unwrap();
    let lease = agent.grant_lease(10 * SECOND).await.unwrap();
    agent.keep_alive(lease).await.unwrap();
    assert!(matches!(agent.commit(write("/other")).await, Err(Error::Denied { .. })));
    let outcome = agent.watch("/other", revision).await.map(drop);
    assert!(matches!(outcome, Err(Error::Denied { .. })), "{outcome:?}");
    let outcome = login("agent", "wrong").get("/stampede/a").await;
    assert!(matches!(outcome, Err(Error::Denied { .. })), "{outcome:?}");
    let outcome = server.connect().get("/stampede/a").await;
    assert!(matches!(outcome, Err(Error::Denied { .. })), "{outcome:?}");
    assert!(!format!("{:?}", EtcdLogin { user: "u".into(), password: "hidden".into() }).contains("hidden"));
}

#[tokio::test]
async fn over_tls_both_sides_are_checked() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let text = |name: &str| path(name).display().to_string();
    let openssl = |arguments: &str| {
        let made = Command::new("openssl").args(arguments.split(' ')).current_dir(directory.path()).output();
        let made = made.expect("this test needs openssl: apt-get install -y openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let curve = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!("req -x509 {curve} -keyout ca.key -out ca.pem -subj /CN=ca -days 2"));
    openssl(&format!("req -x509 {curve} -keyout other.key -out other.pem -subj /CN=other -days 2"));
    std::fs::write(path("san"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    for name in ["server", "client"] {
        openssl(&format!("req {curve} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile san"
        ));
    }
    let (cert, key, ca) = (text("server.pem"), text("server.key"), text("ca.pem"));
    let tls = EtcdTls { ca: Some(path("ca.pem")), identity: Some((path("client.pem"), path("client.key"))) };
    let server = Server::over_tls(
        &["--cert-file", &cert, "--key-file", &key, "--trusted-ca-file", &ca, "--client-cert-auth"],
        &tls,
    )
    .await;
    let connect = |tls: EtcdTls| {
        let options = EtcdOptions { endpoints: server.urls(), tls: Some(tls), ..EtcdOptions::default() };
        EtcdStore::connect(options, &environment())
    };
    let store = connect(tls.clone()).unwrap();
    put(&store, "a", "1").await;
    let mut watch = store.watch("a", Revision(1)).await.unwrap();
    assert!(matches!(next(&mut watch).await.unwrap(), WatchEvent::Changed { .. }));
    // A server of another authority, and a client with no certificate.
    let wrong = connect(EtcdTls { ca: Some(path("other.pem")), ..tls.clone() }).unwrap();
    assert!(matches!(wrong.commit(write("a")).await, Err(Error::Unavailable { .. })));
    let nobody = connect(EtcdTls { identity: None, ..tls.clone() }).unwrap();
    assert!(nobody.commit(write("a")).await.is_err());
    let missing = connect(EtcdTls { ca: Some(path("missing.pem")), ..tls }).map(drop);
    assert!(matches!(&missing, Err(Error::Unusable(message)) if message.contains("missing.pem")), "{missing:?}");
}

/// etcd ends connections that are pinged too often; ours must not be.
#[tokio::test]
async fn a_quiet_watch_stays_open() {
    let server = Server::start().await;
    let store = server.connect();
    let revision = put(&*store, "w/a", "1").await;
    let mut watch = store.watch("w/", Revision(revision.0 + 1)).await.unwrap();
    let silence = tokio::time::timeout(40 * SECOND, next_or_wait(&mut watch)).await;
    assert!(silence.is_err(), "{silence:?}");
    let told = put(&*store, "w/a", "2").await;
    assert!(matches!(next(&mut watch).await.unwrap(), WatchEvent::Changed { revision, .. } if revision == told));
}

async fn next_or_wait(watch: &mut stampede::store::Watch) -> Option<Result<WatchEvent, Error>> {
    futures::StreamExt::next(watch).await
}
