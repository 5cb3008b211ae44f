//! What can be asked of a host over the API: whether it takes new instances, what it is for, and that it is gone for good.
//!
//! A host's record is its own ([`crate::membership::record::Host`]); only these few things in it are the operator's.

use super::orchestrator::{Orchestrator, as_expected, invalid, todo};
use super::record::Todo;
use super::{ServiceError, Written};
use crate::membership::lost::Word;
use crate::membership::record::{Alive, Drain, Host};
use crate::resource::native::HOLDER;
use crate::resource::types::host_drain;
use crate::resource::validation::Invalid;
use crate::resource::{State, constraint};
use crate::store::{Entry, Operation, Outcome, Revision, Transaction, decode, encode, key};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Tries against the host's own writes.
const TRIES: usize = 8;
/// Keys that one transaction deletes.
const BATCH: usize = 100;
/// As many leave a drained host at once, unless told.
const AT_ONCE: u64 = 4;

/// A block's record, as far as it matters here.
#[derive(Deserialize)]
struct Block {
    host: String,
}

/// An address's record, as far as it matters here.
#[derive(Deserialize)]
struct Address {
    instance: String,
    host: String,
}

pub(super) struct Found {
    pub host: Host,
    pub entry: Entry,
    pub alive: Option<Alive>,
}

impl Found {
    fn state(&self) -> State {
        self.host.resource(self.alive.as_ref()).state
    }
}

/// `host`, to be emptied as `asked`.
fn drained(host: &Host, asked: &Drain) -> Host {
    let was_cordoned = host.cordoned;
    Host { cordoned: true, drain: Some(Drain { was_cordoned, ..asked.clone() }), ..host.clone() }
}

impl Orchestrator {
    /// Changes description and labels; the rest a host says of itself.
    pub(super) async fn update_host(
        &self,
        id: u64,
        changes: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
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
        self.change_host_if(id, expected, |found| {
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

    pub(super) async fn act_on_host(
        &self,
        id: u64,
        action: &str,
        input: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        if expected.is_some() {
            as_expected(&self.find_host(id).await?.entry, expected)?;
        }
        match action {
            "activate" | "deactivate" => {
                let cordoned = action == "deactivate";
                self.change_host_if(id, expected, |found| Ok(Host { cordoned, drain: None, ..found.host.clone() }))
                    .await
            }
            "drain" => {
                let at_once = input.get(host_drain::AT_ONCE).and_then(Value::as_u64).unwrap_or(AT_ONCE);
                let stop_staying = input.get(host_drain::STOP_STAYING).and_then(Value::as_bool).unwrap_or(false);
                let asked =
                    Drain { at_once: usize::try_from(at_once).unwrap_or(usize::MAX), stop_staying, ..self.new_drain() };
                self.change_host_if(id, expected, |found| Ok(drained(&found.host, &asked))).await
            }
            "remove" if input.get("force").and_then(Value::as_bool).unwrap_or(false) => {
                self.say_of_host(id, Word::Remove).await
            }
            "remove" => {
                self.check_no_volumes(id).await?;
                self.remove_host(id).await
            }
            "failover" => self.say_of_host(id, Word::Move).await,
            _ => {
                let state = self.find_host(id).await?.state();
                Err(ServiceError::ActionNotAvailable { action: action.to_owned(), state })
            }
        }
    }

    fn new_drain(&self) -> Drain {
        Drain { since: self.now(), message: "begins".into(), ..Drain::default() }
    }

    /// The host goes down: what may move leaves it, until it is down. With its next boot that is over.
    ///
    /// # Errors
    /// As for any change of a host.
    pub async fn drain_for_shutdown(&self, id: u64) -> Result<(), ServiceError> {
        let boot_id = Some(self.environment().identity.boot_id.clone());
        // All that fit at once: there is little time.
        let asked = Drain { at_once: usize::MAX, boot_id, ..self.new_drain() };
        self.change_host(id, |found| match &found.host.drain {
            Some(_) => Ok(found.host.clone()),
            None => Ok(drained(&found.host, &asked)),
        })
        .await?;
        self.drive_host(id).await
    }

    /// Takes a drain back that was for the end of a boot; of any but the present one, unless that too is `over`.
    ///
    /// # Errors
    /// As for any change of a host.
    pub async fn end_shutdown(&self, id: u64, over: bool) -> Result<(), ServiceError> {
        let present = &self.environment().identity.boot_id;
        self.change_host(id, |found| {
            let mut host = found.host.clone();
            if let Some(drain) = &found.host.drain
                && let Some(boot_id) = &drain.boot_id
                && (over || boot_id != present)
            {
                host.cordoned = drain.was_cordoned;
                host.drain = None;
            }
            Ok(host)
        })
        .await
        .map(drop)
    }

    /// How the drain of a host stands; `None` where there is none.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn drain_of(&self, id: u64) -> Result<Option<Drain>, ServiceError> {
        Ok(self.find_host(id).await?.host.drain)
    }

    pub(super) async fn find_host(&self, id: u64) -> Result<Found, ServiceError> {
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
        self.change_host_if(id, None, change).await
    }

    /// The same, as long as its record is what it was at `expected`.
    async fn change_host_if(
        &self,
        id: u64,
        expected: Option<Revision>,
        change: impl Fn(&Found) -> Result<Host, ServiceError>,
    ) -> Result<Written, ServiceError> {
        for _ in 0..TRIES {
            let found = self.find_host(id).await?;
            as_expected(&found.entry, expected)?;
            let host = change(&found)?;
            let row = host.resource(found.alive.as_ref());
            if host == found.host {
                return Ok(Written::one(row, found.entry.mod_revision));
            }
            let key = &found.entry.key;
            let mut transaction = Transaction::new()
                .unchanged(key, found.entry.mod_revision)
                .then(Operation::put(key, encode(key, &host)?));
            if host.drain != found.host.drain {
                // Its shard's owner goes on with it, whoever that will be.
                let todo = todo("host", id);
                let entry = Todo { not_before: self.now(), room: false };
                transaction = transaction.then(Operation::put(&todo, encode(&todo, &entry)?));
            }
            let outcome = self.store().commit(transaction).await?;
            if outcome.succeeded {
                return Ok(Written::one(row, outcome.revision));
            }
        }
        Err(ServiceError::busy())
    }

    /// What is on its disk alone is not forgotten without a word.
    async fn check_no_volumes(&self, id: u64) -> Result<(), ServiceError> {
        let name = self.find_host(id).await?.host.name;
        match self.store().range(&key::disks(&name)).await?.entries.len() {
            0 => Ok(()),
            count => Err(ServiceError::Conflict(format!(
                "{count} volumes are on {name}: purge them, bring it back, or remove it by force (stampede host remove --force {name})"
            ))),
        }
    }

    /// Takes a host that is gone, and runs nothing, out of the cluster.
    pub(super) async fn remove_host(&self, id: u64) -> Result<Written, ServiceError> {
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
                "{claims} instances are on {name}: purge them, bring it back, or remove it by force (stampede host remove --force {name})"
            )));
        }
        self.free_kept(&name).await?;
        if !self.take_all_back(&name).await? {
            return Err(ServiceError::Conflict(format!("{name} came back meanwhile, or has floating addresses anew")));
        }
        let outcome = self.take_out(&found, &name).await?;
        if !outcome.succeeded {
            return Err(ServiceError::Conflict(format!("{name} came back meanwhile")));
        }
        let mut row = found.host.resource(None);
        row.enter(State::Removed);
        row.removed = Some(self.now());
        Ok(Written::one(row, outcome.revision))
    }

    /// The addresses that it kept for Docker are free. Should it come back in this very moment, it takes them again.
    async fn free_kept(&self, name: &str) -> Result<(), ServiceError> {
        let kept =
            self.store().range(&key::all_addresses()).await?.entries.into_iter().filter(|entry| {
                decode::<Address>(entry).is_ok_and(|held| held.instance == HOLDER && held.host == name)
            });
        let kept: Vec<Operation> = kept.map(|entry| Operation::delete(entry.key)).collect();
        for batch in kept.chunks(BATCH) {
            let transaction = Transaction { success: batch.to_vec(), ..Transaction::new() };
            self.store().commit(transaction.absent(key::alive(name))).await?;
        }
        Ok(())
    }

    async fn take_out(&self, found: &Found, name: &str) -> Result<Outcome, ServiceError> {
        let mut transaction = Transaction::new()
            .absent(key::alive(name))
            .unchanged(&found.entry.key, found.entry.mod_revision)
            .then(Operation::delete(&found.entry.key))
            .then(Operation::delete(key::mesh(name)))
            .then(Operation::delete(key::lost(name)))
            .then(Operation::delete(key::fence(name)))
            .then(Operation::delete(key::alloc(name)))
            .then(Operation::delete(key::uuid(&found.host.uuid)))
            .then(Operation::delete(key::name("machine", &found.host.machine_id)));
        for entry in self.store().range(&key::disks(name)).await?.entries {
            transaction = transaction.then(Operation::delete(entry.key));
        }
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
    use crate::orchestration::lifecycle::Observation;
    use crate::placement::Placer;
    use crate::placement::record::token;
    use crate::resource::Resource;
    use crate::store::Store;
    use crate::store::embedded::Embedded;
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;

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
        assert_eq!(state(orchestrator.act_on_host(7, "deactivate", &Map::new(), None).await.unwrap()), State::Inactive);
        assert_eq!(state(orchestrator.act_on_host(7, "activate", &Map::new(), None).await.unwrap()), State::Active);
        assert!(matches!(
            orchestrator.act_on_host(8, "activate", &Map::new(), None).await,
            Err(ServiceError::NotFound)
        ));
        assert!(matches!(
            orchestrator.act_on_host(7, "purge", &Map::new(), None).await,
            Err(ServiceError::ActionNotAvailable { .. })
        ));
    }

    async fn row(store: &Arc<dyn Store>, id: u64) -> Resource {
        decode(&store.get(&key::resource("instance", id)).await.unwrap().entry.unwrap()).unwrap()
    }

    async fn put_instance(store: &Arc<dyn Store>, id: u64, loss: &str) {
        let row = json!({"id": id, "kind": "container", "uuid": format!("u{id}"), "created": 5, "state": "running",
            "generation": 1, "hostName": "h1", "hostId": 7, "desired": "running", "networkIds": [1], "onHostLoss": loss});
        put(store, key::resource("instance", id), row).await;
        let claim = json!({"id": id, "uuid": format!("u{id}"), "generation": 1});
        put(store, key::on("h1", &format!("1i{id}")), claim).await;
    }

    /// What the instance's host does and says of it.
    async fn seen(store: &Arc<dyn Store>, orchestrator: &Orchestrator, host: &str, id: u64, seen: Observation) {
        let on = store.get(&key::on(host, &format!("1i{id}"))).await.unwrap().entry.unwrap();
        let entry = store.get(&key::resource("instance", id)).await.unwrap().entry.unwrap();
        orchestrator.observed(host, token(1, on.create_revision), &entry, &seen).await.unwrap();
    }

    #[tokio::test]
    async fn a_drained_host_loses_what_may_move_and_only_that() {
        let (store, orchestrator) = cluster().await;
        let host = json!({"id": 8, "uuid": "u2", "name": "h2", "identity": "i", "machineId": "n", "created": 5,
            "capabilities": ["container"], "capacity": {"cpuMillis": 1000, "memoryMb": 100, "diskMb": 100}});
        put_instance(&store, 5, "move").await;
        put_instance(&store, 6, "stay").await;
        let asked = orchestrator.act_on_host(7, "drain", &Map::new(), None).await.unwrap();
        assert_eq!(asked.resources[0].state, State::Draining);
        let todos = store.range(&format!("{}todo/", key::ROOT)).await.unwrap().entries;
        assert_eq!(todos.len(), 1, "whoever comes after this agent finds it");

        // Nobody to take it: it goes on running, and the host says why it is not empty.
        orchestrator.drive("host", 7).await.unwrap();
        assert_eq!(row(&store, 5).await.state, State::Running);
        let stuck = orchestrator.drain_of(7).await.unwrap().unwrap();
        assert!(stuck.stuck && stuck.message.contains("1i5 has no place to go to"), "{stuck:?}");

        put(&store, key::host("h2"), host).await;
        let alive = json!({"identity": "i", "incarnation": 1, "bootId": "b", "address": "a:2"});
        put(&store, key::alive("h2"), alive).await;
        for _ in 0..100 {
            orchestrator.drive("host", 7).await.unwrap();
            if row(&store, 5).await.state == State::Stopping {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(row(&store, 5).await.state, State::Stopping);
        seen(&store, &orchestrator, "h1", 5, Observation::Stopped).await;
        // Its own placing may be under way besides; one of them does it.
        for _ in 0..100 {
            let _ = orchestrator.drive("instance", 5).await;
            if row(&store, 5).await.get::<String>("hostName").is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(row(&store, 5).await.get::<String>("hostName").as_deref(), Some("h2"));
        orchestrator.drive("host", 7).await.unwrap();
        assert_eq!(orchestrator.drain_of(7).await.unwrap().map(|drain| drain.done), Some(false), "it does not run yet");
        let up = Observation::Running { external_id: "c".into(), started_at: 1 };
        seen(&store, &orchestrator, "h2", 5, up).await;
        orchestrator.drive("host", 7).await.unwrap();
        let drain = orchestrator.drain_of(7).await.unwrap().unwrap();
        assert!(drain.done && !drain.stuck, "{drain:?}");
        assert_eq!(drain.message, "drained: 1 moved, 1 stay (onHostLoss)");
        assert_eq!(row(&store, 6).await.state, State::Running);
        assert!(store.range(&format!("{}todo/", key::ROOT)).await.unwrap().entries.is_empty());
        let back = orchestrator.act_on_host(7, "activate", &Map::new(), None).await.unwrap();
        assert_eq!((back.resources[0].state, back.resources[0].transitioning_message.clone()), (State::Active, None));
    }

    #[tokio::test]
    async fn what_stays_is_stopped_where_that_is_asked_and_started_after() {
        let (store, orchestrator) = cluster().await;
        put_instance(&store, 6, "stay").await;
        let input = json!({"stopStaying": true}).as_object().unwrap().clone();
        orchestrator.act_on_host(7, "drain", &input, None).await.unwrap();
        orchestrator.drive("host", 7).await.unwrap();
        assert_eq!(row(&store, 6).await.state, State::Stopping);
        seen(&store, &orchestrator, "h1", 6, Observation::Stopped).await;
        orchestrator.drive("host", 7).await.unwrap();
        assert_eq!(orchestrator.drain_of(7).await.unwrap().map(|drain| drain.done), Some(true));
        orchestrator.act_on_host(7, "activate", &Map::new(), None).await.unwrap();
        orchestrator.drive("host", 7).await.unwrap();
        assert_eq!(row(&store, 6).await.state, State::Starting);
    }

    #[tokio::test]
    async fn a_drain_for_a_reboot_is_over_with_the_next_boot() {
        let (_, orchestrator) = cluster().await;
        orchestrator.act_on_host(7, "deactivate", &Map::new(), None).await.unwrap();
        let cordoned = async || orchestrator.find_host(7).await.unwrap().state() == State::Inactive;
        orchestrator.drain_for_shutdown(7).await.unwrap();
        orchestrator.end_shutdown(7, false).await.unwrap();
        assert!(orchestrator.drain_of(7).await.unwrap().is_some(), "this boot's own");
        orchestrator.end_shutdown(7, true).await.unwrap();
        assert!(orchestrator.drain_of(7).await.unwrap().is_none() && cordoned().await, "as it was before");
        // One that an operator asked for stays, whatever boot it is.
        orchestrator.act_on_host(7, "drain", &Map::new(), None).await.unwrap();
        orchestrator.end_shutdown(7, true).await.unwrap();
        assert!(orchestrator.drain_of(7).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn labels_are_set_and_rubbish_is_refused() {
        let (_, orchestrator) = cluster().await;
        let set = async |labels: Value| {
            let changes = json!({ "labels": labels }).as_object().unwrap().clone();
            let written = orchestrator.update_host(7, &changes, None).await?;
            Ok::<_, ServiceError>(written.resources[0].get::<Value>("labels").unwrap())
        };
        assert_eq!(set(json!({"zone": "eu"})).await.unwrap(), json!({"zone": "eu"}));
        assert!(matches!(set(json!({"name": "x"})).await, Err(ServiceError::Invalid { .. })));
        assert_eq!(set(Value::Null).await.unwrap(), json!({}));
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_host_that_is_gone_and_empty_is_removed_with_what_it_held() {
        let (store, orchestrator) = cluster().await;
        assert!(
            matches!(orchestrator.act_on_host(7, "remove", &Map::new(), None).await, Err(ServiceError::Conflict(_))),
            "it lives"
        );
        store.commit(Transaction::new().then(Operation::delete(key::alive("h1")))).await.unwrap();
        put(&store, key::on("h1", "1i5"), json!({"id": 5, "uuid": "x", "generation": 1})).await;
        assert!(
            matches!(orchestrator.act_on_host(7, "remove", &Map::new(), None).await, Err(ServiceError::Conflict(_))),
            "it has work"
        );
        store.commit(Transaction::new().then(Operation::delete(key::on("h1", "1i5")))).await.unwrap();
        put(&store, key::holder(3), json!({"host": "h1", "life": 2})).await;
        let removed = orchestrator.act_on_host(7, "remove", &Map::new(), None).await.unwrap();
        assert_eq!(removed.resources[0].state, State::Removed);
        let left = store.range("/stampede/v1/").await.unwrap().entries;
        let keys: Vec<&str> = left.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["/stampede/v1/block/10.42.0.0/10.42.2.0"]);
    }
}
