//! Links: whom the instances of this host reach by a name of their own, and where that is now.
//!
//! ```text
//!  the ledger, the instances' loop ──► Links ──► plan (pure) ──► [`super::led`]
//!                                        ▲  │ whom they lead to
//!              endpoint/<target>/ ───────┘◄─┘ followed only while some link here leads there
//! ```
//! Where targets are is written down too (`links.json`), so that all leads where it did before the store is known, and where
//! that does not answer.

use super::dns::OwnNames;
use crate::environment::Environment;
use crate::resource::assignment::{AssignedLink, Assignment, Desired, Token};
use crate::resource::link::Endpoint;
use crate::resource::port::Protocol;
use crate::store::mirror::Mirror;
use crate::store::{Store, key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// How long one look at whether a target is listed takes.
const LOOK: Duration = Duration::from_secs(60);

/// An instance with links.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tenant {
    token: Token,
    address: Ipv4Addr,
    links: Vec<AssignedLink>,
}

impl Tenant {
    /// `None` where nothing of it is to be led.
    fn of(assignment: &Assignment) -> Option<Self> {
        let address = assignment.address().filter(|_| assignment.desired == Desired::Running)?;
        let links = assignment.links.clone();
        (!links.is_empty()).then_some(Self { token: assignment.token, address, links })
    }
}

/// All that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    tenants: BTreeMap<String, Tenant>,
    /// Of those targets of which it is known where they are, or that they are nowhere; by their ids.
    endpoints: BTreeMap<String, Option<Endpoint>>,
}

impl Known {
    fn endpoint(&self, link: &AssignedLink) -> Option<&Endpoint> {
        self.endpoints.get(link.target.as_ref()?)?.as_ref()
    }

    /// It leads to somebody of whom nothing is known yet.
    fn is_unknown(&self, link: &AssignedLink) -> bool {
        link.target.as_ref().is_some_and(|target| !self.endpoints.contains_key(target))
    }

    /// What is worth writing down.
    fn reached(&self) -> BTreeMap<String, Endpoint> {
        let reached = self.endpoints.iter().filter_map(|(target, at)| Some((target.clone(), at.clone()?)));
        reached.collect()
    }
}

/// The links of this host's instances. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Links(Arc<State>);

#[derive(Debug)]
struct State {
    known: watch::Sender<Known>,
    /// As it was planned last.
    last: Mutex<Linked>,
}

/// A link that lacks ports of its target.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lacking {
    /// The instance with the link: `1i54`.
    pub instance: String,
    pub link: String,
    pub ports: Vec<(u16, Protocol)>,
}

impl Links {
    /// What is known at the beginning: all of the ledger, and where targets were.
    pub fn new(known: &[Assignment], memory: Option<&Path>) -> Self {
        let tenants = known.iter().filter_map(|one| Some((one.id.clone(), Tenant::of(one)?))).collect();
        let reached = memory.and_then(load).unwrap_or_default();
        let endpoints = reached.into_iter().map(|(target, endpoint)| (target, Some(endpoint))).collect();
        let known = watch::Sender::new(Known { tenants, endpoints });
        Self(Arc::new(State { known, last: Mutex::default() }))
    }

    /// An instance is to be so on this host.
    pub fn put(&self, assignment: &Assignment) {
        match Tenant::of(assignment) {
            Some(tenant) => drop(self.0.known.send_if_modified(|known| {
                let before = known.tenants.insert(assignment.id.clone(), tenant.clone());
                before.as_ref() != Some(&tenant)
            })),
            None => self.forget(&assignment.id),
        }
    }

    /// Nothing of it is here any more.
    pub fn forget(&self, id: &str) {
        self.0.known.send_if_modified(|known| known.tenants.remove(id).is_some());
    }

    /// Tells of every change.
    pub fn changes(&self) -> LinkChanges {
        LinkChanges(self.0.known.subscribe())
    }

    /// The claim under which an instance has its links here.
    pub fn token(&self, instance: &str) -> Option<Token> {
        self.0.known.borrow().tenants.get(instance).map(|tenant| tenant.token)
    }

    /// What links lack of the ports that their targets have.
    pub fn lacking(&self) -> BTreeSet<Lacking> {
        let known = self.0.known.borrow();
        let mut lacking = BTreeSet::new();
        for (id, tenant) in &known.tenants {
            for link in &tenant.links {
                let endpoint = known.endpoint(link);
                let has =
                    |port: &(u16, Protocol)| link.ports.iter().any(|known| (known.private, known.protocol) == *port);
                let ports: Vec<_> = endpoint.into_iter().flat_map(Endpoint::ports).filter(|port| !has(port)).collect();
                if !ports.is_empty() {
                    lacking.insert(Lacking { instance: id.clone(), link: link.name.clone(), ports });
                }
            }
        }
        lacking
    }

    fn targets(&self) -> BTreeSet<String> {
        let known = self.0.known.borrow();
        known.tenants.values().flat_map(|tenant| &tenant.links).filter_map(|link| link.target.clone()).collect()
    }

    /// A target is reached so, or not at all.
    fn found(&self, target: &str, endpoint: Option<Endpoint>) {
        self.0.known.send_if_modified(|known| {
            let before = known.endpoints.insert(target.to_owned(), endpoint.clone());
            before.as_ref() != Some(&endpoint)
        });
    }

    /// Follows those that links lead to, for ever; `memory` is where that is written down.
    pub async fn follow(self, store: Arc<dyn Store>, environment: Environment, memory: Option<PathBuf>) {
        let mut changes = self.0.known.subscribe();
        let mut followed: BTreeMap<String, AbortOnDropHandle<()>> = BTreeMap::new();
        let mut written = self.0.known.borrow().reached();
        loop {
            // First, so that what changes from here on is looked at too.
            changes.mark_unchanged();
            let targets = self.targets();
            followed.retain(|target, _| targets.contains(target));
            for target in targets.iter().filter(|target| !followed.contains_key(*target)).collect::<Vec<_>>() {
                let follow = follow_one(self.clone(), store.clone(), environment.clone(), target.clone());
                followed.insert(target.clone(), AbortOnDropHandle::new(tokio::spawn(follow)));
            }
            // Whom nobody leads to is not followed, so nothing is known of it.
            self.0.known.send_if_modified(|known| {
                let before = known.endpoints.len();
                known.endpoints.retain(|target, _| targets.contains(target));
                known.endpoints.len() != before
            });
            let reached = self.0.known.borrow().reached();
            if reached != written {
                if let Some(memory) = &memory
                    && let Err(error) = save(memory, &reached)
                {
                    tracing::warn!(path = %memory.display(), %error, "where links lead cannot be kept for the next start");
                }
                written = reached;
            }
            // Ours is one of its ends: it never fails.
            let _ = changes.changed().await;
        }
    }

    pub(super) fn plan(&self, host: &str) -> Linked {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        let linked = plan(&self.0.known.borrow(), host, &last);
        last.clone_from(&linked);
        linked
    }
}

/// A link's name is its instance's own: to it, it leads to the target itself, at the target's own ports.
impl OwnNames for Links {
    fn addresses(&self, instance: &str, name: &str) -> Option<Vec<Ipv4Addr>> {
        let known = self.0.known.borrow();
        let mut links = known.tenants.get(instance)?.links.iter();
        let link = links.find(|link| link.name.eq_ignore_ascii_case(name))?;
        Some(known.endpoint(link).map(|endpoint| endpoint.address).into_iter().collect())
    }
}

/// Where one target is, from now on.
async fn follow_one(links: Links, store: Arc<dyn Store>, environment: Environment, target: String) {
    let endpoint: Mirror<Endpoint> = Mirror::start(store, &environment, key::endpoint(&target));
    let mut changes = endpoint.changes();
    while !endpoint.listed(LOOK).await {}
    loop {
        links.found(&target, endpoint.get("").map(|item| Endpoint::clone(&item.value)));
        changes.next().await;
    }
}

/// Changes of links, as they are told.
#[derive(Debug)]
pub struct LinkChanges(watch::Receiver<Known>);

impl LinkChanges {
    /// Waits for the next one.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// From whom, by which protocol, at which port of the gateway's address.
pub(super) type From = (Ipv4Addr, Protocol, u16);

/// What is to be led.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Linked {
    /// Nowhere where nobody is there.
    pub ways: BTreeMap<From, Option<SocketAddrV4>>,
    /// Whom of this host something leads to.
    pub here: BTreeSet<Ipv4Addr>,
    /// Those that lead to themselves.
    pub itself: BTreeSet<Ipv4Addr>,
}

/// Of two with one address the later claim has it: the earlier one is of a store that went back. Until it is known where a target
/// is, its link leads where it did `before`.
fn plan(known: &Known, host: &str, before: &Linked) -> Linked {
    let mut linked = Linked::default();
    let mut latest: BTreeMap<Ipv4Addr, &Tenant> = BTreeMap::new();
    for tenant in known.tenants.values() {
        let order = |tenant: &Tenant| (tenant.token.generation, tenant.token.revision);
        let holder = latest.entry(tenant.address).or_insert(tenant);
        if order(tenant) > order(holder) {
            *holder = tenant;
        }
    }
    for (address, tenant) in latest {
        for link in &tenant.links {
            let endpoint = known.endpoint(link);
            for port in &link.ports {
                let from = (address, port.protocol, port.public);
                let to = match endpoint {
                    Some(endpoint) => Some(SocketAddrV4::new(endpoint.address, port.private)),
                    None if known.is_unknown(link) => before.ways.get(&from).copied().flatten(),
                    None => None,
                };
                let there = to.filter(|to| endpoint.is_none() && before.here.contains(to.ip()));
                linked.here.extend(there.map(|to| *to.ip()));
                linked.ways.insert(from, to);
            }
            if let Some(endpoint) = endpoint {
                linked.here.extend((endpoint.host == host).then_some(endpoint.address));
                linked.itself.extend((endpoint.address == address).then_some(address));
            }
        }
    }
    linked
}

fn load(path: &Path) -> Option<BTreeMap<String, Endpoint>> {
    let bytes = std::fs::read(path).ok()?;
    serde_json::from_slice(&bytes).inspect_err(|error| tracing::warn!(%error, "where links led is lost")).ok()
}

fn save(path: &Path, endpoints: &BTreeMap<String, Endpoint>) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(endpoints)?)?;
    std::fs::rename(beside, path)
}

#[cfg(test)]
mod tests;
