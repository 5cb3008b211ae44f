//! What becomes of things when handlers fail, are slow, or are gone; and what all of this costs where there are none.

use crate::counting::Counting;
use crate::flow::in_memory;
use crate::world::{World, number};
use serde_json::{Value, json};
use stampede::api::create_api_key;
use stampede::membership::Hosts;
use stampede::orchestration::{Draft, Orchestrator, Service};
use stampede::placement::Placer;
use stampede::store::key;
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_fails_says_why() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let id = client.container(json!({})).await;
    client.wait(&id, "running").await;
    client
        .handler("vetoes", json!(["pre.instance.stop", "post.instance.stop", "pre.instance.create"]), json!({}))
        .await;
    let mut events = client.events("*;handler=vetoes").await;
    client.act(&id, "stop").await;
    let event = events.expect("pre.instance.stop;handler=vetoes", &id).await;
    let no = json!({"transitioning": "error", "transitioningInternalMessage": "not today"});
    client.publish(&event, no.clone()).await;
    let row = client.row(&id).await;
    assert_eq!((&row["state"], &row["transitioning"]), (&json!("running"), &json!("error")));
    assert_eq!(row["transitioningMessage"], "vetoes: not today");
    assert!(world.containers.up(number(&id)));
    // After it was done, it stays done.
    client.act(&id, "stop").await;
    let event = events.expect("pre.instance.stop;handler=vetoes", &id).await;
    client.publish(&event, json!({})).await;
    let event = events.expect("post.instance.stop;handler=vetoes", &id).await;
    client.publish(&event, no.clone()).await;
    let row = client.row(&id).await;
    assert_eq!((&row["state"], &row["transitioning"]), (&json!("stopped"), &json!("error")));
    let refused = client.container(json!({})).await;
    let event = events.expect("pre.instance.create;handler=vetoes", &refused).await;
    client.publish(&event, no).await;
    assert_eq!(client.row(&refused).await["state"], "removed");
    world.nothing_waits().await;
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_told_again_and_fails_in_the_end() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let id = client.container(json!({"startOnCreate": false})).await;
    client.handler("mute", json!(["pre.instance.start"]), json!({"timeoutMillis": 1000, "retries": 1})).await;
    let began = Instant::now();
    client.act(&id, "start").await;
    // It comes late, and finds what waits for it; then it is told again.
    let mut events = client.events("*;handler=mute").await;
    let first = events.expect("pre.instance.start;handler=mute", &id).await;
    let again = events.expect("pre.instance.start;handler=mute", &id).await;
    assert_eq!(first["id"], again["id"]);
    crate::until("it fails", async || client.row(&id).await["state"] == "stopped").await;
    let row = client.row(&id).await;
    assert_eq!(row["transitioning"], "error");
    assert!(
        row["transitioningMessage"].as_str().unwrap().contains("mute did not answer pre.instance.start: told 2 times"),
        "{row}"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    world.nothing_waits().await;
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_is_taken_out_holds_nothing() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let gone =
        client.handler("gone", json!(["pre.instance.start", "post.instance.start"]), json!({"priority": 1})).await;
    let last = client.handler("last", json!(["pre.instance.start"]), json!({"priority": 2})).await;
    let ids = [client.container(json!({})).await, client.container(json!({})).await];
    let mut events = client.events("*;handler=*").await;
    for _ in &ids {
        assert_eq!(events.next().await["name"], "pre.instance.start;handler=gone");
    }
    client.post(&format!("/v1/externalhandlers/{gone}?action=deactivate"), json!({})).await;
    for id in &ids {
        let message = "waits for the external handler last (pre.instance.start)";
        assert_eq!(client.row(id).await["transitioningMessage"], message);
    }
    client.ask("DELETE", &format!("/v1/externalhandlers/{last}"), Value::Null).await;
    for id in &ids {
        client.wait(id, "running").await;
    }
    world.nothing_waits().await;
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_meanwhile_counts() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let id = client.container(json!({"startOnCreate": false})).await;
    client.handler("slow", json!(["pre.instance.start", "pre.instance.stop"]), json!({})).await;
    let mut events = client.events("*;handler=slow").await;
    client.act(&id, "start").await;
    let start = events.expect("pre.instance.start;handler=slow", &id).await;
    client.ask("PUT", &format!("/v1/containers/{id}"), json!({"name": "renamed"})).await;
    assert_eq!(client.row(&id).await["state"], "starting");
    client.act(&id, "stop").await;
    let stop = events.expect("pre.instance.stop;handler=slow", &id).await;
    assert!(!client.publish(&start, json!({})).await, "the start waits no longer");
    assert!(client.publish(&stop, json!({})).await);
    let row = client.wait(&id, "stopped").await;
    assert_eq!(row["name"], "renamed");
    assert_eq!(world.containers.starts(number(&id)), 0);
    world.nothing_waits().await;
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_no_administrator_hears_and_says_nothing() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    client.handler("demo", json!(["pre.instance.create"]), json!({})).await;
    let account = client.post("/v1/accounts", json!({"name": "acme", "kind": "user"})).await;
    let made = client.post("/v1/apikeys", json!({"accountId": account["id"]})).await;
    let key = format!("{}:{}", made["publicValue"].as_str().unwrap(), made["secretValue"].as_str().unwrap());
    let user = crate::client::Client { to: client.to, key };
    let id = client.container(json!({})).await;
    let event = client.events("*;handler=demo").await.expect("pre.instance.create;handler=demo", &id).await;
    let body = json!({"name": event["replyTo"], "previousIds": [event["id"]]});
    assert_eq!(user.ask("POST", "/v1/publish", body).await.0, 403);
    assert_eq!(
        user.ask("POST", "/v1/externalhandlers", json!({"name": "x", "processNames": ["instance.start"]})).await.0,
        403
    );
    let mut heard = user.events("*").await;
    let nothing = tokio::time::timeout(Duration::from_secs(1), heard.next()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    assert_eq!(client.ask("GET", "/v1/publish", Value::Null).await.0, 405);
    world.ends();
}

/// Creates one that finds no host, stops it and removes it; how often the store was asked and written to.
async fn cost(handler: bool) -> (usize, usize) {
    let (store, environment) = (in_memory(), crate::environment());
    if handler {
        let row = json!({"id": 1, "kind": "externalHandler", "uuid": "u", "created": 5, "state": "inactive",
            "generation": 1, "name": "demo", "processNames": ["pre.instance.create"]});
        let key = key::resource("externalHandler", 1);
        let value = stampede::store::encode(&key, &row).unwrap();
        let put = stampede::store::Operation::put(&key, value);
        store.commit(stampede::store::Transaction::new().then(put)).await.unwrap();
    }
    let counting = Counting::of(store);
    let shared: std::sync::Arc<dyn stampede::store::Store> = counting.clone();
    let hosts = Hosts::start(shared.clone(), &environment);
    let placer = Placer::new(shared.clone(), &environment, 1, hosts, None);
    let orchestrator = Orchestrator::new(shared, environment.clone(), placer);
    let draft =
        |name: &str| Draft { base: "account".into(), kind: "user".into(), name: Some(name.into()), ..Draft::default() };
    // What is read once is read here.
    orchestrator.create(draft("first")).await.unwrap();
    create_api_key(&environment, &orchestrator, 1).await.unwrap();
    let before = counting.counts();
    for round in 0..10 {
        let made = orchestrator.create(draft(&format!("a{round}"))).await.unwrap().resources[0].id;
        orchestrator.act("account", made, "deactivate", serde_json::Map::new()).await.unwrap();
    }
    let after = counting.counts();
    (after.0 - before.0, after.1 - before.1)
}

#[tokio::test]
async fn where_no_handler_is_active_it_costs_nothing() {
    // One write to make each; one read and one write for what is asked of it.
    assert_eq!(cost(false).await, (10, 20));
    assert_eq!(cost(true).await, (10, 20));
}
