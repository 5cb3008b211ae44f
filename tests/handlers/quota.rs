//! What an account may have at most.

use crate::client::Client;
use crate::flow::in_memory;
use crate::world::World;
use futures::future::join_all;
use serde_json::{Value, json};

/// An account with these quotas, at both agents.
async fn account(world: &World, quotas: Value) -> (String, [Client; 2]) {
    let admin = &world.client;
    let mut body = json!({"kind": "user", "name": "limited"});
    quotas.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
    let account = admin.post("/v1/accounts?wait=active", body).await["id"].as_str().unwrap().to_owned();
    let key = admin.post("/v1/apikeys?wait=active", json!({"accountId": account})).await;
    let pair = format!("{}:{}", key["publicValue"].as_str().unwrap(), key["secretValue"].as_str().unwrap());
    let at = |agent: &Client| Client { to: agent.to, key: pair.clone() };
    (account, [at(&world.client), at(&world.other)])
}

async fn create(client: &Client, more: Value) -> (u16, Value) {
    let mut body = json!({"imageUuid": "docker:busybox"});
    more.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
    client.ask("POST", "/v1/containers", body).await
}

fn is_over((status, body): &(u16, Value), field: &str) -> bool {
    *status == 403 && body["code"] == "QuotaExceeded" && body["fieldName"] == field
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_for_everywhere_at_once_no_more_is_made() {
    let world = World::new(in_memory()).await;
    let (_, clients) = account(&world, json!({"quotaInstances": 7})).await;
    let answers = join_all((0..24).map(|i| create(&clients[i % 2], json!({"networkIds": ["1n1"]})))).await;
    let made = answers.iter().filter(|(status, _)| *status == 201).count();
    let over = answers.iter().filter(|answer| is_over(answer, "quotaInstances")).count();
    // Whoever gave up while others asked too may have been wrong; nobody who was told yes was.
    assert!((1..=7).contains(&made) && made + over == 24, "{answers:?}");
    let mut has = made;
    while has < 7 {
        assert_eq!(create(&clients[0], json!({"networkIds": ["1n1"]})).await.0, 201, "there is room");
        has += 1;
    }
    assert!(is_over(&create(&clients[1], json!({"networkIds": ["1n1"]})).await, "quotaInstances"));
    let notes = world.store.range("/stampede/v1/quota/").await.unwrap().entries;
    assert!(notes.is_empty(), "{notes:?}");
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_addresses_count_and_what_is_removed_does_not() {
    let world = World::new(in_memory()).await;
    let (account, [client, other]) = account(&world, json!({"quotaMemoryMb": 1000, "quotaAddresses": 0})).await;
    assert!(is_over(&create(&client, json!({})).await, "quotaAddresses"), "the managed network is the default");
    let unmanaged = json!({"networkIds": ["1n1"], "memoryReservationMb": 400});
    let first = create(&client, unmanaged.clone()).await.1["id"].as_str().unwrap().to_owned();
    assert_eq!(create(&other, unmanaged.clone()).await.0, 201);
    assert!(is_over(&create(&client, unmanaged.clone()).await, "quotaMemoryMb"));
    let several = json!({"networkIds": ["1n1"], "count": 4});
    assert!(is_over(&create(&client, several).await, "quotaMemoryMb"), "64 MB each where nothing is said");
    assert_eq!(create(&client, json!({"networkIds": ["1n1"], "count": 3})).await.0, 201);

    client.wait(&first, "running").await;
    client.ask("DELETE", &format!("/v1/containers/{first}?wait=removed"), Value::Null).await;
    assert_eq!(create(&other, unmanaged.clone()).await.0, 201, "what is removed makes room");
    let restore = client.ask("POST", &format!("/v1/containers/{first}?action=restore"), Value::Null).await;
    assert!(is_over(&restore, "quotaMemoryMb"), "{restore:?}");

    let (status, _) = client.ask("PUT", &format!("/v1/accounts/{account}"), json!({"quotaMemoryMb": 9000})).await;
    assert_eq!(status, 403, "nobody raises the own quota");
    world.client.ask("PUT", &format!("/v1/accounts/{account}"), json!({"quotaMemoryMb": 2000})).await;
    let restored = client.ask("POST", &format!("/v1/containers/{first}?action=restore"), Value::Null).await;
    assert_eq!(restored.0, 202, "{restored:?}");
    let body = json!({"imageUuid": "docker:busybox", "accountId": account});
    let by_admin = world.client.ask("POST", "/v1/containers", body).await;
    assert!(is_over(&by_admin, "quotaAddresses"), "for another account an administrator asks as that: {by_admin:?}");
    world.ends();
}
