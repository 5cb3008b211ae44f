//! `/v1/subscribe`: lines and WebSockets, what is told to whom, and where it goes on.

use crate::world::{World, resource};
use futures::StreamExt;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use stampede::membership::record::Alive;
use stampede::resource::State;
use stampede::store::{Operation, Transaction, key};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const LIMIT: Duration = Duration::from_secs(20);

/// A stream of lines.
struct Lines {
    _sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
    body: Incoming,
    rest: String,
}

impl Lines {
    async fn open(world: &World, key: &str, path: &str, body: &str) -> Result<Self, (StatusCode, String)> {
        let stream = TcpStream::connect(world.tcp).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(path).header("host", "h:9080").header("authorization", key);
        let response = sender.send_request(request.body(Full::from(body.to_owned())).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::CREATED {
            let text = body.collect().await.unwrap().to_bytes();
            return Err((parts.status, String::from_utf8(text.to_vec()).unwrap()));
        }
        // The connection lives with it.
        Ok(Self { _sender: sender, body, rest: String::new() })
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        tokio::time::timeout(LIMIT, async {
            loop {
                if let Some((line, rest)) = self.rest.split_once('\n') {
                    let event = serde_json::from_str(line).unwrap();
                    self.rest = rest.to_owned();
                    return Some(event);
                }
                let frame = self.body.frame().await?.ok()?;
                self.rest.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
            }
        })
        .await
        .expect("an event")
    }

    /// The next that is no ping.
    async fn news(&mut self) -> Option<Value> {
        loop {
            let event = self.next().await?;
            if event["name"] != "ping" {
                return Some(event);
            }
        }
    }
}

fn told(event: &Value) -> (String, String) {
    assert_eq!(event["name"], "resource.change", "{event}");
    let row = &event["data"]["resource"];
    assert_eq!((&row["id"], &row["type"]), (&event["resourceId"], &event["resourceType"]), "{event}");
    (event["resourceId"].as_str().unwrap().to_owned(), row["state"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_as_lines() {
    let world = World::new().await;
    let key = world.key(1).await;
    let mut lines =
        Lines::open(&world, &key, "/v1/subscribe", "eventNames=resource.change&include=hosts").await.unwrap();
    let ping = lines.next().await.unwrap();
    assert_eq!(ping["name"], "ping");
    let mut row = resource(1, "container", Some(1), State::Starting, json!({"hostId": 1}));
    world.put("instance", &row).await;
    let event = lines.news().await.unwrap();
    assert_eq!(told(&event), ("1i1".into(), "starting".into()));
    assert_eq!(event["data"]["resource"]["hosts"][0]["id"], "1h1");
    assert!(event["data"]["resource"]["links"]["self"].as_str().unwrap().starts_with("http://h:9080/v1/containers/"));
    row.enter(State::Running);
    world.put("instance", &row).await;
    assert_eq!(told(&lines.news().await.unwrap()), ("1i1".into(), "running".into()));
    // A host's life is told too, and its end.
    let alive = Alive { identity: "h2h2".into(), incarnation: 1, boot_id: "b".into(), address: "a".into() };
    world.write(&key::alive("h2"), &alive).await;
    assert_eq!(told(&lines.news().await.unwrap()), ("1h2".into(), "active".into()));
    world.store.commit(Transaction::new().then(Operation::delete(key::alive("h2")))).await.unwrap();
    assert_eq!(told(&lines.news().await.unwrap()), ("1h2".into(), "disconnected".into()));
    world.store.commit(Transaction::new().then(Operation::delete(key::host("h2")))).await.unwrap();
    assert_eq!(told(&lines.news().await.unwrap()), ("1h2".into(), "removed".into()));
    // Pings go on.
    assert_eq!(lines.next().await.unwrap()["name"], "ping");
    // An agent that stops says so.
    world.stop.cancel();
    let last = lines.news().await.unwrap();
    assert_eq!((&last["name"], &last["code"]), (&json!("error"), &json!("Closing")));
    assert_eq!(lines.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_told_over_a_websocket() {
    let world = World::new().await;
    let key = world.key(1).await;
    let open = async |query: &str, origin: &str| {
        let mut request = format!("ws://{}/v1/subscribe?{query}", world.tcp).into_client_request().unwrap();
        request.headers_mut().insert("authorization", key.parse().unwrap());
        if !origin.is_empty() {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let stream = TcpStream::connect(world.tcp).await.unwrap();
        tokio_tungstenite::client_async(request, stream).await
    };
    assert!(open("eventNames=resource.change", "http://elsewhere:9080").await.is_err());
    let origin = format!("http://{}", world.tcp);
    let (mut socket, _) = open("eventNames=ping&eventNames=resource.change;type=container", &origin).await.unwrap();
    world.put("image", &resource(9, "image", Some(1), State::Active, json!({}))).await;
    world.put("instance", &resource(1, "container", Some(1), State::Running, json!({}))).await;
    let event = loop {
        let message = tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
        let event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        if event["name"] != "ping" {
            break event;
        }
    };
    assert_eq!(told(&event), ("1i1".into(), "running".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_again_goes_on_where_it_was() {
    let world = World::new().await;
    let key = world.key(1).await;
    let path = "/v1/subscribe?eventNames=resource.change;type=container";
    let mut lines = Lines::open(&world, &key, path, "").await.unwrap();
    let states = [State::Starting, State::Running, State::Stopping, State::Stopped];
    let put = async |state| world.put("instance", &resource(1, "container", Some(1), state, json!({}))).await;
    put(states[0]).await;
    let since = lines.news().await.unwrap()["revision"].as_i64().unwrap();
    drop(lines);
    for state in &states[1..] {
        put(*state).await;
    }
    // Whether or not others are there, who have heard it all.
    let mut other = None;
    for _ in 0..2 {
        let mut again = Lines::open(&world, &key, &format!("{path}&since={since}"), "").await.unwrap();
        for state in &states[1..] {
            assert_eq!(told(&again.news().await.unwrap()).1, state.name());
        }
        other = Some(again);
    }
    put(State::Removing).await;
    assert_eq!(told(&other.unwrap().news().await.unwrap()).1, "removing");
    let now = world.store.get("x").await.unwrap().revision;
    let (status, text) = Lines::open(&world, &key, &format!("{path}&since={}", now.0 + 5), "").await.err().unwrap();
    assert_eq!(status, 410, "{text}");
    world.store.compact(now).await.unwrap();
    let (status, text) = Lines::open(&world, &key, &format!("{path}&since={since}"), "").await.err().unwrap();
    assert_eq!(status, 410, "{text}");
    assert!(text.contains("RevisionGone"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_account_is_told_its_own() {
    let world = World::new().await;
    let user = world.key(3).await;
    let mut lines = Lines::open(&world, &user, "/v1/subscribe?eventNames=*", "").await.unwrap();
    world.put("instance", &resource(1, "container", Some(1), State::Running, json!({}))).await;
    world.put("instance", &resource(2, "container", Some(3), State::Running, json!({}))).await;
    let event = lines.news().await.unwrap();
    assert_eq!(told(&event).0, "1i2");
    assert!(event["data"]["resource"].get("data").is_none(), "only admins see data");
    // A key that is taken back ends it.
    let list = world.get("/v1/credentials?accountId=1a3").await;
    let address = format!("/v1/credentials/{}/?action=deactivate", list["data"][0]["id"].as_str().unwrap());
    assert_eq!(world.post(&address, json!({})).await.status, 202);
    let mut last = lines.news().await.unwrap();
    while last["name"] != "error" {
        last = lines.news().await.unwrap();
    }
    assert_eq!(last["code"], "Unauthorized");
    assert_eq!(lines.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_sent_away() {
    let world = World::new().await;
    let key = world.key(1).await;
    let mut lines = Lines::open(&world, &key, "/v1/subscribe?eventNames=resource.change", "").await.unwrap();
    let mut quick = Lines::open(&world, &key, "/v1/subscribe?eventNames=resource.change", "").await.unwrap();
    let reading = tokio::spawn(async move {
        let mut read = 0;
        while read < 1800 {
            quick.news().await.unwrap();
            read += 1;
        }
    });
    let large = json!({"userdata": "x".repeat(16_000)});
    for id in 1..=1800 {
        world.put("instance", &resource(id, "container", Some(1), State::Running, large.clone())).await;
        if id % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    tokio::time::timeout(LIMIT, reading).await.unwrap().unwrap();
    let mut last = lines.next().await.unwrap();
    let mut read = 0;
    while let Some(event) = lines.next().await {
        last = event;
        read += 1;
    }
    assert_eq!((&last["name"], &last["code"]), (&json!("error"), &json!("SlowReader")), "{read}");
    assert!(last["revision"].as_i64().is_some());
    assert!(read < 1800, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_subscribed_to() {
    let world = World::new().await;
    for (method, path, body, expected) in [
        ("POST", "/v1/subscribe", "", (422, "MissingRequired")),
        ("POST", "/v1/subscribe", "{", (422, "InvalidBodyContent")),
        ("POST", "/v1/subscribe?eventNames=a/b", "", (422, "InvalidCharacters")),
        ("POST", "/v1/subscribe?eventNames=a&since=x", "", (422, "InvalidFormat")),
        ("GET", "/v1/subscribe?eventNames=a", "", (426, "Upgrade Required")),
        ("PUT", "/v1/subscribe?eventNames=a", "", (405, "Method Not Allowed")),
        ("GET", "/v1/subscribe/1s1", "", (404, "Not Found")),
    ] {
        let (status, code, _) = world.ask(method, path, body).await.error();
        assert_eq!((status, code.as_str()), expected, "{method} {path}");
    }
}
