//! Simulated hosts, as who tests against an agent uses them: the program itself, without Docker, etcd, systemd and network.

// The program is run here.
#![allow(clippy::disallowed_types)]
// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::UnixStream;

/// More than anything here may take: a lease of another boot has to end first.
const LIMIT: Duration = Duration::from_secs(60);

/// `stampede up`, which goes when this is dropped.
struct Agent<'a> {
    child: Child,
    directory: &'a Path,
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl<'a> Agent<'a> {
    async fn start(directory: &'a Path, more: &[&str]) -> Self {
        let at = |name: &str| directory.join(name).to_str().unwrap().to_owned();
        let child = Command::new(env!("CARGO_BIN_EXE_stampede"))
            .args(["up", "--no-network", "--name", "own", "--api-address", "127.0.0.1:0"])
            .args(["--state-directory", &at("state"), "--run-directory", &at("run"), "--docker-socket", &at("none")])
            .args(more)
            .env("STAMPEDE_CONFIG", at("none.toml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { child, directory };
        agent
            .until("the agent answers", async || {
                agent.try_ask("GET", "/v1/hosts", Value::Null).await.is_some_and(|it| it.0 == 200)
            })
            .await;
        // It has joined when it says anything else of this than 503.
        let nonsense = json!({ "uri": "sim://" });
        agent.until("it has joined", async || agent.ask("POST", "/v1/agents", nonsense.clone()).await.0 == 422).await;
        agent
            .until("its own host is there", async || {
                !agent.get("/v1/hosts").await["data"].as_array().unwrap().is_empty()
            })
            .await;
        agent
    }

    async fn try_ask(&self, method: &str, path: &str, body: Value) -> Option<(u16, Value)> {
        let stream = UnixStream::connect(self.directory.join("run/api.sock")).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        tokio::spawn(connection);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("host", "own");
        let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.ok()?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.ok()?.to_bytes();
        Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let asked = tokio::time::timeout(LIMIT, self.try_ask(method, path, body)).await;
        asked.ok().flatten().unwrap_or_else(|| panic!("{method} {path}: no answer"))
    }

    async fn get(&self, path: &str) -> Value {
        self.ask("GET", path, Value::Null).await.1
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask("POST", path, body).await;
        assert!((200..300).contains(&status), "{path}: {answer}");
        answer
    }

    async fn bring_up(&self, name: &str) -> Value {
        self.post("/v1/agents", json!({ "uri": format!("sim://{name}") })).await
    }

    async fn instance(&self, more: Value) -> Value {
        let mut asked = json!({"imageUuid": "sim:anything", "networkIds": ["1n1"]});
        more.as_object().unwrap().iter().for_each(|(field, value)| asked[field] = value.clone());
        self.post("/v1/containers?wait=running&timeout=20", asked).await
    }

    async fn until(&self, what: &str, mut condition: impl AsyncFnMut() -> bool) {
        let waiting = async {
            while !condition().await {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{what}: not within {LIMIT:?}"));
    }

    async fn becomes(&self, id: &str, state: &str) {
        let path = format!("/v1/containers/{id}");
        self.until(&format!("{id} {state}"), async || self.get(&path).await["state"] == state).await;
    }

    /// The state of the host of that name.
    async fn host(&self, name: &str) -> Value {
        self.get(&format!("/v1/hosts?name={name}")).await["data"][0].clone()
    }
}

fn message(row: &Value) -> &str {
    row["transitioningMessage"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn a_simulated_host_takes_what_is_asked_for_and_is_there_again_with_its_agent() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), &["--allow-simulated"]).await;

    let east = agent.bring_up("east").await;
    assert_eq!(
        (&east["type"], &east["uri"], &east["state"]),
        (&json!("agent"), &json!("sim://east"), &json!("active"))
    );
    assert_eq!(agent.bring_up("east").await["id"], east["id"], "asked for again it is the same");
    let host = agent.host("east").await;
    assert_eq!((&host["state"], &host["agentId"]), (&json!("active"), &east["id"]));
    for list in ["physicalhosts", "storagepools"] {
        let rows = agent.get(&format!("/v1/{list}")).await;
        assert!(rows["data"].as_array().unwrap().iter().any(|row| row["name"] == "east"), "{list}: {rows}");
    }

    let one = agent.instance(json!({"name": "one"})).await;
    assert_eq!((&one["state"], &one["hostId"]), (&json!("running"), &host["id"]), "{one}");
    let id = one["id"].as_str().unwrap().to_owned();
    for stream in ["logs", "stats"] {
        let (status, answer) = agent.ask("GET", &format!("/v1/containers/{id}/{stream}"), Value::Null).await;
        assert_eq!((status, &answer["code"]), (409, &json!("Simulated")), "{answer}");
    }
    agent.post(&format!("/v1/containers/{id}?action=stop"), json!({})).await;
    agent.becomes(&id, "stopped").await;
    agent.post(&format!("/v1/containers/{id}?action=start"), json!({})).await;
    agent.becomes(&id, "running").await;

    let real = agent.instance(json!({"imageUuid": "docker:busybox"})).await;
    assert!(message(&real).contains("east: runs no containers"), "{real}");

    drop(agent);
    let agent = Agent::start(directory.path(), &["--allow-simulated"]).await;
    agent.until("east is back", async || agent.host("east").await["state"] == "active").await;
    agent.becomes(&id, "running").await;

    agent.post(&format!("/v1/containers/{id}?action=stop"), json!({"remove": true})).await;
    agent.becomes(&id, "removed").await;
    agent.post(&format!("/v1/containers/{id}?action=purge"), json!({})).await;
    agent.becomes(&id, "purged").await;

    let (status, gone) =
        agent.ask("DELETE", &format!("/v1/agents/{}", east["id"].as_str().unwrap()), Value::Null).await;
    assert_eq!(status, 200, "{gone}");
    agent.until("east is gone", async || agent.host("east").await["state"] == "disconnected").await;
    let (status, removed) =
        agent.ask("DELETE", &format!("/v1/hosts/{}", host["id"].as_str().unwrap()), Value::Null).await;
    assert_eq!(status, 200, "{removed}");
}

#[tokio::test]
async fn what_is_to_fail_fails_there_and_nowhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), &["--allow-simulated"]).await;
    agent.bring_up("east").await;
    for event in ["storage.image.activate", "storage.volume.activate", "compute.instance.activate"] {
        let failing = agent.instance(json!({ "data": { format!("{event}::fail"): true } })).await;
        assert_eq!(failing["transitioning"], "error", "{failing}");
        assert!(message(&failing).contains(event), "{failing}");
    }
    let fine = agent.instance(json!({ "data": { "compute.instance.activate::fail": false } })).await;
    assert_eq!(fine["state"], "running", "{fine}");
}

#[tokio::test]
async fn only_simulated_hosts_are_made_and_only_where_that_is_allowed() {
    let directory = tempfile::tempdir().unwrap();
    let agent = Agent::start(directory.path(), &["--allow-simulated"]).await;
    for uri in [json!("https://10.0.0.1"), json!("sim://"), json!("sim://No Name"), json!("sim://../up"), Value::Null] {
        let (status, answer) = agent.ask("POST", "/v1/agents", json!({ "uri": uri })).await;
        assert_eq!((status, &answer["fieldName"]), (422, &json!("uri")), "{uri}: {answer}");
    }
    let (status, answer) = agent.ask("POST", "/v1/agents", json!({ "uri": "sim://own" })).await;
    assert_eq!(status, 409, "the name of a host that is there: {answer}");
    let own = agent.get("/v1/agents").await["data"][0]["id"].as_str().unwrap().to_owned();
    let (status, answer) = agent.ask("DELETE", &format!("/v1/agents/{own}"), Value::Null).await;
    assert_eq!((status, &answer["code"]), (409, &json!("ActionNotAvailable")), "{answer}");

    drop(agent);
    let agent = Agent::start(directory.path(), &[]).await;
    let (status, answer) = agent.ask("POST", "/v1/agents", json!({ "uri": "sim://east" })).await;
    assert_eq!(status, 422, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("--allow-simulated"), "{answer}");
}
