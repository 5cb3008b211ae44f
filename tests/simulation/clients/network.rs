//! What clients do with the network: they publish ports and change them, link instances and lead links elsewhere, and have addresses
//! of a small pool lead here and there.

use super::{Clients, PATIENCE};
use crate::invariants::Entries;
use serde_json::{Map, json};
use stampede::network::dns::Found;
use stampede::orchestration::{Draft, Orchestrator, Service, ServiceError, Written, seed};
use stampede::resource::{Resource, floating, identifier, instance, link, port};
use stampede::store::{self, decode, key};
use std::collections::{BTreeMap, BTreeSet};

/// Public ports that clients fight for.
const PUBLIC: &[u16] = &[8080, 8081, 8082];
/// What instances are called, several each.
const NAMES: &[&str] = &["web", "db", "cache"];
/// The pool: six addresses of a network that is nobody's.
const POOL: (&str, &str, &str) = ("192.0.2.0", "192.0.2.2", "192.0.2.7");

/// What a client knows of a floating address.
#[derive(Clone, Debug, Default)]
pub struct Float {
    /// Requests of which nothing is known (yet).
    open: usize,
    /// Where it was said to lead: the last that was asked, or of several that were asked at once each.
    said: BTreeSet<Option<u64>>,
    /// One of those had no answer: it may have been done, or not.
    unsure: bool,
}

#[derive(Debug, Default)]
pub struct Wanted {
    pool: Option<u64>,
    floats: BTreeMap<u64, Float>,
}

impl Wanted {
    /// The store went back: of what it has nothing is certain.
    pub fn go_back(&mut self, contains: impl Fn(&str) -> bool) {
        let resource = |base, id| key::resource(base, id);
        self.pool = self.pool.filter(|id| contains(&resource(floating::POOL, *id)));
        self.floats.retain(|id, _| contains(&resource(floating::BASE, floating::stored_id(*id).unwrap())));
        self.floats.values_mut().for_each(|float| *float = Float { open: 1, ..Float::default() });
    }
}

impl Clients {
    /// What an instance that is to be made has of the network; `ids` are those that are there.
    pub(super) fn dress(&self, draft: &mut Draft, ids: &[u64]) {
        let dice = &self.dice;
        draft.name = dice.percent(40).then(|| (*dice.one(NAMES).unwrap()).to_owned());
        if dice.percent(35) {
            let public = dice.one(PUBLIC).unwrap();
            draft.fields.insert(port::PORTS.into(), json!([format!("{public}:80"), "90", "53/udp"]));
        }
        if dice.percent(35) {
            let (one, other) = (dice.one(ids).copied(), dice.one(ids).copied().filter(|_| dice.percent(50)));
            draft.fields.insert(link::INSTANCE_LINKS.into(), json!({"one": one, "other": other}));
        }
        let pool = self.known().wanted.pool;
        if let Some(pool) = pool.filter(|_| dice.percent(8)) {
            draft.fields.insert(floating::ON_CREATE.into(), json!(pool));
        }
    }

    /// One of them wants something of the network; `ids` are the instances that are there.
    pub(super) fn ask_network(&self, agent: Orchestrator, ids: &[u64]) {
        let (pool, floats): (_, Vec<u64>) = {
            let known = self.known();
            (known.wanted.pool, known.wanted.floats.keys().copied().collect())
        };
        let (float, id) = (self.dice.one(&floats).copied(), self.dice.one(ids).copied());
        match (self.dice.below(100), pool, float, id) {
            (_, None, ..) => self.make_pool(agent),
            (0..10, Some(pool), ..) | (_, Some(pool), None, _) => self.acquire(agent, pool),
            (10..48, _, Some(float), Some(id)) => self.associate(agent, float, id),
            (48..58, _, Some(float), _) => self.let_go(agent, float, "disassociate"),
            (58..64, _, Some(float), _) => self.let_go(agent, float, "remove"),
            (64..82, _, _, Some(id)) => self.change_port(agent, id),
            (.., Some(id)) => self.lead_link(agent, id, ids),
            _ => {}
        }
    }

    fn make_pool(&self, agent: Orchestrator) {
        let (network, first, last) = POOL;
        let fields = Map::from_iter([
            ("networkAddress".to_owned(), json!(network)),
            ("startAddress".to_owned(), json!(first)),
            ("endAddress".to_owned(), json!(last)),
            ("isPublic".to_owned(), json!(true)),
        ]);
        let base = floating::POOL.to_owned();
        let draft = Draft { kind: base.clone(), base, account_id: Some(seed::ADMIN), fields, ..Draft::default() };
        self.wish("pool", async move { agent.create(draft).await }, |clients, made| {
            if let Some(made) = made {
                clients.known().wanted.pool = Some(made.id);
            }
        });
    }

    fn acquire(&self, agent: Orchestrator, pool: u64) {
        let input = Map::from_iter([("accountId".to_owned(), json!(seed::ADMIN))]);
        self.wish(
            "acquire",
            async move { agent.act(floating::POOL, pool, "acquire", input).await },
            |clients, made| {
                let float = Float { said: BTreeSet::from([None]), ..Float::default() };
                clients.known().wanted.floats.extend(made.map(|made| (made.id, float)));
            },
        );
    }

    /// From now on nothing is certain of it, until this is answered.
    fn begin(&self, float: u64) {
        if let Some(float) = self.known().wanted.floats.get_mut(&float) {
            if float.open == 0 {
                *float = Float::default();
            }
            float.open += 1;
        }
    }

    fn end(&self, float: u64, said: Option<Option<u64>>) {
        if let Some(float) = self.known().wanted.floats.get_mut(&float) {
            float.open -= 1;
            float.unsure |= said.is_none();
            float.said.extend(said);
        }
    }

    fn associate(&self, agent: Orchestrator, float: u64, id: u64) {
        self.begin(float);
        self.chronicle.note(format_args!("{float:x} is to lead to {}", identifier::instance(id)));
        let input = Map::from_iter([(floating::PRIVATE.to_owned(), json!(id))]);
        let asked = async move { agent.act(floating::SHOWN, float, "associate", input).await };
        self.wish("associate", asked, move |clients, made| clients.end(float, made.map(|_| Some(id))));
    }

    fn let_go(&self, agent: Orchestrator, float: u64, action: &'static str) {
        self.begin(float);
        self.wish(
            action,
            async move { agent.act(floating::SHOWN, float, action, Map::new()).await },
            move |clients, made| {
                clients.end(float, made.as_ref().map(|_| None));
                if made.is_some() && action == "remove" {
                    clients.known().wanted.floats.remove(&float);
                }
            },
        );
    }

    fn change_port(&self, agent: Orchestrator, id: u64) {
        let public = self.dice.one(PUBLIC).filter(|_| self.dice.percent(70)).copied();
        let changes = Map::from_iter([(port::PUBLIC_PORT.to_owned(), json!(public))]);
        let number = u16::try_from(self.dice.below(2)).unwrap();
        self.wish("port", async move { agent.update("port", port::id(id, number), changes).await }, |_, _| ());
    }

    fn lead_link(&self, agent: Orchestrator, id: u64, ids: &[u64]) {
        let target = self.dice.one(ids).filter(|_| self.dice.percent(80)).copied();
        let changes = Map::from_iter([(link::TARGET.to_owned(), json!(target))]);
        let number = u16::try_from(self.dice.below(2)).unwrap();
        self.wish("link", async move { agent.update(link::BASE, link::id(id, number), changes).await }, |_, _| ());
    }

    /// Asks, and has what is known of it be so when that is answered: with the row, or without where it was refused for certain. What
    /// is not answered is never known.
    fn wish(
        &self,
        kind: &'static str,
        asked: impl Future<Output = Result<Written, ServiceError>> + Send + 'static,
        known: impl FnOnce(&Self, Option<Resource>) + Send + 'static,
    ) {
        self.chronicle.count(&format!("client: {kind}"));
        let (this, past) = (self.clone(), self.past());
        tokio::spawn(async move {
            let made = match tokio::time::timeout(PATIENCE, asked).await {
                Ok(Ok(made)) => made.resources.into_iter().next(),
                Ok(Err(ServiceError::Store(store::Error::OutcomeUnknown { .. }))) | Err(_) => {
                    return this.chronicle.count("client: no answer");
                }
                Ok(Err(error)) => {
                    this.refused(kind, &error);
                    None
                }
            };
            if let Some(row) = &made {
                this.chronicle.note(format_args!("{kind} acknowledged: {:x}", row.id));
            }
            if this.past() == past {
                known(&this, made);
            }
        });
    }

    /// Asks an agent for a name, as an instance would; what it says is held against the records once all is well.
    pub fn look_up(&self) {
        if !self.network {
            return;
        }
        let desks: Vec<_> = self.machines.iter().filter_map(|machine| machine.desk()).collect();
        let (Some(desk), Some(name)) = (self.dice.one(&desks).cloned(), self.dice.one(NAMES).copied()) else { return };
        tokio::spawn(async move { drop(desk.names.find(seed::ADMIN, name).await) });
    }

    /// What agents say of names that is not in the records.
    pub async fn wrong_names(&self, look: impl Fn(&str) -> Vec<String>) -> Vec<String> {
        let mut wrong = Vec::new();
        for machine in self.machines.iter() {
            let Some(desk) = machine.desk() else { continue };
            for name in NAMES {
                let found = match desk.names.find(seed::ADMIN, name).await {
                    Found::Names(found) => found,
                    Found::Unknown => {
                        wrong.push(format!("{} knows nothing of {name}", machine.name));
                        continue;
                    }
                };
                let mut found: Vec<String> = found.iter().map(|named| named.address.to_string()).collect();
                let mut recorded = look(&key::dns_name(seed::ADMIN, name));
                found.sort();
                recorded.sort();
                if found != recorded {
                    wrong.push(format!("{} says {found:?} of {name}, and it is at {recorded:?}", machine.name));
                }
            }
        }
        wrong
    }

    /// What was acknowledged of floating addresses, and is not so.
    pub fn wrong_floats(&self, entries: &Entries) -> Vec<String> {
        let row = |base, id| entries.get(&key::resource(base, id)).map(|entry| decode::<Resource>(entry).unwrap());
        let mut wrong = Vec::new();
        for (shown, float) in &self.known().wanted.floats {
            if float.open > 0 || float.unsure {
                continue;
            }
            let said = &float.said;
            let found = row(floating::BASE, floating::stored_id(*shown).unwrap());
            let leads = found.as_ref().and_then(floating::target);
            let is_gone = |id| {
                use stampede::resource::State::{Purged, Purging, Removed, Removing};
                row(instance::BASE, id).is_none_or(|row| matches!(row.state, Removing | Removed | Purging | Purged))
            };
            if !said.contains(&leads) && !said.iter().flatten().any(|id| is_gone(*id)) {
                wrong.push(format!("floating address {shown:x} was to lead to {said:?}, and leads to {leads:?}"));
            }
        }
        wrong
    }
}
