//! What must hold of all that is led once all is well again: each host's kernel leads what the records say, and nothing else.

use super::Datapaths;
use super::kernel::{From, Rules};
use crate::machine::Machine;
use serde_json::Value;
use stampede::resource::link::{self, Endpoint};
use stampede::resource::port::{self, Protocol};
use stampede::resource::{Resource, State, floating, identifier, instance};
use stampede::store::{Entry, decode, key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

type Entries = BTreeMap<String, Entry>;

/// What a host is to lead by the records.
#[derive(Debug, Default)]
struct Wanted {
    ports: BTreeMap<(Protocol, u16), SocketAddrV4>,
    links: BTreeMap<From, Option<SocketAddrV4>>,
    floating: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

/// The rows below one base.
fn rows(entries: &Entries, base: &str) -> BTreeMap<u64, Resource> {
    let found = below(entries, key::resources(base)).map(|entry| decode::<Resource>(entry).unwrap());
    found.map(|row| (row.id, row)).collect()
}

impl Wanted {
    /// With what a running instance has.
    fn and(&mut self, entries: &Entries, row: &Resource, at: Ipv4Addr) {
        for published in port::of(row) {
            if let Some(public) = published.public {
                self.ports.insert((published.protocol, public), SocketAddrV4::new(at, published.private));
            }
        }
        for link in link::of(row) {
            let endpoint = link.target.map(|target| key::endpoint(&identifier::instance(target)));
            let endpoint = endpoint.and_then(|key| entries.get(&key)).map(|entry| decode::<Endpoint>(entry).unwrap());
            for port in &link.ports {
                let to = endpoint.as_ref().map(|endpoint| SocketAddrV4::new(endpoint.address, port.private));
                self.links.insert((at, port.protocol, port.public), to);
            }
        }
        self.floating.extend(floating::of(row).iter().map(|one| (one.address, at)));
    }

    /// By their hosts' names.
    fn all(entries: &Entries, instances: &BTreeMap<u64, Resource>) -> BTreeMap<String, Self> {
        let mut all: BTreeMap<String, Self> = BTreeMap::new();
        for row in instances.values().filter(|row| row.state == State::Running) {
            let (host, at) = (row.get::<String>(instance::HOST_NAME), row.get(instance::ADDRESS));
            if let (Some(host), Some(at)) = (host, at) {
                all.entry(host).or_default().and(entries, row, at);
            }
        }
        all
    }
}

/// What of `is` is not as in `wanted`; where `lenient`, there may be more.
fn differ<K: Ord + std::fmt::Debug, V: PartialEq + std::fmt::Debug>(
    is: &BTreeMap<K, V>,
    wanted: &BTreeMap<K, V>,
    lenient: bool,
) -> Vec<String> {
    let missing = wanted.iter().filter(|(key, to)| is.get(key) != Some(to));
    let missing = missing.map(|(key, to)| format!("{key:?} leads to {:?} and not to {to:?}", is.get(key)));
    let beyond = is.iter().filter(|(key, _)| !lenient && !wanted.contains_key(key));
    missing.chain(beyond.map(|(key, to)| format!("{key:?} leads to {to:?} and is to lead nowhere"))).collect()
}

impl Datapaths {
    /// `went_back`: hosts may have more than the store knows.
    pub fn at_rest(&self, machines: &[Arc<Machine>], entries: &Entries, went_back: bool) -> Vec<String> {
        let instances = rows(entries, instance::BASE);
        let mut wanted = Wanted::all(entries, &instances);
        let mut wrong = floats(entries, &instances, went_back);
        for machine in machines.iter().filter(|machine| machine.is_on()) {
            let host = &machine.name;
            let wanted = wanted.remove(host).unwrap_or_default();
            let (rules, has) = self.look(host, |kernel| (kernel.rules.clone(), kernel.addresses()));
            let Rules { ports, links, floating, leaving, .. } = rules;
            wrong.extend(differ(&ports, &wanted.ports, went_back).into_iter().map(|it| format!("{host}: port {it}")));
            wrong.extend(differ(&links, &wanted.links, went_back).into_iter().map(|it| format!("{host}: link {it}")));
            let floats = differ(&floating, &wanted.floating, false);
            wrong.extend(floats.into_iter().map(|it| format!("{host}: floating {it}")));
            let (has, to_have) = (has.keys().collect::<BTreeSet<_>>(), wanted.floating.keys().collect());
            if has != to_have {
                wrong.push(format!("{host} has the floating addresses {has:?}, and is to have {to_have:?}"));
            }
            let under: BTreeSet<_> = leaving.keys().collect();
            if under != wanted.floating.values().collect() {
                wrong.push(format!("{host}: {under:?} leave under floating addresses, which are {floating:?}"));
            }
        }
        wrong
    }
}

/// The entries below a prefix.
fn below(entries: &Entries, prefix: String) -> impl Iterator<Item = &Entry> {
    let found = entries.range(prefix.clone()..).take_while(move |(key, _)| key.starts_with(&prefix));
    found.map(|(_, entry)| entry)
}

/// Each address's row, its instance's, who holds it and who took it out of the pool say the same.
fn floats(entries: &Entries, instances: &BTreeMap<u64, Resource>, went_back: bool) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut holders: BTreeMap<&str, Value> =
        below(entries, key::holders()).map(|entry| (entry.key.as_str(), decode(entry).unwrap())).collect();
    let mut taken: BTreeMap<&str, u64> = below(entries, format!("{}floating/", key::ROOT))
        .map(|entry| (entry.key.as_str(), decode(entry).unwrap()))
        .collect();
    let floats = rows(entries, floating::BASE);
    for row in floats.values() {
        let target = floating::target(row).and_then(|id| instances.get(&id));
        let holder = holders.remove(key::holder(row.id).as_str());
        let place = row.get(floating::POOL_ID).zip(row.get(floating::ADDRESS));
        let place = place.filter(|_| row.state != State::Purged);
        let own =
            place.is_none_or(|(pool, address)| taken.remove(key::floating(pool, address).as_str()) == Some(row.id));
        let problems = [
            settled(row, target),
            held(target, holder.as_ref()),
            (!own).then(|| "has an address that is not its own in the pool".to_owned()),
        ];
        wrong.extend(problems.into_iter().flatten().map(|problem| format!("floating address {} {problem}", row.id)));
    }
    for instance in instances.values() {
        let strays = |one: &floating::Associated| floats.get(&one.id).and_then(floating::target) != Some(instance.id);
        let strays = floating::of(instance).into_iter().filter(strays);
        wrong.extend(
            strays.map(|one| format!("{} has the floating address {}, which leads elsewhere", instance.id, one.id)),
        );
    }
    wrong.extend(holders.keys().map(|key| format!("{key} is left over")));
    wrong.extend(taken.keys().filter(|_| !went_back).map(|key| format!("{key} is left over")));
    wrong
}

/// What is wrong with an address's state, and with whom it leads to.
fn settled(row: &Resource, target: Option<&Resource>) -> Option<String> {
    let runs = target.is_some_and(|target| target.state == State::Running);
    let is_at_rest = match row.state {
        State::Active | State::Purged => floating::target(row).is_none(),
        State::Associated => target.is_some(),
        State::Associating => target.is_some() && !runs,
        _ => false,
    };
    let is_listed = |target: &Resource| floating::of(target).iter().any(|one| one.id == row.id);
    (!is_at_rest || !target.is_none_or(is_listed)).then(|| {
        format!("is {:?}, and leads to {:?}", row.state, target.map(|target| (target.id, floating::of(target))))
    })
}

/// What is wrong with who holds it.
fn held(target: Option<&Resource>, holder: Option<&Value>) -> Option<String> {
    let runs = target.filter(|target| target.state == State::Running);
    let host = runs.and_then(|runs| runs.get::<String>(instance::HOST_NAME));
    let holder = holder.and_then(|holder| holder["host"].as_str());
    (holder != host.as_deref()).then(|| format!("is held by {holder:?}, and is to be on {host:?}"))
}
