//! The authority: made once, rotated, imported; and certificates that follow.

use crate::world::{World, until};
use serde_json::{Value, json};
use stampede::membership::peers::{Answer, Peers};
use stampede::membership::trust::{Keyring, SecretPlace};
use stampede::store::key;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_is_followed_without_a_restart_or_a_gap() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let two = world.agent("h2", Some(&one.secret())).await.ready().await;
    let before = (one.certificate().chain[1].clone(), two.certificate().chain[1].clone());
    assert_eq!(before.0, before.1);
    let address = two.address.to_string();

    // With no overlap to wait for, the new one signs at once, and the old one is forgotten.
    let (status, body) = one.root("POST", "/cluster/authority", json!({"overlapSeconds": 4})).await;
    assert_eq!((status, body["authorities"].as_array().unwrap().len()), (200, 2), "{body}");
    let (status, body) = two.root("POST", "/cluster/authority", json!({})).await;
    assert_eq!((status, body["code"].as_str()), (409, Some("Conflict")), "{body}");
    until("the new authority to be heard of", async || {
        [&one, &two].iter().all(|it| it.trust.opened().unwrap().authorities.authorities.len() == 2)
    })
    .await;
    assert_eq!(one.trust.ask(&two.host, &address).await, Answer::HoldsLease);
    world.forward(Duration::from_secs(3));
    // What wakes the agents is a change of the record; their own look comes within a minute.
    world.write("/stampede/v1/authority", &world_record(&world).await).await;
    until("both to have new certificates", async || {
        one.certificate().chain[1] != before.0 && two.certificate().chain[1] != before.1
    })
    .await;
    assert_eq!(one.certificate().chain[1], two.certificate().chain[1]);
    assert_eq!(one.trust.ask(&two.host, &address).await, Answer::HoldsLease);
}

/// The record with another word in it, which nobody minds.
async fn world_record(world: &World) -> Value {
    let entry = world.store.get(&key::authority()).await.unwrap().entry.unwrap();
    let mut value: Value = serde_json::from_slice(&entry.value).unwrap();
    value["touched"] = json!(world.environment.uuid().to_string());
    value
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_renewed_at_about_half_of_its_life() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let first = one.certificate();
    world.forward(DAY * 2);
    world.write(&key::authority(), &world_record(&world).await).await;
    let seen = one.trust.opened().unwrap();
    until("the record to be seen", async || !std::sync::Arc::ptr_eq(&one.trust.opened().unwrap(), &seen)).await;
    assert_eq!(one.certificate().chain, first.chain, "two of seven days are no reason");
    world.forward(DAY * 3);
    world.write(&key::authority(), &world_record(&world).await).await;
    until("a new certificate", async || one.certificate().chain != first.chain).await;
    assert!(one.certificate().not_after > first.not_after);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_store_away_the_last_certificate_serves() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let two = world.agent("h2", Some(&one.secret())).await.ready().await;
    let settings = stampede::membership::trust::Settings {
        state: one.directory.path().to_owned(),
        keys: Keyring::new(SecretPlace::new(None, None, one.directory.path())),
        lifetime: DAY,
    };
    // Started anew, before any store has answered.
    let again = stampede::membership::Trust::new(world.store.clone(), &world.environment, settings);
    assert!(again.opened().is_err());
    assert_eq!(again.ask(&two.host, &two.address.to_string()).await, Answer::HoldsLease);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_of_ones_own() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, "An organization");
    let certificate = params.self_signed(&key).unwrap().pem();
    let draft = json!({"certificate": certificate, "key": key.serialize_pem(), "overlapSeconds": 0});
    let (status, body) = one.root("POST", "/cluster/authority", draft).await;
    assert_eq!(status, 200, "{body}");
    let own = rustls::pki_types::CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    until("a certificate of it", async || one.certificate().chain[1] == own).await;
    let entry = world.store.get(&key::authority()).await.unwrap().entry.unwrap();
    assert!(!String::from_utf8_lossy(&entry.value).contains("PRIVATE KEY"));
    let (status, body) = one.root("POST", "/cluster/authority", json!({"certificate": "x", "key": "y"})).await;
    assert_eq!((status, body["code"].as_str()), (422, Some("InvalidFormat")), "{body}");
}

use rustls::pki_types::pem::PemObject;
