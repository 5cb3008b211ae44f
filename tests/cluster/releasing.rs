//! What purge gives back, and what the audit finds.

use crate::placing::{check, placer, request, resource};
use crate::pool::Pool;
use crate::server::Server;
use crate::{environment, put_host};
use stampede::placement::record::{Allocation, Share};
use stampede::placement::release::release;
use stampede::placement::{AddressSource, Holding, Placed, ReleaseError, Writes, audit};
use stampede::store::{self, Compare, Operation, Store, Transaction, key};
use std::sync::Arc;

fn holding(pool: &Pool, id: u64, placed: &Placed) -> Holding {
    let address = placed.address.as_ref().map(|address| pool.release(address.address));
    Holding { id, host: placed.host.clone(), token: placed.token, address }
}

fn purge(id: u64) -> Writes {
    let key = key::resource("instance", id);
    Writes { compares: vec![Compare::Exists { key: key.clone() }], operations: vec![Operation::delete(key)] }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_purged_is_free_again() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    put_host(&store, 1, 1000).await;
    let pool = Pool::new(store.clone(), 100);
    let placer = placer(&store, &pool);
    let mut placed = Vec::new();
    for id in 1..=10 {
        placed.push(placer.place(&request(id, 100), &resource(id)).await.unwrap());
    }
    // Ten at once, against a placement that waits for the room.
    let released = futures::future::join_all((1..=10).map(|id| {
        let (store, holding) = (store.clone(), holding(&pool, id, &placed[id as usize - 1]));
        async move { release(store.as_ref(), &environment(), &holding, &purge(id)).await }
    }))
    .await;
    for result in released {
        result.unwrap();
    }
    assert!(check(&store, 1000).await.is_empty());

    // Again it is refused, and so it is with a claim that is another one.
    let error = release(store.as_ref(), &environment(), &holding(&pool, 1, &placed[0]), &purge(1)).await.unwrap_err();
    assert!(matches!(error, ReleaseError::NotHeld { found: None }), "{error}");
    let again = placer.place(&request(1, 1000), &resource(1)).await.unwrap();
    let error = release(store.as_ref(), &environment(), &holding(&pool, 1, &placed[0]), &purge(1)).await.unwrap_err();
    assert!(matches!(error, ReleaseError::NotHeld { found: Some(_) }), "{error}");
    let changed = Writes { compares: vec![Compare::Absent { key: key::resource("instance", 1) }], operations: vec![] };
    let error = release(store.as_ref(), &environment(), &holding(&pool, 1, &again), &changed).await.unwrap_err();
    assert!(matches!(error, ReleaseError::Conflict { .. }), "{error}");
    assert_eq!(check(&store, 1000).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_makes_the_sums_true() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    put_host(&store, 1, 1000).await;
    let pool = Pool::new(store.clone(), 100);
    let placer = placer(&store, &pool);
    for id in 1..=3 {
        placer.place(&request(id, 100), &resource(id)).await.unwrap();
    }
    let before = store.get(&key::alloc("h1")).await.unwrap();
    assert!(audit::audit(store.as_ref(), &environment(), "h1").await.unwrap().is_empty());
    assert_eq!(store.get(&key::alloc("h1")).await.unwrap().revision, before.revision);

    let mut allocation: Allocation = store::decode(&before.entry.unwrap()).unwrap();
    allocation.instances.remove("1i2");
    allocation.instances.insert("1i99".into(), Arc::new(Share { memory_mb: 5, ..Share::default() }.into()));
    let alloc = key::alloc("h1");
    let put = Operation::put(&alloc, store::encode(&alloc, &allocation).unwrap());
    // The share of what was missing is read from its resource.
    let resource = r#"{"id":2,"kind":"container","uuid":"u","created":5,"state":"running","memoryMb":100}"#;
    let put_resource = Operation::put(key::resource("instance", 2), resource.into());
    store.commit(Transaction::new().then(put).then(put_resource)).await.unwrap();

    let corrections = audit::audit(store.as_ref(), &environment(), "h1").await.unwrap();
    assert_eq!(corrections.dropped, ["1i99".to_owned()].into());
    assert_eq!(corrections.added, ["1i2".to_owned()].into());
    let after: Allocation = store::decode(&store.get(&alloc).await.unwrap().entry.unwrap()).unwrap();
    assert_eq!(after.instances.len(), 3);
    assert!(after.instances.values().all(|promise| promise.share.memory_mb == 100));

    // Everything is gone but the claims.
    store.commit(Transaction::new().then(Operation::delete(&alloc))).await.unwrap();
    assert_eq!(audit::audit(store.as_ref(), &environment(), "h1").await.unwrap().added.len(), 3);
}
