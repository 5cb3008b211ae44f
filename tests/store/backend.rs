//! What the contract's tests need of a backend beside the contract.

use crate::environment;
use crate::server::Server;
use stampede::store::Store;
use stampede::store::embedded::Embedded;
use stampede::store::simulated::{Client, Simulated};
use std::sync::Arc;

pub trait Backend: Send + Sync {
    fn store(&self) -> Arc<dyn Store>;
}

pub struct Etcd {
    _server: Server,
    store: Arc<dyn Store>,
}

impl Etcd {
    pub async fn start() -> Self {
        let server = Server::start().await;
        let store = server.connect();
        Self { _server: server, store }
    }
}

impl Backend for Etcd {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}

/// In a file, or in memory.
pub struct File {
    store: Arc<Embedded>,
    _directory: Option<tempfile::TempDir>,
}

impl File {
    pub async fn on_disk() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("store"), &environment()).unwrap();
        Self { store: Arc::new(store), _directory: Some(directory) }
    }

    pub async fn in_memory() -> Self {
        Self { store: Arc::new(Embedded::in_memory(&environment()).unwrap()), _directory: None }
    }
}

/// The one that agents are simulated on, in the best of weathers.
pub struct Fair {
    store: Arc<Client>,
    _server: Simulated,
}

impl Fair {
    pub async fn start() -> Self {
        let server = Simulated::new(&environment());
        Self { store: Arc::new(server.client("test")), _server: server }
    }
}

impl Backend for Fair {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}

impl Backend for File {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
}
