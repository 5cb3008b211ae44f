//! A mirror is what its prefix is, whatever happens to the store meanwhile.

use crate::conformance::put;
use crate::server::{Server, connect};
use crate::{environment, until, within};
use futures::StreamExt;
use stampede::store::embedded::Embedded;
use stampede::store::mirror::Mirror;
use stampede::store::{
    Change, Difference, Error, LeaseId, Lookup, Operation, Outcome, Revision, Snapshot, Store, Transaction, Watch,
    WatchEvent,
};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

fn mirror(store: Arc<dyn Store>) -> Mirror<u64> {
    Mirror::start(store, &environment(), "m/")
}

fn memory() -> Arc<Embedded> {
    Arc::new(Embedded::in_memory(&environment()).unwrap())
}

fn view(mirror: &Mirror<u64>) -> BTreeMap<String, u64> {
    mirror.view().iter().map(|(key, item)| (key.clone(), *item.value)).collect()
}

fn map(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
}

async fn delete(store: &dyn Store, key: &str) -> Revision {
    store.commit(Transaction::new().then(Operation::delete(key))).await.unwrap().revision
}

#[tokio::test]
async fn it_lists_and_follows_and_tells_what_changed() {
    let store = memory();
    put(&*store, "m/a", "1").await;
    put(&*store, "other", "1").await;
    let mirror = mirror(store.clone());
    assert!(mirror.listed(LIMIT).await);
    let mut changes = mirror.changes();
    assert_eq!(within("what is there", changes.next()).await.into_iter().collect::<Vec<_>>(), ["a"]);
    let revision = put(&*store, "m/b", "2").await;
    assert!(mirror.reached(revision, LIMIT).await);
    assert_eq!(view(&mirror), map(&[("a", 1), ("b", 2)]));
    let revision = delete(&*store, "m/a").await;
    assert!(mirror.reached(revision, LIMIT).await);
    // Both at once where nobody asked in between.
    assert_eq!(within("changes", changes.next()).await.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(mirror.freshness().stale_since, None);
    assert!(!mirror.reached(Revision(revision.0 + 1), Duration::from_millis(50)).await);
}

#[tokio::test]
async fn what_cannot_be_read_hides_nothing() {
    let store = memory();
    put(&*store, "m/a", "1").await;
    put(&*store, "m/b", "\"rubbish\"").await;
    let mirror = mirror(store.clone());
    assert!(mirror.listed(LIMIT).await);
    let revision = put(&*store, "m/a", "{").await;
    assert!(mirror.reached(revision, LIMIT).await);
    assert_eq!(view(&mirror), map(&[("a", 1)]), "the last readable form stays");
    let revision = delete(&*store, "m/a").await;
    assert!(mirror.reached(revision, LIMIT).await);
    assert_eq!(view(&mirror), map(&[]));
}

/// A store that can be cut off, and whose watches can lose what they should tell.
#[derive(Debug)]
struct Faulty {
    store: Arc<Embedded>,
    cut: AtomicBool,
    lose: Arc<Mutex<Vec<String>>>,
    ranges: AtomicUsize,
    watches: AtomicUsize,
}

impl Faulty {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            store: memory(),
            cut: AtomicBool::new(false),
            lose: Arc::default(),
            ranges: AtomicUsize::new(0),
            watches: AtomicUsize::new(0),
        })
    }

    fn check(&self) -> Result<(), Error> {
        if self.cut.load(Ordering::SeqCst) { Err(Error::Unavailable { message: "cut off".into() }) } else { Ok(()) }
    }
}

#[async_trait::async_trait]
impl Store for Faulty {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        self.check()?;
        self.store.get(key).await
    }
    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.check()?;
        self.ranges.fetch_add(1, Ordering::SeqCst);
        self.store.range(prefix).await
    }
    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        self.check()?;
        self.store.changed_since(prefix, after).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        self.check()?;
        self.store.commit(transaction).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.check()?;
        self.watches.fetch_add(1, Ordering::SeqCst);
        let lose = self.lose.clone();
        let watch = self.store.watch(prefix, from).await?;
        let watch = watch.filter_map(move |event| {
            let event = match event {
                Ok(WatchEvent::Changed { revision, mut changes }) => {
                    let lose = lose.lock().unwrap();
                    changes.retain(|change: &Change| !lose.iter().any(|lost| lost == change.key()));
                    (!changes.is_empty()).then_some(Ok(WatchEvent::Changed { revision, changes }))
                }
                other => Some(other),
            };
            std::future::ready(event)
        });
        Ok(watch.boxed())
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.store.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.store.keep_alive(lease).await
    }
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        self.store.time_to_live(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.store.revoke_lease(lease).await
    }
    fn single_host(&self) -> bool {
        true
    }
    fn describe(&self) -> String {
        "a store with faults".into()
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_store_it_says_so_and_catches_up() {
    let store = Faulty::new();
    store.cut.store(true, Ordering::SeqCst);
    let mirror = mirror(store.clone());
    assert!(!mirror.listed(Duration::from_secs(60)).await);
    assert!(mirror.freshness().stale_since.is_some());
    let revision = put(&*store.store, "m/a", "1").await;
    store.cut.store(false, Ordering::SeqCst);
    assert!(mirror.reached(revision, LIMIT).await);
    until("freshness", async || mirror.freshness().stale_since.is_none()).await;
    assert_eq!(view(&mirror), map(&[("a", 1)]));
}

#[tokio::test(start_paused = true)]
async fn an_audit_finds_what_the_watch_lost_and_takes_another() {
    for lost in ["m/changed", "m/deleted", "m/created"] {
        let store = Faulty::new();
        put(&*store, "m/changed", "1").await;
        put(&*store, "m/deleted", "1").await;
        let mirror = mirror(store.clone());
        until("freshness", async || mirror.freshness().stale_since.is_none()).await;
        store.lose.lock().unwrap().push(lost.into());
        put(&*store, "m/changed", "2").await;
        delete(&*store, "m/deleted").await;
        put(&*store, "m/created", "1").await;
        let revision = put(&*store, "m/later", "1").await;
        assert!(mirror.reached(revision, LIMIT).await);
        let right = map(&[("changed", 2), ("created", 1), ("later", 1)]);
        assert_ne!(view(&mirror), right, "the fault does what it should");
        // The first audit comes within half as much again of five minutes.
        let mut changes = mirror.changes();
        changes.next().await;
        tokio::time::sleep(Duration::from_secs(455)).await;
        assert_eq!(view(&mirror), right, "{lost}");
        assert_eq!(changes.next().await.into_iter().collect::<Vec<_>>(), [&lost[2..]]);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(store.watches.load(Ordering::SeqCst), 2, "a watch that loses is not kept");
        assert_eq!(mirror.freshness().stale_since, None);
    }
}

#[tokio::test(start_paused = true)]
async fn under_steady_writes_audits_change_nothing() {
    let store = Faulty::new();
    let mirror = mirror(store.clone());
    assert!(mirror.listed(LIMIT).await);
    for i in 0..3_000_u32 {
        put(&*store, &format!("m/{}", i % 10), &i.to_string()).await;
        if i % 3 == 0 {
            delete(&*store, &format!("m/{}", (i + 5) % 10)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!((store.ranges.load(Ordering::SeqCst), store.watches.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn it_survives_compaction_while_cut_off_and_notices_what_vanished() {
    let mut server = Server::start().await;
    let store = server.connect_within(Duration::from_secs(2));
    put(&*store, "m/stays", "1").await;
    put(&*store, "m/vanishes", "1").await;
    let mirror = mirror(store.clone());
    assert!(mirror.listed(LIMIT).await);
    let mut changes = mirror.changes();
    changes.next().await;

    server.kill(0);
    until("blindness", async || mirror.freshness().stale_since.is_some()).await;
    assert_eq!(view(&mirror), map(&[("stays", 1), ("vanishes", 1)]), "what is known is shown");
    server.restart(0);
    // Another client changes things and compacts; whether the mirror is back before or after, it must end up right.
    let other = server.connect();
    until("etcd", async || other.get("x").await.is_ok()).await;
    delete(&*other, "m/vanishes").await;
    put(&*other, "m/comes", "3").await;
    let revision = put(&*other, "m/stays", "2").await;
    other.compact(revision).await.unwrap();

    assert!(mirror.reached(revision, LIMIT).await);
    until("freshness", async || mirror.freshness().stale_since.is_none()).await;
    assert_eq!(view(&mirror), map(&[("comes", 3), ("stays", 2)]));
    let mut told = std::collections::BTreeSet::new();
    while told.len() < 3 {
        told.extend(within("changes", changes.next()).await);
    }
    assert_eq!(told.into_iter().collect::<Vec<_>>(), ["comes", "stays", "vanishes"]);
}

#[tokio::test]
async fn a_store_that_hangs_is_noticed_and_followed_again() {
    let server = Server::start().await;
    let store = server.connect_within(Duration::from_secs(2));
    put(&*store, "m/a", "1").await;
    let mirror = mirror(store.clone());
    until("freshness", async || mirror.freshness().stale_since.is_none() && !view(&mirror).is_empty()).await;
    server.stop(0).await;
    // Nobody asks anything: the open watch alone notices.
    until("blindness", async || mirror.freshness().stale_since.is_some()).await;
    server.resume(0);
    until("freshness", async || mirror.freshness().stale_since.is_none()).await;
    let revision = put(&*store, "m/b", "2").await;
    assert!(mirror.reached(revision, LIMIT).await);
    assert_eq!(view(&mirror), map(&[("a", 1), ("b", 2)]));
}

#[tokio::test]
async fn concurrent_writers_leave_the_mirror_right() {
    let store = memory();
    let mirror = mirror(store.clone());
    let writers: Vec<_> = (0..4_u64)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut last = Revision(0);
                for i in 0..500_u64 {
                    last = put(&*store, &format!("m/{}", (i * 7 + writer) % 50), &i.to_string()).await;
                    if i % 3 == 0 {
                        delete(&*store, &format!("m/{}", (i + writer) % 50)).await;
                    }
                    if i % 100 == 0 {
                        store.compact(last).await.unwrap();
                    }
                }
                last
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let revision = put(&*store, "m/last", "1").await;
    assert!(mirror.reached(revision, LIMIT).await);
    let stored = store.range("m/").await.unwrap().entries;
    let right: BTreeMap<String, u64> =
        stored.iter().map(|entry| (entry.key[2..].to_owned(), serde_json::from_slice(&entry.value).unwrap())).collect();
    assert_eq!(view(&mirror), right);
}

#[tokio::test]
async fn the_following_ends_with_the_last_clone() {
    let store = memory();
    let weak = Arc::downgrade(&store);
    let mirror = mirror(store);
    assert!(mirror.listed(LIMIT).await);
    let clone = mirror.clone();
    drop(mirror);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(weak.upgrade().is_some());
    drop(clone);
    until("the end", async || weak.upgrade().is_none()).await;
}

/// Pings tell of it after eight seconds; who reads does not wait for them.
#[tokio::test]
async fn who_asks_whether_it_is_heard_is_not_shown_what_a_silent_member_left_unsaid() {
    let server = Server::cluster(3).await;
    let mirror = mirror(server.connect());
    assert!(mirror.listed(LIMIT).await);
    let mut silent = 0;
    for member in 0..3 {
        server.stop(member).await;
        let other = connect(vec![server.urls().remove((member + 1) % 3)], LIMIT);
        let written = member as u64 + 1;
        // It may have led.
        until("another leader", async || {
            other.commit(Transaction::new().then(Operation::put("m/a", written.to_string().into()))).await.is_ok()
        })
        .await;
        // What was heard a moment ago is good enough.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        if !mirror.attended(Duration::from_millis(1500)).await {
            silent += 1;
            assert!(mirror.freshness().stale_since.is_some(), "it is marked");
            assert!(mirror.followed(Duration::from_secs(3)).await, "at another member");
        }
        assert_eq!(view(&mirror), map(&[("a", written)]));
        server.resume(member);
        server.ready().await;
    }
    assert!(silent > 0, "one of them is the one it follows");
}
