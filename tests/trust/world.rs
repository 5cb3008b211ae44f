//! A cluster in one process: a store, agents with an API on a port each, and a clock that can be moved.

use crate::machine::Machine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use stampede::api::{Context, Invitation, Local, OwnLease, Settings as ApiSettings, Trusted, serve};
use stampede::environment::{Clock, Environment, Timestamp};
use stampede::membership::peers::Answer;
use stampede::membership::record::{Capacity, Host};
use stampede::membership::trust::{ClusterSecret, Keyring, Names, SecretPlace, Settings, Trust, certificate, secret};
use stampede::orchestration::{Draft, Publication, Service, ServiceError, Written};
use stampede::store::embedded::Embedded;
use stampede::store::{Operation, Revision, Store, Transaction, encode, key};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
pub const LIMIT: Duration = Duration::from_secs(30);

/// The real clock, put forward.
#[derive(Clone, Debug)]
pub struct Ahead {
    real: Environment,
    pub millis: Arc<AtomicI64>,
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Timestamp(self.real.clock.now().0 + self.millis.load(Ordering::Relaxed))
    }
    fn boottime(&self) -> Duration {
        self.real.clock.boottime()
    }
}

#[derive(Debug)]
pub struct World {
    pub store: Arc<dyn Store>,
    pub environment: Environment,
    pub clock: Ahead,
}

impl World {
    pub fn new() -> Self {
        let real = Environment::system().unwrap();
        let clock = Ahead { real: real.clone(), millis: Arc::default() };
        let environment = Environment { clock: Arc::new(clock.clone()), ..real };
        Self { store: Arc::new(Embedded::in_memory(&environment).unwrap()), environment, clock }
    }

    pub fn forward(&self, span: Duration) {
        self.clock.millis.fetch_add(i64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub async fn write<T: serde::Serialize>(&self, key: &str, value: &T) {
        let put = Operation::put(key, encode(key, value).unwrap());
        self.store.commit(Transaction::new().then(put)).await.unwrap();
    }

    /// An agent of its own host, with a secret if one is given.
    pub async fn agent(&self, name: &str, secret: Option<&ClusterSecret>) -> Agent {
        Agent::start(self, name, secret, tempfile::tempdir().unwrap()).await
    }
}

/// No cluster is behind the API here.
#[derive(Debug)]
struct Nothing;

#[async_trait::async_trait]
impl Service for Nothing {
    async fn create(&self, _: Draft) -> Result<Written, ServiceError> {
        Err(ServiceError::NotFound)
    }
    async fn update_if(
        &self,
        _: &str,
        _: u64,
        _: serde_json::Map<String, Value>,
        _: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        Err(ServiceError::NotFound)
    }
    async fn act_if(
        &self,
        _: &str,
        _: u64,
        _: &str,
        _: serde_json::Map<String, Value>,
        _: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        Err(ServiceError::NotFound)
    }
    async fn publish(&self, _: Publication) -> Result<bool, ServiceError> {
        Err(ServiceError::NotFound)
    }
}

#[derive(Debug)]
pub struct Says(pub Mutex<Answer>);

#[async_trait::async_trait]
impl OwnLease for Says {
    async fn answer(&self) -> Answer {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Debug)]
pub struct Agent {
    pub host: Host,
    pub trust: Trust,
    pub says: Arc<Says>,
    pub machine: Arc<Machine>,
    pub address: SocketAddr,
    pub directory: tempfile::TempDir,
    keeping: JoinHandle<()>,
    stop: CancellationToken,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.keeping.abort();
        self.stop.cancel();
    }
}

impl Agent {
    async fn start(world: &World, name: &str, secret: Option<&ClusterSecret>, directory: tempfile::TempDir) -> Self {
        let state = directory.path();
        if let Some(secret) = secret {
            secret::write_private(&state.join("secret"), secret.text().as_bytes()).unwrap();
        }
        let host = Host {
            id: name.trim_start_matches('h').parse().unwrap_or(1),
            uuid: world.environment.uuid().to_string(),
            name: name.into(),
            identity: world.environment.uuid().to_string(),
            machine_id: "m".into(),
            created: Timestamp(5),
            capacity: Capacity { cpu_millis: 1, memory_mb: 1, disk_mb: 1 },
            ..serde_json::from_value(serde_json::json!({
                "id": 1, "uuid": "", "name": "", "identity": "", "machineId": "", "created": 0,
                "capacity": {"cpuMillis": 1, "memoryMb": 1, "diskMb": 1},
            }))
            .unwrap()
        };
        world.write(&key::host(name), &host).await;
        let settings = Settings {
            state: state.to_owned(),
            keys: Keyring::new(SecretPlace::new(None, None, state)),
            lifetime: certificate::LIFETIME,
        };
        let trust = Trust::new(world.store.clone(), &world.environment, settings);
        let says = Arc::new(Says(Mutex::new(Answer::HoldsLease)));
        let invitation = Invitation { endpoints: vec!["http://198.18.0.1:2379".into()], ..Invitation::default() };
        let machine = Arc::new(Machine::default());
        let trusted = Trusted {
            trust: trust.clone(),
            lease: says.clone(),
            mesh: Arc::default(),
            simulated: Arc::default(),
            invitation,
            local: Local { host: name.into(), streams: machine.clone(), consoles: machine.clone() },
        };
        let context = Context::with_trust(
            &world.environment,
            world.store.clone(),
            Arc::new(Nothing),
            ApiSettings::default(),
            Some(trusted),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, context.clone(), stop.clone()));
        tokio::spawn(serve(UnixListener::bind(state.join("api.sock")).unwrap(), context, stop.clone()));
        let names = Names::new(|| ["127.0.0.1".to_owned()].into());
        let keeping = tokio::spawn(trust.clone().keep(CLUSTER.into(), name.into(), host.identity.clone(), names));
        tokio::spawn(trust.clone().follow_secrets());
        Self { host, trust, says, machine, address, directory, keeping, stop }
    }

    /// Waits for its certificate.
    pub async fn ready(self) -> Self {
        tokio::time::timeout(LIMIT, self.trust.watch().wait_for(Option::is_some)).await.unwrap().unwrap();
        self
    }

    pub fn secret(&self) -> ClusterSecret {
        secret::read(&self.directory.path().join("secret")).unwrap().unwrap()
    }

    /// As root on its host.
    pub async fn root(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let stream = tokio::net::UnixStream::connect(self.directory.path().join("api.sock")).await.unwrap();
        send(stream, method, path, body).await.unwrap()
    }

    /// A certificate as the agent of this host has one on its disk.
    pub fn certificate(&self) -> certificate::NodeCertificate {
        certificate::NodeCertificate::load(self.directory.path()).unwrap()
    }
}

/// One request and its answer; an error where the other end hung up.
pub async fn send<S>(stream: S, method: &str, path: &str, body: Value) -> Result<(u16, Value), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request::builder().method(method).uri(path).header("host", "h:9080");
        let request = request.body(Full::new(Bytes::from(body))).unwrap();
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into()))))
    };
    tokio::time::timeout(LIMIT, exchange).await.unwrap()
}

pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, wait).await.is_ok(), "{what} did not come");
}
