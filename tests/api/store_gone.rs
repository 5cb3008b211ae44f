//! The store does not answer: reads show what is known and say so, writes are refused.

use crate::browser::session;
use crate::world::World;
use futures::StreamExt;
use serde_json::json;
use stampede::api::Settings;
use stampede::store::{Difference, Error, LeaseId, Lookup, Outcome, Revision, Snapshot, Store, Transaction, Watch};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A store that can be cut off.
#[derive(Debug)]
struct Cut {
    inner: Arc<dyn Store>,
    gone: Arc<AtomicBool>,
    /// Nothing is heard from it, as from a member of etcd that has gone; one key is answered for by another member.
    deaf: Arc<AtomicBool>,
}

impl Cut {
    fn hears(&self) -> Result<(), Error> {
        if self.deaf.load(Ordering::SeqCst) {
            return Err(Error::Unavailable { message: "nothing is heard".into() });
        }
        self.open()
    }

    fn open(&self) -> Result<(), Error> {
        if self.gone.load(Ordering::SeqCst) {
            return Err(Error::Unavailable { message: "cut off".into() });
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Store for Cut {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        self.open()?;
        self.inner.get(key).await
    }
    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        self.hears()?;
        self.inner.range(prefix).await
    }
    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        self.open()?;
        self.inner.changed_since(prefix, after).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        self.open()?;
        self.inner.commit(transaction).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.hears()?;
        let (gone, deaf) = (self.gone.clone(), self.deaf.clone());
        let cut = async move {
            while !gone.load(Ordering::SeqCst) && !deaf.load(Ordering::SeqCst) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        Ok(self.inner.watch(prefix, from).await?.take_until(Box::pin(cut)).boxed())
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.inner.keep_alive(lease).await
    }
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        self.inner.time_to_live(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke_lease(lease).await
    }
    fn single_host(&self) -> bool {
        true
    }
    fn describe(&self) -> String {
        "a store that is cut off".into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_is_shown_and_marked() {
    let gone = Arc::new(AtomicBool::new(false));
    let cut = gone.clone();
    let deaf = Arc::default();
    let world = World::with(Settings::default(), |inner| Arc::new(Cut { inner, gone: cut, deaf })).await;
    let key = world.key(1).await;
    let headers = [("authorization", key.as_str())];
    let seen = session(&world, 1).await;
    let unseen = session(&world, 1).await;
    assert_eq!(world.tcp("GET", "/v1", "", &[("cookie", &seen)]).await.status, 200);
    let made = world.container(json!({"name": "a"})).await;
    let path = format!("/v1/containers/{}", made["id"].as_str().unwrap());
    let list = world.tcp("GET", "/v1/containers", "", &headers).await;
    assert_eq!((list.status, list.ids().len()), (200, 1));
    assert!(list.headers.get("x-stampede-stale").is_none());

    gone.store(true, Ordering::SeqCst);
    // It is noticed, and told from a hiccup, within two seconds.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for path in ["/v1/containers", path.as_str()] {
        let reply = world.tcp("GET", path, "", &headers).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        assert!(reply.headers.get("x-stampede-stale").is_some(), "{path}");
    }
    // A browser goes on reading with a session that this agent has seen.
    let reply = world.tcp("GET", &path, "", &[("cookie", &seen)]).await;
    assert_eq!((reply.status, reply.headers.get("x-stampede-stale").is_some()), (200, true), "{}", reply.text);
    for unknown in [unseen.as_str(), "stampede=00"] {
        assert_eq!(world.tcp("GET", &path, "", &[("cookie", unknown)]).await.error().0, 503);
    }
    let write = world.tcp("POST", "/v1/containers", r#"{"imageUuid":"docker:x"}"#, &headers).await;
    assert_eq!(write.error().0, 503);
    assert_eq!(world.ask("DELETE", &path, "").await.error().0, 503);
    assert_eq!(world.ask("GET", "/v1/images/1i7", "").await.error().0, 503);
    assert_eq!(world.ask("GET", "/v1/containers/1i999", "").await.error().0, 503, "nobody knows that there is none");
    assert_eq!(world.ask("GET", "/v1/schemas", "").await.status, 200);

    gone.store(false, Ordering::SeqCst);
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    while world.ask("GET", "/v1/containers", "").await.headers.get("x-stampede-stale").is_some() {
        assert!(tokio::time::Instant::now() < limit, "still stale");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(world.ask("DELETE", &path, "").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_is_shown_as_it_is_while_nothing_is_heard_of_the_rest() {
    let (gone, deaf) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let cut = (gone.clone(), deaf.clone());
    let world = World::with(Settings::default(), |inner| Arc::new(Cut { inner, gone: cut.0, deaf: cut.1 })).await;
    let before = world.container(json!({"name": "before"})).await;
    assert_eq!(world.ask("GET", "/v1/containers", "").await.ids().len(), 1);

    deaf.store(true, Ordering::SeqCst);
    let limit = tokio::time::Instant::now() + Duration::from_secs(10);
    while world.ask("GET", "/v1/containers", "").await.headers.get("x-stampede-stale").is_none() {
        assert!(tokio::time::Instant::now() < limit, "the list is not stale");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let after = world.container(json!({"name": "after"})).await;
    for made in [&before, &after] {
        let path = format!("/v1/containers/{}", made["id"].as_str().unwrap());
        let reply = world.ask("GET", &path, "").await;
        assert_eq!((reply.status, reply.headers.get("x-stampede-stale")), (200, None), "{}", reply.text);
    }
    assert_eq!(world.ask("GET", "/v1/containers/1i999", "").await.error().0, 404);
    let path = format!("/v1/containers/{}", after["id"].as_str().unwrap());
    assert_eq!(world.ask("PUT", &path, r#"{"name":"later"}"#).await.status, 200);
    assert_eq!(world.ask("GET", &path, "").await.json()["name"], "later");

    // Where it is not answered for either, what was heard last has to do.
    gone.store(true, Ordering::SeqCst);
    let path = format!("/v1/containers/{}", before["id"].as_str().unwrap());
    let reply = world.ask("GET", &path, "").await;
    assert_eq!((reply.status, reply.headers.get("x-stampede-stale").is_some()), (200, true), "{}", reply.text);
}
