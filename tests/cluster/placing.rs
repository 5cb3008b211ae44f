//! Claims: many agents at once, each host's sums and each address true at the end, and every way a placement fails.

use crate::pool::{Pool, SUBNET};
use crate::server::Server;
use crate::shaky::Shaky;
use crate::{environment, put_host, until, within};
use stampede::membership::Hosts;
use stampede::membership::record::{Capability, Host};
use stampede::placement::record::{Allocation, Claim, Share};
use stampede::placement::{AddressSource, Choice, PlaceError, Placed, Placer, Request, Wanted, Writes, audit};
use stampede::resource::identifier;
use stampede::store::embedded::Embedded;
use stampede::store::{self, Compare, Error, Operation, Store, Transaction, decode, encode, key};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const MEMORY: u64 = 64;

pub fn request(id: u64, memory_mb: u64) -> Request {
    Request {
        id,
        uuid: format!("uuid-{id}"),
        generation: 1,
        wanted: Wanted::new(Capability::Container, Share { memory_mb, ..Share::default() }),
    }
}

/// A resource that must not be there yet: its host and address are its bytes.
pub fn resource(id: u64) -> impl Fn(&Choice) -> Result<Writes, Error> + Send + Sync {
    move |choice| {
        let key = key::resource("instance", id);
        let address = choice.address.as_ref().map(|it| it.address.to_string());
        let value = store::encode(&key, &(choice.host.clone(), address))?;
        Ok(Writes {
            compares: vec![Compare::Absent { key: key.clone() }],
            operations: vec![Operation::put(key, value)],
        })
    }
}

/// An agent as far as placing goes.
pub fn placer(store: &Arc<dyn Store>, pool: &Arc<Pool>) -> Placer {
    let hosts = Hosts::start(store.clone(), &environment());
    Placer::new(store.clone(), &environment(), 1, hosts, Some(pool.clone()))
}

/// Checks that claims, sums, resources and addresses tell the same; the hosts of the instances.
pub async fn check(store: &Arc<dyn Store>, capacity: u64) -> BTreeMap<u64, String> {
    let on = store.range(&format!("{}on/", key::ROOT)).await.unwrap();
    let mut hosts: BTreeMap<u64, String> = BTreeMap::new();
    for entry in &on.entries {
        let claim: Claim = store::decode(entry).unwrap();
        let host = entry.key.split('/').nth(4).unwrap().to_owned();
        assert_eq!(entry.key, key::on(&host, &identifier::instance(claim.id)));
        assert!(hosts.insert(claim.id, host).is_none(), "{} has two claims", claim.id);
    }
    for entry in store.range(&key::allocs()).await.unwrap().entries {
        let host = key::last(&key::allocs(), &entry.key).to_owned();
        let allocation: Allocation = store::decode(&entry).unwrap();
        let claimed: BTreeSet<String> =
            hosts.iter().filter(|(_, on)| **on == host).map(|(id, _)| identifier::instance(*id)).collect();
        assert_eq!(allocation.instances.keys().cloned().collect::<BTreeSet<_>>(), claimed, "{host}");
        assert!(allocation.sum().memory_mb <= capacity, "{host}");
    }
    let addresses = store.range(&key::addresses(SUBNET)).await.unwrap().entries;
    let held: BTreeMap<String, String> = addresses
        .iter()
        .map(|entry| {
            let address = key::last(&key::addresses(SUBNET), &entry.key).to_owned();
            (store::decode::<String>(entry).unwrap(), address)
        })
        .collect();
    assert_eq!(held.len(), addresses.len(), "one instance holds two addresses");
    assert_eq!(held.len(), hosts.len());
    let resources = store.range(&key::resources("instance")).await.unwrap().entries;
    assert_eq!(resources.len(), hosts.len());
    for entry in resources {
        let id: u64 = key::last(&key::resources("instance"), &entry.key).parse().unwrap();
        let (host, address): (String, Option<String>) = store::decode(&entry).unwrap();
        assert_eq!(hosts[&id], host);
        assert_eq!(Some(&held[&identifier::instance(id)]), address.as_ref());
    }
    hosts
}

#[tokio::test(flavor = "multi_thread")]
async fn many_agents_at_once_never_promise_too_much() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    // 375 of 400 fit.
    let capacity = 75 * MEMORY;
    for id in 1..=5 {
        put_host(&store, id, capacity).await;
    }
    let begun = environment().clock.boottime();
    let mut tasks = tokio::task::JoinSet::new();
    let mut pools = Vec::new();
    for agent in 0..8 {
        let store: Arc<dyn Store> = server.connect();
        let pool = Pool::new(store.clone(), 110);
        pools.push(pool.clone());
        let placer = placer(&store, &pool);
        for one in 0..50 {
            let placer = placer.clone();
            tasks.spawn(async move {
                let id = agent * 50 + one + 1;
                (id, placer.place(&request(id, MEMORY), &resource(id)).await)
            });
        }
    }
    let results: BTreeMap<u64, Result<Placed, PlaceError>> =
        within("400 placements", tasks.join_all()).await.into_iter().collect();
    let conflicts: usize = pools.iter().map(|pool| *pool.conflicts.lock().unwrap()).sum();
    let took = environment().clock.boottime() - begun;
    println!("400 placements in {took:?}, {conflicts} taken addresses hit");
    assert!(conflicts > 0, "the test was to collide");
    let hosts = check(&store, capacity).await;
    for (id, result) in &results {
        match result {
            Ok(placed) => {
                assert_eq!(hosts[id], placed.host);
                let key = key::on(&placed.host, &identifier::instance(*id));
                let claim = store.get(&key).await.unwrap().entry.unwrap();
                assert_eq!((placed.token.generation, placed.token.revision), (1, claim.create_revision.0));
            }
            Err(PlaceError::NoHost { .. } | PlaceError::Contended) => assert!(!hosts.contains_key(id), "{id}"),
            Err(error) => panic!("{id}: {error}"),
        }
    }
    assert!(hosts.len() >= 350, "{} of 375 placed in the first round", hosts.len());

    // One by one, the rest fills what is left, and then there is no more.
    let pool = Pool::new(store.clone(), 110);
    let placer = placer(&store, &pool);
    let mut refused = 0;
    for id in (1..=400).filter(|id| !hosts.contains_key(id)) {
        match placer.place(&request(id, MEMORY), &resource(id)).await {
            Ok(_) => {}
            Err(PlaceError::NoHost { reasons }) => {
                assert_eq!(reasons.len(), 5);
                assert_eq!(reasons[0], "h1: asked for 64 MB, 0 MB free");
                refused += 1;
            }
            Err(error) => panic!("{id}: {error}"),
        }
    }
    assert_eq!(refused, 25);
    assert_eq!(check(&store, capacity).await.len(), 375);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_double_nothing() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    let capacity = 200 * MEMORY;
    for id in 1..=3 {
        put_host(&store, id, capacity).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for agent in 0..3 {
        let shaky = Shaky { store: server.connect(), environment: environment(), one_of: 12 };
        let shaky: Arc<dyn Store> = Arc::new(shaky);
        let pool = Pool::new(shaky.clone(), 250);
        let placer = placer(&shaky, &pool);
        for one in 0..40 {
            let placer = placer.clone();
            tasks.spawn(async move {
                let id = agent * 40 + one + 1;
                (id, placer.place(&request(id, MEMORY), &resource(id)).await)
            });
        }
    }
    let results = within("the placements", tasks.join_all()).await;
    // What was delayed on its way arrives.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for id in 1..=3 {
        audit::audit(store.as_ref(), &environment(), &format!("h{id}")).await.unwrap();
    }
    let hosts = check(&store, capacity).await;
    let mut failed = 0;
    for (id, result) in results {
        match result {
            Ok(placed) => assert_eq!(hosts.get(&id), Some(&placed.host), "{id}"),
            Err(PlaceError::Conflict { .. } | PlaceError::Store(Error::OutcomeUnknown { .. })) => failed += 1,
            // Said for certain, so it must be so.
            Err(PlaceError::Contended) => assert!(!hosts.contains_key(&id), "{id}"),
            Err(error) => panic!("{id}: {error}"),
        }
    }
    assert!(failed <= 6, "{failed} of 120 failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_that_wait_go_together_and_fail_alone() {
    let server = Server::start().await;
    together(server.connect()).await;
    together(Arc::new(Embedded::in_memory(&environment()).unwrap())).await;
}

async fn together(store: Arc<dyn Store>) {
    put_host(&store, 1, 100 * MEMORY).await;
    let pool = Pool::new(store.clone(), 100);
    let placer = placer(&store, &pool);
    // Two whose resources are there already.
    for id in [7, 13] {
        let key = key::resource("instance", id);
        store.commit(Transaction::new().then(Operation::put(key, "1".into()))).await.unwrap();
    }
    let results = futures::future::join_all((1..=40).map(|id| {
        let placer = placer.clone();
        async move { (id, placer.place(&request(id, MEMORY), &resource(id)).await) }
    }))
    .await;
    let mut revisions = BTreeSet::new();
    for (id, result) in results {
        match result {
            Ok(placed) => {
                revisions.insert(placed.revision);
            }
            Err(PlaceError::Conflict { keys }) => {
                assert!([7, 13].contains(&id), "{id}");
                assert_eq!(keys, [key::resource("instance", id)]);
            }
            Err(error) => panic!("{id}: {error}"),
        }
    }
    assert!(revisions.len() < 20, "38 placements took {} transactions", revisions.len());
    assert_eq!(pool.abandoned.lock().unwrap().len(), 2);
    for id in [7, 13] {
        store.commit(Transaction::new().then(Operation::delete(key::resource("instance", id)))).await.unwrap();
    }
    assert_eq!(check(&store, 100 * MEMORY).await.len(), 38);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_goes_meanwhile_gets_nothing() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    for id in 1..=2 {
        put_host(&store, id, 100 * MEMORY).await;
    }
    let pool = Pool::new(store.clone(), 100);
    let placer = placer(&store, &pool);
    let first = std::sync::Mutex::new(None);
    let write = resource(1);
    // Between the choice and the transaction, the host that was chosen dies; its lease was another one all along.
    let placed = placer
        .place(&request(1, MEMORY), &|choice| {
            let mut first = first.lock().unwrap();
            if first.is_none() {
                *first = Some(choice.host.clone());
                let delete = Transaction::new().then(Operation::delete(key::alive(&choice.host)));
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(store.commit(delete)))
                    .unwrap();
            }
            write(choice)
        })
        .await
        .unwrap();
    let dead = first.lock().unwrap().clone().unwrap();
    assert_ne!(placed.host, dead);
    assert_eq!(check(&store, 100 * MEMORY).await[&1], placed.host);

    until("the host to be seen gone", async || {
        let id = dead[1..].parse().unwrap();
        let asked = Request { wanted: Wanted { requested_host: Some(id), ..request(2, 1).wanted }, ..request(2, 1) };
        match placer.place(&asked, &resource(2)).await.unwrap_err() {
            PlaceError::NoHost { reasons } => reasons == [format!("{dead}: disconnected")],
            error => panic!("{error}"),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_closed_meanwhile_gets_nothing() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    for id in 1..=2 {
        put_host(&store, id, 100 * MEMORY).await;
    }
    let pool = Pool::new(store.clone(), 100);
    let placer = placer(&store, &pool);
    let closed = std::sync::Mutex::new(None);
    let write = resource(1);
    let close = async |host: &str| {
        let entry = store.get(&key::host(host)).await.unwrap().entry.unwrap();
        let record = Host { cordoned: true, ..decode(&entry).unwrap() };
        let put = Operation::put(&entry.key, encode(&entry.key, &record).unwrap());
        store.commit(Transaction::new().then(put)).await.unwrap();
    };
    // Between the choice and the transaction, an operator closes the host that was chosen.
    let placed = placer
        .place(&request(1, MEMORY), &|choice| {
            let mut closed = closed.lock().unwrap();
            if closed.is_none() {
                *closed = Some(choice.host.clone());
                tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(close(&choice.host)));
            }
            write(choice)
        })
        .await
        .unwrap();
    let closed = closed.lock().unwrap().clone().unwrap();
    assert_ne!(placed.host, closed);
    assert_eq!(check(&store, 100 * MEMORY).await[&1], placed.host);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_addresses_is_passed_over() {
    let server = Server::start().await;
    let store: Arc<dyn Store> = server.connect();
    for id in 1..=2 {
        put_host(&store, id, 100 * MEMORY).await;
    }
    let pool = Pool::new(store.clone(), 3);
    let placer = placer(&store, &pool);
    for id in 1..=6 {
        placer.place(&request(id, MEMORY), &resource(id)).await.unwrap();
    }
    let error = placer.place(&request(7, MEMORY), &resource(7)).await.unwrap_err();
    let text = error.to_string();
    assert_eq!(text, "Failed to find a placement: h1: all 3 are taken; h2: all 3 are taken");
    assert_eq!(check(&store, 100 * MEMORY).await.len(), 6);

    let unmanaged = Request { wanted: Wanted { managed: false, ..request(7, 1).wanted }, ..request(7, 1) };
    let placed = placer.place(&unmanaged, &resource(7)).await.unwrap();
    assert_eq!(placed.address, None);
    let without = Placer::new(store.clone(), &environment(), 1, Hosts::start(store.clone(), &environment()), None);
    let error = without.place(&request(8, MEMORY), &resource(8)).await.unwrap_err();
    assert!(matches!(error, PlaceError::Address(_)), "{error}");
    assert!(matches!(pool.release("10.42.1.1".parse().unwrap()), Operation::Delete { .. }));
}
