//! Membership and placement over a real etcd.

// Tests run etcd and kill it; that is what processes are for here.
#![allow(clippy::disallowed_types)]
// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod failover;
mod backup;
mod joining;
mod liveness;
mod placing;
mod pool;
mod releasing;
mod restoring;
#[path = "../store/server.rs"]
#[allow(dead_code, reason = "the store's own tests use more of it")]
mod server;
mod shaky;
mod versions;
mod word;

use stampede::environment::{Environment, Identity};
use stampede::membership::record::{Alive, Capability, Capacity, Host, Overcommit};
use stampede::membership::{Connect, HostDescription, Join, Place};
use stampede::store::{self, Entry, Operation, Store, Transaction, key};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// More than anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

fn environment() -> Environment {
    Environment::system().unwrap()
}

/// Another machine, or another boot of one.
fn machine(machine: u8, boot: &str) -> Environment {
    let identity = Identity { machine_id: format!("{machine:032x}"), boot_id: boot.into() };
    Environment { identity, ..environment() }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {LIMIT:?}"),
    }
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn description(name: &str) -> HostDescription {
    HostDescription {
        name: name.into(),
        labels: BTreeMap::new(),
        capabilities: BTreeSet::from([Capability::Container, Capability::Network]),
        capacity: Capacity { cpu_millis: 2000, memory_mb: 4096, disk_mb: 10_000 },
        overcommit: Overcommit::default(),
        versions: BTreeMap::from([("docker".into(), "26.1".into())]),
        warnings: Vec::new(),
        address: format!("{name}.test:9080"),
        secrets: None,
    }
}

/// The joining of `name`, all of whose files are in `directory`.
fn join(store: &Arc<dyn Store>, environment: &Environment, name: &str, directory: &Path) -> Join {
    Join {
        store: store.clone(),
        keepalive: Connect::shared(store.clone()),
        environment: environment.clone(),
        description: description(name),
        state_dir: directory.join("state"),
        run_dir: directory.join("run"),
        ttl: Duration::from_secs(2),
        place: Place::Task,
        exclusive: false,
    }
}

async fn alive(store: &Arc<dyn Store>, name: &str) -> Option<(Alive, Entry)> {
    let entry = store.get(&key::alive(name)).await.unwrap().entry?;
    Some((store::decode(&entry).unwrap(), entry))
}

/// A host that is there without an agent.
async fn put_host(store: &Arc<dyn Store>, id: u64, memory_mb: u64) {
    let name = format!("h{id}");
    let description = description(&name);
    let host = Host {
        id,
        uuid: environment().uuid().to_string(),
        name: name.clone(),
        identity: "i".into(),
        machine_id: format!("{id:032x}"),
        created: environment().clock.now(),
        capabilities: description.capabilities,
        capacity: Capacity { memory_mb, ..description.capacity },
        versions: description.versions,
        warnings: description.warnings,
        ..Host::default()
    };
    let alive = Alive { identity: "i".into(), incarnation: 1, boot_id: "b".into(), address: description.address };
    let put = |key: String, value: bytes::Bytes| Operation::put(key, value);
    let transaction = Transaction::new()
        .then(put(key::host(&name), store::encode("", &host).unwrap()))
        .then(put(key::alive(&name), store::encode("", &alive).unwrap()));
    assert!(store.commit(transaction).await.unwrap().succeeded);
}
