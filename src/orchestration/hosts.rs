//! What can be asked of a host over the API: whether it takes new instances, what it is for, and that it is gone for good.
//!
//! A host's record is its own ([`crate::membership::record::Host`]); only these few things in it are the operator's.

use super::orchestrator::{Orchestrator, invalid, written};
use super::{ServiceError, Written};
use crate::membership::record::{Alive, Host};
use crate::resource::validation::Invalid;
use crate::resource::{State, constraint};
use crate::store::{Entry, Operation, Outcome, Transaction, decode, encode, key};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Tries against the host's own writes.
const TRIES: usize = 8;

/// A block's record, as far as it matters here.
#[derive(Deserialize)]
struct Block {
    host: String,
}

struct Found {
    host: Host,
    entry: Entry,
    alive: Option<Alive>,
}

impl Found {
    fn state(&self) -> State {
        self.host.resource(self.alive.as_ref()).state
    }
}

impl Orchestrator {
    /// Changes description and labels; the rest a host says of itself.
    pub(super) async fn update_host(&self, id: u64, changes: &Map<String, Value>) -> Result<Written, ServiceError> {
        let labels = match changes.get(constraint::LABELS) {
            Some(Value::Object(labels)) => {
                constraint::check_labels(labels)
                    .map_err(|Invalid { code, field, message }| invalid(code.name(), &field, message))?;
                let text =
                    |(key, value): (&String, &Value)| (key.clone(), value.as_str().unwrap_or_default().to_owned());
                Some(labels.iter().map(text).collect::<BTreeMap<String, String>>())
            }
            // Null takes them all away.
            Some(_) => Some(BTreeMap::new()),
            None => None,
        };
        let description = changes.get("description").map(|value| value.as_str().map(str::to_owned));
        self.change_host(id, |found| {
            let mut host = found.host.clone();
            if let Some(description) = &description {
                host.description.clone_from(description);
            }
            if let Some(labels) = &labels {
                host.relabel(labels);
            }
            Ok(host)
        })
        .await
    }

    pub(super) async fn act_on_host(&self, id: u64, action: &str) -> Result<Written, ServiceError> {
        match action {
            "activate" | "deactivate" => {
                let cordoned = action == "deactivate";
                self.change_host(id, |found| Ok(Host { cordoned, ..found.host.clone() })).await
            }
            "remove" => self.remove_host(id).await,
            _ => {
                let state = self.find_host(id).await?.state();
                Err(ServiceError::ActionNotAvailable { action: action.to_owned(), state })
            }
        }
    }

    async fn find_host(&self, id: u64) -> Result<Found, ServiceError> {
        for entry in self.store().range(&key::hosts()).await?.entries {
            let host: Host = decode(&entry)?;
            if host.id == id {
                let alive = self.store().get(&key::alive(&host.name)).await?.entry;
                let alive = alive.as_ref().map(decode).transpose()?;
                return Ok(Found { host, entry, alive });
            }
        }
        Err(ServiceError::NotFound)
    }

    async fn change_host(
        &self,
        id: u64,
        change: impl Fn(&Found) -> Result<Host, ServiceError>,
    ) -> Result<Written, ServiceError> {
        for _ in 0..TRIES {
            let found = self.find_host(id).await?;
            let host = change(&found)?;
            let row = host.resource(found.alive.as_ref());
            if host == found.host {
                return Ok(written(row, found.entry.mod_revision));
            }
            let key = &found.entry.key;
            let transaction = Transaction::new()
                .unchanged(key, found.entry.mod_revision)
                .then(Operation::put(key, encode(key, &host)?));
            let outcome = self.store().commit(transaction).await?;
            if outcome.succeeded {
                return Ok(written(row, outcome.revision));
            }
        }
        Err(ServiceError::Conflict("it is being changed by others all the time; try again".into()))
    }

    /// Takes a host that is gone, and runs nothing, out of the cluster.
    async fn remove_host(&self, id: u64) -> Result<Written, ServiceError> {
        let found = self.find_host(id).await?;
        let name = found.host.name.clone();
        if found.alive.is_some() {
            return Err(ServiceError::Conflict(format!(
                "{name} is alive: stop its agent (systemctl disable --now stampede) and wait for its lease to end"
            )));
        }
        let claims = self.store().range(&key::all_on(&name)).await?.entries.len();
        if claims > 0 {
            return Err(ServiceError::Conflict(format!(
                "{claims} instances are on {name}: purge them, or bring it back; they are nowhere else"
            )));
        }
        let outcome = self.take_out(&found, &name).await?;
        if !outcome.succeeded {
            return Err(ServiceError::Conflict(format!("{name} came back meanwhile")));
        }
        let mut row = found.host.resource(None);
        row.enter(State::Removed);
        row.removed = Some(self.now());
        Ok(written(row, outcome.revision))
    }

    async fn take_out(&self, found: &Found, name: &str) -> Result<Outcome, ServiceError> {
        let mut transaction = Transaction::new()
            .absent(key::alive(name))
            .unchanged(&found.entry.key, found.entry.mod_revision)
            .then(Operation::delete(&found.entry.key))
            .then(Operation::delete(key::mesh(name)))
            .then(Operation::delete(key::alloc(name)))
            .then(Operation::delete(key::uuid(&found.host.uuid)))
            .then(Operation::delete(key::name("machine", &found.host.machine_id)));
        // Its blocks are free again: no instance, no address in them.
        for entry in self.store().range(&key::all_blocks()).await?.entries {
            if decode::<Block>(&entry)?.host == name {
                transaction = transaction.then(Operation::delete(entry.key));
            }
        }
        Ok(self.store().commit(transaction).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::membership::Hosts;
    use crate::placement::Placer;
    use crate::store::Store;
    use crate::store::embedded::Embedded;
    use serde_json::json;
    use std::sync::Arc;

    async fn put(store: &Arc<dyn Store>, key: String, value: Value) {
        let operation = Operation::put(&key, encode(&key, &value).unwrap());
        store.commit(Transaction::new().then(operation)).await.unwrap();
    }

    /// A cluster with one host, `h1`, which is alive and has a block.
    async fn cluster() -> (Arc<dyn Store>, Orchestrator) {
        let environment = Environment::system().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
        let host = json!({"id": 7, "uuid": "u", "name": "h1", "identity": "i", "machineId": "m", "created": 5,
            "capacity": {"cpuMillis": 1000, "memoryMb": 100, "diskMb": 100}});
        put(&store, key::host("h1"), host).await;
        let alive = json!({"identity": "i", "incarnation": 1, "bootId": "b", "address": "a:1"});
        put(&store, key::alive("h1"), alive).await;
        put(&store, format!("{}10.42.0.0/10.42.1.0", key::all_blocks()), json!({"host": "h1"})).await;
        put(&store, format!("{}10.42.0.0/10.42.2.0", key::all_blocks()), json!({"host": "h2"})).await;
        let hosts = Hosts::start(store.clone(), &environment);
        let placer = Placer::new(store.clone(), &environment, 1, hosts, None);
        (store.clone(), Orchestrator::new(store, environment, placer))
    }

    #[tokio::test]
    async fn a_host_is_closed_to_new_instances_and_opened_again() {
        let (_, orchestrator) = cluster().await;
        let state = |written: Written| written.resources[0].state;
        assert_eq!(state(orchestrator.act_on_host(7, "deactivate").await.unwrap()), State::Inactive);
        assert_eq!(state(orchestrator.act_on_host(7, "activate").await.unwrap()), State::Active);
        assert!(matches!(orchestrator.act_on_host(8, "activate").await, Err(ServiceError::NotFound)));
        assert!(matches!(orchestrator.act_on_host(7, "purge").await, Err(ServiceError::ActionNotAvailable { .. })));
    }

    #[tokio::test]
    async fn labels_are_set_and_rubbish_is_refused() {
        let (_, orchestrator) = cluster().await;
        let set = async |labels: Value| {
            let changes = json!({ "labels": labels }).as_object().unwrap().clone();
            let written = orchestrator.update_host(7, &changes).await?;
            Ok::<_, ServiceError>(written.resources[0].get::<Value>("labels").unwrap())
        };
        assert_eq!(set(json!({"zone": "eu"})).await.unwrap(), json!({"zone": "eu"}));
        assert!(matches!(set(json!({"name": "x"})).await, Err(ServiceError::Invalid { .. })));
        assert_eq!(set(Value::Null).await.unwrap(), json!({}));
    }

    #[tokio::test]
    async fn only_a_host_that_is_gone_and_empty_is_removed_with_what_it_held() {
        let (store, orchestrator) = cluster().await;
        assert!(matches!(orchestrator.act_on_host(7, "remove").await, Err(ServiceError::Conflict(_))), "it lives");
        store.commit(Transaction::new().then(Operation::delete(key::alive("h1")))).await.unwrap();
        put(&store, key::on("h1", "1i5"), json!({"id": 5, "uuid": "x", "generation": 1})).await;
        assert!(matches!(orchestrator.act_on_host(7, "remove").await, Err(ServiceError::Conflict(_))), "it has work");
        store.commit(Transaction::new().then(Operation::delete(key::on("h1", "1i5")))).await.unwrap();
        let removed = orchestrator.act_on_host(7, "remove").await.unwrap();
        assert_eq!(removed.resources[0].state, State::Removed);
        let left = store.range("/stampede/v1/").await.unwrap().entries;
        let keys: Vec<&str> = left.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["/stampede/v1/block/10.42.0.0/10.42.2.0"]);
    }
}
