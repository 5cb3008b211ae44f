//! What is asked: an agent of the release, and a Docker with a hundred containers.

use crate::load::{Address, Paths, Target};
use base64::Engine;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tokio::sync::Semaphore;

/// The agent; it ends with this.
pub struct Served {
    process: Child,
    directory: tempfile::TempDir,
    address: String,
    key: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Served {
    pub async fn start(etcd: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("stampede-bench-").tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("config.toml"), "[network]\nenabled = false\nencryption = \"none\"\n").unwrap();
        let agent = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("stampede");
        // `setpriv`: it ends with the benchmark, however that ends.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(agent)
            .args(["agent", "--allow-simulated", "--store", etcd, "--name", "served", "--api-address", &address])
            .arg("--config")
            .arg(at("config.toml"))
            .arg("--state-directory")
            .arg(at("state"))
            .arg("--run-directory")
            .arg(at("run"))
            .arg("--docker-socket")
            .arg(at("none"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the agent, beside this program");
        let mut served = Self { process, directory, address, key: String::new() };
        let made = served.until("a key", async || {
            let (status, made) = served.try_ask("POST", "/v1/apikeys", json!({"accountId": "1a1"})).await?;
            (status == 201).then_some(made)
        });
        let made = made.await;
        let pair = format!("{}:{}", made["publicValue"].as_str().unwrap(), made["secretValue"].as_str().unwrap());
        served.key = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        served
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Over TCP and with a key, as programs ask.
    pub fn target(&self, path: Paths) -> Target {
        Target::Http { to: Address::Tcp(self.address.clone()), key: Some(self.key.clone()), path }
    }

    pub async fn bring_up(&self, name: &str) {
        let made = self.try_ask("POST", "/v1/agents", json!({ "uri": format!("sim://{name}") })).await;
        assert_eq!(made.as_ref().map(|it| it.0), Some(201), "{made:?}");
    }

    /// Seconds until all are created, and until all run.
    pub async fn create(&self, count: u64, at_once: usize) -> (f64, f64) {
        let room = Arc::new(Semaphore::new(at_once));
        let since = Instant::now();
        let all = (0..count).map(|number| {
            let room = room.clone();
            async move {
                let _permit = room.acquire_owned().await.unwrap();
                let body =
                    json!({"imageUuid": "sim:bench", "networkIds": ["1n1"], "name": format!("created-{number}")});
                let made = self.try_ask("POST", "/v1/containers", body).await;
                assert_eq!(made.as_ref().map(|it| it.0), Some(201), "{made:?}");
            }
        });
        futures::future::join_all(all).await;
        let created = since.elapsed().as_secs_f64();
        self.until("all to run", async || {
            let path = format!("/v1/containers?name_like=created-%25&state=running&limit={count}");
            let (_, rows) = self.try_ask("GET", &path, Value::Null).await?;
            (rows["data"].as_array()?.len() as u64 == count).then_some(Value::Null)
        })
        .await;
        (created, since.elapsed().as_secs_f64())
    }

    async fn until(&self, what: &str, mut there: impl AsyncFnMut() -> Option<Value>) -> Value {
        for _ in 0..1200 {
            if let Some(found) = there().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{what}: not within a minute");
    }

    /// As root, over the agent's socket.
    async fn try_ask(&self, method: &str, path: &str, body: Value) -> Option<(u16, Value)> {
        ask(&self.directory.path().join("run/api.sock"), method, path, &body).await
    }
}

async fn ask(socket: &Path, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
    let stream = UnixStream::connect(socket).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let text = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(path).header("host", "bench");
    let request = request.header("content-type", "application/json");
    let response = sender.send_request(request.body(Full::new(Bytes::from(text))).unwrap()).await.ok()?;
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&bytes).unwrap_or_default()))
}

/// Docker with a hundred containers, none of which runs: what it has to say of each is the same.
pub async fn docker(socket: &Path) -> Target {
    let image = ask(socket, "GET", "/images/json", &Value::Null).await.expect("Docker answers").1[0]["Id"].clone();
    let made = ask(socket, "GET", "/containers/json?all=1", &Value::Null).await.unwrap().1.as_array().unwrap().len();
    for _ in made..100 {
        let body = json!({"Image": image, "Cmd": ["sleep", "infinity"]});
        let (status, answer) = ask(socket, "POST", "/containers/create", &body).await.unwrap();
        assert_eq!(status, 201, "{answer}");
    }
    let path: Paths = Arc::new(|_| "/containers/json?all=1&limit=100".to_owned());
    Target::Http { to: Address::Unix(socket.to_path_buf()), key: None, path }
}
