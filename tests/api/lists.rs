//! Lists: filters, order, pages, links, includes.

use crate::world::{World, resource};
use serde_json::{Value, json};
use stampede::environment::Timestamp;
use stampede::resource::State;
use std::collections::BTreeSet;

async fn world_with(names: &[&str]) -> World {
    let world = World::new().await;
    for (at, name) in names.iter().enumerate() {
        let host = 1 + at as u64 % 2;
        let fields = json!({"hostId": host, "imageId": 7, "memoryMb": 64 * at, "firstRunning": 1_393_972_062_500_i64});
        let mut row = resource(at as u64 + 1, "container", Some(1), State::Running, fields);
        row.name = (!name.is_empty()).then(|| (*name).to_owned());
        world.put("instance", &row).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_are_all_heeded() {
    let world = world_with(&["web1", "web2", "db", ""]).await;
    for (query, expected) in [
        ("name=web1", vec!["1i1"]),
        ("name_ne=web1", vec!["1i2", "1i3"]),
        ("name_prefix=web", vec!["1i1", "1i2"]),
        ("name_like=%25b%25", vec!["1i1", "1i2", "1i3"]),
        ("name_like=w%251", vec!["1i1"]),
        ("name_notlike=w%25", vec!["1i3"]),
        ("name_null", vec!["1i4"]),
        ("name_notnull=", vec!["1i1", "1i2", "1i3"]),
        ("memoryMb_gt=64", vec!["1i3", "1i4"]),
        ("memoryMb_lte=64", vec!["1i1", "1i2"]),
        ("memoryMb=much", vec![]),
        ("hostId=1h2", vec!["1i2", "1i4"]),
        ("hostId=2", vec![]),
        ("hostId=1i2", vec![]),
        ("state=running&name=db", vec!["1i3"]),
        ("state_ne=running", vec![]),
        ("id=1i3", vec!["1i3"]),
        ("id=3", vec![]),
        ("firstRunning=2014-03-04T22:27:42Z", vec!["1i1", "1i2", "1i3", "1i4"]),
        ("firstRunning_lt=2014-03-04T22:27:42Z", vec![]),
        ("created_gte=1393972062000&name_prefix=d", vec!["1i3"]),
        ("imageUuid=x&nonsense=1&name_sounds=x&_format=table", vec!["1i1", "1i2", "1i3", "1i4"]),
        ("kind=container&limit=2", vec!["1i1", "1i2"]),
    ] {
        assert_eq!(world.ask("GET", &format!("/v1/containers?{query}"), "").await.ids(), expected, "{query}");
    }
    let list = world.get("/v1/containers?name_like=web%25&name_ne=x").await;
    assert_eq!(
        list["filters"]["name"],
        json!([{"modifier": "like", "value": "web%"}, {"modifier": "ne", "value": "x"}])
    );
    assert_eq!(list["filters"]["state"], Value::Null);
    assert_eq!(list["resourceType"], "container");
    assert!(list["sortLinks"]["created"].as_str().unwrap().contains("sort=created"));
    assert_eq!(list["pagination"]["limit"], 100);
    assert_eq!(list["pagination"]["partial"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_hold_while_rows_come_and_go() {
    let names: Vec<String> = (0..25).map(|at| format!("n{:02}", (at * 7) % 25)).collect();
    let world = world_with(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let mut next = Some("/v1/containers?limit=4&sort=name&order=desc".to_owned());
    let mut seen = Vec::new();
    let mut pages = Vec::new();
    while let Some(path) = next {
        let page = world.get(path.trim_start_matches("http://h:9080")).await;
        assert_eq!(page["pagination"]["partial"], true);
        seen.extend(page["data"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap().to_owned()));
        next = page["pagination"]["next"].as_str().map(str::to_owned);
        if pages.is_empty() {
            // A row in front of the marker, and one behind it.
            for (id, name) in [(90, "n99"), (91, "n00a")] {
                let mut row = resource(id, "container", Some(1), State::Running, json!({}));
                row.name = Some(name.into());
                world.put("instance", &row).await;
                // Written here without the API, it is known when the mirror has it.
                let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
                while world.ask("GET", &format!("/v1/containers?name={name}"), "").await.ids().is_empty() {
                    assert!(tokio::time::Instant::now() < limit, "{name} does not come in");
                }
            }
        }
        pages.push(page);
    }
    let mut expected: Vec<String> = names.clone();
    expected.push("n00a".into());
    expected.sort_by(|left, right| right.cmp(left));
    assert_eq!(seen, expected);
    assert_eq!(pages[0]["pagination"]["previous"], Value::Null);
    let back = pages[1]["pagination"]["previous"].as_str().unwrap().trim_start_matches("http://h:9080").to_owned();
    let back = world.get(&back).await;
    assert_eq!(back["data"], pages[0]["data"]);
    assert_eq!(world.ask("GET", "/v1/containers?marker=rubbish", "").await.error().1, "InvalidFormat");
    assert_eq!(world.get("/v1/containers?limit=5000").await["pagination"]["limit"], 1000);
    assert_eq!(world.get("/v1/containers?limit=-1").await["pagination"]["limit"], 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_and_includes() {
    let world = world_with(&["a", "b", "c"]).await;
    let under = world.get("/v1/hosts/1h1/instances?sort=name").await;
    assert_eq!(under["createDefaults"], json!({"requestedHostId": "1h1"}));
    assert_eq!(under["data"].as_array().unwrap().len(), 2);
    assert_eq!(world.ask("GET", "/v1/hosts/1h1/INSTANCES?name=c", "").await.ids(), ["1i3"]);
    let made = world.post("/v1/hosts/1h1/instances", json!({"type": "container", "imageUuid": "docker:x"})).await;
    assert_eq!((made.status, &made.json()["requestedHostId"]), (201, &json!("1h1")));

    let list = world.get("/v1/containers?include=HOSTS&include=image&include=none&sort=id&limit=3").await;
    let row = &list["data"][1];
    assert_eq!(row["hosts"][0]["id"], "1h2");
    assert_eq!(row["image"]["id"], "1i7");
    assert!(row["links"].get("hosts").is_none() && row["links"].get("image").is_none());
    assert!(row["links"].get("account").is_some());
    let host = world.get("/v1/hosts/1h2?include=instances").await;
    assert_eq!(host["instances"][0]["id"], "1i2");
    assert_eq!(world.ask("GET", "/v1/containers/1i1/hosts", "").await.ids(), ["1h1"]);
    let all: BTreeSet<_> = world.ask("GET", "/v1/images/1i7/instances", "").await.ids().into_iter().collect();
    assert_eq!(all.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_rows_stay_for_a_while() {
    let world = World::new().await;
    let now = world.environment.clock.now();
    for (id, ago) in [(1, 10_000), (2, 400_000)] {
        let mut row = resource(id, "container", Some(1), State::Removed, json!({}));
        row.removed = Some(Timestamp(now.0 - ago));
        world.put("instance", &row).await;
    }
    assert_eq!(world.ask("GET", "/v1/containers", "").await.ids(), ["1i1"]);
    assert_eq!(world.ask("GET", "/v1/containers?removed_notnull=", "").await.ids(), ["1i1", "1i2"]);
    let row = world.get("/v1/containers/1i2").await;
    assert_eq!(row["removedTS"], now.0 - 400_000);
    let actions: Vec<_> = row["actions"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(actions, ["restore", "purge"]);
}
