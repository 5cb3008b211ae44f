//! Every schema, by every kind of account: what a schema says can be done can be done, and nothing else can.

use crate::client::Client;
use crate::flow::in_memory;
use crate::world::World;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const KINDS: &[&str] = &["admin", "user", "readAdmin", "agent", "agentRegister", "service", "system"];

/// Rows that are made to be walked over, beside those that are there: type and body.
fn made() -> Vec<(&'static str, Value)> {
    vec![
        ("account", json!({"name": "walked", "kind": "user"})),
        ("apiKey", json!({"name": "walked"})),
        ("container", json!({"name": "walked", "imageUuid": "docker:busybox", "networkIds": ["1n1"]})),
        ("externalHandler", json!({"name": "walked", "processNames": ["account.update"], "onError": "continue"})),
        ("sshKey", json!({"name": "walked"})),
    ]
}

struct Walker<'a> {
    kind: &'a str,
    client: Client,
    schemas: BTreeMap<String, Value>,
    faults: Vec<String>,
    acted: BTreeSet<(String, String)>,
}

fn words(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Array(words) => words.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::Object(map) => map.keys().cloned().collect(),
        _ => BTreeSet::new(),
    }
}

fn path(link: &Value) -> String {
    link.as_str().unwrap_or_default().split_once(":9080").map_or("", |(_, path)| path).to_owned()
}

impl Walker<'_> {
    fn fault(&mut self, what: &str, (status, answer): &(u16, Value)) {
        let answer = answer.to_string();
        self.faults.push(format!("{}: {what}: {status} {answer:.200}", self.kind));
    }

    async fn expect(&mut self, method: &str, path: &str, body: Value, may: impl Fn(u16) -> bool) -> (u16, Value) {
        let said = self.client.ask(method, path, body).await;
        if !may(said.0) {
            self.fault(&format!("{method} {path}"), &said);
        }
        said
    }

    fn sees_all(&self) -> bool {
        !matches!(self.kind, "user" | "agent" | "agentRegister")
    }

    async fn collection(&mut self, schema: &Value) {
        let list = path(&schema["links"]["collection"]);
        let methods = words(&schema["collectionMethods"]);
        let (_, rows) = self.expect("GET", &format!("{list}?limit=8"), Value::Null, |status| status == 200).await;
        for method in ["PUT", "DELETE"] {
            self.expect(method, &list, json!({}), |status| status == 405).await;
        }
        if methods.contains("POST") {
            self.expect("POST", &list, json!({}), |status| matches!(status, 201 | 422)).await;
        } else {
            self.expect("POST", &list, json!({}), |status| matches!(status, 403 | 405)).await;
        }
        let rows = rows["data"].as_array().cloned().unwrap_or_default();
        let mut walked = BTreeSet::new();
        for row in &rows {
            // One of a type and state is as good as the next.
            if walked.insert((row["type"].to_string(), row["state"].to_string(), row["actions"].to_string().len())) {
                self.row(row).await;
            }
        }
    }

    async fn row(&mut self, row: &Value) {
        let kind = row["type"].as_str().unwrap_or_default().to_owned();
        let Some(schema) = self.schemas.get(&kind).cloned() else {
            return self.fault(&format!("a row of a type without a schema: {kind}"), &(0, row.clone()));
        };
        let own = path(&row["links"]["self"]);
        self.expect("GET", &own, Value::Null, |status| status == 200).await;
        for link in row["links"].as_object().into_iter().flatten().filter(|(name, _)| *name != "self") {
            let to = path(link.1);
            // How a host reaches others is told by its agent, and here is none.
            // What runs is asked of its host's Docker; and not all that something leads to is everybody's to see.
            let elsewhere = ["/mesh", "/logs", "/exec", "/stats"].iter().any(|link| to.ends_with(link));
            let sees_all = self.sees_all();
            let path = if to.ends_with("/exec") { format!("{to}?command=true") } else { to.clone() };
            let may =
                |status| status == 200 || elsewhere && matches!(status, 409 | 426 | 503) || status == 404 && !sees_all;
            self.expect("GET", &path, Value::Null, may).await;
        }
        let (known, possible) = (words(&schema["resourceActions"]), words(&row["actions"]));
        if !possible.is_subset(&known) {
            self.fault("actions that the schema does not have", &(0, row["actions"].clone()));
        }
        for action in known.difference(&possible).cloned().chain(["nonsense".to_owned()]) {
            let to = format!("{own}?action={action}");
            self.expect("POST", &to, json!({}), |status| matches!(status, 403 | 405 | 422)).await;
        }
        let methods = words(&schema["resourceMethods"]);
        for method in ["PUT", "DELETE"] {
            if !methods.contains(method) {
                self.expect(method, &own, json!({}), |status| matches!(status, 403 | 405)).await;
            }
        }
        if methods.contains("PUT") {
            // What is not its own it may not change, though others of the type are.
            self.expect("PUT", &own, json!({}), |status| matches!(status, 200 | 403)).await;
        }
    }

    /// Makes one of a type, changes it, and does whatever can be done with it, until nothing is new.
    async fn life(&mut self, kind: &str, body: Value) {
        let Some(schema) = self.schemas.get(kind).cloned() else { return };
        if !words(&schema["collectionMethods"]).contains("POST") {
            return;
        }
        let list = path(&schema["links"]["collection"]);
        let made = self.expect("POST", &list, body, |status| status == 201).await.1;
        let own = format!("{list}/{}", made["id"].as_str().unwrap_or_default());
        self.rest(&own).await;
        let changed = self.expect("PUT", &own, json!({"description": "changed"}), |status| status == 200).await.1;
        if changed["description"] != "changed" {
            self.fault(&format!("{kind} is not changed"), &(200, changed));
        }
        for _ in 0..40 {
            let row = self.rest(&own).await;
            let mut possible = words(&row["actions"]);
            // Offered as the original does, and refused: nothing moves what runs yet.
            possible.remove("migrate");
            let fresh = |action: &str| !self.acted.contains(&(kind.to_owned(), action.to_owned()));
            let first = possible.iter().map(String::as_str).filter(|action| !["remove", "purge"].contains(action));
            let mut next = first.clone().find(|action| fresh(action));
            // What was restored goes the same way again, to its very end.
            for action in ["purge", "remove", "stop", "deactivate"] {
                next = next.or_else(|| (fresh("purge") && possible.contains(action)).then_some(action));
            }
            let Some(action) = next.map(str::to_owned) else { break };
            self.expect("POST", &format!("{own}?action={action}"), json!({}), |status| status == 202).await;
            self.acted.insert((kind.to_owned(), action));
        }
    }

    /// The row when nothing is on its way with it.
    async fn rest(&mut self, own: &str) -> Value {
        for _ in 0..400 {
            let (status, row) = self.client.ask("GET", own, Value::Null).await;
            if status == 200 && row["transitioning"] != "yes" {
                return row;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.fault(&format!("{own} does not come to rest"), &(0, Value::Null));
        Value::Null
    }

    /// DELETE, where there is one, of a row of its own.
    async fn end(&mut self, kind: &str, body: Value) {
        let Some(schema) = self.schemas.get(kind).cloned() else { return };
        let may = |what: &str, method: &str| words(&schema[what]).contains(method);
        if may("collectionMethods", "POST") && may("resourceMethods", "DELETE") {
            let list = path(&schema["links"]["collection"]);
            let made = self.expect("POST", &list, body, |status| status == 201).await.1;
            let own = format!("{list}/{}", made["id"].as_str().unwrap_or_default());
            self.rest(&own).await;
            self.expect("DELETE", &own, Value::Null, |status| status == 200).await;
        }
    }
}

async fn account(world: &World, kind: &str) -> Client {
    let client = &world.client;
    let account = client.post("/v1/accounts?wait=active", json!({"kind": kind, "name": kind})).await;
    let key = client.post("/v1/apikeys?wait=active", json!({"accountId": account["id"]})).await;
    let pair = format!("{}:{}", key["publicValue"].as_str().unwrap(), key["secretValue"].as_str().unwrap());
    // Something of its own to look at, if it may make nothing itself.
    let body = json!({"imageUuid": "docker:busybox", "networkIds": ["1n1"], "accountId": account["id"]});
    client.post("/v1/containers?wait=running", body).await;
    Client { to: client.to, key: pair }
}

/// A key to type in: what is asked for is checked to be one.
const SSH: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGsRSHCBRgKTR4M4Bkz6+n2h0bcmXKxxqGDAYjdhiSuJ walked";

#[tokio::test(flavor = "multi_thread")]
async fn every_schema_is_kept_by_every_kind_of_account() {
    let world = World::new(in_memory()).await;
    let (mut faults, mut acted, mut offered) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for kind in KINDS {
        let client = account(&world, kind).await;
        let listed = client.get("/v1/schemas?limit=1000").await;
        let schemas: BTreeMap<String, Value> = listed["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|schema| (schema["id"].as_str().unwrap().to_owned(), schema.clone()))
            .collect();
        assert!(schemas.len() > 40, "{kind}: {} schemas", schemas.len());
        let mut walker = Walker { kind, client, schemas, faults: Vec::new(), acted: BTreeSet::new() };
        for (name, mut body) in made() {
            if name == "sshKey" {
                body["publicValue"] = json!(SSH);
            }
            walker.life(name, body.clone()).await;
            if name == "sshKey" {
                body["publicValue"] = json!(SSH.replace("walked", "other"));
            }
            walker.end(name, body).await;
        }
        for schema in walker.schemas.clone().values().filter(|schema| schema["links"]["collection"].is_string()) {
            // Events are no rows.
            if schema["id"] == "subscribe" {
                continue;
            }
            walker.collection(schema).await;
        }
        for (name, schema) in walker.schemas.iter().filter(|(name, _)| made().iter().any(|(of, _)| of == name)) {
            let actions = schema["resourceActions"].as_object().cloned().unwrap_or_else(Map::new);
            offered.extend(actions.keys().map(|action| (name.clone(), action.clone())));
        }
        faults.extend(walker.faults);
        acted.extend(walker.acted);
    }
    let missing: Vec<_> = offered
        .difference(&acted)
        // What is being created is created by itself; nothing moves what runs yet.
        .filter(|(_, action)| !["create", "migrate"].contains(&action.as_str()))
        .collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert!(missing.is_empty(), "actions that were never possible: {missing:?}");
    world.ends();
}
