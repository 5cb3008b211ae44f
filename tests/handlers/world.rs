//! A cluster of one host: a real API, all of orchestration, a store, and a host that does what it is told.

use crate::client::Client;
use crate::host::{self, Containers};
use serde_json::{Value, json};
use stampede::api::{Context, Settings, create_api_key, serve};
use stampede::membership::record::{Alive, Capability, Capacity, Host};
use stampede::membership::{ClusterSettings, Hosts, ensure_cluster};
use stampede::network::{Allocator, SubnetSpec};
use stampede::orchestration::todo::Shards;
use stampede::orchestration::{Orchestrator, seed};
use stampede::placement::{AddressSource, Placer};
use stampede::store::{Operation, Store, Transaction, encode, key};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub struct World {
    pub store: Arc<dyn Store>,
    pub client: Client,
    pub orchestrator: Orchestrator,
    pub containers: Arc<Containers>,
    /// Another agent of the same cluster: its API alone.
    pub other: Client,
    tasks: JoinSet<()>,
    _shards: Vec<Shards>,
}

async fn agent(store: &Arc<dyn Store>, tasks: &mut JoinSet<()>) -> (Orchestrator, Client, Hosts) {
    let environment = crate::environment();
    let hosts = Hosts::start(store.clone(), &environment);
    let mtu = Arc::new(AtomicU32::new(1380));
    let addresses: Arc<dyn AddressSource> =
        Arc::new(Allocator::new(store.clone(), &environment, SubnetSpec::default(), mtu));
    let placer = Placer::new(store.clone(), &environment, 1, hosts.clone(), Some(addresses));
    let orchestrator = Orchestrator::new(store.clone(), environment.clone(), placer);
    let service = Arc::new(orchestrator.clone());
    let context = Context::new(&environment, store.clone(), service, Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let to = listener.local_addr().unwrap();
    tasks.spawn(serve(listener, context, CancellationToken::new()));
    let key = create_api_key(&environment, &orchestrator, seed::ADMIN).await.unwrap();
    (orchestrator, Client { to, key: format!("{}:{}", key.public, key.secret) }, hosts)
}

impl World {
    pub async fn new(store: Arc<dyn Store>) -> Self {
        let environment = crate::environment();
        ensure_cluster(store.as_ref(), &environment, ClusterSettings::default()).await.unwrap();
        seed::seed(store.as_ref(), &environment).await.unwrap();
        let host = Host {
            id: 1,
            uuid: "host-1".into(),
            name: "h1".into(),
            identity: "i".into(),
            machine_id: "m".into(),
            labels: [("zone".to_owned(), "eu".to_owned())].into(),
            capabilities: [Capability::Container, Capability::Network].into(),
            capacity: Capacity { cpu_millis: 8000, memory_mb: 64_000, disk_mb: 10_000 },
            ..Host::default()
        };
        write(&store, &key::host("h1"), &host).await;
        let alive = Alive { identity: "i".into(), incarnation: 1, boot_id: "b".into(), address: "a:1".into() };
        write(&store, &key::alive("h1"), &alive).await;
        let mut tasks = JoinSet::new();
        let (orchestrator, client, hosts) = agent(&store, &mut tasks).await;
        let (_, other, _) = agent(&store, &mut tasks).await;
        let alive = hosts.alive().clone();
        let shards = Shards::start(orchestrator.clone(), store.clone(), environment, "h1".into(), alive);
        let containers = Arc::new(Containers::default());
        tasks.spawn(host::run(store.clone(), orchestrator.clone(), containers.clone()));
        Self { store, client, orchestrator, containers, other, tasks, _shards: vec![shards] }
    }

    /// Nothing waits for a handler any more.
    pub async fn nothing_waits(&self) {
        let events = self.store.range(&key::events()).await.unwrap().entries;
        assert!(events.is_empty(), "{events:?}");
    }

    /// As it is stored.
    pub async fn stored(&self, id: &str) -> Value {
        let number = id.trim_start_matches("1i").parse().unwrap();
        let entry = self.store.get(&key::resource("instance", number)).await.unwrap().entry.unwrap();
        serde_json::from_slice(&entry.value).unwrap_or_else(|_| json!(null))
    }

    pub fn ends(mut self) {
        self.tasks.abort_all();
    }
}

async fn write<T: serde::Serialize>(store: &Arc<dyn Store>, key: &str, value: &T) {
    let put = Operation::put(key, encode(key, value).unwrap());
    store.commit(Transaction::new().then(put)).await.unwrap();
}

/// The number in an id.
pub fn number(id: &str) -> u64 {
    id.trim_start_matches("1i").parse().unwrap()
}
