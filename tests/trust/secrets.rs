//! The cluster's secret is changed while agents run.

use crate::world::{Agent, World, until};
use serde_json::Value;
use stampede::membership::peers::{Answer, Peers};
use stampede::membership::record::Host;
use stampede::membership::trust::token::Claim;
use stampede::membership::trust::{Authorities, ClusterSecret, Keyring, SecretPlace, secret::write_private};
use stampede::store::{decode, key};
use std::time::Duration;

async fn sealed_with(world: &World, secret: &ClusterSecret) -> bool {
    let entry = world.store.get(&key::authority()).await.unwrap().entry.unwrap();
    let record: Authorities = decode(&entry).unwrap();
    record.authorities.iter().all(|authority| authority.key(crate::world::CLUSTER, secret).is_ok())
}

/// The host's record says what it has, as its agent has it.
async fn says(world: &World, agent: &Agent) {
    let at = key::host(&agent.host.name);
    let host: Host = decode(&world.store.get(&at).await.unwrap().entry.unwrap()).unwrap();
    world.write(&at, &Host { secrets: Some(agent.trust.keys().held().unwrap().names()), ..host }).await;
}

async fn shown(agent: &Agent, method: &str) -> String {
    let (status, body) = agent.root(method, "/cluster/secret", Value::Null).await;
    assert_eq!(status, 200, "{body}");
    body["message"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_secret_takes_over_without_a_restart() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let two = world.agent("h2", Some(&one.secret())).await.ready().await;
    let (old, new) = (one.secret(), ClusterSecret::generate(&world.environment));
    let token = one.trust.create_token(Duration::from_secs(600), 9, vec!["h1:9080".into()]).await.unwrap();
    let certificate = two.certificate().chain;
    for agent in [&one, &two] {
        says(&world, agent).await;
    }
    assert_eq!(shown(&one, "GET").await, "");

    write_private(&one.trust.keys().place().next(), new.text().as_bytes()).unwrap();
    let waits = shown(&one, "POST").await;
    assert!(waits.contains("not on h2 yet"), "{waits}");
    says(&world, &one).await;
    assert!(sealed_with(&world, &old).await);
    // One that joins now gets both.
    // What is given to it follows the files within a moment of the answer.
    until("both", async || one.trust.opened().unwrap().held.in_files() == (&old, Some(&new))).await;

    write_private(&two.trust.keys().place().next(), new.text().as_bytes()).unwrap();
    shown(&two, "POST").await;
    says(&world, &two).await;
    for agent in [&one, &two] {
        until("it uses the new one", async || agent.trust.opened().unwrap().secret() == &new).await;
        says(&world, agent).await;
    }
    until("the authority is under the new one", async || sealed_with(&world, &new).await).await;
    assert!(shown(&one, "GET").await.contains("was changed"));
    // What was given out before is good, and nobody needed another certificate.
    two.trust.redeem(&Claim::of(&token)).await.unwrap();
    assert_eq!(two.certificate().chain, certificate);
    assert_eq!(one.trust.ask(&two.host, &two.address.to_string()).await, Answer::HoldsLease);

    for agent in [&one, &two] {
        agent.trust.keys().settle().unwrap();
        assert_eq!(agent.secret(), new);
        until("there is one again", async || agent.trust.opened().unwrap().held.other.is_none()).await;
        says(&world, agent).await;
    }
    assert_eq!(shown(&two, "GET").await, "");
    assert_eq!(one.trust.ask(&two.host, &two.address.to_string()).await, Answer::HoldsLease);
    assert!(two.trust.redeem(&Claim::of(&token)).await.is_err(), "a token of the old one is none any more");
    // An agent that has the old one alone does not start.
    let stale = tempfile::tempdir().unwrap();
    write_private(&stale.path().join("secret"), old.text().as_bytes()).unwrap();
    let keys = Keyring::new(SecretPlace::new(None, None, stale.path()));
    let settings = stampede::membership::trust::Settings {
        state: stale.path().to_owned(),
        keys,
        lifetime: Duration::from_secs(3600),
    };
    let trust = stampede::membership::Trust::new(world.store.clone(), &world.environment, settings);
    assert!(trust.check(crate::world::CLUSTER).await.unwrap_err().refuses());
}
