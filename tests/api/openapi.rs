//! The OpenAPI document, and an API for tools that read it.

use crate::world::World;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn what_it_says_is_there() {
    let world = World::new().await;
    let document = world.get("/v1/openapi.json").await;
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["servers"][0]["url"], "http://h:9080");
    let mut asked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        if item.get("get").is_some() && !path.contains('{') {
            assert_eq!(world.ask("GET", path, "").await.status, 200, "{path}");
            asked += 1;
        }
        if item.get("get").is_some() && path.contains("{id}") {
            assert_eq!(world.ask("GET", &path.replace("{id}", "nothing"), "").await.error().0, 404, "{path}");
        }
    }
    assert!(asked >= 10, "{asked}");
    let refused = world.ask("POST", "/v1/openapi.json", "{}").await;
    assert_eq!(refused.error().0, 405);
    assert_eq!(refused.headers["allow"], "GET");
}

/// `cargo nextest run --test api --run-ignored only --no-capture serves_tools` prints an address and a key, and answers for
/// ten minutes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "for tools from outside, by hand"]
async fn serves_tools() {
    let world = World::new().await;
    world.container(serde_json::json!({"name": "web"})).await;
    let key = world.key(1).await;
    eprintln!("http://{}/v1/openapi.json -H 'Authorization: {key}'", world.tcp);
    tokio::time::sleep(Duration::from_secs(600)).await;
}
