//! What the contract's tests need of a backend beside the contract.

use crate::environment;
use crate::server::Server;
use stampede::store::embedded::Embedded;
use stampede::store::{Revision, Store};
use std::sync::Arc;

#[async_trait::async_trait]
pub trait Backend: Send + Sync {
    fn store(&self) -> Arc<dyn Store>;
    /// Forgets the history up to the present, more than nothing.
    async fn compact(&self);
}

pub struct Etcd {
    server: Server,
    store: Arc<dyn Store>,
}

impl Etcd {
    pub async fn start() -> Self {
        let server = Server::start().await;
        let store = server.connect();
        Self { server, store }
    }
}

#[async_trait::async_trait]
impl Backend for Etcd {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn compact(&self) {
        let Revision(revision) = self.store.get("compact").await.unwrap().revision;
        let mut client = etcd_client::Client::connect(self.server.urls(), None).await.unwrap();
        client.compact(revision, None).await.unwrap();
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

#[async_trait::async_trait]
impl Backend for File {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn compact(&self) {
        self.store.compact();
    }
}
