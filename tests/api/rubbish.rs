//! Rubbish in, the contract's errors out; never 500 (which `World` checks of every answer).

use crate::world::World;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_none() {
    let world = World::new().await;
    for body in
        ["{", "[]", "[{}]", "\"x\"", "{\"a\":}", "}", "nonsense", "{\"imageUuid\":\"x\"}trailing", "\u{0}", "--"]
    {
        for content_type in ["application/json", "text/plain", "multipart/form-data", ""] {
            let headers = [("content-type", content_type)];
            let reply = world.ask_with("POST", "/v1/containers", body.to_owned(), &headers).await;
            assert_eq!(reply.error().1, "InvalidBodyContent", "{body} as {content_type}");
        }
    }
    let deep = format!("{}1{}", "{\"data\":".repeat(3000), "}".repeat(3000));
    assert_eq!(world.ask("POST", "/v1/containers", deep).await.error().1, "InvalidBodyContent");
    let bytes = vec![b'{', b'"', 0xff, 0xfe, b'"', b'}'];
    assert_eq!(world.ask("POST", "/v1/containers", bytes).await.error().1, "InvalidBodyContent");
    let huge = json!({"imageUuid": "docker:x", "userdata": "x".repeat(1 << 20)}).to_string();
    assert_eq!(world.ask("POST", "/v1/containers", huge).await.error().0, 413);
    // Whatever the body, an unknown address is unknown.
    assert_eq!(world.ask("POST", "/v1/nothing", "{").await.error().0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_json_in_any_field() {
    let world = std::sync::Arc::new(World::new().await);
    let schema = world.get("/v1/schemas/container").await;
    let names: Vec<String> = schema["resourceFields"].as_object().unwrap().keys().cloned().collect();
    let runtime = tokio::runtime::Handle::current();
    let blocking = move || {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            prop::sample::select(vec!["1h1", "1n1", "docker:x", "true", "2014-03-04", "1i1", "{}", "[1]"])
                .prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 12, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[a-z]{1,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        let body = prop::collection::btree_map(prop::sample::select(names), value, 0..6);
        let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
        runner.run(&body, |body| {
            let body = json!(body);
            runtime.block_on(async {
                let made = world.post("/v1/containers", body.clone()).await;
                if made.status == 201 {
                    let row = made.json();
                    if row["type"] == "container" {
                        let path = format!("/v1/containers/{}", row["id"].as_str().unwrap());
                        assert_eq!(world.ask("GET", &path, "").await.status, 200);
                        let put = world.ask("PUT", &path, row.to_string()).await;
                        assert_eq!(put.status, 200, "what is shown can be sent back: {}", put.text);
                    }
                } else {
                    assert_eq!(made.error().0, 422);
                }
            });
            Ok(())
        })
    };
    tokio::task::spawn_blocking(blocking).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http() {
    let world = World::new().await;
    for text in
        ["GARBAGE\r\n\r\n".to_owned(), format!("GET /v1 HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(100_000))]
    {
        let mut stream = tokio::net::TcpStream::connect(world.tcp).await.unwrap();
        let _refused_meanwhile = stream.write_all(text.as_bytes()).await;
        let mut answer = Vec::new();
        let _reset = tokio::time::timeout(std::time::Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    for path in
        ["/v1/containers?%", "/v1/containers?name_like=%ff", "/v1/containers/%00", "/v1/%2e%2e/", "//v1//containers//"]
    {
        let status = world.ask("GET", path, "").await.status;
        assert!(status == 200 || status == 404, "{path}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_ends_when_it_is_told_to() {
    let world = World::new().await;
    assert_eq!(world.ask("GET", "/v1", "").await.status, 200);
    world.stop.cancel();
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while tokio::net::TcpStream::connect(world.tcp).await.is_ok() {
        assert!(tokio::time::Instant::now() < limit, "still accepting");
        tokio::task::yield_now().await;
    }
}
