//! Create, get, update, delete, act.

use crate::world::World;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_from_creation_to_purge() {
    let world = World::new().await;
    let reply = world
        .post("/v1/containers", json!({"name": "web", "imageUuid": "docker:busybox", "requestedHostId": "1h1"}))
        .await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    assert_eq!(reply.headers["x-api-schemas"], "http://h:9080/v1/schemas");
    let made = reply.json();
    let id = made["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("1i"), "{id}");
    let address = format!("http://h:9080/v1/containers/{id}");
    assert_eq!(made["links"]["self"], address);
    assert_eq!(made["links"]["hosts"], format!("{address}/hosts"));
    assert_eq!(made["type"], "container");
    assert_eq!(made["accountId"], "1a1");
    assert_eq!(made["requestedHostId"], "1h1");
    assert_eq!(made["instanceTriggeredStop"], "stop");
    assert_eq!(made["transitioning"], "no");
    assert_eq!(made["removed"], Value::Null);
    assert!(made["createdTS"].is_i64() && made["created"].as_str().unwrap().ends_with('Z'));
    assert!(made.get("removedTS").is_none());
    for hidden in ["networkIds", "count", "ports", "credentialIds", "instanceLinks"] {
        assert!(made.get(hidden).is_none(), "{hidden}");
    }
    let actions = |row: &Value| {
        let mut names: Vec<String> = row["actions"].as_object().unwrap().keys().cloned().collect();
        names.sort();
        names
    };
    assert_eq!(actions(&made), ["migrate", "restart", "stop", "update"]);
    assert_eq!(made["actions"]["stop"], format!("{address}/?action=stop"));

    // Bindings send the id along, and truth values as text.
    let path = format!("/v1/containers/{id}");
    let stopped = world.post(&format!("{path}/?action=stop"), json!({"id": id, "remove": "true", "x": 1})).await;
    assert_eq!((stopped.status, &stopped.json()["state"]), (202, &json!("stopped")));
    assert_eq!(actions(&stopped.json()), ["remove", "start", "update"]);
    assert_eq!(world.get(&path).await["state"], "stopped");
    let again = world.post(&format!("{path}/?action=stop"), json!({})).await;
    assert_eq!(again.error().1, "ActionNotAvailable");
    let unknown = world.post(&format!("{path}/?action=dance"), json!({})).await;
    assert_eq!(unknown.error().1, "InvalidAction");

    let started = world.ask("POST", &format!("/v1/instances/{id}?action=start"), "").await;
    assert_eq!((started.status, &started.json()["state"]), (202, &json!("running")));
    let deleted = world.ask("DELETE", &path, "").await;
    assert_eq!((deleted.status, &deleted.json()["state"]), (200, &json!("stopping")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_resource_on_put_changes_what_it_changes() {
    let world = World::new().await;
    let mut whole = world.container(json!({"name": "a", "command": "sleep"})).await;
    let path = format!("/v1/container/{}", whole["id"].as_str().unwrap());
    let same = world.ask("PUT", &path, whole.to_string()).await;
    assert_eq!(same.status, 200, "{}", same.text);
    assert_eq!(same.json()["name"], "a");
    whole["name"] = "b".into();
    whole["command"] = "other".into();
    whole["state"] = "purged".into();
    let changed = world.ask("PUT", &path, whole.to_string()).await.json();
    assert_eq!(
        (&changed["name"], &changed["command"], &changed["state"]),
        (&json!("b"), &json!("sleep"), &json!("running"))
    );
    let listed = world.get("/v1/containers?name=b").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    let cleared = world.ask("PUT", &path, r#"{"name": null}"#).await.json();
    assert_eq!(cleared["name"], Value::Null);
    let form = world.ask("PUT", &path, "name=from+a+form&_format=table").await.json();
    assert_eq!(form["name"], "from a form");
}

#[tokio::test(flavor = "multi_thread")]
async fn sloppy_input_is_understood() {
    let world = World::new().await;
    let reply = world
        .ask_with(
            "POST",
            "/v1/containers?_cache=1",
            json!({
                "id": null, "imageUuid": "docker:busybox", "privileged": "true", "commandArgs": 5, "count": "1",
                "environment": {"A": 1, "B": true}, "startOnCreate": "false", "nonsense": [null], "uuid": "mine",
                "networkIds": "1n1", "type": "container", "links": {}, "_trim": 1,
            })
            .to_string(),
            &[("content-type", "application/x-www-form-urlencoded")],
        )
        .await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let made = reply.json();
    assert_eq!(made["privileged"], true);
    assert_eq!(made["commandArgs"], json!(["5"]));
    assert_eq!(made["environment"], json!({"A": "1", "B": "true"}));
    assert_eq!(made["state"], "stopped");
    assert_ne!(made["uuid"], "mine");

    let form = "--X\r\nContent-Disposition: form-data; name=\"imageUuid\"\r\n\r\ndocker:busybox\r\n\
                --X\r\nContent-Disposition: form-data; name=\"name\"\r\n\r\nformed\r\n--X--\r\n";
    let headers = [("content-type", "multipart/form-data; boundary=X")];
    let made = world.ask_with("POST", "/v1/container", form, &headers).await;
    assert_eq!((made.status, &made.json()["name"]), (201, &json!("formed")));

    let several = world.post("/v1/containers", json!({"imageUuid": "docker:x", "count": 3})).await;
    assert_eq!((several.status, several.json()["type"].clone()), (201, json!("collection")));
    assert_eq!(several.ids().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_says_why() {
    let world = World::new().await;
    for (body, code, field) in [
        (json!({}), "MissingRequired", "imageUuid"),
        (json!({"privileged": "perhaps"}), "InvalidFormat", "privileged"),
        (json!({"commandArgs": [null]}), "NotNullable", "commandArgs"),
        (json!({"environment": [1]}), "InvalidFormat", "environment"),
        (json!({"environment": null}), "NotNullable", "environment"),
        (json!({"requestedHostId": "42"}), "InvalidReference", "requestedHostId"),
        (json!({"requestedHostId": "1h99"}), "InvalidReference", "requestedHostId"),
        (json!({"zoneId": "1z1"}), "InvalidReference", "zoneId"),
        (json!({"networkIds": ["1n1", "1a1"]}), "InvalidReference", "networkIds"),
        (json!({"instanceTriggeredStop": "explode"}), "InvalidOption", "instanceTriggeredStop"),
        (json!({"hostname": ""}), "MinLengthExceeded", "hostname"),
        (json!({"description": "x".repeat(1025)}), "MaxLengthExceeded", "description"),
        (json!({"ports": ["x"]}), "PortWrongFormat", "ports"),
        (json!({"count": 0}), "MinLimitExceeded", "count"),
        (json!({"count": "many"}), "InvalidFormat", "count"),
        (json!({"count": 5.5}), "InvalidFormat", "count"),
    ] {
        let mut body = body;
        if code != "MissingRequired" {
            body["imageUuid"] = "docker:busybox".into();
        }
        let reply = world.post("/v1/containers", body.clone()).await;
        assert_eq!(reply.error(), (422, code.into(), Some(field.into())), "{body}: {}", reply.text);
    }
    let conflict = json!({"uuid": "docker:one", "name": "one"});
    assert_eq!(world.post("/v1/images", conflict.clone()).await.status, 201);
    assert_eq!(world.post("/v1/images", conflict).await.error().1, "Conflict");
    assert_eq!(world.post("/v1/hosts", json!({})).await.error().0, 405);
    assert_eq!(world.post("/v1/instances", json!({})).await.error().0, 405);
    assert_eq!(world.post("/v1/instances", json!({"type": "container", "imageUuid": "docker:x"})).await.status, 201);
    assert_eq!(world.ask("DELETE", "/v1/images/1i7", "").await.error().0, 405);
    assert_eq!(world.ask("PATCH", "/v1/images/1i7", "").await.error().0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_links_and_ids() {
    let world = World::new().await;
    for path in [
        "/v1/containers/42",
        "/v1/containers/1h1",
        "/v1/containers/1i42",
        "/v1/hosts/1h9",
        "/v1/nothing",
        "/v2",
        "/v1/errors",
        "/v1/containers/1i1/hosts/1h1",
        "/v1/schemas/none",
        "/v1/images/1i7/nothing",
        "/v1/images/1i7/../..",
    ] {
        assert_eq!(world.ask("GET", path, "").await.error().0, 404, "{path}");
    }
    assert_eq!(world.get("/v1/images/7?_plainId=true").await["id"], "1i7");
    assert_eq!(world.get("/v1/hosts/1h1").await["state"], "active");
    let host = world.get("/v1/hosts/1h2").await;
    assert_eq!(
        (&host["state"], &host["hostname"], &host["agentAddress"]),
        (&json!("disconnected"), &json!("h2"), &Value::Null)
    );
    assert_eq!(host["capabilities"], json!(["container"]));
    assert_eq!(world.get("/").await["data"][0]["id"], "v1");
    let version = world.get("/v1").await;
    assert_eq!(version["links"]["apiKeys"], "http://h:9080/v1/apikeys");
    assert_eq!(world.get("/v1/").await["type"], "apiVersion");
    assert_eq!(world.get("/v1/schemas/container").await["links"]["collection"], "http://h:9080/v1/containers");
    let pong = world.tcp("GET", "/ping", "", &[]).await;
    assert_eq!((pong.status, pong.text.as_str()), (200, "pong"));
    let forwarded = [("x-forwarded-proto", "https"), ("x-forwarded-host", "a.example")];
    let image = world.ask_with("GET", "/v1/images/1i7", "", &forwarded).await.json();
    assert_eq!(image["links"]["self"], "https://a.example/v1/images/1i7");
    assert_eq!(image["links"]["account"], "https://a.example/v1/images/1i7/account");
    assert_eq!(world.get("/v1/images/1i7/account").await["id"], "1a1");
    // A head is a get without its body.
    let head = world.ask("HEAD", "/v1/containers", "").await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_shown_by_their_types() {
    let world = World::new().await;
    let all = world.get("/v1/networks?sort=id").await;
    assert_eq!(all["data"][0]["type"], "network");
    assert_eq!(all["data"][1]["type"], "hostOnlyNetwork");
    assert_eq!(all["data"][1]["links"]["self"], "http://h:9080/v1/hostonlynetworks/1n2");
    assert_eq!(all["createTypes"]["hostOnlyNetwork"], "http://h:9080/v1/hostonlynetworks");
    assert_eq!(world.ask("GET", "/v1/hostonlynetworks", "").await.ids(), ["1n2"]);
    assert_eq!(world.ask("GET", "/v1/hostonlynetworks/1n1", "").await.error().0, 404);
}
