//! Tokens, from the one who makes them to the host that joins.

use crate::world::{Agent, CLUSTER, World, send};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use stampede::membership::trust::certificate::AGENTS;
use stampede::membership::trust::pin::pinned;
use stampede::membership::trust::token::{Claim, Token};
use stampede::membership::trust::{Authorities, ClusterSecret};
use stampede::store::key;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

async fn make(agent: &Agent, draft: Value) -> Token {
    let mut draft = draft;
    draft["addresses"] = json!([agent.address.to_string()]);
    let (status, body) = agent.root("POST", "/cluster/tokens", draft).await;
    assert_eq!(status, 201, "{body}");
    Token::parse(body["token"].as_str().unwrap()).unwrap()
}

/// As `stampede join` asks.
async fn join(world: &World, token: &Token) -> Result<(u16, Value), String> {
    let config = Arc::new(pinned(token.pin, &world.environment).unwrap());
    let stream = TcpStream::connect(&token.addresses[0]).await.unwrap();
    let name = ServerName::try_from(AGENTS).unwrap();
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())?;
    send(stream, "POST", "/cluster/join", serde_json::to_value(Claim::of(token)).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_brings_the_secret_once() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let token = make(&one, json!({})).await;
    let (status, body) = join(&world, &token).await.unwrap();
    assert_eq!((status, body["cluster"].as_str()), (200, Some(CLUSTER)), "{body}");
    let secret = ClusterSecret::parse(body["secret"].as_str().unwrap()).unwrap();
    assert_eq!(secret, one.secret());
    let authorities: Authorities = serde_json::from_value(body["authority"].clone()).unwrap();
    assert_eq!(authorities.opened(CLUSTER, &secret).unwrap().authorities[0].fingerprint().unwrap(), token.pin);
    assert_eq!(body["store"]["endpoints"], json!(["http://198.18.0.1:2379"]));

    let (status, body) = join(&world, &token).await.unwrap();
    assert_eq!((status, body["code"].as_str()), (410, Some("TokenUsedUp")), "{body}");
    // The store never saw the secret of either.
    for entry in world.store.range(key::ROOT).await.unwrap().entries {
        let text = String::from_utf8_lossy(&entry.value).into_owned();
        assert!(!text.contains(secret.text().as_str()) && !text.contains("PRIVATE"), "{}", entry.key);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let token = make(&one, json!({"ttlSeconds": 60, "uses": 5})).await;
    assert_eq!(join(&world, &token).await.unwrap().0, 200);
    let (_, listed) = one.root("GET", "/cluster/tokens", Value::Null).await;
    assert_eq!(
        (listed["tokens"][0]["id"].as_str(), listed["tokens"][0]["usesLeft"].as_u64()),
        (Some(token.name().as_str()), Some(4))
    );
    assert!(listed["tokens"][0].get("proof").is_none());
    world.forward(Duration::from_secs(61));
    let (status, body) = join(&world, &token).await.unwrap();
    assert_eq!((status, body["code"].as_str()), (410, Some("TokenExpired")), "{body}");
    assert_eq!(one.root("GET", "/cluster/tokens", Value::Null).await.1["tokens"], json!([]));

    let token = make(&one, json!({})).await;
    assert_eq!(one.root("DELETE", &format!("/cluster/tokens/{}", token.name()), Value::Null).await.0, 200);
    assert_eq!(one.root("DELETE", &format!("/cluster/tokens/{}", token.name()), Value::Null).await.0, 404);
    let (status, body) = join(&world, &token).await.unwrap();
    assert_eq!((status, body["code"].as_str()), (401, Some("TokenUnknown")), "{body}");
    // What is over for a day leaves the store.
    world.forward(Duration::from_secs(2 * 24 * 3600));
    one.root("GET", "/cluster/tokens", Value::Null).await;
    assert_eq!(world.store.range(&key::tokens()).await.unwrap().entries.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_writes_to_the_store_cannot_make_a_token_or_a_longer_one() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let token = make(&one, json!({"ttlSeconds": 60})).await;
    let at = key::token(&token.name());
    let entry = world.store.get(&at).await.unwrap().entry.unwrap();
    let mut record: Value = serde_json::from_slice(&entry.value).unwrap();
    record["expires"] = json!(record["expires"].as_i64().unwrap() + 3_600_000);
    world.write(&at, &record).await;
    assert_eq!(join(&world, &token).await.unwrap().1["code"], "TokenUnknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_tells_nothing_to_another_cluster() {
    let (world, other) = (World::new(), World::new());
    let one = world.agent("h1", None).await.ready().await;
    let two = other.agent("h1", None).await.ready().await;
    let mut token = make(&one, json!({})).await;
    token.addresses = vec![two.address.to_string()];
    let error = join(&world, &token).await.unwrap_err();
    assert!(error.contains("UnknownIssuer"), "{error}");
    // Its own takes it still.
    token.addresses = vec![one.address.to_string()];
    assert_eq!(join(&world, &token).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_gets_slow_and_plain_text_is_not_answered() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let token = make(&one, json!({"uses": 1})).await;
    let stream = TcpStream::connect(one.address).await.unwrap();
    let (status, body) =
        send(stream, "POST", "/cluster/join", serde_json::to_value(Claim::of(&token)).unwrap()).await.unwrap();
    assert_eq!(status, 403, "{body}");
    let mut wrong = token.clone();
    wrong.secret[0] ^= 1;
    let begun = Instant::now();
    for _ in 0..4 {
        assert_eq!(join(&world, &wrong).await.unwrap().1["code"], "TokenUnknown");
    }
    assert!(begun.elapsed() >= Duration::from_millis(1700), "{:?}", begun.elapsed());
    // None of it counted as a use.
    assert_eq!(join(&world, &token).await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_administrators_make_tokens() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    for draft in [json!({"uses": 0}), json!({"ttlSeconds": 0}), json!({"use": 1}), json!({"ttlSeconds": 1_000_000_000})]
    {
        assert_eq!(one.root("POST", "/cluster/tokens", draft.clone()).await.0, 422, "{draft}");
    }
    let stream = TcpStream::connect(one.address).await.unwrap();
    assert_eq!(send(stream, "POST", "/cluster/tokens", json!({})).await.unwrap().0, 401);
}
