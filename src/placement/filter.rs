//! Which hosts can take an instance, and why the others cannot. Pure.

use super::ports;
use super::record::{Allocation, Promise, Share};
use crate::membership::HostView;
use crate::membership::record::{Capability, Capacity};
use crate::resource::constraint::Constraint;
use crate::resource::port::Protocol;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Which of the hosts that can take an instance is the better one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// The emptiest.
    #[default]
    Spreading,
    /// The fullest, so that others stay empty.
    Packing,
}

/// What an instance asks of its host.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What it is run by: [`Capability::Container`] or [`Capability::VirtualMachine`].
    pub kind: Capability,
    /// What it takes, and what others will know of it.
    pub promise: Promise,
    /// Public ports that are yet to be chosen, beside those in the promise.
    pub choose: Vec<Protocol>,
    /// Only this host.
    pub requested_host: Option<u64>,
    /// Only these hosts; empty is any.
    pub valid_hosts: BTreeSet<u64>,
    /// Whether it is on the managed network.
    pub managed: bool,
    /// Of the host's labels.
    pub constraints: Vec<Constraint>,
    /// Instances that are to be on its host, one for each of these; those it will not have there. Hard ones of the latter
    /// are in the promise too.
    pub affinity: Vec<Constraint>,
    pub anti_affinity: Vec<Constraint>,
    /// Labels of hosts over whose values its like are spread, the first being the most important.
    pub spread_by: Vec<String>,
    pub policy: Policy,
}

impl Wanted {
    /// One that asks for this and nothing else, on the managed network.
    pub fn new(kind: Capability, promise: impl Into<Promise>) -> Self {
        Self {
            kind,
            promise: promise.into(),
            choose: Vec::new(),
            requested_host: None,
            valid_hosts: BTreeSet::new(),
            managed: true,
            constraints: Vec::new(),
            affinity: Vec::new(),
            anti_affinity: Vec::new(),
            spread_by: Vec::new(),
            policy: Policy::default(),
        }
    }

    /// Whether hosts' labels decide.
    pub fn heeds_labels(&self) -> bool {
        !self.constraints.is_empty() || !self.spread_by.is_empty()
    }

    /// What must hold between it and those that are on its host.
    pub fn neighbours(&self) -> Vec<Constraint> {
        self.affinity.iter().filter(|one| !one.soft).cloned().collect()
    }
}

/// What is promised of a host.
#[derive(Clone, Debug, Default)]
pub struct Promised {
    pub allocation: Arc<Allocation>,
    /// On their way there, and not in the above.
    pub under_way: BTreeMap<String, Arc<Promise>>,
    sum: Share,
}

impl Promised {
    pub fn new(allocation: Arc<Allocation>, mut under_way: BTreeMap<String, Arc<Promise>>) -> Self {
        under_way.retain(|instance, _| !allocation.instances.contains_key(instance));
        let sum = under_way.values().fold(allocation.sum(), |sum, promise| sum.and(promise.share));
        Self { allocation, under_way, sum }
    }

    pub fn sum(&self) -> Share {
        self.sum
    }

    pub fn count(&self) -> usize {
        self.allocation.instances.len() + self.under_way.len()
    }

    /// Everybody there, by instance.
    pub fn tenants(&self) -> impl Iterator<Item = (&String, &Promise)> + Clone {
        self.allocation.instances.iter().chain(&self.under_way).map(|(instance, promise)| (instance, promise.as_ref()))
    }

    fn tenant(&self, instance: &str) -> Option<&Promise> {
        self.allocation.instances.get(instance).or_else(|| self.under_way.get(instance)).map(Arc::as_ref)
    }

    /// Those that are here and not, or not as they are here, in `other`.
    pub fn beyond<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Promise> {
        // Mostly it is what is under way that changed.
        let same = Arc::ptr_eq(&self.allocation, &other.allocation);
        let allocated = self.allocation.instances.iter().filter(move |_| !same);
        let beyond = |(instance, promise): (&String, &'a Arc<Promise>)| {
            let known = other.tenant(instance);
            known
                .is_none_or(|known| !std::ptr::eq(known, promise.as_ref()) && *known != **promise)
                .then_some(promise.as_ref())
        };
        allocated.chain(&self.under_way).filter_map(beyond)
    }
}

/// A host as it is known.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub view: HostView,
    /// [`crate::membership::record::Host::labels`].
    pub labels: Arc<BTreeMap<String, String>>,
    pub promised: Arc<Promised>,
}

impl Candidate {
    pub fn new(view: HostView, promised: Promised) -> Self {
        let labels = Arc::new(view.host.labels());
        Self { view, labels, promised: Arc::new(promised) }
    }

    /// The same host as it is known now.
    pub fn renewed(&self, view: HostView, promised: Promised) -> Self {
        if !Arc::ptr_eq(&view.host, &self.view.host) {
            return Self::new(view, promised);
        }
        Self { view, labels: self.labels.clone(), promised: Arc::new(promised) }
    }

    pub fn satisfies(&self, constraint: &Constraint) -> bool {
        constraint.holds(Some(&self.view.host.name), &self.labels)
    }

    /// What of it may be promised in all.
    pub fn capacity(&self) -> Capacity {
        self.view.host.capacity.promisable(self.view.host.overcommit)
    }
}

/// Why a host cannot take an instance: of what kind, for summing up, and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: &'static str,
    pub text: String,
}

impl Refusal {
    pub fn new(kind: &'static str, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    fn plain(kind: &'static str) -> Self {
        Self::new(kind, kind)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `share` still fits beside what is promised; `capacity` is what may be.
///
/// # Errors
/// Why not.
pub fn room(capacity: Capacity, promised: Share, share: Share) -> Result<(), Refusal> {
    for (kind, unit, has, taken, asked) in [
        ("too little memory", "MB", capacity.memory_mb, promised.memory_mb, share.memory_mb),
        ("too little processor", "mCPU", capacity.cpu_millis, promised.cpu_millis, share.cpu_millis),
        ("too little disk", "MB disk", capacity.disk_mb, promised.disk_mb, share.disk_mb),
    ] {
        let free = has.saturating_sub(taken);
        if asked > free {
            return Err(Refusal::new(kind, format!("asked for {asked} {unit}, {free} {unit} free")));
        }
    }
    Ok(())
}

/// Whether it can live beside those that are there; `affinity` is what it must have beside it.
///
/// # Errors
/// Who is in the way, or missing.
pub fn company<'a>(
    tenants: impl Iterator<Item = (&'a String, &'a Promise)> + Clone,
    promise: &Promise,
    affinity: &[Constraint],
) -> Result<(), Refusal> {
    let is = |one: &Constraint, promise: &Promise| one.holds(promise.name.as_deref(), &promise.labels);
    for (instance, other) in tenants.clone() {
        if let Some(taken) = ports::of_another(&promise.ports, instance, other) {
            return Err(taken);
        }
        if let Some(rule) = promise.avoids.iter().find(|rule| is(rule, other)) {
            return Err(Refusal::new("an instance to be kept away from", format!("{instance} is there ({rule})")));
        }
        if let Some(rule) = other.avoids.iter().find(|rule| is(rule, promise)) {
            let text = format!("{instance}, which is there, will not have it beside it ({rule})");
            return Err(Refusal::new("an instance that keeps away", text));
        }
    }
    for rule in affinity {
        if !tenants.clone().any(|(_, other)| is(rule, other)) {
            return Err(Refusal::new("an instance to be with is not there", format!("no instance {rule} is there")));
        }
    }
    Ok(())
}

/// Why `candidate` cannot take it; `None` where it can.
pub fn refusal(candidate: &Candidate, wanted: &Wanted) -> Option<Refusal> {
    let host = &candidate.view.host;
    if candidate.view.alive.is_none() || candidate.view.alive_created.is_none() {
        return Some(Refusal::plain("disconnected"));
    }
    if host.cordoned {
        return Some(Refusal::plain("takes no new instances (inactive)"));
    }
    if !wanted.valid_hosts.is_empty() && !wanted.valid_hosts.contains(&host.id) {
        return Some(Refusal::plain("not among the valid hosts"));
    }
    if !host.capabilities.contains(&wanted.kind) {
        return Some(Refusal::plain(match wanted.kind {
            Capability::Container => "runs no containers (is Docker there?)",
            Capability::VirtualMachine => "runs no virtual machines",
            Capability::Network => "is not on the managed network",
            Capability::Simulated => "is no simulated host",
            Capability::Other(_) => "does not offer what it needs",
        }));
    }
    if wanted.managed && !host.capabilities.contains(&Capability::Network) {
        return Some(Refusal::plain("is not on the managed network"));
    }
    if let Some(rule) = wanted.constraints.iter().find(|rule| !rule.soft && !candidate.satisfies(rule)) {
        return Some(Refusal::new("a constraint", format!("{rule} does not hold there")));
    }
    if let Err(refusal) = room(candidate.capacity(), candidate.promised.sum(), wanted.promise.share) {
        return Some(refusal);
    }
    let company = company(candidate.promised.tenants(), &wanted.promise, &wanted.neighbours());
    company.err().or_else(|| ports::refusal(candidate, wanted))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::membership::record::{Alive, Host};
    use crate::store::Revision;
    use proptest::prelude::*;

    pub fn host(id: u64, memory_mb: u64) -> Host {
        Host {
            id,
            uuid: format!("u{id}"),
            name: format!("h{id}"),
            identity: "i".into(),
            machine_id: "m".into(),
            capabilities: BTreeSet::from([Capability::Container, Capability::Network]),
            capacity: Capacity { cpu_millis: 2000, memory_mb, disk_mb: 10_000 },
            ..Host::default()
        }
    }

    pub fn view(host: Host) -> HostView {
        let alive =
            Alive { identity: "i".into(), incarnation: 1, boot_id: "b".into(), address: "198.18.0.1:9080".into() };
        let (host, alive) = (Arc::new(host), Some(Arc::new(alive)));
        HostView { host, revision: Revision(4), alive, alive_created: Some(Revision(5)) }
    }

    /// With one instance that takes `promised_mb`.
    pub fn candidate(id: u64, memory_mb: u64, promised_mb: u64) -> Candidate {
        let mut allocation = Allocation::default();
        if promised_mb > 0 {
            allocation.instances.insert("1i1".into(), Arc::new(memory(promised_mb).into()));
        }
        Candidate::new(view(host(id, memory_mb)), Promised::new(Arc::new(allocation), BTreeMap::new()))
    }

    pub fn memory(memory_mb: u64) -> Share {
        Share { memory_mb, ..Share::default() }
    }

    pub fn wanted(memory_mb: u64) -> Wanted {
        Wanted::new(Capability::Container, memory(memory_mb))
    }

    pub fn rule(text: &str) -> Constraint {
        Constraint::parse(text).unwrap()
    }

    pub fn change(candidate: &mut Candidate, change: impl FnOnce(&mut Host)) {
        change(Arc::make_mut(&mut candidate.view.host));
        candidate.labels = Arc::new(candidate.view.host.labels());
    }

    /// Also there, beside what is.
    pub fn joined(candidate: &mut Candidate, instance: &str, promise: Promise) {
        let mut allocation = Allocation::clone(&candidate.promised.allocation);
        allocation.instances.insert(instance.to_owned(), Arc::new(promise));
        candidate.promised = Arc::new(Promised::new(Arc::new(allocation), BTreeMap::new()));
    }

    fn why(candidate: &Candidate, wanted: &Wanted) -> String {
        refusal(candidate, wanted).map(|refusal| refusal.text).unwrap_or_default()
    }

    #[test]
    fn each_host_says_why_not() {
        let mut one = candidate(1, 4096, 2896);
        assert_eq!(why(&one, &wanted(4096)), "asked for 4096 MB, 1200 MB free");
        assert_eq!(why(&one, &wanted(1200)), "");
        let valid = Wanted { valid_hosts: BTreeSet::from([2]), ..wanted(1) };
        assert_eq!(why(&one, &valid), "not among the valid hosts");
        let busy = Wanted::new(Capability::Container, Share { cpu_millis: 32_001, ..Share::default() });
        assert_eq!(why(&one, &busy), "asked for 32001 mCPU, 32000 mCPU free");
        let large = Wanted::new(Capability::Container, Share { disk_mb: 10_001, ..Share::default() });
        assert_eq!(why(&one, &large), "asked for 10001 MB disk, 10000 MB disk free");
        change(&mut one, |host| host.overcommit.memory = 200);
        assert_eq!(why(&one, &wanted(4096)), "");
        change(&mut one, |host| host.capabilities = BTreeSet::from([Capability::Container]));
        assert_eq!(why(&one, &wanted(1)), "is not on the managed network");
        change(&mut one, |host| host.capabilities = BTreeSet::from([Capability::Network]));
        assert_eq!(why(&one, &wanted(1)), "runs no containers (is Docker there?)");
        change(&mut one, |host| host.cordoned = true);
        assert_eq!(why(&one, &wanted(1)), "takes no new instances (inactive)");
        one.view.alive = None;
        assert_eq!(why(&one, &wanted(1)), "disconnected");
    }

    #[test]
    fn labels_and_neighbours_are_heeded() {
        let mut one = candidate(1, 4096, 0);
        change(&mut one, |host| host.relabel(&BTreeMap::from([("zone".into(), "eu".into())])));
        let asks = |constraints: &[&str]| Wanted {
            constraints: constraints.iter().map(|text| rule(text)).collect(),
            ..wanted(1)
        };
        assert_eq!(why(&one, &asks(&["zone=eu", "gpu!=true", "disk~=ssd", "name=h1"])), "");
        assert_eq!(why(&one, &asks(&["zone=us"])), "zone=us does not hold there");
        assert_eq!(why(&one, &asks(&["name!=h1"])), "name!=h1 does not hold there");

        let web = Promise { labels: BTreeMap::from([("app".into(), "web".into())]), ..Promise::default() };
        let db = Promise { name: Some("db".into()), avoids: vec![rule("app=web")], ..Promise::default() };
        let mut with_db = one.clone();
        joined(&mut with_db, "1i7", db.clone());
        let is_web = Wanted { promise: web.clone(), ..wanted(1) };
        assert_eq!(why(&with_db, &is_web), "1i7, which is there, will not have it beside it (app=web)");
        let mut with_web = one.clone();
        joined(&mut with_web, "1i8", web);
        let is_db = Wanted { promise: db, ..wanted(1) };
        assert_eq!(why(&with_web, &is_db), "1i8 is there (app=web)");
        let near_db = Wanted { affinity: vec![rule("name=db"), rule("app~=web")], ..wanted(1) };
        assert_eq!(why(&with_web, &near_db), "no instance name=db is there");
        assert_eq!(why(&with_db, &near_db), "");
    }

    #[test]
    fn a_public_port_is_one_instance_s() {
        let mut one = candidate(1, 4096, 0);
        let with_port = Promise { ports: BTreeSet::from(["80/tcp".to_owned()]), ..Promise::default() };
        joined(&mut one, "1i7", with_port.clone());
        let asks = Wanted { promise: with_port, ..wanted(1) };
        assert_eq!(why(&one, &asks), "port 80/tcp is 1i7's");
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(
            has in 0..5000u64, taken in prop::collection::vec(0..1000u64, 0..8), asked in 0..5000u64, over in 1..300u32,
        ) {
            let mut one = candidate(1, has, 0);
            change(&mut one, |host| host.overcommit.memory = over);
            for (at, taken) in taken.iter().enumerate() {
                joined(&mut one, &format!("1i{at}"), memory(*taken).into());
            }
            let taken: u64 = taken.iter().sum();
            let fits = asked == 0 || taken + asked <= has * u64::from(over) / 100;
            prop_assert_eq!(refusal(&one, &wanted(asked)).is_none(), fits);
        }
    }
}
