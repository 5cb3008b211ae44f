//! Output, commands and figures of an instance, asked for at the host that it is on and at another.

use crate::machine::UUID;
use crate::world::{Agent, LIMIT, World, until};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use stampede::compute::streams::Size;
use stampede::membership::record::Alive;
use stampede::resource::Resource;
use stampede::store::key;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};
use tokio_tungstenite::{WebSocketStream, client_async};

type Socket = WebSocketStream<UnixStream>;

/// `h1`, where nothing runs, and `h2`, where 1i5 does; 1i6 should.
async fn two() -> (World, Agent, Agent) {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let two = world.agent("h2", Some(&one.secret())).await.ready().await;
    for (agent, name) in [(&one, "h1"), (&two, "h2")] {
        let alive: Alive = serde_json::from_value(json!({
            "identity": agent.host.identity, "incarnation": 1, "bootId": "b", "address": agent.address.to_string(),
        }))
        .unwrap();
        world.write(&key::alive(name), &alive).await;
    }
    for (id, uuid) in [(5, UUID), (6, "0f8fad5b-d9cb-469f-a165-70867728950e")] {
        let row: Resource = serde_json::from_value(json!({
            "id": id, "kind": "container", "uuid": uuid, "name": "web", "accountId": 1, "created": 5, "state": "running", "hostId": 2,
        }))
        .unwrap();
        world.write(&key::resource("instance", id), &row).await;
    }
    (world, one, two)
}

async fn open(agent: &Agent, path: &str) -> Result<Socket, (u16, Value)> {
    let stream = UnixStream::connect(agent.directory.path().join("api.sock")).await.unwrap();
    let request = format!("ws://localhost/v1/containers/{path}").into_client_request().unwrap();
    match tokio::time::timeout(LIMIT, client_async(request, stream)).await.unwrap() {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body = response.body().as_ref().map_or(Value::Null, |body| serde_json::from_slice(body).unwrap());
            Err((response.status().as_u16(), body))
        }
        Err(error) => panic!("{error}"),
    }
}

async fn next(socket: &mut Socket) -> Message {
    loop {
        let message = tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
        if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
            return message;
        }
    }
}

fn frame(channel: u8, text: &str) -> Message {
    Message::Binary(Bytes::from([&[channel], text.as_bytes()].concat()))
}

/// The last word, and what the closing says.
async fn ended(socket: &mut Socket) -> (Value, CloseCode, String) {
    let Message::Binary(word) = next(socket).await else { panic!("not the last word") };
    assert_eq!(word[0], 3);
    let Message::Close(Some(close)) = next(socket).await else { panic!("not closed") };
    (serde_json::from_slice(&word[1..]).unwrap(), close.code, close.reason.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_at_every_host() {
    let (_world, one, two) = two().await;
    for agent in [&one, &two] {
        let (status, text) = agent.root("GET", "/v1/containers/1i5/logs", Value::Null).await;
        assert_eq!((status, text), (200, json!("to be\nor not\n")));
        let mut socket = open(agent, "1i5/logs").await.unwrap();
        assert_eq!(next(&mut socket).await, frame(1, "to be\n"));
        assert_eq!(next(&mut socket).await, frame(2, "or not\n"));
        let (word, code, reason) = ended(&mut socket).await;
        assert_eq!((word["code"].as_str(), code), (Some("Ended"), CloseCode::Normal));
        assert!(reason.starts_with("Ended: "), "{reason}");
        // What breaks in the middle says so, and is no whole answer.
        let mut socket = open(agent, "1i5/logs?since=2100-01-01T00:00:00Z").await.unwrap();
        assert_eq!(next(&mut socket).await, frame(1, "begun"));
        assert_eq!(ended(&mut socket).await.1, CloseCode::Error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_said_the_same_at_every_host() {
    let (_world, one, two) = two().await;
    for agent in [&one, &two] {
        let refusal = async |path: &str| {
            let (status, body) = open(agent, path).await.unwrap_err();
            assert!(body["message"].as_str().is_some_and(|text| text.len() > 10), "{body}");
            (status, body["code"].as_str().unwrap_or_default().to_owned())
        };
        assert_eq!(refusal("1i6/logs").await, (409, "NoContainer".into()));
        assert_eq!(refusal("1i7/logs").await.0, 404);
        assert_eq!(refusal("1i5/logs?since=yesterday").await, (422, "InvalidDateFormat".into()));
        assert_eq!(refusal("1i5/exec").await, (422, "MissingRequired".into()));
        assert_eq!(refusal("1i5/exec?command=missing").await, (409, "Refused".into()));
        two.machine.stopped.store(true, Ordering::Relaxed);
        assert_eq!(refusal("1i5/stats").await, (409, "NotRunning".into()));
        two.machine.stopped.store(false, Ordering::Relaxed);
        two.machine.away.store(true, Ordering::Relaxed);
        assert_eq!(refusal("1i5/logs").await, (503, "DockerUnavailable".into()));
        two.machine.away.store(false, Ordering::Relaxed);
        let (status, _) = agent.root("GET", "/v1/containers/1i5/exec?command=ls", Value::Null).await;
        assert_eq!(status, 426);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_hear_and_speak() {
    let (_world, one, two) = two().await;
    for agent in [&one, &two] {
        let mut socket = open(agent, "1i5/exec?command=cat&command=-&stdin=true&environment=A=b%26c").await.unwrap();
        let command = two.machine.command.lock().unwrap().clone().unwrap();
        assert_eq!((command.arguments, command.environment), (vec!["cat".into(), "-".into()], vec!["A=b&c".into()]));
        socket.send(frame(4, r#"{"columns":100,"rows":30}"#)).await.unwrap();
        socket.send(frame(0, "hello")).await.unwrap();
        assert_eq!(next(&mut socket).await, frame(1, "hello"));
        assert_eq!(two.machine.resized.lock().unwrap().take(), Some(Size { columns: 100, rows: 30 }));
        socket.send(frame(0, "")).await.unwrap();
        let (word, code, _) = ended(&mut socket).await;
        assert_eq!((word["exitCode"].as_i64(), code), (Some(3), CloseCode::Normal));
        assert!(!two.machine.hung_up.load(Ordering::Relaxed));

        // More than fits anywhere, both ways at once.
        let socket = open(agent, "1i5/exec?command=cat&stdin=true").await.unwrap();
        let (mut say, mut hear) = socket.split();
        let much = 20_000_000;
        let saying = tokio::spawn(async move {
            for _ in 0..much / 50_000 {
                say.send(frame(0, &"y".repeat(50_000))).await.unwrap();
            }
            say.send(frame(0, "")).await.unwrap();
        });
        let mut heard = 0;
        while let Some(Ok(message)) = tokio::time::timeout(LIMIT, hear.next()).await.unwrap() {
            heard += if let Message::Binary(bytes) = message
                && bytes[0] == 1
            {
                bytes.len() - 1
            } else {
                0
            };
        }
        saying.await.unwrap();
        assert_eq!(heard, much);

        // A client that goes leaves nothing behind.
        let mut socket = open(agent, "1i5/exec?command=cat&stdin=true&raw=true").await.unwrap();
        socket.send(Message::Text("raw".into())).await.unwrap();
        assert_eq!(next(&mut socket).await, Message::Binary(Bytes::from_static(b"raw")));
        drop(socket);
        until("the command to be hung up on", async || two.machine.hung_up.swap(false, Ordering::Relaxed)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_one_by_one() {
    let (_world, one, two) = two().await;
    for agent in [&one, &two] {
        let mut socket = open(agent, "1i5/stats").await.unwrap();
        for time in ["2026-11-26T13:00:01Z", "2026-11-26T13:00:02Z"] {
            let Message::Text(text) = next(&mut socket).await else { panic!("no figures") };
            assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["time"], time);
        }
        assert_eq!(ended(&mut socket).await.0["code"], "Ended");
        let (status, row) = agent.root("GET", "/v1/containers/1i5/stats", Value::Null).await;
        assert_eq!((status, &row["time"]), (200, &json!("2026-11-26T13:00:01Z")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_holds_up_the_instance_and_nothing_else() {
    let (_world, one, two) = two().await;
    let socket = open(&one, "1i5/logs?follow=true").await.unwrap();
    let taken = || two.machine.taken.load(Ordering::Relaxed);
    until("output", async || taken() > 0).await;
    let mut last = 0;
    until("all buffers to be full", async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        std::mem::replace(&mut last, taken()) == taken()
    })
    .await;
    // 16 KiB each: what the kernel's sockets hold, and little more.
    assert!(taken() < 3000, "{} MB wait", taken() / 64);
    assert_eq!(one.root("GET", "/v1/containers/1i5/logs", Value::Null).await.0, 200);
    drop(socket);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_goes_is_told() {
    let (_world, one, two) = two().await;
    let mut socket = open(&one, "1i5/exec?command=cat&stdin=true").await.unwrap();
    socket.send(frame(0, "hello")).await.unwrap();
    assert_eq!(next(&mut socket).await, frame(1, "hello"));
    let mut own = open(&two, "1i5/exec?command=cat&stdin=true").await.unwrap();
    drop(two);
    for socket in [&mut socket, &mut own] {
        let (word, code, reason) = ended(socket).await;
        assert_eq!((word["code"].as_str(), code), (Some("Closing"), CloseCode::Restart));
        assert!(reason.starts_with("Closing: "), "{reason}");
    }
    // A host that is not there at all.
    let (status, body) = open(&one, "1i5/logs").await.unwrap_err();
    assert_eq!((status, body["code"].as_str()), (503, Some("HostUnavailable")));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_a_token_opens_itself() {
    let (world, one, two) = two().await;
    let (status, made) = one.root("POST", "/v1/containers/1i5/logs", json!({ "tail": 5, "follow": false })).await;
    assert_eq!(status, 201, "{made}");
    let path = made["url"].as_str().unwrap().strip_prefix("ws://h:9080").unwrap().to_owned();
    let dial = async |agent: &Agent, path: &str| {
        let stream = TcpStream::connect(agent.address).await.unwrap();
        let mut request = format!("ws://{}{path}", agent.address).into_client_request().unwrap();
        request.headers_mut().insert("origin", "https://elsewhere.example".parse().unwrap());
        match client_async(request, stream).await {
            Ok(_) => 101,
            Err(tungstenite::Error::Http(response)) => response.status().as_u16(),
            Err(error) => panic!("{error}"),
        }
    };
    // At any host, and as often as it lives.
    assert_eq!(dial(&one, &path).await, 101);
    assert_eq!(dial(&two, &path).await, 101);
    // For nothing else.
    for other in [
        path.replace("tail=5", "tail=6"),
        path.replace("1i5", "1i6"),
        path.replace("logs", "stats"),
        path.replace("token=1.", "token=2."),
    ] {
        assert_eq!(dial(&one, &other).await, 401, "{other}");
    }
    let (status, _) = one.root("POST", &path, Value::Null).await;
    assert_eq!(status, 201, "root needs no token");
    world.forward(Duration::from_secs(31));
    assert_eq!(dial(&one, &path).await, 401);
}
