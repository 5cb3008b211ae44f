//! What an agent holds while it encrypts: secret, private halves, what is known of the others. Everything here is in
//! memory only and gone with the agent; private keys are wiped when their half goes.

use super::super::{
    derive::{self, End},
    half::{Half, PublicHalf},
    peers::Peers,
    record::Opened,
    rotation::{Action, Reason, Rotation},
    secret::{ClusterSecret, SecretName, Secrets},
    view::{At, Places, Seen, association},
};
use crate::environment::Environment;
use crate::network::mesh::{Encryption, Mesh, Outside, Underlay};
use crate::store::mirror::View;
use stampede_netlink::xfrm::AssociationChange;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What is to be done outside, in this order.
#[derive(Debug)]
pub enum Step {
    Change(Vec<AssociationChange>),
    Publish(Vec<PublicHalf>),
    Probe(String),
}

/// Where and how this host takes packets in, beside ESP at its own address.
#[derive(Debug, Clone)]
pub struct Ways {
    /// The UDP port that it takes ESP in at, where it does.
    pub esp_port: Option<u16>,
    /// Plain text, from those that do not encrypt.
    pub plain: bool,
    /// Where it is for hosts of other sites.
    pub outside: Outside,
}

/// See the module's text.
#[derive(Debug)]
pub struct Session {
    host: String,
    cluster: String,
    /// As they count now.
    pub secrets: Secrets,
    number: u32,
    ways: Ways,
    pub rotation: Rotation,
    halves: BTreeMap<u32, Half>,
    pub peers: Peers,
    /// The halves in this host's record, as the store has it.
    record: Vec<PublicHalf>,
    /// What an agent before this one left, as its record is to say.
    lingering: BTreeSet<u32>,
    last: Option<Last>,
}

/// From what the records were read last: while it is the same they say the same, and none is opened again.
#[derive(Debug)]
struct Last {
    /// The very values: after a store went back two may have one revision.
    records: Vec<(String, Arc<Mesh>)>,
    own: IpAddr,
    secrets: Vec<SecretName>,
}

impl Last {
    fn is(&self, other: &Self) -> bool {
        self.own == other.own
            && self.secrets == other.secrets
            && self.records.len() == other.records.len()
            && self
                .records
                .iter()
                .zip(&other.records)
                .all(|((host, one), (known, other))| host == known && Arc::ptr_eq(one, other))
    }
}

impl Session {
    pub fn new(host: &str, cluster: String, secrets: Secrets, number: u32, ways: Ways) -> Self {
        let rotation = Rotation::new(number);
        let (host, halves, peers, record) = (host.to_owned(), BTreeMap::new(), Peers::default(), Vec::new());
        let lingering = BTreeSet::new();
        Self { host, cluster, secrets, number, ways, rotation, halves, peers, record, lingering, last: None }
    }

    /// Takes in all records as they are now.
    pub fn read(&mut self, view: &View<Mesh>, own: IpAddr) {
        let last = Last {
            records: view.iter().map(|(host, item)| (host.clone(), item.value.clone())).collect(),
            own,
            secrets: self.secrets.all().map(ClusterSecret::name).collect(),
        };
        if self.last.as_ref().is_some_and(|known| known.is(&last)) {
            return;
        }
        self.last = Some(last);
        let records: BTreeMap<String, Mesh> =
            view.iter().map(|(host, item)| (host.clone(), (*item.value).clone())).collect();
        self.take_in(&records, own);
    }

    fn take_in(&mut self, records: &BTreeMap<String, Mesh>, own: IpAddr) {
        let peers = Peers::of(records, &self.host, own, (&self.cluster, &self.secrets), &self.ways);
        for gone in self.peers.known.keys().filter(|host| !peers.known.contains_key(*host)) {
            tracing::info!(peer = gone, "no encrypted way to this host any more");
            self.rotation.peer_gone(gone);
        }
        for (host, known) in &peers.known {
            if !self.peers.known.contains_key(host) {
                tracing::info!(peer = host, address = %known.address, "a host to encrypt to");
            }
            let lingering = records.get(host).and_then(|record| record.lingering.as_ref());
            if !self.rotation.peer_record(host, known.opened.number, &known.opened.halves, lingering) {
                tracing::debug!(peer = host, "its record went back; it is passed over");
            }
        }
        let own = records.get(&self.host).map(|record| record.open(&self.cluster, &self.host, &self.secrets));
        self.record = own.and_then(Result::ok).map(|opened| opened.halves).unwrap_or_default();
        self.rotation.own_record(&self.record);
        self.rotation.all_listed();
        self.peers = peers;
    }

    pub fn places(&self, own: IpAddr) -> Places {
        let peers = self.peers.known.iter().map(|(host, known)| (known.address, host.clone()));
        Places { own, peers: peers.collect() }
    }

    /// This host's record with these halves, under the seal.
    pub fn sealed(&self, halves: Vec<PublicHalf>, underlay: Underlay, mtu: u32) -> Mesh {
        let Ways { esp_port, outside, .. } = self.ways.clone();
        let opened = Opened { number: self.number, underlay: vec![underlay.address], outside, esp_port, halves };
        let sealed = opened.seal(&self.cluster, &self.host, &self.secrets);
        let mesh = Mesh::new(self.number, underlay, mtu, Encryption::Ipsec, sealed);
        let lingering = Some(self.lingering.clone());
        Mesh { takes_plain: self.ways.plain, outside: opened.outside, lingering, ..mesh }
    }

    /// The halves that stand in the record, where all of them still live: for a record of which something else is to change.
    pub fn listed(&self) -> Option<Vec<PublicHalf>> {
        let live = self.rotation.halves();
        let all = !self.record.is_empty() && self.record.iter().all(|half| live.contains(half));
        all.then(|| self.record.clone())
    }

    /// What follows from what the kernel has.
    pub fn step(
        &mut self,
        seen: &Seen,
        reachable: &BTreeSet<String>,
        places: &Places,
        environment: &Environment,
    ) -> Vec<Step> {
        let now = environment.clock.boottime();
        // While the secret is changed: what is sent is under the one in use as soon as all others have it.
        if self.rotation.halves().last().is_some_and(|half| half.secret != self.secrets.current().name()) {
            self.rotation.ask();
        }
        let actions = self.rotation.step(&seen.view, reachable, now);
        self.lingering = self.rotation.lingering(&seen.view);
        let (mut steps, mut changes) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Rotate { generation, reason } => self.rotate(generation, reason, environment, now),
                Action::Install { .. } => changes.extend(self.install(&action, places)),
                Action::Remove(name) => changes.extend(seen.id(&name).map(AssociationChange::Remove)),
                Action::Forget { generation } => drop(self.halves.remove(&generation)),
                Action::Publish(halves) => {
                    // Whoever reads of a half can send under it.
                    steps.push(Step::Change(std::mem::take(&mut changes)));
                    steps.push(Step::Publish(halves));
                }
                Action::Probe { host } => steps.push(Step::Probe(host)),
            }
        }
        steps.push(Step::Change(changes));
        steps.retain(|step| !matches!(step, Step::Change(changes) if changes.is_empty()));
        steps
    }

    fn rotate(&mut self, generation: u32, reason: Reason, environment: &Environment, now: Duration) {
        let half = Half::generate(environment, generation, self.secrets.current().name());
        tracing::info!(generation, ?reason, "a new half of this host's keys");
        self.rotation.add(half.public, now);
        self.halves.insert(generation, half);
    }

    /// The association that an [`Action::Install`] asks for. One for which there is no key is seen as lost by the next step.
    fn install(&self, action: &Action, places: &Places) -> Option<AssociationChange> {
        let Action::Install { host, way, own, peer, spi } = action else { return None };
        let known = self.peers.known.get(host)?;
        let half = self.halves.get(&own.generation).filter(|half| half.public == *own)?;
        let end = End { host, number: known.opened.number, half: peer };
        match derive::key(half, &self.host, self.number, end, *way, &self.secrets) {
            Ok(key) => {
                let own = At { address: places.own, esp_port: self.ways.esp_port };
                let peer = At { address: known.address, esp_port: known.opened.esp_port };
                Some(AssociationChange::Add(association(own, peer, *way, *spi, key)))
            }
            Err(error) => {
                tracing::warn!(peer = host, %error, "no key with this host");
                None
            }
        }
    }

    /// Which associations there are of hosts that are known.
    pub fn hosts(&self) -> BTreeSet<String> {
        self.peers.known.keys().cloned().collect()
    }
}
