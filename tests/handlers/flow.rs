//! What handlers do when all goes well.

use crate::server::Server;
use crate::world::{World, number};
use crate::{environment, until};
use serde_json::{Value, json};
use stampede::store::Store;
use stampede::store::embedded::Embedded;
use std::sync::Arc;

pub fn in_memory() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory(&environment()).unwrap())
}

/// Made, started and stopped, with a handler before, in the place of, and after each of it, at another agent than the one
/// that is asked.
async fn a_whole_life(store: Arc<dyn Store>) {
    let world = World::new(store).await;
    let (client, other) = (&world.client, &world.other);
    client.handler("demo-1", json!("pre.instance.create, pre.instance.start,post.instance.start"), json!({})).await;
    client
        .handler("demo-2", json!(["pre.instance.stop", "post.instance.stop", "post.instance.purge"]), json!({}))
        .await;
    let mut events = other.events("*;handler=demo-*").await;
    let id = client.container(json!({"name": "web"})).await;
    let row = client.row(&id).await;
    assert_eq!((&row["state"], &row["transitioning"]), (&json!("creating"), &json!("yes")));
    assert_eq!(row["transitioningMessage"], "waits for the external handler demo-1 (pre.instance.create)");

    let event = events.expect("pre.instance.create;handler=demo-1", &id).await;
    assert_eq!(event["resourceType"], "instance");
    assert_eq!(event["data"]["resource"]["name"], "web");
    assert!(event["time"].is_i64() && event["previousIds"] == json!([]));
    assert!(other.publish(&event, json!({"data": {"+data": {"a": {"b": 1}}, "description": "seen"}})).await);
    assert!(!other.publish(&event, json!({})).await, "a second answer is heard by nobody");
    let event = events.expect("pre.instance.start;handler=demo-1", &id).await;
    assert_eq!(world.containers.starts(number(&id)), 0);
    assert!(other.publish(&event, json!({"data": {"+data": {"a": {"c": 2}}}})).await);
    let event = events.expect("post.instance.start;handler=demo-1", &id).await;
    assert!(world.containers.up(number(&id)), "it runs");
    assert_eq!(event["data"]["resource"]["externalId"], "c1");
    assert_ne!(client.row(&id).await["state"], "running");
    let said = json!({"transitioning": "yes", "transitioningMessage": "half way", "transitioningProgress": 50});
    assert!(other.publish(&event, said).await);
    let row = client.row(&id).await;
    assert_eq!((&row["transitioningMessage"], &row["transitioningProgress"]), (&json!("half way"), &json!(50)));
    assert!(other.publish(&event, json!({})).await);
    let row = client.wait(&id, "running").await;
    assert_eq!((&row["data"], &row["description"]), (&json!({"a": {"b": 1, "c": 2}}), &json!("seen")));
    assert_eq!((&row["transitioning"], &row["transitioningMessage"]), (&json!("no"), &Value::Null));

    assert_eq!(client.act(&id, "stop").await["state"], "stopping");
    let event = events.expect("pre.instance.stop;handler=demo-2", &id).await;
    assert!(world.containers.up(number(&id)), "its host was not woken");
    assert_eq!(world.stored(&id).await["desired"], "running");
    other.publish(&event, json!({})).await;
    let event = events.expect("post.instance.stop;handler=demo-2", &id).await;
    assert!(!world.containers.up(number(&id)));
    other.publish(&event, json!({})).await;
    client.wait(&id, "stopped").await;
    // Not asked of a handler: removing.
    client.ask("DELETE", &format!("/v1/containers/{id}"), Value::Null).await;
    client.wait(&id, "removed").await;
    client.act(&id, "purge").await;
    let event = events.expect("post.instance.purge;handler=demo-2", &id).await;
    other.publish(&event, json!({})).await;
    client.wait(&id, "purged").await;
    world.nothing_waits().await;
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_in_memory() {
    a_whole_life(in_memory()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_over_etcd() {
    let server = Server::start().await;
    a_whole_life(server.connect()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_place_of_what_we_would_do() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    client.handler("mine", json!(["instance.start", "instance.stop", "instance.restart"]), json!({})).await;
    let mut events = client.events("*;handler=mine").await;
    let id = client.container(json!({})).await;
    for (action, name, state) in
        [("", "start", "running"), ("restart", "restart", "running"), ("stop", "stop", "stopped")]
    {
        if !action.is_empty() {
            client.act(&id, action).await;
        }
        let event = events.expect(&format!("instance.{name};handler=mine"), &id).await;
        client.publish(&event, json!({})).await;
        client.wait(&id, state).await;
    }
    assert_eq!(world.containers.starts(number(&id)), 0, "no host did anything");
    // A stop that gives its host up is done there, whatever a handler did.
    let ours = client.handler("gone", json!(["account.create"]), json!({})).await;
    client.post(&format!("/v1/externalhandlers/{ours}?action=deactivate"), json!({})).await;
    world.nothing_waits().await;
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lowest_priority_comes_first_and_all_types_have_processes() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    client.handler("late", json!(["pre.account.create"]), json!({"priority": 20})).await;
    client.handler("early", json!(["pre.account.create", "post.account.deactivate"]), json!({"priority": 10})).await;
    let mut events = client.events("*;handler").await;
    let made = client.post("/v1/accounts", json!({"name": "acme", "kind": "user"})).await;
    let id = made["id"].as_str().unwrap();
    assert_eq!(made["state"], "registering");
    for name in ["early", "late"] {
        let event = events.expect(&format!("pre.account.create;handler={name}"), id).await;
        client.publish(&event, json!({})).await;
    }
    let account = format!("/v1/accounts/{id}");
    until("the account", async || client.get(&account).await["state"] == "active").await;
    let asked = client.post(&format!("{account}?action=deactivate"), json!({})).await;
    assert_eq!(asked["state"], "deactivating");
    let event = events.expect("post.account.deactivate;handler=early", id).await;
    client.publish(&event, json!({})).await;
    until("its end", async || client.get(&account).await["state"] == "inactive").await;
    world.nothing_waits().await;
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn handlers_are_shown_with_their_processes() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let id = client.handler("a", json!("instance.start, pre.instance.stop"), json!({})).await;
    client.handler("b", json!(["instance.start"]), json!({"kind": null})).await;
    assert_eq!(
        client.get(&format!("/v1/externalhandlers/{id}")).await["processNames"],
        json!(["instance.start", "pre.instance.stop"])
    );
    let processes = client.get("/v1/externalhandlerprocesses?sort=name").await;
    let names: Vec<&Value> = processes["data"].as_array().unwrap().iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["instance.start", "pre.instance.stop"]);
    let maps = client.get(&format!("/v1/externalhandlers/{id}/externalhandlerexternalhandlerprocessmaps")).await;
    assert_eq!(maps["data"].as_array().unwrap().len(), 2);
    let process = &maps["data"][1]["links"]["externalHandlerProcess"];
    let path = process.as_str().unwrap().strip_prefix("http://h:9080").unwrap();
    assert_eq!(client.get(path).await["name"], "pre.instance.stop");
    for (names, code) in [
        (json!(["instance.fly"]), "InvalidOption"),
        (json!([]), "MissingRequired"),
        (json!(["host.drain"]), "InvalidOption"),
    ] {
        let (status, body) =
            client.ask("POST", "/v1/externalhandlers", json!({"name": "x", "processNames": names})).await;
        assert_eq!((status, body["code"].as_str()), (422, Some(code)), "{body}");
    }
    let short = json!({"name": "x", "processNames": ["instance.start"], "timeoutMillis": 999});
    assert_eq!(client.ask("POST", "/v1/externalhandlers", short).await.1["code"], "MinLimitExceeded");
    world.ends();
}
