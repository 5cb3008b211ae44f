//! A whole API over a socket, an in-memory store behind it, and clients to ask it with.

use crate::service::AtOnce;
use axum::body::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use stampede::api::{Context, Settings, create_api_key, serve};
use stampede::environment::{Environment, Timestamp};
use stampede::membership::record::{Alive, Capability, Capacity, Host};
use stampede::resource::{Resource, State, Transitioning};
use stampede::store::embedded::Embedded;
use stampede::store::{Operation, Store, Transaction, encode, key};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct World {
    pub environment: Environment,
    pub store: Arc<dyn Store>,
    pub service: Arc<AtOnce>,
    pub tcp: SocketAddr,
    pub unix: PathBuf,
    pub stop: CancellationToken,
    _directory: tempfile::TempDir,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The contract's error, checked for its form; its code and field.
    pub fn error(&self) -> (u16, String, Option<String>) {
        let body = self.json();
        assert_eq!(body["type"], "error", "{body}");
        assert_eq!(body["status"], self.status, "{body}");
        assert!(body["id"].as_str().is_some_and(|id| id.len() == 36), "{body}");
        assert!(body["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
        for name in ["links", "actions", "detail", "fieldName"] {
            assert!(body.get(name).is_some(), "{name}: {body}");
        }
        (self.status, body["code"].as_str().unwrap().to_owned(), body["fieldName"].as_str().map(str::to_owned))
    }

    pub fn ids(&self) -> Vec<String> {
        let body = self.json();
        let rows = body["data"].as_array().unwrap_or_else(|| panic!("no list: {body}"));
        rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
    }
}

pub fn resource(id: u64, kind: &str, account: Option<u64>, state: State, fields: Value) -> Resource {
    Resource {
        id,
        kind: kind.into(),
        uuid: format!("{kind}-{id}"),
        name: None,
        description: None,
        account_id: account,
        created: Timestamp(1_393_972_062_000),
        removed: None,
        remove_time: None,
        state,
        transitioning: Transitioning::No,
        transitioning_message: None,
        transitioning_progress: None,
        generation: 1,
        data: Map::new(),
        fields: fields.as_object().cloned().unwrap(),
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with(Settings::default(), |store| store).await
    }

    /// `wrap` stands between the API and the store.
    pub async fn with(settings: Settings, wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let environment = Environment::system().unwrap();
        let store = wrap(Arc::new(Embedded::in_memory(&environment).unwrap()));
        let service = Arc::new(AtOnce::new(store.clone(), &environment));
        let context = Context::new(&environment, store.clone(), service.clone(), settings);
        let directory = tempfile::tempdir().unwrap();
        let unix = directory.path().join("api.sock");
        let stop = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, context.clone(), stop.clone()));
        tokio::spawn(serve(UnixListener::bind(&unix).unwrap(), context, stop.clone()));
        let world = Self { environment, store, service, tcp, unix, stop, _directory: directory };
        world.seed().await;
        world
    }

    async fn seed(&self) {
        let rows = [
            ("account", resource(1, "admin", None, State::Active, json!({}))),
            ("account", resource(2, "system", None, State::Active, json!({}))),
            ("account", resource(3, "user", None, State::Active, json!({}))),
            ("account", resource(4, "readAdmin", None, State::Active, json!({}))),
            ("network", resource(1, "network", Some(2), State::Active, json!({"isPublic": true}))),
            ("network", resource(2, "hostOnlyNetwork", Some(2), State::Active, json!({"isPublic": true}))),
            ("image", resource(7, "image", Some(1), State::Active, json!({}))),
        ];
        for (base, row) in rows {
            self.put(base, &row).await;
        }
        for (id, name) in [(1, "h1"), (2, "h2")] {
            let host = Host {
                id,
                uuid: format!("host-{id}"),
                name: name.into(),
                identity: name.repeat(2),
                machine_id: "m".into(),
                created: Timestamp(5),
                labels: [("rack".to_owned(), "a".to_owned())].into(),
                capabilities: [Capability::Container].into(),
                capacity: Capacity { cpu_millis: 2000, memory_mb: 4000, disk_mb: 1 },
                versions: [("docker".to_owned(), "26.1".to_owned())].into(),
                ..Host::default()
            };
            self.write(&key::host(name), &host).await;
        }
        let alive =
            Alive { identity: "h1h1".into(), incarnation: 1, boot_id: "b".into(), address: "198.18.0.1:9080".into() };
        self.write(&key::alive("h1"), &alive).await;
    }

    pub async fn put(&self, base: &str, row: &Resource) {
        self.write(&key::resource(base, row.id), row).await;
    }

    pub async fn write<T: serde::Serialize + Sync>(&self, key: &str, value: &T) {
        let value = encode(key, value).unwrap();
        self.store.commit(Transaction::new().then(Operation::put(key, value))).await.unwrap();
    }

    /// A key's Basic header for an account.
    pub async fn key(&self, account: u64) -> String {
        let key = create_api_key(&self.environment, self.service.as_ref(), account).await.unwrap();
        basic(&key.public, &key.secret)
    }

    /// As root, by the Unix socket.
    pub async fn ask(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Reply {
        self.ask_with(method, path, body, &[]).await
    }

    pub async fn ask_with(&self, method: &str, path: &str, body: impl Into<Bytes>, headers: &[(&str, &str)]) -> Reply {
        send(UnixStream::connect(&self.unix).await.unwrap(), method, path, body.into(), headers).await
    }

    /// Over TCP with these headers.
    pub async fn tcp(&self, method: &str, path: &str, body: impl Into<Bytes>, headers: &[(&str, &str)]) -> Reply {
        self.tcp_at(self.tcp, method, path, body, headers).await
    }

    /// The same of another agent.
    pub async fn tcp_at(
        &self,
        at: SocketAddr,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> Reply {
        send(TcpStream::connect(at).await.unwrap(), method, path, body.into(), headers).await
    }

    pub async fn get(&self, path: &str) -> Value {
        let reply = self.ask("GET", path, "").await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text);
        reply.json()
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        self.ask("POST", path, body.to_string()).await
    }

    /// A container that was made from this.
    pub async fn container(&self, mut body: Value) -> Value {
        body["imageUuid"] = "docker:busybox".into();
        let reply = self.post("/v1/containers", body).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        reply.json()
    }
}

pub fn basic(public: &str, secret: &str) -> String {
    use base64::Engine;
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(format!("{public}:{secret}")))
}

async fn send<S>(stream: S, method: &str, path: &str, body: Bytes, headers: &[(&str, &str)]) -> Reply
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", "h:9080");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert_ne!(parts.status.as_u16(), 500, "{method} {path}: {text}");
        Reply { status: parts.status.as_u16(), headers: parts.headers, text }
    };
    tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(|_| panic!("{method} {path}: no answer"))
}
