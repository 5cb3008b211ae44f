//! Floating addresses of this host: addresses of the bridge with a lifetime, and one-to-one translation both ways.
//!
//! ```text
//!  host/floating ──held, until──► Floating ──► addresses on the bridge, renewed each time the deadline moves
//!                                     │   └──► announced on the wire when they come
//!                                     └──────► [`super::led`]: to its instance, and from it
//! ```
//! The kernel drops an address by itself when nobody renews it, and each rule asks whether the address is (still) this host's. So
//! nothing is answered and nothing sent under an address that another host may have by then, whatever became of the agent.

use super::datapath::Datapath;
use super::kernel::Error;
use super::{NetworkStatus, SubnetSpec};
use crate::environment::Environment;
use crate::membership::fence::Fence;
use stampede_netlink::address::AddressSpec;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard, watch};

/// Announced so often, and so long after each other: one may be lost.
const ANNOUNCED: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1)];
/// Where the kernel refused something.
const AGAIN: Duration = Duration::from_secs(1);
/// As long as nothing changes.
const LOOK: Duration = Duration::from_secs(60);

/// For whom an address leads to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lead {
    /// The number of the floating address: after a store went back two may have the same.
    pub id: u64,
    /// The instance's own address.
    pub to: Ipv4Addr,
}

/// Where an address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    lead: Lead,
    /// The life of this host in which it has the address; `None` where that is not confirmed, and an agent before this one had it.
    life: Option<i64>,
}

/// What is this host's, and until when.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Held {
    ways: BTreeMap<Ipv4Addr, Way>,
    fence: Option<Fence>,
}

/// See the module's text. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Floating(Arc<State>);

#[derive(Debug)]
struct State {
    held: watch::Sender<Held>,
    /// Those that the kernel has, or may have; `None` before it was looked at. Changed by who is [`Self::writing`].
    there: watch::Sender<Option<BTreeSet<Ipv4Addr>>>,
    /// Two make the kernel's addresses so; one at a time, or one would put back what the other took away.
    writing: Mutex<()>,
}

impl Default for Floating {
    fn default() -> Self {
        Self(Arc::new(State {
            held: watch::Sender::default(),
            there: watch::Sender::default(),
            writing: Mutex::default(),
        }))
    }
}

/// What is led to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Floated {
    /// A floating address → an instance's.
    pub all: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Those that this host has now: instances leave under them.
    pub there: BTreeSet<Ipv4Addr>,
}

impl Floating {
    /// Takes over from an agent before: of what instances of this host want, what the kernel still has leads on, and is not renewed.
    ///
    /// # Errors
    /// Where the kernel cannot be asked.
    pub async fn adopt(&self, datapath: &dyn Datapath, wanted: BTreeMap<Ipv4Addr, Lead>) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let there = datapath.addresses().await?;
        let has = |address: &Ipv4Addr| there.iter().any(|found| found.spec.address == IpAddr::V4(*address));
        let ways = wanted.into_iter().filter(|(address, _)| has(address));
        self.0
            .held
            .send_modify(|held| held.ways.extend(ways.map(|(address, lead)| (address, Way { lead, life: None }))));
        Ok(())
    }

    /// An address is this host's in this life, and leads to an instance.
    pub fn hold(&self, address: Ipv4Addr, lead: Lead, life: i64) {
        let way = Way { lead, life: Some(life) };
        self.0.held.send_if_modified(|held| held.ways.insert(address, way) != Some(way));
    }

    /// It is not to be this host's any more, but where it is for another floating address.
    pub fn give_up(&self, address: Ipv4Addr, id: u64) {
        self.0.held.send_if_modified(|held| {
            let own = held.ways.get(&address).is_some_and(|way| way.lead.id == id);
            own && held.ways.remove(&address).is_some()
        });
    }

    /// Those of this life are this host's until its deadline; `None`: not now.
    pub fn until(&self, fence: Option<Fence>) {
        self.0.held.send_if_modified(|held| std::mem::replace(&mut held.fence, fence) != fence);
    }

    pub fn is_held(&self, address: Ipv4Addr) -> bool {
        self.0.held.borrow().ways.contains_key(&address)
    }

    /// Waits until the kernel has not (any more) what was given up.
    pub async fn gone(&self, address: Ipv4Addr) {
        // Who is at it may have been told before that it is held.
        drop(self.writing().await);
        let mut there = self.0.there.subscribe();
        // Ours is the other end.
        let _ = there.wait_for(|there| there.as_ref().is_some_and(|there| !there.contains(&address))).await;
    }

    /// Waits until the kernel was looked at: it has nothing then that was not held.
    pub async fn settled(&self) {
        let mut there = self.0.there.subscribe();
        let _ = there.wait_for(Option::is_some).await;
    }

    /// Tells where what is led changes; not where a deadline moves.
    pub(super) fn changes(&self) -> FloatingChanges {
        FloatingChanges {
            floating: self.clone(),
            held: self.0.held.subscribe(),
            there: self.0.there.subscribe(),
            known: Floated::default(),
        }
    }

    pub(super) fn plan(&self) -> Floated {
        let all: BTreeMap<Ipv4Addr, Ipv4Addr> =
            self.0.held.borrow().ways.iter().map(|(address, way)| (*address, way.lead.to)).collect();
        let there = match &*self.0.there.borrow() {
            Some(there) => all.keys().filter(|address| there.contains(address)).copied().collect(),
            None => all.keys().copied().collect(),
        };
        Floated { all, there }
    }

    /// Whether the kernel may have some that are neither confirmed nor given up: it drops them by itself.
    pub(super) fn is_undecided(&self) -> bool {
        self.0.held.borrow().ways.values().any(|way| way.life.is_none())
    }

    /// Those of [`Self::specs`] that the kernel was to have already: what is new is put there by one alone.
    pub(super) fn kept(&self, now: Duration) -> Vec<AddressSpec> {
        let (mut specs, there) = (self.specs(now), self.0.there.borrow());
        let is_there = |spec: &AddressSpec| match (spec.address, &*there) {
            (IpAddr::V4(address), Some(there)) => there.contains(&address),
            _ => true,
        };
        specs.retain(is_there);
        specs
    }

    /// For as long as the kernel's addresses are made so.
    pub(super) async fn writing(&self) -> MutexGuard<'_, ()> {
        self.0.writing.lock().await
    }

    fn is_left_alone(&self, address: Ipv4Addr) -> bool {
        self.0.held.borrow().ways.get(&address).is_some_and(|way| way.life.is_none())
    }

    /// As addresses of the bridge: those of the present life, until its deadline.
    fn specs(&self, now: Duration) -> Vec<AddressSpec> {
        let held = self.0.held.borrow();
        let Some(fence) = held.fence.filter(|fence| fence.holds(now)) else { return Vec::new() };
        // Rounded up: who takes over waits for longer than that (orchestration/floating/holding.rs).
        let rest = fence.deadline.saturating_sub(now).as_millis().div_ceil(1000);
        let spec = |address: &Ipv4Addr| AddressSpec {
            valid_for: Some(u32::try_from(rest).unwrap_or(u32::MAX - 1)),
            no_prefix_route: true,
            ..AddressSpec::new(IpAddr::V4(*address), 32)
        };
        held.ways.iter().filter(|(_, way)| way.life == Some(fence.life)).map(|(address, _)| spec(address)).collect()
    }
}

/// See [`Floating::changes`].
#[derive(Debug)]
pub(super) struct FloatingChanges {
    floating: Floating,
    held: watch::Receiver<Held>,
    there: watch::Receiver<Option<BTreeSet<Ipv4Addr>>>,
    known: Floated,
}

impl FloatingChanges {
    pub(super) async fn next(&mut self) {
        loop {
            // Ours are the other ends.
            tokio::select! {
                _ = self.held.changed() => {}
                _ = self.there.changed() => {}
            }
            let now = self.floating.plan();
            if self.known != now {
                self.known = now;
                return;
            }
        }
    }
}

/// What the loop needs.
#[derive(Debug)]
pub struct Keeper {
    pub floating: Floating,
    pub datapath: Arc<dyn Datapath>,
    pub environment: Environment,
    pub subnet: SubnetSpec,
    pub status: watch::Receiver<NetworkStatus>,
}

impl Keeper {
    /// Has the kernel have them, for ever.
    pub async fn run(self) {
        let mut held = self.floating.0.held.subscribe();
        let mut announced = BTreeSet::new();
        loop {
            held.mark_unchanged();
            let pause = match self.apply().await {
                Ok(there) => {
                    for address in there.difference(&announced) {
                        self.announce(*address);
                    }
                    announced = there;
                    self.until_over()
                }
                Err(error) => {
                    tracing::warn!(%error, "floating addresses cannot be seen to");
                    AGAIN
                }
            };
            tokio::select! {
                // Ours is the other end.
                _ = held.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// When the deadline is over they are looked at again: the kernel has dropped them.
    fn until_over(&self) -> Duration {
        let fence = self.floating.0.held.borrow().fence;
        let rest = fence.map(|fence| fence.deadline.saturating_sub(self.environment.clock.boottime()));
        if self.floating.is_undecided() {
            return AGAIN;
        }
        rest.filter(|rest| !rest.is_zero()).map_or(LOOK, |rest| rest + Duration::from_millis(50))
    }

    /// Those that are there then.
    async fn apply(&self) -> Result<BTreeSet<Ipv4Addr>, Error> {
        let _writing = self.floating.writing().await;
        let current = self.datapath.addresses().await?;
        let Some(bridge) = self.datapath.bridge().await? else {
            self.floating.0.there.send_replace(Some(BTreeSet::new()));
            return Ok(BTreeSet::new());
        };
        let found = current.iter().filter(|found| found.link == bridge);
        let found = found.filter_map(|found| Some((self.floating_of(&found.spec)?, found.spec)));
        let is_stray =
            |found: &(Ipv4Addr, AddressSpec)| !self.floating.is_left_alone(found.0) && !self.is_of_now(found.0);
        let (strays, stay): (Vec<_>, Vec<_>) = found.partition(is_stray);
        for (_, stray) in strays {
            self.datapath.remove_address(bridge, &stray).await?;
        }
        // Of what is given up from here on, too: the next round takes it away.
        let mut there: BTreeSet<Ipv4Addr> = stay.into_iter().map(|(address, _)| address).collect();
        let asked = StdMutex::new(BTreeSet::new());
        let wanted = || {
            let specs = self.floating.specs(self.environment.clock.boottime());
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.extend(specs.iter().filter_map(|spec| self.floating_of(spec)));
            specs
        };
        let made = self.datapath.ensure_addresses(bridge, &wanted).await;
        // What failed may have been done all the same.
        there.extend(asked.into_inner().unwrap_or_else(PoisonError::into_inner));
        self.floating.0.there.send_replace(Some(there.clone()));
        made.map(|()| there)
    }

    /// Whether it is to be there until the present deadline.
    fn is_of_now(&self, address: Ipv4Addr) -> bool {
        let specs = self.floating.specs(self.environment.clock.boottime());
        specs.iter().any(|spec| spec.address == IpAddr::V4(address))
    }

    /// The floating address that a link's is; `None` where it is no such.
    fn floating_of(&self, spec: &AddressSpec) -> Option<Ipv4Addr> {
        match spec.address {
            IpAddr::V4(address) if spec.prefix_length == 32 && !self.subnet.contains(address) => Some(address),
            _ => None,
        }
    }

    fn announce(&self, address: Ipv4Addr) {
        let (datapath, floating) = (self.datapath.clone(), self.floating.clone());
        let underlay = self.status.borrow().underlay;
        tokio::spawn(async move {
            for pause in ANNOUNCED {
                tokio::time::sleep(pause).await;
                if !floating.is_held(address) {
                    return;
                }
                datapath.announce(address, underlay).await;
            }
        });
    }
}

#[cfg(test)]
mod tests;
