//! Public ports of hosts: which are free, and how an instance that runs comes to others.
//!
//! A host's public ports are promised in `alloc/<host>` with everything else that is: who has one is decided by the
//! transaction that compares that record. Pure but for the dice, which are handed in.

use super::Writes;
use super::filter::{Candidate, Refusal, Wanted};
use super::index::Dice;
use super::record::{Allocation, Promise};
use crate::resource::port::{self, Protocol};
use crate::resource::{Resource, identifier};
use crate::store::{self, Compare, Entry, Error, Operation, key};
use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// Where those come from that nobody named: beyond what Linux gives to outgoing connections (32768 to 60999).
pub const RANGE: RangeInclusive<u16> = 61_000..=65_535;

/// Why an instance cannot have a public port on its host.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    #[error("{0}")]
    Refused(Refusal),
    #[error(transparent)]
    Store(#[from] Error),
}

fn none_left() -> Refusal {
    Refusal::new("no public port is left", format!("none of the ports {} to {} is free", RANGE.start(), RANGE.end()))
}

/// A free port for each of `wanted`, in order; `taken` are those promised already.
///
/// # Errors
/// Where there are not as many.
pub fn choose<'a>(
    wanted: &[Protocol],
    taken: impl Iterator<Item = &'a BTreeSet<String>>,
    dice: Dice<'_>,
) -> Result<Vec<u16>, Refusal> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let mut taken: HashSet<String> = taken.flatten().cloned().collect();
    let size = RANGE.len();
    let mut chosen = Vec::with_capacity(wanted.len());
    for protocol in wanted {
        // From a place by chance: agents that choose at once rarely choose the same.
        let start = dice(size);
        let mut ports = (0..size).filter_map(|step| u16::try_from((start + step) % size).ok());
        let free = ports.find_map(|step| {
            let public = RANGE.start() + step;
            taken.insert(port::key(public, *protocol)).then_some(public)
        });
        chosen.push(free.ok_or_else(none_left)?);
    }
    Ok(chosen)
}

/// Whether the host can give all the public ports that `wanted` asks for. Whether others have them is seen to with what else
/// speaks against its neighbours.
pub(super) fn refusal(candidate: &Candidate, wanted: &Wanted) -> Option<Refusal> {
    let agent = candidate.view.alive.as_ref().map(|alive| alive.address.as_str()).unwrap_or_default();
    agents_own(&wanted.promise.ports, agent).or_else(|| {
        let promised = candidate.promised.tenants().map(|(_, promise)| &promise.ports);
        choose(&wanted.choose, promised.chain([&wanted.promise.ports]), &mut |_| 0).err()
    })
}

/// The port at which its agent answers is not to be had, wherever that is.
fn agents_own(ports: &BTreeSet<String>, agent: &str) -> Option<Refusal> {
    let own = port::key(agent.parse::<SocketAddr>().ok()?.port(), Protocol::Tcp);
    ports.contains(&own).then(|| Refusal::new("a port is its agent's", format!("port {own} is its agent's own")))
}

/// What a host has promised, as it was read.
#[derive(Debug)]
pub struct Promised {
    alloc: String,
    entry: Option<Entry>,
    allocation: Allocation,
    /// Where its agent answers.
    agent: String,
}

impl Promised {
    /// `entry` is what was found of the host's promises; `agent` is its agent's address.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(host: &str, entry: Option<Entry>, agent: String) -> Result<Self, Error> {
        let allocation = entry.as_ref().map(store::decode).transpose()?.unwrap_or_default();
        Ok(Self { alloc: key::alloc(host), entry, allocation, agent })
    }

    /// A free port for each of those of `instance` that have none.
    ///
    /// # Errors
    /// Where there are not as many.
    pub fn choose(&self, instance: &mut Resource, dice: Dice<'_>) -> Result<(), Refusal> {
        let own = port::promised(instance);
        let taken = self.allocation.instances.values().map(|promise| &promise.ports);
        let chosen = choose(&port::to_choose(instance), taken.chain([&own]), dice)?;
        port::choose(instance, &chosen);
        Ok(())
    }

    /// What makes the host's promise to `instance` be its ports as they are there, as long as nothing is promised meanwhile.
    ///
    /// # Errors
    /// [`PortError::Refused`] where another has one of them.
    pub fn hold(mut self, instance: &Resource) -> Result<Writes, PortError> {
        let id = identifier::instance(instance.id);
        let wanted = port::promised(instance);
        // What nobody counted yet, the host's audit would count so.
        let known = self.allocation.instances.remove(&id).map(Arc::unwrap_or_clone);
        let promise = Promise { ports: wanted, ..known.unwrap_or_else(|| Promise::of(instance)) };
        if let Some(refusal) = taken(&self.allocation, &promise.ports).or(agents_own(&promise.ports, &self.agent)) {
            return Err(PortError::Refused(refusal));
        }
        self.allocation.instances.insert(id, Arc::new(promise));
        let unchanged = match self.entry {
            Some(entry) => Compare::ModRevision { key: self.alloc.clone(), revision: entry.mod_revision },
            None => Compare::Absent { key: self.alloc.clone() },
        };
        let put = Operation::put(&self.alloc, store::encode(&self.alloc, &self.allocation)?);
        Ok(Writes { compares: vec![unchanged], operations: vec![put] })
    }
}

fn taken(allocation: &Allocation, ports: &BTreeSet<String>) -> Option<Refusal> {
    allocation.instances.iter().find_map(|(instance, promise)| of_another(ports, instance, promise))
}

/// That one of `ports` is `instance`'s.
pub(super) fn of_another(ports: &BTreeSet<String>, instance: &str, promise: &Promise) -> Option<Refusal> {
    let port = ports.intersection(&promise.ports).next()?;
    Some(Refusal::new("a port is taken", format!("port {port} is {instance}'s")))
}

#[cfg(test)]
mod tests {
    use super::super::filter::tests::{candidate, joined, wanted};
    use super::*;
    use crate::resource::port::Published;
    use crate::store::Revision;
    use proptest::prelude::*;
    use serde_json::json;

    fn with(ports: &[&str]) -> Promise {
        Promise { ports: ports.iter().map(|port| (*port).to_owned()).collect(), ..Promise::default() }
    }

    fn instance(ports: &[&str]) -> Resource {
        let row = json!({"id": 7, "kind": "container", "uuid": "u", "created": 1, "state": "running"});
        let mut row: Resource = serde_json::from_value(row).unwrap();
        let parsed = ports.iter().map(|text| port::Port::parse(text).unwrap());
        port::set(&mut row, &(0..).zip(parsed).map(|(number, port)| Published::new(number, port)).collect::<Vec<_>>());
        row
    }

    fn promised(others: &[(&str, &[&str])]) -> Promised {
        let mut allocation = Allocation::default();
        for (id, ports) in others {
            allocation.instances.insert((*id).to_owned(), Arc::new(with(ports)));
        }
        let value = serde_json::to_vec(&allocation).unwrap().into();
        let entry = Entry {
            key: key::alloc("h1"),
            value,
            create_revision: Revision(3),
            mod_revision: Revision(9),
            lease: None,
        };
        Promised::read("h1", Some(entry), "198.18.0.1:9443".into()).unwrap()
    }

    #[test]
    fn a_host_says_which_port_it_cannot_give() {
        let mut host = candidate(1, 4096, 0);
        joined(&mut host, "1i7", with(&["80/tcp"]));
        let why = |wanted: &Wanted| super::super::filter::refusal(&host, wanted).map(|refusal| refusal.text);
        let asks = |ports: &[&str]| Wanted { promise: with(ports), ..wanted(1) };
        assert_eq!(why(&asks(&["80/tcp"])).as_deref(), Some("port 80/tcp is 1i7's"));
        assert_eq!(why(&asks(&["80/udp", "81/tcp"])), None);
        assert_eq!(why(&asks(&["9080/tcp"])).as_deref(), Some("port 9080/tcp is its agent's own"));
        let full: BTreeSet<String> = RANGE.map(|port| port::key(port, Protocol::Tcp)).collect();
        let asks = |protocol| Wanted {
            promise: Promise { ports: full.clone(), ..Promise::default() },
            choose: vec![protocol],
            ..wanted(1)
        };
        assert!(why(&asks(Protocol::Tcp)).unwrap().contains("61000 to 65535"));
        assert_eq!(why(&asks(Protocol::Udp)), None);
    }

    #[test]
    fn what_runs_comes_to_another_port_unless_it_is_anothers() {
        let mut row = instance(&["8080:80", "53/udp"]);
        let there = || promised(&[("1i7", &["80/tcp"]), ("1i8", &["90/tcp"])]);
        there().choose(&mut row, &mut |_| 5).unwrap();
        let writes = there().hold(&row).unwrap();
        assert_eq!(writes.compares.len(), 1);
        let Operation::Put { value, .. } = &writes.operations[0] else { panic!("a put") };
        let allocation: Allocation = serde_json::from_slice(value).unwrap();
        let expected = with(&["8080/tcp", "61005/udp"]).ports;
        assert_eq!(allocation.instances["1i7"].ports, expected);
        for (port, by) in [("90:80", "1i8's"), ("9443:80", "its agent's own")] {
            let refused = there().hold(&instance(&[port])).unwrap_err();
            assert!(refused.to_string().ends_with(by), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn what_is_chosen_is_free_and_once_only(
            taken in prop::collection::btree_set(61_000..61_020_u16, 0..20),
            wanted in prop::collection::vec(any::<bool>(), 0..12),
            throw in 0..4536_usize,
        ) {
            let taken: BTreeSet<String> = taken.iter().map(|port| port::key(*port, Protocol::Tcp)).collect();
            let wanted: Vec<Protocol> =
                wanted.iter().map(|udp| if *udp { Protocol::Udp } else { Protocol::Tcp }).collect();
            let chosen = choose(&wanted, [&taken].into_iter(), &mut |bound| throw % bound).unwrap();
            let keys: BTreeSet<String> =
                chosen.iter().zip(&wanted).map(|(public, protocol)| port::key(*public, *protocol)).collect();
            prop_assert_eq!(keys.len(), wanted.len());
            prop_assert!(keys.is_disjoint(&taken));
            prop_assert!(chosen.iter().all(|port| RANGE.contains(port)));
        }
    }
}
