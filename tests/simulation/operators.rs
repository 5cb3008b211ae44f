//! Those who run the cluster: they close hosts and open them, empty them and change their minds, take out those that never
//! come back, and put an old snapshot of the store in its place.

use crate::chronicle::{ALL, Chronicle};
use crate::clients::Clients;
use crate::dice::Dice;
use crate::guards::{Ambush, Doctored, Guard, Hearsay};
use crate::machine::Machine;
use serde_json::{Map, Value, json};
use stampede::environment::Environment;
use stampede::membership::backup::{self, Error};
use stampede::membership::record::Host;
use stampede::orchestration::{Orchestrator, Service};
use stampede::store::simulated::{Link, Saved, Simulated};
use stampede::store::{Store, decode, key};
use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long one of them waits for an answer before asking again, elsewhere.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a try without success.
const AGAIN: Duration = Duration::from_secs(2);
/// A snapshot this often, and so many are kept.
const SAVED: Duration = Duration::from_secs(8);
const KEPT: usize = 8;
/// An agent that still keeps its lease alive so long after the store was restored is stopped by hand.
const STUBBORN: Duration = Duration::from_secs(40);

/// What they want of a host.
#[derive(Clone, Debug, PartialEq)]
enum Wish {
    Open,
    Cordoned,
    Drained {
        at_once: usize,
        stop_staying: bool,
    },
    /// It was taken away, and is to be forgotten.
    Gone,
}

/// What was said of hosts, as far as it can be held against what is done.
#[derive(Debug, Default)]
pub struct Said {
    wishes: BTreeMap<String, Wish>,
    /// The largest number that was allowed to be on their way off a host at once, since it was last open for certain.
    budgets: BTreeMap<String, usize>,
    /// The store went back, and the cluster does not go on yet.
    restoring: bool,
}

/// Cheap to clone; all clones said the same.
#[derive(Clone, Debug)]
pub struct Operators {
    pub dice: Dice,
    pub chronicle: Chronicle,
    pub environment: Environment,
    pub store: Simulated,
    pub machines: Vec<Arc<Machine>>,
    pub clients: Clients,
    pub without: Option<Guard>,
    pub said: Arc<Mutex<Said>>,
    pub saved: Arc<Mutex<VecDeque<Saved>>>,
}

impl Operators {
    /// As many may be on their way off it at once.
    pub fn budget(&self, host: &str) -> usize {
        self.said.lock().unwrap().budgets.get(host).copied().unwrap_or(usize::MAX)
    }

    /// Keeps snapshots, as a timer of theirs does it.
    pub async fn keep_snapshots(self) {
        loop {
            tokio::time::sleep(SAVED).await;
            let mut saved = self.saved.lock().unwrap();
            saved.push_back(self.store.save());
            if saved.len() > KEPT {
                saved.pop_front();
            }
        }
    }

    /// One of them wants something.
    pub fn want(&self) {
        let Some(machine) = self.dice.one(&self.machines).cloned() else { return };
        let known = self.said.lock().unwrap().wishes.get(&machine.name).cloned();
        let wish = match (known, self.dice.below(100)) {
            (Some(Wish::Gone), _) => return,
            (_, 0..3) if self.may_lose_one() => return self.take_away(&machine),
            (None | Some(Wish::Open), 0..35) => Wish::Cordoned,
            (None | Some(Wish::Open), 35..) => {
                Wish::Drained { at_once: 1 + self.dice.below(3), stop_staying: self.dice.percent(20) }
            }
            (Some(_), _) => Wish::Open,
        };
        if matches!(wish, Wish::Drained { .. }) && self.dice.percent(30) {
            self.regret(&machine.name, wish.clone());
        }
        self.wish(&machine.name, wish);
    }

    /// Soon it was not meant so.
    fn regret(&self, host: &str, wish: Wish) {
        let (this, host, soon) = (self.clone(), host.to_owned(), self.dice.millis(500, 6000));
        tokio::spawn(async move {
            tokio::time::sleep(soon).await;
            let still = this.said.lock().unwrap().wishes.get(&host) == Some(&wish);
            if still {
                this.wish(&host, Wish::Open);
            }
        });
    }

    fn wish(&self, host: &str, wish: Wish) {
        {
            let mut said = self.said.lock().unwrap();
            if let Wish::Drained { at_once, .. } = wish {
                let budget = said.budgets.entry(host.to_owned()).or_default();
                *budget = at_once.max(*budget);
            }
            said.wishes.insert(host.to_owned(), wish.clone());
        }
        self.chronicle.trouble(&format!("operator: {}", wish.verb()), host);
        if matches!(wish, Wish::Drained { stop_staying: true, .. }) {
            self.chronicle.may_end_all_on(host);
        }
        tokio::spawn(self.clone().insist(host.to_owned(), wish));
    }

    /// Asks until it is acknowledged, or something else is wanted.
    async fn insist(self, host: String, wish: Wish) {
        loop {
            if self.said.lock().unwrap().wishes.get(&host) != Some(&wish) {
                return;
            }
            if self.ask(&host, &wish).await {
                self.chronicle.note(format_args!("operator: {} of {host} acknowledged", wish.verb()));
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether it was acknowledged.
    async fn ask(&self, host: &str, wish: &Wish) -> bool {
        let record =
            self.store.look(|entries| entries.get(&key::host(host)).map(|entry| decode::<Host>(entry).unwrap()));
        let Some(record) = record else { return *wish == Wish::Gone };
        let Some(agent) = self.agent() else { return false };
        let input: Map<String, Value> = match wish {
            Wish::Drained { at_once, stop_staying } => {
                Map::from_iter([("atOnce".into(), json!(at_once)), ("stopStaying".into(), json!(stop_staying))])
            }
            Wish::Gone => Map::from_iter([("force".into(), json!(true))]),
            Wish::Open | Wish::Cordoned => Map::new(),
        };
        let asked = agent.act("host", record.id, wish.action(), input);
        match tokio::time::timeout(PATIENCE, asked).await {
            // That it is gone for good is seen when it is.
            Ok(Ok(_)) => *wish != Wish::Gone,
            Ok(Err(error)) => {
                self.chronicle.note(format_args!("operator: {} of {host} refused: {error}", wish.verb()));
                false
            }
            Err(_) => false,
        }
    }

    fn agent(&self) -> Option<Orchestrator> {
        let desks: Vec<Orchestrator> =
            self.machines.iter().filter_map(|machine| machine.desk()).map(|desk| desk.orchestrator).collect();
        self.dice.one(&desks).cloned()
    }

    /// Three stay at least.
    fn may_lose_one(&self) -> bool {
        let said = self.said.lock().unwrap();
        let gone = said.wishes.values().filter(|wish| **wish == Wish::Gone).count();
        self.machines.len() > gone + 3
    }

    /// A host burns down, and is taken out of the cluster.
    fn take_away(&self, machine: &Arc<Machine>) {
        machine.destroy();
        self.wish(&machine.name, Wish::Gone);
    }

    /// The store goes back to an old snapshot. Whether there was one.
    pub fn restore(&self) -> bool {
        let saved = {
            let mut kept = self.saved.lock().unwrap();
            let at = self.dice.below(kept.len());
            let Some(saved) = kept.get(at).cloned() else { return false };
            // Those after it are of a past that did not happen.
            kept.truncate(at + 1);
            saved
        };
        self.chronicle.trouble("store restored", ALL);
        self.chronicle.note(format_args!("from {} back to {}", self.store.revision(), saved.revision()));
        self.clients.go_back(|key| saved.contains(key));
        self.chronicle.went_back();
        {
            let mut said = self.said.lock().unwrap();
            said.restoring = true;
            // What was once said may be so again.
            said.budgets.values_mut().for_each(|budget| *budget = usize::MAX);
        }
        // Who never saw it cannot tell that it went back.
        self.machines.iter().filter(|machine| !machine.knows_the_store()).for_each(|machine| machine.forbid_agent());
        self.store.restore(saved, self.dice.millis(1000, 8000));
        tokio::spawn(self.clone().say_restored());
        true
    }

    /// `stampede store restored`, as docs/operate.md has it.
    async fn say_restored(self) {
        let client = (Arc::new(self.store.client("operator")) as Arc<dyn Store>, Link::default());
        let (nothing, nobody) = (Hearsay::default(), Ambush::new(&self.store));
        let store =
            Doctored::new(client, self.without, "operator", Path::new("/"), &self.environment, (&nothing, &nobody));
        let begun = tokio::time::Instant::now();
        loop {
            tokio::time::sleep(AGAIN).await;
            match backup::restored(&store, &self.environment).await {
                Ok(generation) => {
                    self.chronicle.note(format_args!("the cluster is generation {generation} from now on"));
                    break;
                }
                Err(Error::Alive { hosts, .. }) if begun.elapsed() > STUBBORN => {
                    for machine in self.machines.iter().filter(|machine| hosts.contains(&machine.name)) {
                        self.chronicle.trouble("agent stopped by hand", &machine.name);
                        machine.crash_agent();
                    }
                }
                Err(error) => self.chronicle.note(format_args!("not restored yet: {error}")),
            }
        }
        self.machines.iter().for_each(Machine::allow_agent);
        self.say_again();
        self.said.lock().unwrap().restoring = false;
    }

    /// What was said is said once more: the store went back, or something older that had no answer was done after it.
    pub fn say_again(&self) {
        let wishes = self.said.lock().unwrap().wishes.clone();
        for machine in &self.machines {
            let wish = wishes.get(&machine.name).cloned().unwrap_or(Wish::Open);
            self.wish(&machine.name, wish);
        }
    }

    /// Whether the store went back and the cluster does not go on yet.
    pub fn restoring(&self) -> bool {
        self.said.lock().unwrap().restoring
    }

    /// What they wanted and is not so.
    pub fn unheeded(&self, host: &str, record: Option<&Host>) -> Option<String> {
        let wish = self.said.lock().unwrap().wishes.get(host).cloned()?;
        let drain = record.and_then(|record| record.drain.as_ref());
        let heeded = match wish {
            Wish::Gone => record.is_none(),
            Wish::Open => record.is_some_and(|record| !record.cordoned) && drain.is_none(),
            Wish::Cordoned => record.is_some_and(|record| record.cordoned) && drain.is_none(),
            Wish::Drained { .. } => drain.is_some_and(|drain| drain.done || drain.stuck),
        };
        (!heeded).then(|| format!("{host} was to be {wish:?}, and is {record:?}"))
    }
}

impl Wish {
    fn verb(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Cordoned => "cordon",
            Self::Drained { .. } => "drain",
            Self::Gone => "remove --force",
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Self::Open => "activate",
            Self::Cordoned => "deactivate",
            Self::Drained { .. } => "drain",
            Self::Gone => "remove",
        }
    }
}
