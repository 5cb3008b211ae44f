//! Links between instances: as they are made, shown, led elsewhere, and waited for.

use crate::counting::Counting;
use crate::flow::in_memory;
use crate::until;
use crate::world::World;
use serde_json::{Value, json};
use stampede::store::{Operation, Transaction, encode, key};
use std::sync::atomic::Ordering;

/// On the managed network.
async fn made(world: &World, mut body: Value) -> String {
    let fields = body.as_object_mut().unwrap();
    fields.entry("imageUuid").or_insert_with(|| json!("docker:busybox"));
    world.client.post("/v1/containers", body).await["id"].as_str().unwrap().to_owned()
}

async fn links(world: &World, id: &str) -> Vec<Value> {
    world.client.get(&format!("/v1/instances/{id}/instancelinks")).await["data"].as_array().unwrap().clone()
}

async fn endpoint(world: &World, id: &str) -> Option<Value> {
    let entry = world.store.get(&key::endpoint(id)).await.unwrap().entry?;
    Some(serde_json::from_slice(&entry.value).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_a_row_that_can_be_led_elsewhere() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let web = made(&world, json!({"ports": ["80", "53/udp"]})).await;
    client.wait(&web, "running").await;
    let other = made(&world, json!({"imageUuid": "docker:exposes-8080"})).await;
    client.wait(&other, "running").await;
    let body = json!({"instanceLinks": {"web": web, "my-db": null}, "startOnCreate": false});
    let id = made(&world, body).await;
    let [first, second] = &links(&world, &id).await[..] else { panic!("two links") };
    assert_eq!(
        ["type", "linkName", "instanceId", "targetInstanceId", "state"].map(|field| first[field].clone()),
        [json!("instanceLink"), json!("web"), json!(id), json!(web), json!("inactive")]
    );
    assert_eq!((&second["targetInstanceId"], &second["ports"]), (&Value::Null, &json!([])));
    assert_eq!(first["ports"][0]["ipAddress"], Value::Null, "it has no host yet");
    client.act(&id, "start").await;
    client.wait(&id, "running").await;
    let path = format!("/v1/instancelinks/{}", first["id"].as_str().unwrap());
    let first = client.get(&path).await;
    let port = first["ports"].as_array().unwrap().iter().find(|port| port["privatePort"] == 80).unwrap().clone();
    assert_eq!((&port["protocol"], &port["ipAddress"]), (&json!("tcp"), &json!("10.42.0.1")));
    assert!((20_000..40_000).contains(&port["publicPort"].as_u64().unwrap()), "{port}");
    assert_eq!((&first["state"], first["ports"].as_array().unwrap().len()), (&json!("active"), 2));

    let to_web =
        format!("/v1/instancelinks?targetInstanceId={web}&linkName=web&include=instance&include=targetinstance");
    let found = client.get(&to_web).await["data"].clone();
    assert_eq!((&found[0]["instance"]["id"], &found[0]["targetInstance"]["id"]), (&json!(id), &json!(web)), "{found}");
    let all = client.get(&format!("/v1/containers/{web}?include=targetinstancelinks")).await;
    assert_eq!(all["targetInstanceLinks"][0]["id"], first["id"], "{all}");

    let (status, aimed) = client.ask("PUT", &path, json!({"targetInstanceId": other, "name": "n"})).await;
    assert_eq!((status, &aimed["targetInstanceId"], &aimed["name"]), (200, &json!(other), &json!("n")), "{aimed}");
    let ports = aimed["ports"].as_array().unwrap();
    assert!(ports.contains(&port), "its port stays");
    assert!(ports.iter().any(|port| port["privatePort"] == 8080), "and the new target's are there");
    let (status, whole) = client.ask("PUT", &path, aimed.clone()).await;
    assert_eq!((status, &whole["targetInstanceId"]), (200, &json!(other)), "sent back as it is, it changes nothing");
    let (status, aimed) = client.ask("PUT", &path, json!({"targetInstanceId": null})).await;
    assert_eq!((status, &aimed["targetInstanceId"]), (200, &Value::Null), "{aimed}");
    assert_eq!(client.get(&path).await["targetInstanceId"], Value::Null);
    let (status, aimed) = client.ask("PUT", &path, json!({"targetInstanceId": id})).await;
    assert_eq!((status, &aimed["targetInstanceId"]), (200, &json!(id)), "to itself: {aimed}");

    let (status, body) = client.ask("PUT", &path, json!({"accountId": "1a2"})).await;
    assert_eq!((status, body["fieldName"].as_str()), (422, Some("accountId")), "it is its instance's: {body}");

    assert_eq!(client.ask("POST", "/v1/instancelinks", json!({"linkName": "x"})).await.0, 405);
    assert_eq!(client.ask("DELETE", &path, Value::Null).await.0, 405);
    client.ask("DELETE", &format!("/v1/containers/{web}"), Value::Null).await;
    client.wait(&web, "removed").await;
    for wrong in [json!("1i999"), json!("1n1"), json!(web)] {
        let (status, body) = client.ask("PUT", &path, json!({"targetInstanceId": wrong})).await;
        assert_eq!((status, body["fieldName"].as_str()), (422, Some("targetInstanceId")), "{body}");
    }
    world.ends();
}

/// A node that hears late of what was asked for at another must not take a wish for what is so already.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_at_two_nodes_in_turns_is_written_each_time() {
    let store = Counting::of(in_memory());
    let world = World::new(store.clone()).await;
    let (client, other) = (&world.client, &world.other);
    let stays = || json!({"startOnCreate": false});
    let (one, two) = (made(&world, stays()).await, made(&world, stays()).await);
    let body = json!({"instanceLinks": {"web": one}, "ports": ["8000:80"], "startOnCreate": false});
    let id = made(&world, body).await;
    let first = async |list: &str| client.get(list).await["data"][0]["id"].as_str().unwrap().to_owned();
    let link = format!("/v1/instancelinks/{}", first(&format!("/v1/instances/{id}/instancelinks")).await);
    let port = format!("/v1/ports/{}", first(&format!("/v1/instances/{id}/ports")).await);
    let host = format!("/v1/hosts/{}", first("/v1/hosts").await);
    // From now on the other begins to follow, and is late.
    store.late.store(700, Ordering::SeqCst);
    for path in [&link, &port, &host] {
        assert_eq!(other.ask("GET", path, Value::Null).await.0, 200);
    }
    for (path, field, before, after) in [
        (&link, "targetInstanceId", json!(one), json!(two)),
        (&port, "publicPort", json!(8000), json!(8001)),
        (&host, "labels", json!({"zone": "eu"}), json!({"zone": "us"})),
    ] {
        for (node, value) in [(client, &after), (other, &before), (client, &after)] {
            let (status, row) = node.ask("PUT", path, json!({ field: value })).await;
            assert_eq!((status, &row[field]), (200, value), "{path}: {row}");
            until(&format!("{path} to be written"), async || client.get(path).await[field] == *value).await;
        }
    }
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_linked_is_refused_with_a_word() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let gone = made(&world, json!({"startOnCreate": false})).await;
    client.act(&gone, "remove").await;
    client.wait(&gone, "removed").await;
    let admins = made(&world, json!({"startOnCreate": false})).await;
    let account = client.post("/v1/accounts", json!({"kind": "user", "name": "another"})).await["id"].clone();
    for (body, code) in [
        (json!({"instanceLinks": {"a b": null}}), "InvalidCharacters"),
        (json!({"instanceLinks": {"a-b": null, "a_b": null}}), "NotUnique"),
        (json!({"instanceLinks": {"web": "1i999"}}), "InvalidReference"),
        (json!({"instanceLinks": {"web": gone}}), "InvalidReference"),
        (json!({"instanceLinks": {"web": admins}, "accountId": account}), "InvalidReference"),
        (json!({"instanceLinks": {"web": null}, "networkIds": ["1n1"]}), "InvalidOption"),
    ] {
        let mut asked = json!({"imageUuid": "docker:x", "startOnCreate": false});
        asked.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let (status, answer) = client.ask("POST", "/v1/containers", asked).await;
        let said = (status, answer["code"].as_str(), answer["fieldName"].as_str());
        assert_eq!(said, (422, Some(code), Some("instanceLinks")), "{body}: {answer}");
    }
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_until_its_target_has_run() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let target = made(&world, json!({"imageUuid": "docker:exposes-80", "startOnCreate": false})).await;
    let id = made(&world, json!({"instanceLinks": {"web": target}})).await;
    let late = made(&world, json!({"instanceLinks": {"web": target}, "startOnCreate": false})).await;
    client.act(&late, "start").await;
    for (id, state) in [(&id, "creating"), (&late, "starting")] {
        let row = client.row(id).await;
        assert_eq!((&row["state"], &row["hostId"]), (&json!(state), &Value::Null), "{row}");
        let message = format!("waits for {target} to run, whose ports are not known yet");
        assert_eq!((&row["transitioning"], &row["transitioningMessage"]), (&json!("yes"), &json!(message)));
    }
    assert_eq!(endpoint(&world, &target).await, None);
    client.act(&target, "start").await;
    for id in [&id, &late] {
        let row = client.wait(id, "running").await;
        assert_eq!(row["transitioningMessage"], Value::Null);
        assert_eq!(links(&world, id).await[0]["ports"][0]["privatePort"], 80);
    }
    let row = client.row(&target).await;
    let expected = json!({"address": row["primaryIpAddress"], "host": "h1", "ports": ["80/tcp"]});
    assert_eq!(endpoint(&world, &target).await, Some(expected));
    client.act(&target, "stop").await;
    client.wait(&target, "stopped").await;
    assert_eq!(endpoint(&world, &target).await, None, "what does not run is reached nowhere");
    // What has run once is not waited for.
    let again = made(&world, json!({"instanceLinks": {"web": target}})).await;
    assert_eq!(client.wait(&again, "running").await["transitioning"], "no");
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_can_be_stopped_and_removed() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let target = made(&world, json!({"startOnCreate": false})).await;
    let id = made(&world, json!({"instanceLinks": {"web": target}})).await;
    let other = made(&world, json!({"instanceLinks": {"web": target}, "startOnCreate": false})).await;
    client.act(&other, "start").await;
    client.act(&other, "stop").await;
    client.wait(&other, "stopped").await;
    for id in [&id, &other] {
        assert_eq!(client.ask("DELETE", &format!("/v1/containers/{id}"), Value::Null).await.0, 200);
        client.wait(id, "removed").await;
    }
    client.act(&target, "start").await;
    client.wait(&target, "running").await;
    for id in [&id, &other] {
        client.act(id, "purge").await;
        client.wait(id, "purged").await;
    }
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_version_started_is_reached_too() {
    let world = World::new(in_memory()).await;
    let id = made(&world, json!({"imageUuid": "docker:exposes-80"})).await;
    world.client.wait(&id, "running").await;
    let there = endpoint(&world, &id).await;
    assert!(there.is_some());
    // As if it had been started before there were links.
    let mut row = world.stored(&id).await;
    row.as_object_mut().unwrap().remove("imagePorts").unwrap();
    let stored = key::resource("instance", crate::world::number(&id));
    let older = Transaction::new()
        .then(Operation::put(&stored, encode(&stored, &row).unwrap()))
        .then(Operation::delete(key::endpoint(&id)));
    world.store.commit(older).await.unwrap();
    until("its endpoint", async || endpoint(&world, &id).await == there).await;
    world.ends();
}
