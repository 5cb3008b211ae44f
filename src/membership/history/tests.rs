//! Answers that are overtaken on their way. What a restored store looks like is tried in tests/cluster/restoring.rs.

use super::*;
use crate::environment::Environment;
use crate::store::embedded::Embedded;
use crate::store::simulated::Simulated;
use crate::store::{Operation, encode};
use serde_json::json;

/// One connection of an agent, on which each answer to a look comes after the agent's other connection heard of something
/// newer.
#[derive(Debug)]
struct Overtaken {
    store: Arc<dyn Store>,
    other: Arc<dyn Store>,
}

async fn put(store: &dyn Store, key: &str) {
    put_generation(store, key, 1).await;
}

async fn put_generation(store: &dyn Store, key: &str, generation: u64) {
    let value = encode(key, &json!({"id": "c", "generation": generation})).unwrap();
    store.commit(Transaction::new().then(Operation::put(key, value))).await.unwrap();
}

#[async_trait::async_trait]
impl Store for Overtaken {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        let found = self.store.get(key).await;
        put(self.other.as_ref(), "newer").await;
        found
    }
    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.store.range(prefix).await
    }
    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        self.store.changed_since(prefix, after).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        self.store.commit(transaction).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.store.watch(prefix, from).await
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
        self.store.single_host()
    }
    fn describe(&self) -> String {
        self.store.describe()
    }
}

#[tokio::test]
async fn an_answer_that_was_overtaken_is_not_the_past() {
    let directory = tempfile::tempdir().unwrap();
    let plain: Arc<dyn Store> = Arc::new(Embedded::in_memory(&Environment::system().unwrap()).unwrap());
    put(plain.as_ref(), &key::cluster()).await;
    let history = History::open(directory.path()).unwrap();
    let other = history.guard(plain.clone());
    put(other.as_ref(), "first").await;

    let late = Overtaken { store: plain.clone(), other };
    history.look(&late).await.unwrap();
    let newest = plain.get("newer").await.unwrap().revision;
    let known = history.state().known.clone();
    assert_eq!((known.revision, known.back), (newest, None));
    // Nor is one to a call through the guard, whose look comes first.
    history.state().sure = None;
    put(history.guard(Arc::new(late)).as_ref(), "last").await;
}

#[tokio::test]
async fn an_answer_from_before_what_was_known_is_the_past() {
    let directory = tempfile::tempdir().unwrap();
    let environment = Environment::system().unwrap();
    let (newer, older) = (Embedded::in_memory(&environment).unwrap(), Embedded::in_memory(&environment).unwrap());
    put(&newer, &key::cluster()).await;
    put(&newer, "more").await;
    put(&older, &key::cluster()).await;
    let history = History::open(directory.path()).unwrap();
    history.look(&newer).await.unwrap();
    assert!(history.look(&older).await.is_err());
    assert!(history.look(&newer).await.is_err(), "one that went back once is another store since");
}

/// Two connections look at once when an agent starts after its store went back and became a new generation: of the revisions
/// of the past none counts any more.
#[tokio::test]
async fn two_looks_at_a_new_generation_agree() {
    let directory = tempfile::tempdir().unwrap();
    let environment = Environment::system().unwrap();
    let past = Embedded::in_memory(&environment).unwrap();
    put(&past, &key::cluster()).await;
    for _ in 0..5 {
        put(&past, "more").await;
    }
    History::open(directory.path()).unwrap().look(&past).await.unwrap();

    let present: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
    put_generation(present.as_ref(), &key::cluster(), 2).await;
    let history = History::open(directory.path()).unwrap();
    let other = history.guard(present.clone());
    let late = Overtaken { store: present.clone(), other };
    history.look(&late).await.unwrap();
    assert_eq!(history.state().known.back, None);
    // So does an answer to what was asked before.
    let before = Asked { floor: Floor { generation: 1, revision: Revision(100) }, at: Instant::now() };
    history.after(before, Revision(3), None).unwrap();
    history.after(before, Revision(1000), None).unwrap();
    put(history.guard(present).as_ref(), "last").await;
}

#[tokio::test]
async fn what_a_watch_tells_counts() {
    let directory = tempfile::tempdir().unwrap();
    let plain: Arc<dyn Store> = Arc::new(Embedded::in_memory(&Environment::system().unwrap()).unwrap());
    put(plain.as_ref(), &key::cluster()).await;
    let history = History::open(directory.path()).unwrap();
    let next = Revision(plain.get("w/a").await.unwrap().revision.0 + 1);
    let mut watch = history.guard(plain.clone()).watch("w/", next).await.unwrap();
    put(plain.as_ref(), "w/a").await;
    watch.next().await.unwrap().unwrap();
    let told = plain.get("w/a").await.unwrap().revision;
    assert_eq!(history.state().known.revision, told);
}

/// A store that was restored while this host was cut off has come further than it was: what is read of it first tells nothing.
#[tokio::test]
async fn a_read_after_an_outage_does_not_spare_the_look() {
    let directory = tempfile::tempdir().unwrap();
    let plain: Arc<dyn Store> = Arc::new(Embedded::in_memory(&Environment::system().unwrap()).unwrap());
    put(plain.as_ref(), &key::cluster()).await;
    let history = History::open(directory.path()).unwrap();
    let guarded = history.guard(plain.clone());
    put(guarded.as_ref(), "before").await;

    history.state().sure = None;
    put_generation(plain.as_ref(), &key::cluster(), 2).await;
    guarded.get("before").await.unwrap();
    assert_eq!(history.state().sure, None);
    let late = Transaction::new().then(Operation::delete("before"));
    assert!(guarded.commit(late).await.is_err());
    assert!(plain.get("before").await.unwrap().entry.is_some(), "it was done all the same");
}

/// Who was cut off since before the snapshot sees no lower revision in what was made of it.
#[tokio::test]
async fn a_store_made_from_a_snapshot_is_another_however_far_it_has_come() {
    let directory = tempfile::tempdir().unwrap();
    let store = Simulated::new(&Environment::system().unwrap());
    let operator = store.client("operator");
    put(&operator, &key::cluster()).await;
    let history = History::open(directory.path()).unwrap();
    let guarded = history.guard(Arc::new(store.client("cut off")));
    put(guarded.as_ref(), "before").await;

    put(&operator, "while it was cut off").await;
    store.restore(store.save(), Duration::ZERO);
    let error = guarded.get("before").await.unwrap_err();
    assert!(error.to_string().contains("it is not the etcd cluster 1 any more"), "{error}");
    assert!(guarded.commit(Transaction::new().then(Operation::delete("before"))).await.is_err());
    // So it is for one that starts then, too.
    let again = History::open(directory.path()).unwrap().guard(Arc::new(store.client("anew")));
    assert!(again.get("before").await.is_err());

    put_generation(&operator, &key::cluster(), 2).await;
    let next = History::open(directory.path()).unwrap().guard(Arc::new(store.client("anew")));
    next.get("before").await.unwrap();
}
