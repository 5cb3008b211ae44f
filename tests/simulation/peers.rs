//! The wire between agents: one asks the other directly, over a network that can be cut too.

use crate::agent::Desk;
use crate::dice::Dice;
use crate::machine::Machine;
use stampede::membership::peers::{Answer, Peers};
use stampede::membership::record::Host;
use stampede::store::simulated::Way;
use std::collections::BTreeSet;
use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// All hosts, and which are cut off from the others. Cheap to clone.
#[derive(Clone)]
pub struct Wire(Arc<Inner>);

struct Inner {
    dice: Dice,
    hosts: Mutex<Vec<Weak<Machine>>>,
    cut: Mutex<BTreeSet<String>>,
}

impl Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    pub fn new(dice: &Dice) -> Self {
        Self(Arc::new(Inner { dice: dice.clone(), hosts: Mutex::default(), cut: Mutex::default() }))
    }

    pub fn connect(&self, machine: &Arc<Machine>) {
        self.0.hosts.lock().unwrap().push(Arc::downgrade(machine));
    }

    pub fn cut(&self, host: &str) {
        self.0.cut.lock().unwrap().insert(host.to_owned());
    }

    pub fn heal(&self, host: &str) {
        self.0.cut.lock().unwrap().remove(host);
    }

    pub fn of(&self, host: &str) -> Asker {
        Asker { wire: self.clone(), host: host.to_owned() }
    }

    /// Whether what one sends the other arrives.
    pub fn connects(&self, one: &str, other: &str) -> bool {
        let cut = self.0.cut.lock().unwrap();
        !cut.contains(one) && !cut.contains(other)
    }

    fn desk(&self, host: &str) -> Option<Desk> {
        let hosts = self.0.hosts.lock().unwrap();
        hosts.iter().filter_map(Weak::upgrade).find(|machine| machine.name == host)?.desk()
    }
}

/// One agent's end of it.
#[derive(Clone, Debug)]
pub struct Asker {
    wire: Wire,
    host: String,
}

#[async_trait::async_trait]
impl Peers for Asker {
    async fn ask(&self, host: &Host, _address: &str) -> Answer {
        let dice = &self.wire.0.dice;
        tokio::time::sleep(dice.millis(1, 50)).await;
        if !self.wire.connects(&self.host, &host.name) {
            tokio::time::sleep(Duration::from_secs(2)).await;
            return Answer::Silent;
        }
        let Some(desk) = self.wire.desk(&host.name) else { return Answer::Silent };
        let answer = desk.answer().await;
        tokio::time::sleep(dice.millis(1, 50)).await;
        let arrives = self.wire.connects(&self.host, &host.name) && desk.link.way() != Way::Dead;
        if arrives { answer } else { Answer::Silent }
    }
}
