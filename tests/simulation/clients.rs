//! Those who use the cluster: they ask any agent for anything, and remember what was promised to them.

mod network;

use crate::chronicle::Chronicle;
use crate::dice::Dice;
use crate::machine::Machine;
use serde_json::{Map, Value, json};
use stampede::orchestration::{Draft, Orchestrator, Service, ServiceError, seed};
use stampede::resource::identifier;
use stampede::store::key;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// How long a client waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client knows of an instance.
#[derive(Clone, Debug, Default)]
pub struct Promise {
    pub uuid: String,
    /// Nobody asked for anything but its creation.
    pub untouched: bool,
    /// Its removal was acknowledged.
    pub removed: bool,
}

/// Cheap to clone; all clones know the same.
#[derive(Clone, Debug)]
pub struct Clients {
    dice: Dice,
    chronicle: Chronicle,
    machines: Vec<Arc<Machine>>,
    known: Arc<Mutex<Known>>,
    /// They use ports, links, names and floating addresses too.
    network: bool,
}

#[derive(Debug, Default)]
struct Known {
    promises: BTreeMap<u64, Promise>,
    /// Under which numbers a uuid that clients chose was acknowledged.
    chosen: BTreeMap<String, BTreeSet<u64>>,
    /// How often the store went back: what was asked before is not held against what is there after.
    past: u64,
    wanted: network::Wanted,
}

impl Clients {
    pub fn new(dice: &Dice, chronicle: &Chronicle, machines: &[Arc<Machine>], network: bool) -> Self {
        let (dice, chronicle, machines) = (dice.clone(), chronicle.clone(), machines.to_vec());
        Self { dice, chronicle, machines, known: Arc::default(), network }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap()
    }

    pub fn promises(&self) -> BTreeMap<u64, Promise> {
        self.known().promises.clone()
    }

    /// The store went back: what it does not have any more is not there, and what was removed since is.
    pub fn go_back(&self, contains: impl Fn(&str) -> bool) {
        let mut known = self.known();
        known.past += 1;
        known.chosen.clear();
        known.promises.retain(|id, _| contains(&key::resource("instance", *id)));
        known.promises.values_mut().for_each(|promise| promise.removed = false);
        known.wanted.go_back(contains);
    }

    fn past(&self) -> u64 {
        self.known().past
    }

    /// One of them asks for something; nobody waits for the answer.
    pub fn ask(&self) {
        let Some(orchestrator) = self.agent() else { return };
        let ids: Vec<u64> = {
            let known = self.known();
            known.promises.iter().filter(|(_, promise)| !promise.removed).map(|(id, _)| *id).collect()
        };
        if self.network && !ids.is_empty() && self.dice.percent(30) {
            return self.ask_network(orchestrator, &ids);
        }
        let dice = self.dice.below(100);
        let action = match dice {
            _ if ids.is_empty() => "create",
            0..50 => "create",
            50..55 => "twice",
            55..70 => "stop",
            70..82 => "start",
            82..88 => "restart",
            88..93 => "update",
            _ => "remove",
        };
        self.chronicle.count(&format!("client: {action}"));
        match (action, self.dice.one(&ids)) {
            ("twice", _) => {
                let uuid = format!("chosen-{:016x}", self.dice.number());
                let draft = self.draft(Some(uuid), &ids);
                self.create(orchestrator, draft.clone());
                if let Some(other) = self.agent() {
                    self.create(other, draft);
                }
            }
            ("create", _) | (_, None) => self.create(orchestrator, self.draft(None, &ids)),
            (action, Some(id)) => self.act(orchestrator, action, *id),
        }
    }

    fn agent(&self) -> Option<Orchestrator> {
        let desks: Vec<Orchestrator> =
            self.machines.iter().filter_map(|machine| machine.desk()).map(|desk| desk.orchestrator).collect();
        self.dice.one(&desks).cloned()
    }

    fn draft(&self, uuid: Option<String>, ids: &[u64]) -> Draft {
        let mut fields = Map::from_iter([
            ("imageUuid".to_owned(), json!("docker:busybox")),
            ("instanceTriggeredStop".to_owned(), json!("restart")),
        ]);
        if self.dice.percent(65) {
            fields.insert("onHostLoss".to_owned(), json!("move"));
        }
        if self.dice.percent(20) {
            fields.insert("memoryReservationMb".to_owned(), json!(128));
        }
        if uuid.is_none() && self.dice.percent(10) {
            fields.insert("count".to_owned(), json!(4));
        }
        let mut draft = Draft {
            base: "instance".into(),
            kind: "container".into(),
            account_id: Some(seed::ADMIN),
            uuid,
            fields,
            ..Draft::default()
        };
        if self.network {
            self.dress(&mut draft, ids);
        }
        draft
    }

    /// Something that its host has to hear of, or not.
    fn update(&self) -> Map<String, Value> {
        let policy = self.dice.one(&["restart", "stop"]).copied();
        match self.dice.below(2) {
            0 => Map::from_iter([("description".to_owned(), json!(format!("{:x}", self.dice.number())))]),
            _ => Map::from_iter([("instanceTriggeredStop".to_owned(), json!(policy))]),
        }
    }

    fn create(&self, agent: Orchestrator, draft: Draft) {
        let (this, past) = (self.clone(), self.past());
        tokio::spawn(async move {
            let uuid = draft.uuid.clone();
            let made = match tokio::time::timeout(PATIENCE, agent.create(draft)).await {
                Ok(Ok(made)) => made,
                Ok(Err(error)) => return this.refused("create", &error),
                Err(_) => return this.chronicle.count("client: no answer"),
            };
            for row in made.resources {
                this.chronicle.note(format_args!("create acknowledged: {}", identifier::instance(row.id)));
                let mut known = this.known.lock().unwrap();
                if known.past != past {
                    continue;
                }
                let promise = Promise { uuid: row.uuid.clone(), untouched: true, removed: false };
                known.promises.entry(row.id).or_insert(promise);
                if let Some(uuid) = &uuid {
                    let ids = known.chosen.entry(uuid.clone()).or_default();
                    ids.insert(row.id);
                    if ids.len() > 1 {
                        let ids = ids.clone();
                        drop(known);
                        this.chronicle.violation(format_args!("{uuid} was given to {ids:?}"));
                    }
                }
            }
        });
    }

    fn act(&self, agent: Orchestrator, action: &'static str, id: u64) {
        let (this, past) = (self.clone(), self.past());
        let instance = identifier::instance(id);
        self.chronicle.touch(&instance);
        self.chronicle.note(format_args!("{action} of {instance} asked"));
        self.promise(id, |promise| promise.untouched = false);
        let input = if action == "update" { self.update() } else { Map::new() };
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, agent.act("instance", id, action, input)).await {
                Ok(Ok(_)) => {
                    this.chronicle.note(format_args!("{action} of {instance} acknowledged"));
                    if action == "remove" && this.past() == past {
                        this.promise(id, |promise| promise.removed = true);
                    }
                }
                Ok(Err(error)) => this.refused(action, &error),
                Err(_) => this.chronicle.count("client: no answer"),
            }
        });
    }

    fn promise(&self, id: u64, change: impl FnOnce(&mut Promise)) {
        if let Some(promise) = self.known().promises.get_mut(&id) {
            change(promise);
        }
    }

    fn refused(&self, action: &str, error: &ServiceError) {
        self.chronicle.note(format_args!("{action} refused: {error}"));
        self.chronicle.count("client: refused");
    }
}
