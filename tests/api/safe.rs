//! Writes that lose nothing: versions, waiting, creations that are asked for again; and packed answers.

use crate::world::{World, resource};
use flate2::read::GzDecoder;
use serde_json::{Value, json};
use stampede::resource::State;
use std::io::Read;
use std::time::Duration;

fn header(reply: &crate::world::Reply, name: &str) -> String {
    reply.headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_somebody_else_overtook_is_refused() {
    let world = World::new().await;
    let made = world.container(json!({"name": "a"})).await;
    let path = format!("/v1/containers/{}", made["id"].as_str().unwrap());
    let read = world.ask("GET", &path, "").await;
    let tag = header(&read, "etag");
    assert!(tag.starts_with('"'), "{tag}");
    let none = world.ask_with("GET", &path, "", &[("if-none-match", &tag)]).await;
    assert_eq!((none.status, none.text.as_str()), (304, ""));
    let changed = world.ask_with("PUT", &path, r#"{"name":"b"}"#, &[("if-match", &tag)]).await;
    assert_eq!(changed.status, 200, "{}", changed.text);
    let newer = header(&changed, "etag");
    assert_ne!(newer, tag);
    assert_eq!(world.ask_with("GET", &path, "", &[("if-none-match", &tag)]).await.status, 200);
    for (method, address) in [("PUT", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/?action=stop"))]
    {
        let refused = world.ask_with(method, &address, r#"{"name":"c"}"#, &[("if-match", &tag)]).await;
        assert_eq!(refused.error(), (412, "PreconditionFailed".into(), None), "{method}");
    }
    assert_eq!(world.get(&path).await["name"], "b");
    let any = world.ask_with("PUT", &path, r#"{"name":"d"}"#, &[("if-match", "*")]).await;
    assert_eq!(any.status, 200);
    // With something included there is more to it than one version.
    assert_eq!(header(&world.ask("GET", &format!("{path}?include=image"), "").await, "etag"), "");
    // A host is shown from several records.
    let tag = header(&world.ask("GET", "/v1/hosts/1h1", "").await, "etag");
    assert!(tag.matches('-').count() == 3, "{tag}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_a_state() {
    let world = std::sync::Arc::new(World::new().await);
    let mut row = resource(1, "container", Some(1), State::Starting, json!({}));
    world.put("instance", &row).await;
    let waiting = {
        let world = world.clone();
        tokio::spawn(async move { world.ask("GET", "/v1/containers/1i1?wait=running,stopped&timeout=20", "").await })
    };
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished());
    row.enter(State::Running);
    world.put("instance", &row).await;
    let reply = waiting.await.unwrap();
    assert_eq!((reply.status, &reply.json()["state"]), (200, &json!("running")));
    assert_eq!(header(&reply, "x-stampede-wait"), "reached");
    let reply = world.ask("GET", "/v1/containers/1i1?wait=stopped&timeout=0", "").await;
    assert_eq!((header(&reply, "x-stampede-wait").as_str(), &reply.json()["state"]), ("timeout", &json!("running")));
    row.fail(State::Stopped, "no such image");
    world.put("instance", &row).await;
    let reply = world.ask("GET", "/v1/containers/1i1?wait=running", "").await;
    assert_eq!(header(&reply, "x-stampede-wait"), "failed");
    assert_eq!(reply.json()["transitioningMessage"], "no such image");
    let made = world.ask("POST", "/v1/containers?wait=running", r#"{"imageUuid":"docker:x","count":3}"#).await;
    assert_eq!((made.status, made.ids().len(), header(&made, "x-stampede-wait").as_str()), (201, 3, "reached"));
    for query in ["wait=walking", "wait=running&timeout=51", "wait=running&timeout=soon"] {
        assert_eq!(world.ask("GET", &format!("/v1/containers/1i1?{query}"), "").await.error().0, 422, "{query}");
        let refused = world.ask("POST", &format!("/v1/containers?{query}"), r#"{"imageUuid":"docker:y"}"#).await;
        assert_eq!(refused.error().0, 422, "{query}");
    }
    assert_eq!(world.ask("GET", "/v1/containers", "").await.ids().len(), 4, "what is refused is not made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_can_be_asked_for_again() {
    let world = World::new().await;
    let body = r#"{"imageUuid":"docker:x","name":"one"}"#;
    let ask = async |path: &'static str, body: &'static str, key: &'static str| {
        world.ask_with("POST", path, body, &[("idempotency-key", key)]).await
    };
    let (first, second) = tokio::join!(ask("/v1/containers", body, "k1"), ask("/v1/containers", body, "k1"));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 201], "{} {}", first.text, second.text);
    assert_eq!(first.json()["id"], second.json()["id"]);
    let other = ask("/v1/containers", body, "k2").await;
    assert_eq!(other.status, 201);
    assert_ne!(other.json()["id"], first.json()["id"]);
    // Each account, and each type, has keys of its own.
    let user = world.key(3).await;
    let headers = [("authorization", user.as_str()), ("idempotency-key", "k1")];
    assert_eq!(world.tcp("POST", "/v1/containers", body, &headers).await.status, 201);
    assert_eq!(ask("/v1/images", r#"{"name":"i"}"#, "k1").await.status, 201);
    // A uuid of one's own: a conflict, as ever; with the header, the same resource.
    let image = r#"{"uuid":"mine","name":"i"}"#;
    assert_eq!(world.ask("POST", "/v1/images", image).await.status, 201);
    assert_eq!(world.ask("POST", "/v1/images", image).await.error().1, "Conflict");
    let again = ask("/v1/images", image, "x").await;
    assert_eq!((again.status, &again.json()["uuid"]), (200, &json!("mine")));
    assert_eq!(ask("/v1/accounts", r#"{"uuid":"mine","kind":"user"}"#, "x").await.error().1, "Conflict");
    let several = ask("/v1/containers", r#"{"imageUuid":"docker:x","count":2}"#, "k3").await;
    assert_eq!(several.error(), (422, "InvalidOption".into(), Some("count".into())));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_answers_are_packed_for_who_takes_it() {
    let world = World::new().await;
    let key = world.key(1).await;
    let stream = tokio::net::TcpStream::connect(world.tcp).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, http_body_util::Empty<bytes::Bytes>>(io).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("/v1/schemas")
        .header("host", "h")
        .header("authorization", &key)
        .header("accept-encoding", "gzip, deflate")
        .body(http_body_util::Empty::new())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    assert_eq!(response.headers()["vary"], "Accept-Encoding");
    let packed = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    let mut text = String::new();
    GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
    let unpacked: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(unpacked["resourceType"], "schema");
    assert!(packed.len() * 5 < text.len());
    assert!(
        world.tcp("GET", "/v1/schemas", "", &[("authorization", &key)]).await.headers.get("content-encoding").is_none()
    );
}
