//! A real etcd on the emulated machine: one for all tests, which run one after the other there.

use super::support::eventually;
use crate::environment::Environment;
use crate::store::etcd::{EtcdOptions, EtcdStore};
use crate::store::{Operation, Store, Transaction, key};
use std::sync::{Arc, OnceLock};

#[allow(clippy::disallowed_types, reason = "etcd is what the product talks to, and runs beside it")]
static SERVER: OnceLock<std::process::Child> = OnceLock::new();

/// One with nothing in it.
pub async fn empty(environment: &Environment) -> Arc<dyn Store> {
    let url = "http://127.0.0.1:2379";
    #[allow(clippy::disallowed_types, reason = "see above")]
    SERVER.get_or_init(|| {
        let peers = "http://127.0.0.1:2380";
        let words = [
            ["--listen-client-urls", url],
            ["--advertise-client-urls", url],
            ["--listen-peer-urls", peers],
            ["--initial-advertise-peer-urls", peers],
            ["--initial-cluster", "default=http://127.0.0.1:2380"],
            ["--data-dir", "/tmp/etcd"],
            ["--log-level", "error"],
        ];
        let started = std::process::Command::new("etcd").args(words.as_flattened()).spawn();
        started.expect("etcd is on the emulated machine: scripts/test --kernel brings it there")
    });
    let options = EtcdOptions { endpoints: vec![url.to_owned()], ..EtcdOptions::default() };
    let store: Arc<dyn Store> = Arc::new(EtcdStore::connect(options, environment).unwrap());
    let everything = || Transaction::new().then(Operation::DeletePrefix { prefix: key::ROOT.to_owned() });
    eventually("etcd answers", async || store.commit(everything()).await.is_ok()).await;
    store
}
