//! What must hold of the encryption once all is well again.

use super::{Esp, Fate, Inner};
use crate::machine::Machine;
use serde_json::Value;
use stampede::network::ipsec::engine::Word;
use stampede::store::{Change, Entry, decode, key};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

type Entries = BTreeMap<String, Entry>;

/// Policies that stand whatever is known of others: out and in, of both families.
const STANDING: usize = 4;

impl Esp {
    /// Each host is in the mesh, whatever one sends another understands, and nobody complains.
    pub fn at_rest(&self, machines: &[Arc<Machine>], entries: &Entries) -> Vec<String> {
        let (inner, mut wrong) = (self.inner(), Vec::new());
        let hosts = live(machines);
        for machine in &hosts {
            let host = &machine.name;
            if !entries.contains_key(&key::mesh(host)) {
                wrong.push(format!("{host} has no record in the mesh"));
            }
            for to in hosts.iter().map(|machine| &machine.name).filter(|to| *to != host) {
                let (fate, _) = inner.fate(host, to);
                if fate != Fate::Arrives {
                    wrong.push(format!("what {host} sends to {to} does not arrive: {fate:?}"));
                }
            }
            let word = machine.word();
            if word != Some(Word::default()) {
                wrong.push(format!("{host} says {word:?}"));
            }
        }
        wrong
    }

    /// Old halves are gone, and all that was made of them: two associations and a policy a peer.
    pub fn faded(&self, machines: &[Arc<Machine>], entries: &Entries) -> Vec<String> {
        let mut wrong = self.at_rest(machines, entries);
        let (inner, hosts) = (self.inner(), live(machines));
        for host in hosts.iter().map(|machine| &machine.name) {
            wrong.extend(inner.old(host, hosts.len() - 1));
            let halves = entries.get(&key::mesh(host)).map(halves).unwrap_or_default().len();
            if halves != 1 {
                wrong.push(format!("{host} has {halves} halves"));
            }
        }
        wrong
    }
}

impl Inner {
    /// What a host with so many peers has more or less than two associations and a policy of each.
    fn old(&self, host: &str, peers: usize) -> Option<String> {
        let kernel = self.kernels.get(host)?;
        let (policies, associations) = (kernel.policies.len(), kernel.associations.len());
        (policies != STANDING + peers || associations != 2 * peers)
            .then(|| format!("{host} has {policies} policies and {associations} associations with {peers} peers"))
    }
}

fn live(machines: &[Arc<Machine>]) -> Vec<&Arc<Machine>> {
    machines.iter().filter(|machine| machine.is_on()).collect()
}

fn halves(entry: &Entry) -> BTreeSet<String> {
    let record: Value = decode(entry).unwrap();
    let all = record["halves"].as_array().cloned().unwrap_or_default();
    all.iter().map(|half| half["public"].as_str().unwrap().to_owned()).collect()
}

/// What all hosts' records said last of their halves.
#[derive(Debug, Default)]
pub struct Records(Mutex<BTreeMap<String, BTreeSet<String>>>);

impl Records {
    /// Takes a change in; whether all it does is to leave out halves whose time is over.
    pub fn is_over(&self, change: &Change) -> bool {
        let Change::Put(entry) = change else { return false };
        if !entry.key.starts_with(&key::all_mesh()) {
            return false;
        }
        let now = halves(entry);
        let before = self.0.lock().unwrap().insert(entry.key.clone(), now.clone());
        before.is_some_and(|before| now.len() < before.len() && now.is_subset(&before))
    }
}
