//! Floating addresses of this host: addresses of the bridge with a lifetime, and one-to-one translation both ways.
//!
//! ```text
//!  host/floating ──held, until──► Floating ──► addresses on the bridge, renewed each time the deadline moves
//!                                     │   └──► announced on the wire when they come
//!                                     └──────► [`super::led`]: to its instance, and from it
//! ```
//! The kernel drops an address by itself when nobody renews it, and each rule asks whether the address is (still) this host's. So
//! nothing is answered and nothing sent under an address that another host may have by then, whatever became of the agent.

use super::announce::{self, Wire};
use super::kernel::{Error, Kernel};
use super::overlay::BRIDGE;
use super::{NetworkStatus, SubnetSpec};
use crate::environment::Environment;
use crate::membership::fence::Fence;
use stampede_netlink::address::{AddressSpec, Others};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Announced so often, and so long after each other: one may be lost.
const ANNOUNCED: [Duration; 3] = [Duration::ZERO, Duration::from_millis(300), Duration::from_secs(1)];
/// Where the kernel refused something.
const AGAIN: Duration = Duration::from_secs(1);
/// As long as nothing changes.
const LOOK: Duration = Duration::from_secs(60);

/// Where an address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// The instance's own address.
    to: Ipv4Addr,
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
    /// Those that the kernel has; `None` before it was looked at.
    there: watch::Sender<Option<BTreeSet<Ipv4Addr>>>,
}

impl Default for Floating {
    fn default() -> Self {
        Self(Arc::new(State { held: watch::Sender::default(), there: watch::Sender::default() }))
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
    pub async fn adopt(&self, kernel: &Kernel, wanted: BTreeMap<Ipv4Addr, Ipv4Addr>) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let there = kernel.netlink.addresses().await?;
        let has = |address: &Ipv4Addr| there.iter().any(|found| found.spec.address == IpAddr::V4(*address));
        let ways = wanted.into_iter().filter(|(address, _)| has(address));
        self.0.held.send_modify(|held| held.ways.extend(ways.map(|(address, to)| (address, Way { to, life: None }))));
        Ok(())
    }

    /// An address is this host's in this life, and leads to an instance.
    pub fn hold(&self, address: Ipv4Addr, to: Ipv4Addr, life: i64) {
        let way = Way { to, life: Some(life) };
        self.0.held.send_if_modified(|held| held.ways.insert(address, way) != Some(way));
    }

    /// It is not to be this host's any more.
    pub fn give_up(&self, address: Ipv4Addr) {
        self.0.held.send_if_modified(|held| held.ways.remove(&address).is_some());
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
            self.0.held.borrow().ways.iter().map(|(address, way)| (*address, way.to)).collect();
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

    fn is_left_alone(&self, address: Ipv4Addr) -> bool {
        self.0.held.borrow().ways.get(&address).is_some_and(|way| way.life.is_none())
    }

    /// As addresses of the bridge: those of the present life, until its deadline.
    pub(super) fn specs(&self, now: Duration) -> Vec<AddressSpec> {
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
pub(super) struct Keeper {
    pub floating: Floating,
    pub kernel: Kernel,
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
                    announced.clone_from(&there);
                    self.floating.0.there.send_replace(Some(there));
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
        let wanted = self.floating.specs(self.environment.clock.boottime());
        let current = self.kernel.netlink.addresses().await?;
        let Some(bridge) = self.kernel.netlink.links().await?.into_iter().find(|link| link.name == BRIDGE) else {
            return Ok(BTreeSet::new());
        };
        let is_floating = |spec: &AddressSpec| match spec.address {
            IpAddr::V4(address) if spec.prefix_length == 32 && !self.subnet.contains(address) => Some(address),
            _ => None,
        };
        for stray in current.iter().filter(|found| found.link == bridge.index) {
            let is_wanted = wanted.iter().any(|spec| spec.address == stray.spec.address);
            let strays = is_floating(&stray.spec).is_some_and(|address| !self.floating.is_left_alone(address));
            if strays && !is_wanted {
                self.kernel.netlink.remove_address(bridge.index, &stray.spec).await?;
            }
        }
        self.kernel.netlink.ensure_addresses(bridge.index, &wanted, Others::Keep).await?.into_result()?;
        let left =
            current.iter().filter(|found| found.link == bridge.index).filter_map(|found| is_floating(&found.spec));
        let left = left.filter(|address| self.floating.is_left_alone(*address));
        Ok(wanted.iter().filter_map(is_floating).chain(left).collect())
    }

    fn announce(&self, address: Ipv4Addr) {
        let (kernel, floating) = (self.kernel.clone(), self.floating.clone());
        let underlay = self.status.borrow().underlay;
        tokio::spawn(async move {
            let wires: Vec<Wire> = match announce::wires(&kernel, address, underlay).await {
                Ok(wires) => wires,
                Err(error) => return tracing::warn!(%address, %error, "not announced"),
            };
            for pause in ANNOUNCED {
                tokio::time::sleep(pause).await;
                if !floating.is_held(address) {
                    return;
                }
                for wire in &wires {
                    match announce::announce(&kernel, wire, address) {
                        Ok(Ok(())) => tracing::debug!(%address, link = wire.name, "announced"),
                        Ok(Err(error)) => tracing::warn!(%address, link = wire.name, %error, "not announced"),
                        Err(error) => tracing::warn!(%address, link = wire.name, %error, "not announced"),
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
    const TO: Ipv4Addr = Ipv4Addr::new(10, 42, 7, 9);

    fn until(life: i64, millis: u64) -> Option<Fence> {
        Some(Fence { life, deadline: Duration::from_millis(millis) })
    }

    #[test]
    fn nothing_is_had_beyond_the_deadline_or_in_another_life() {
        let floating = Floating::default();
        floating.hold(ADDRESS, TO, 7);
        assert_eq!(floating.specs(Duration::from_secs(5)), [], "no deadline is known");
        floating.until(until(7, 8_300));
        let seconds = |now| floating.specs(Duration::from_millis(now)).first().and_then(|spec| spec.valid_for);
        assert_eq!((seconds(5_000), seconds(8_299), seconds(8_300)), (Some(4), Some(1), None));
        floating.until(until(9, 20_000));
        assert_eq!(seconds(10_000), None, "another host may have it");
        floating.hold(ADDRESS, TO, 9);
        assert_eq!(seconds(10_000), Some(10));
        floating.give_up(ADDRESS);
        assert_eq!(seconds(10_000), None);
    }

    #[tokio::test]
    async fn a_deadline_that_moves_is_no_change_of_what_is_led() {
        let floating = Floating::default();
        let mut changes = floating.changes();
        floating.hold(ADDRESS, TO, 7);
        changes.next().await;
        floating.until(until(7, 9_000));
        let more = tokio::time::timeout(Duration::from_millis(20), changes.next()).await;
        assert!(more.is_err());
        floating.0.there.send_replace(Some(BTreeSet::new()));
        changes.next().await;
        assert_eq!(floating.plan().there, BTreeSet::new(), "nobody leaves under what is not there");
        floating.hold(ADDRESS, Ipv4Addr::new(10, 42, 7, 10), 7);
        changes.next().await;
    }
}
