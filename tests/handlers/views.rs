//! Types whose rows are parts of others, those of which there are none yet, and SSH keys.

use crate::flow::in_memory;
use crate::world::World;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_shown_as_rows_with_links() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let id = client.container(json!({"name": "web"})).await;
    let row = client.wait(&id, "running").await;
    let follow = async |row: &Value, link: &str| -> Value {
        let address = row["links"][link].as_str().unwrap_or_else(|| panic!("no link {link}: {row}"));
        client.get(address.strip_prefix("http://h:9080").unwrap()).await
    };
    let nic = follow(&row, "nics").await["data"][0].clone();
    assert_eq!((&nic["instanceId"], &nic["networkId"], &nic["state"]), (&json!(id), &json!("1n1"), &json!("active")));
    assert_eq!(follow(&nic, "instance").await["name"], "web");
    let volume = follow(&row, "volumes").await["data"][0].clone();
    assert_eq!(follow(&volume, "image").await["uuid"], "docker:busybox");
    let map = follow(&volume, "volumeStoragePoolMaps").await["data"][0].clone();
    let pool = follow(&map, "storagePool").await;
    assert_eq!(pool["name"], "h1");
    assert_eq!(follow(&pool, "imageStoragePoolMaps").await["data"].as_array().unwrap().len(), 1);
    let host = follow(&follow(&row, "instanceHostMaps").await["data"][0], "host").await;
    assert_eq!(follow(&host, "zone").await["name"], "eu");
    assert_eq!(follow(&host, "physicalHost").await["state"], "active");
    assert_eq!(follow(&host, "agent").await["uri"], "https://a:1");
    client.act(&id, "stop").await;
    client.wait(&id, "stopped").await;
    let path = format!("/v1/nics/{}", nic["id"].as_str().unwrap());
    assert_eq!(client.get(&path).await["state"], "inactive");

    let network = client.get("/v1/networks/1n2").await;
    let subnet = follow(&network, "subnets").await["data"][0].clone();
    let shown =
        ["networkAddress", "cidrSize", "gateway", "startAddress", "endAddress"].map(|field| subnet[field].clone());
    assert_eq!(json!(shown), json!(["10.42.0.0", 16, "10.42.0.1", "10.42.0.2", "10.42.255.254"]));
    assert_eq!(client.ask("POST", "/v1/subnets/1s1?action=remove", Value::Null).await.0, 405, "it has no actions");
    let services = follow(&network, "networkServices").await;
    let kinds: Vec<&Value> = services["data"].as_array().unwrap().iter().map(|row| &row["type"]).collect();
    assert_eq!(
        kinds,
        ["gatewayService", "hostNatGatewayService", "portService", "linkService", "metadataService", "dhcpService"],
        "what is not there yet is not shown"
    );
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_not_there_yet_there_are_no_rows_and_none_can_be_made() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    for list in [
        "ippools",
        "ipassociations",
        "settings",
        "credentialinstancemaps",
        "hostipaddressmaps",
        "register",
        "registrationtokens",
        "dnsservices",
    ] {
        assert_eq!(client.get(&format!("/v1/{list}")).await["data"], json!([]), "{list}");
        assert_eq!(client.ask("POST", &format!("/v1/{list}"), json!({"name": "x"})).await.0, 405, "{list}");
    }
    for one in ["/v1/agents/1a1", "/v1/zones/1z9", "/v1/nics/1n999"] {
        assert_eq!(
            client.ask("DELETE", one, Value::Null).await.0,
            if one.contains("agents") { 409 } else { 404 },
            "{one}"
        );
    }
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_rows_of_their_own_and_can_be_changed() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let body = json!({"imageUuid": "docker:busybox", "startOnCreate": false, "ports": ["8080:80", "53/udp"]});
    let id = client.post("/v1/containers", body).await["id"].as_str().unwrap().to_owned();
    let rows = client.get(&format!("/v1/containers/{id}/ports")).await["data"].clone();
    let [first, second] = &rows.as_array().unwrap()[..] else { panic!("{rows}") };
    assert_eq!(
        ["state", "publicPort", "privatePort", "protocol", "instanceId"].map(|field| first[field].clone()),
        [json!("inactive"), json!(8080), json!(80), json!("tcp"), json!(id)]
    );
    assert_eq!(second["publicPort"], Value::Null, "it is chosen with its host");
    let path = format!("/v1/ports/{}", first["id"].as_str().unwrap());
    let (status, moved) = client.ask("PUT", &path, json!({"publicPort": "8081", "description": "the front"})).await;
    assert_eq!(
        (status, &moved["publicPort"], &moved["description"]),
        (200, &json!(8081), &json!("the front")),
        "{moved}"
    );
    assert_eq!(client.get(&path).await["publicPort"], 8081);
    let (status, whole) = client.ask("PUT", &path, moved).await;
    assert_eq!((status, &whole["publicPort"]), (200, &json!(8081)), "sent back as it is, it changes nothing");
    for (value, code) in
        [(json!(0), "PortInvalidPublicPort"), (json!(65_536), "PortInvalidPublicPort"), (json!("web"), "InvalidFormat")]
    {
        let (status, body) = client.ask("PUT", &path, json!({"publicPort": value})).await;
        assert_eq!((status, body["code"].as_str()), (422, Some(code)), "{body}");
    }
    let (status, body) = client.ask("DELETE", &path, Value::Null).await;
    assert_eq!(status, 405, "{body}");
    let (status, body) = client
        .ask("POST", "/v1/containers", json!({"imageUuid": "docker:x", "networkIds": ["1n1"], "ports": ["80"]}))
        .await;
    assert_eq!(
        (status, body["fieldName"].as_str()),
        (422, Some("ports")),
        "only the managed network publishes: {body}"
    );
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn ssh_keys_are_imported_and_open_nothing() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let public = format!("ssh-ed25519 {} me@home", "A".repeat(68));
    let made = client.post("/v1/sshkeys", json!({"name": "mine", "publicValue": public, "secretValue": "hush"})).await;
    assert_eq!(
        (&made["publicValue"], &made["secretValue"], &made["state"]),
        (&json!(public), &Value::Null, &json!("active"))
    );
    let again = client.post("/v1/sshkeys", json!({"publicValue": public})).await;
    assert_ne!(made["id"], again["id"], "the same key twice is two keys");
    for (given, code) in [("", "MissingRequired"), ("-----BEGIN PRIVATE KEY-----", "InvalidFormat")] {
        let (status, body) = client.ask("POST", "/v1/sshkeys", json!({"publicValue": given})).await;
        assert_eq!((status, body["code"].as_str()), (422, Some(code)), "{body}");
    }
    let stranger = crate::client::Client { to: client.to, key: format!("{public}:hush") };
    assert_eq!(stranger.ask("GET", "/v1/hosts", Value::Null).await.0, 401);
    assert!(client.get("/v1/credentials?kind=sshKey").await["data"].as_array().unwrap().len() == 2);
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_told_of_keys_of_its_own_account() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let public = format!("ssh-ed25519 {} me@home", "A".repeat(68));
    let key = client.post("/v1/sshkeys", json!({"name": "mine", "publicValue": public})).await["id"].clone();
    let other = client.post("/v1/accounts", json!({"name": "other", "kind": "user"})).await["id"].clone();
    let theirs = client.post("/v1/sshkeys", json!({"publicValue": public, "accountId": other})).await["id"].clone();
    let secret = client.post("/v1/apikeys", json!({})).await["id"].clone();
    // Each once; one where a list belongs is one.
    for (given, count) in [(json!([key, key]), 1), (key.clone(), 1), (json!([]), 0), (Value::Null, 0)] {
        let id = client.container(json!({"startOnCreate": false, "credentialIds": given})).await;
        let maps = client.get(&format!("/v1/credentialinstancemaps?instanceId={id}&include=credential")).await;
        let maps = maps["data"].as_array().unwrap().clone();
        assert_eq!(maps.len(), count, "{given}");
        assert!(maps.iter().all(|map| map["credential"]["name"] == "mine" && map["instanceId"] == id), "{maps:?}");
        assert_eq!(client.row(&id).await["credentialIds"], Value::Null, "it is written alone");
    }
    let mut many = vec![key.clone()];
    for _ in 0..32 {
        many.push(client.post("/v1/sshkeys", json!({"publicValue": public})).await["id"].clone());
    }
    for (wrong, code) in [
        (json!([theirs]), "InvalidReference"),
        (json!(["1c999999"]), "InvalidReference"),
        (json!([key, secret]), "InvalidOption"),
        (json!(many), "MaxLimitExceeded"),
    ] {
        let body = json!({"imageUuid": "docker:busybox", "networkIds": ["1n1"], "credentialIds": wrong});
        let (status, body) = client.ask("POST", "/v1/containers", body).await;
        let said = (status, body["code"].as_str(), body["fieldName"].as_str());
        assert_eq!(said, (422, Some(code), Some("credentialIds")), "{body}");
    }
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_at_one_host_is_there_at_another_at_once() {
    let world = World::new(in_memory()).await;
    // From now on it reads from memory.
    world.other.get("/v1/containers").await;
    for _ in 0..50 {
        let id = world.client.container(json!({"startOnCreate": false})).await;
        world.other.get(&format!("/v1/containers/{id}")).await;
    }
    world.ends();
}
