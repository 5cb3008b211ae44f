//! Floating addresses: pools, what is acquired of them, and which one host has an address.

use crate::flow::in_memory;
use crate::until;
use crate::world::{World, number};
use serde_json::{Value, json};
use stampede::membership::record::Alive;
use stampede::orchestration::Hold;
use stampede::store::{Operation, Transaction, encode, key};
use std::collections::BTreeSet;
use std::time::Duration;

async fn pool(world: &World) -> String {
    let body = json!({"networkAddress": "192.168.10.16", "cidrSize": 28, "isPublic": true});
    world.client.post("/v1/subnetippools", body).await["id"].as_str().unwrap().to_owned()
}

async fn acquire(world: &World, pool: &str) -> Value {
    world.client.ask("POST", &format!("/v1/ippools/{pool}/?action=acquire"), json!({})).await.1
}

async fn act(world: &World, address: &Value, action: &str, body: Value) -> (u16, Value) {
    let path = format!("/v1/ipaddresses/{}/?action={action}", address["id"].as_str().unwrap());
    world.client.ask("POST", &path, body).await
}

async fn now(world: &World, address: &Value) -> Value {
    world.client.get(&format!("/v1/ipaddresses/{}", address["id"].as_str().unwrap())).await
}

async fn running(world: &World, mut body: Value) -> String {
    body.as_object_mut().unwrap().entry("imageUuid").or_insert_with(|| json!("docker:busybox"));
    let id = world.client.post("/v1/containers", body).await["id"].as_str().unwrap().to_owned();
    world.client.wait(&id, "running").await;
    id
}

fn private(instance: &str) -> Value {
    json!({ "ipAddressId": instance.replacen("1i", "1ia", 1) })
}

/// An address's own number, as hosts know it.
fn own(address: &Value) -> u64 {
    let shown: u64 = address["id"].as_str().unwrap().trim_start_matches("1ia").parse().unwrap();
    shown & !(1 << 40)
}

async fn life(world: &World, host: &str) -> i64 {
    world.store.get(&key::alive(host)).await.unwrap().entry.unwrap().create_revision.0
}

async fn held(world: &World, host: &str) -> Vec<u64> {
    world.orchestrator.held_by(host).await.unwrap().into_iter().map(|(id, _)| id).collect()
}

async fn is_taken(world: &World, pool: &str, address: &Value) -> bool {
    let key = key::floating(
        pool.trim_start_matches("1ip").parse().unwrap(),
        address["address"].as_str().unwrap().parse().unwrap(),
    );
    world.store.get(&key).await.unwrap().entry.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_acquired_associated_and_given_back() {
    let world = World::new(in_memory()).await;
    let pool = pool(&world).await;
    let shown = world.client.get(&format!("/v1/subnetippools/{pool}")).await;
    assert_eq!(
        ["gateway", "startAddress", "endAddress", "state"].map(|field| shown[field].clone()),
        [json!("192.168.10.17"), json!("192.168.10.18"), json!("192.168.10.26"), json!("active")]
    );
    let address = acquire(&world, &pool).await;
    assert_eq!(
        ["type", "state", "ipPoolId", "role"].map(|field| address[field].clone()),
        [json!("ipAddress"), json!("active"), json!(pool), json!("floating")],
        "{address}"
    );
    assert!(address["actions"].as_object().unwrap().contains_key("associate"), "{address}");
    let one = running(&world, json!({})).await;
    let (status, associating) = act(&world, &address, "associate", private(&one)).await;
    assert_eq!((status, &associating["state"]), (202, &json!("associating")), "{associating}");
    assert_eq!(world.client.row(&one).await["primaryAssociatedIpAddress"], address["address"]);

    let life = life(&world, "h1").await;
    let hold = |instance: u64| world.orchestrator.hold_address("h1", life, own(&address), instance);
    assert_eq!(hold(number(&one) + 1).await.unwrap(), Hold::NotOurs);
    assert_eq!(hold(number(&one)).await.unwrap(), Hold::Held);
    assert_eq!(hold(number(&one)).await.unwrap(), Hold::Held, "again, after an agent's restart");
    assert_eq!(now(&world, &address).await["state"], "associated");
    let associations =
        world.client.get(&format!("/v1/ipassociations?ipAddressId={}", address["id"].as_str().unwrap())).await;
    assert_eq!(associations["data"][0]["childIpAddressId"], private(&one)["ipAddressId"], "{associations}");
    assert_eq!(held(&world, "h1").await, [own(&address)]);
    // What an agent found that it had, and wants no more, is not given back once it has taken it again.
    let (_, seen) = world.orchestrator.held_by("h1").await.unwrap()[0];
    assert_eq!(hold(number(&one)).await.unwrap(), Hold::Held);
    world.orchestrator.release_address("h1", own(&address), Some(seen)).await.unwrap();
    assert_eq!(held(&world, "h1").await, [own(&address)]);

    let (status, body) = act(&world, &address, "remove", json!({})).await;
    assert_eq!((status, &body["code"]), (422, &json!("ActionNotAvailable")), "associated ones stay: {body}");
    let (_, leaving) = act(&world, &address, "disassociate", json!({})).await;
    assert_eq!(leaving["state"], "disassociating");
    assert_eq!(world.client.row(&one).await["primaryAssociatedIpAddress"], Value::Null);
    assert_eq!(hold(number(&one)).await.unwrap(), Hold::NotOurs);
    world.orchestrator.release_address("h1", own(&address), None).await.unwrap();
    assert_eq!(now(&world, &address).await["state"], "active");

    let (status, body) = world.client.ask("DELETE", &format!("/v1/ippools/{pool}"), Value::Null).await;
    assert_eq!((status, &body["code"]), (409, &json!("Conflict")), "its address is somebody's: {body}");
    act(&world, &address, "remove", json!({})).await;
    act(&world, &address, "purge", json!({})).await;
    until("the address is free", async || !is_taken(&world, &pool, &address).await).await;
    assert_eq!(now(&world, &address).await["state"], "purged");
    assert_eq!(world.client.ask("DELETE", &format!("/v1/ippools/{pool}"), Value::Null).await.0, 200);
    world.ends();
}

/// An address is shown from instances and from what floats. A read waits for this node's own writes of either, and not for
/// one that never was: of the instances' records nothing is written here.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_waits_for_no_write_that_was_not() {
    const TIMES: u32 = 8;
    /// As the cache has it: what each of the reads would wait.
    const WAIT: Duration = Duration::from_secs(2);
    let world = World::new(in_memory()).await;
    let pool = pool(&world).await;
    world.client.get("/v1/ipaddresses").await;
    let begun = tokio::time::Instant::now();
    for _ in 0..TIMES {
        let address = acquire(&world, &pool).await;
        let listed = world.client.get("/v1/ipaddresses").await;
        let listed = listed["data"].as_array().unwrap();
        assert!(listed.iter().any(|one| one["id"] == address["id"]), "{address} is not among {listed:?}");
    }
    assert!(begun.elapsed() < WAIT * TIMES / 2, "{:?}", begun.elapsed());
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_pool_goes_with_its_instance() {
    let world = World::new(in_memory()).await;
    let pool = pool(&world).await;
    let one = running(&world, json!({"publicIpAddressPoolId": pool})).await;
    let all = world.client.get(&format!("/v1/ipaddresses?ipPoolId={pool}")).await;
    let address = all["data"][0].clone();
    assert_eq!(
        (&address["state"], world.client.row(&one).await["primaryAssociatedIpAddress"].clone()),
        (&json!("associating"), address["address"].clone())
    );
    let life = life(&world, "h1").await;
    assert_eq!(world.orchestrator.hold_address("h1", life, own(&address), number(&one)).await.unwrap(), Hold::Held);
    for (action, state) in
        [("stop", "stopped"), ("remove", "removed"), ("restore", "stopped"), ("start", "running"), ("stop", "stopped")]
    {
        world.client.act(&one, action).await;
        world.client.wait(&one, state).await;
        assert_eq!(now(&world, &address).await["state"], "associated", "after {action}");
    }
    world.client.act(&one, "remove").await;
    world.client.wait(&one, "removed").await;
    world.client.act(&one, "purge").await;
    world.client.wait(&one, "purged").await;
    // Not while its host has it.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(is_taken(&world, &pool, &address).await);
    world.orchestrator.release_address("h1", own(&address), None).await.unwrap();
    until("the address is free", async || !is_taken(&world, &pool, &address).await).await;
    world.ends();
}

/// Of two hosts one has it: the next one after it gave it back, or after it was gone for as long as its kernel may take.
#[tokio::test(flavor = "multi_thread")]
async fn one_host_has_an_address() {
    let world = World::new(in_memory()).await;
    let pool = pool(&world).await;
    let (address, one) = (acquire(&world, &pool).await, running(&world, json!({})).await);
    act(&world, &address, "associate", private(&one)).await;
    let elsewhere = Alive { identity: "j".into(), incarnation: 1, boot_id: "b".into(), address: "b:1".into() };
    let wait = json!({"waitMillis": 200});
    let on = key::on("h9", &one);
    let there = Transaction::new()
        .then(Operation::put(key::alive("h9"), encode("", &elsewhere).unwrap()))
        .then(Operation::put(key::fence("h9"), encode("", &wait).unwrap()))
        .then(Operation::put(&on, "{}".into()));
    world.store.commit(there).await.unwrap();
    let (id, instance) = (own(&address), number(&one));
    let first = life(&world, "h9").await;
    assert_eq!(world.orchestrator.hold_address("h9", first, id, instance).await.unwrap(), Hold::Held);
    let own_life = life(&world, "h1").await;
    let waits = Hold::Waits { host: "h9".into() };
    assert_eq!(world.orchestrator.hold_address("h1", own_life, id, instance).await.unwrap(), waits);
    assert!(!world.orchestrator.take_back(id).await.unwrap(), "it lives");
    world.store.commit(Transaction::new().then(Operation::delete(key::alive("h9")))).await.unwrap();
    assert!(world.orchestrator.hold_address("h9", first, id, instance).await.is_err(), "that life is over");
    let begun = tokio::time::Instant::now();
    assert!(world.orchestrator.take_back(id).await.unwrap());
    assert!(begun.elapsed() >= Duration::from_millis(2200), "{:?}", begun.elapsed());
    assert_eq!(world.orchestrator.hold_address("h1", own_life, id, instance).await.unwrap(), Hold::Held);
    world.orchestrator.release_address("h9", id, None).await.unwrap();
    assert_eq!(held(&world, "h1").await, [id], "who gives back what is another's takes nothing");
    world.ends();
}

/// A life that came back while somebody waited for its end keeps what it has.
#[tokio::test(flavor = "multi_thread")]
async fn another_life_of_its_host_takes_an_address_over() {
    let world = World::new(in_memory()).await;
    let pool = pool(&world).await;
    let (address, one) = (acquire(&world, &pool).await, running(&world, json!({})).await);
    act(&world, &address, "associate", private(&one)).await;
    let (id, instance) = (own(&address), number(&one));
    let first = life(&world, "h1").await;
    assert_eq!(world.orchestrator.hold_address("h1", first, id, instance).await.unwrap(), Hold::Held);
    let alive = world.store.get(&key::alive("h1")).await.unwrap().entry.unwrap();
    world
        .store
        .commit(Transaction::new().then(Operation::put(key::fence("h1"), r#"{"waitMillis":100}"#.into())))
        .await
        .unwrap();
    world.store.commit(Transaction::new().then(Operation::delete(&alive.key))).await.unwrap();
    world.store.commit(Transaction::new().then(Operation::put(&alive.key, alive.value))).await.unwrap();
    let second = life(&world, "h1").await;
    let taking = {
        let orchestrator = world.orchestrator.clone();
        tokio::spawn(async move { orchestrator.take_back(id).await })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(world.orchestrator.hold_address("h1", second, id, instance).await.unwrap(), Hold::Held);
    assert!(!taking.await.unwrap().unwrap(), "it was taken over meanwhile");
    assert_eq!(held(&world, "h1").await, [id]);
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_with_a_reason() {
    let world = World::new(in_memory()).await;
    let pool = pool(&world).await;
    let refused = async |path: &str, body: Value| {
        let (status, body) = world.client.ask("POST", path, body).await;
        (
            status,
            body["code"].as_str().unwrap_or_default().to_owned(),
            body["fieldName"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let wrong = |status: u16, code: &str, field: &str| (status, code.to_owned(), field.to_owned());
    for network in ["192.168.10.16", "192.168.10.0", "10.42.7.0"] {
        let body = json!({"networkAddress": network, "cidrSize": if network.ends_with("16") { 28 } else { 24 }});
        assert_eq!(refused("/v1/subnetippools", body).await, wrong(422, "NotUnique", "networkAddress"), "{network}");
    }
    assert_eq!(refused("/v1/subnetippools", json!({})).await, wrong(422, "MissingRequired", "networkAddress"));
    assert_eq!(refused("/v1/ippools", json!({"networkAddress": "192.168.11.0"})).await.0, 405);
    let (address, one) = (acquire(&world, &pool).await, running(&world, json!({})).await);
    let associate = format!("/v1/ipaddresses/{}/?action=associate", address["id"].as_str().unwrap());
    assert_eq!(refused(&associate, json!({})).await, wrong(422, "MissingRequired", "ipAddressId"));
    let itself = json!({"ipAddressId": address["id"]});
    for body in [itself, private("1i999")] {
        assert_eq!(refused(&associate, body).await, wrong(422, "InvalidReference", "ipAddressId"));
    }
    let own = format!("/v1/ipaddresses/{}", private(&one)["ipAddressId"].as_str().unwrap());
    assert_eq!(world.client.get(&own).await["actions"], json!({}));
    assert_eq!(refused(&format!("{own}/?action=associate"), private(&one)).await.0, 422);
    assert_eq!(world.client.ask("PUT", &own, json!({"name": "x"})).await.0, 422);
    let other = json!({"imageUuid": "docker:busybox", "publicIpAddressPoolId": "1ip999"});
    assert_eq!(refused("/v1/containers", other).await, wrong(422, "InvalidReference", "publicIpAddressPoolId"));
    let unmanaged = json!({"imageUuid": "docker:busybox", "publicIpAddressPoolId": pool, "networkIds": ["1n1"]});
    assert_eq!(refused("/v1/containers", unmanaged).await, wrong(422, "InvalidOption", "publicIpAddressPoolId"));
    world.ends();
}

/// Nine there are, and 24 ask at once, a third of them with an instance.
#[tokio::test(flavor = "multi_thread")]
async fn no_address_is_had_twice() {
    let world = World::new(in_memory()).await;
    let pool = pool(&world).await;
    let acquire = format!("/v1/ippools/{pool}/?action=acquire");
    let with = json!({"imageUuid": "docker:busybox", "publicIpAddressPoolId": pool});
    let asked = (0..24).map(async |turn| match turn % 3 {
        0 => world.client.ask("POST", "/v1/containers", with.clone()).await,
        1 => world.client.ask("POST", &acquire, json!({})).await,
        _ => world.other.ask("POST", &acquire, json!({})).await,
    });
    let answers = futures::future::join_all(asked).await;
    let had: Vec<&str> = answers
        .iter()
        .filter(|(status, _)| *status < 300)
        .filter_map(|(_, body)| body["address"].as_str().or(body["primaryAssociatedIpAddress"].as_str()))
        .collect();
    let others: BTreeSet<String> =
        answers.iter().filter(|(status, _)| *status >= 300).map(|(_, body)| body["code"].to_string()).collect();
    assert_eq!((had.len(), had.iter().collect::<BTreeSet<_>>().len()), (9, 9), "{had:?} {others:?}");
    assert!(others.is_subset(&BTreeSet::from(["\"NotUnique\"".to_owned(), "\"Conflict\"".to_owned()])), "{others:?}");
    let all = world.client.get(&format!("/v1/ipaddresses?ipPoolId={pool}")).await;
    assert_eq!(all["data"].as_array().unwrap().len(), 9);
    world.ends();
}
