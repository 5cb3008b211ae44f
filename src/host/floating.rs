//! Which floating addresses this host has: those of its instances that run, as long as the store confirms that it lives.
//!
//! ```text
//!  the ledger, the instances' loop ──► Floats ──► hold: holder/<address> is this host's, in this life ──► the network has it
//!                                        │ not any more                                                   until the deadline
//!                                        └──────► the network drops it ──► the kernel has ──► holder/<address> goes
//! ```
//! An address that another host has is waited for; from one whose lease has ended it is taken back. The order on the way back matters:
//! only what the kernel has not any more is given to others.

use super::chain;
use crate::environment::{Backoff, Environment};
use crate::membership::{Membership, fence::Fence};
use crate::network::{Floating, Lead};
use crate::orchestration::{Hold, Orchestrator};
use crate::resource::assignment::{Assignment, Desired, Token};
use crate::resource::{identifier, instance};
use crate::store::mirror::{Changes, Mirror};
use crate::store::{Revision, Store, key};
use futures::FutureExt;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// After a failure, or while another host has it: again, first after …, and at most after.
const AGAIN: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// Where it is not told of a change, while another host has it.
const LOOK: Duration = Duration::from_secs(60);
/// From one instance of this host to another.
const SOON: Duration = Duration::from_secs(1);
/// What the kernel drops by itself it has dropped by then.
const DROPPED: Duration = Duration::from_secs(30);

/// An address, whom it leads to, and where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Want {
    address: Ipv4Addr,
    instance: u64,
    to: Ipv4Addr,
}

/// What one instance wants, and under which claim.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tenant {
    token: Token,
    wants: BTreeMap<u64, Want>,
}

type Wants = BTreeMap<String, Tenant>;

/// What this host's instances want. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Floats(Arc<watch::Sender<Wants>>);

fn wants(assignment: &Assignment) -> BTreeMap<u64, Want> {
    let to = assignment.address().filter(|_| assignment.desired == Desired::Running);
    let instance = identifier::parse(instance::BASE, &assignment.id);
    let (Some(to), Some(instance)) = (to, instance) else { return BTreeMap::new() };
    assignment.floating.iter().map(|one| (one.id, Want { address: one.address, instance, to })).collect()
}

impl Floats {
    /// What is known at the beginning: all of the ledger.
    pub fn new(known: &[Assignment]) -> Self {
        let known = known.iter().map(|one| (one.id.clone(), Tenant { token: one.token, wants: wants(one) }));
        Self(Arc::new(watch::Sender::new(known.filter(|(_, tenant)| !tenant.wants.is_empty()).collect())))
    }

    /// An instance is to be so on this host.
    pub fn put(&self, assignment: &Assignment) {
        let wants = wants(assignment);
        if wants.is_empty() {
            return self.forget(&assignment.id);
        }
        let tenant = Tenant { token: assignment.token, wants };
        self.0.send_if_modified(|all| all.insert(assignment.id.clone(), tenant.clone()).as_ref() != Some(&tenant));
    }

    /// Nothing of it is here any more.
    pub fn forget(&self, id: &str) {
        self.0.send_if_modified(|all| all.remove(id).is_some());
    }

    /// Whom they lead to.
    pub fn ways(&self) -> BTreeMap<Ipv4Addr, Lead> {
        self.all().into_iter().map(|(id, want)| (want.address, Lead { id, to: want.to })).collect()
    }

    /// Of two that want one address, the later claim has it: the earlier one is of a store that went back.
    fn all(&self) -> BTreeMap<u64, Want> {
        let all = self.0.borrow();
        let mut tenants: Vec<&Tenant> = all.values().collect();
        tenants.sort_by_key(|tenant| (tenant.token.generation, tenant.token.revision));
        tenants.into_iter().flat_map(|tenant| &tenant.wants).map(|(id, want)| (*id, want.clone())).collect()
    }
}

/// What is needed to see to it.
#[derive(Clone, Debug)]
pub struct Keeper {
    pub floats: Floats,
    pub network: Floating,
    pub membership: Membership,
    pub orchestrator: Orchestrator,
    pub store: Arc<dyn Store>,
    pub environment: Environment,
    pub host: String,
}

/// A wish that is seen to.
struct Held {
    want: Want,
    life: i64,
    _holding: AbortOnDropHandle<()>,
}

/// One that is given back; whether it was, in the end.
type Leaving = AbortOnDropHandle<bool>;

impl Keeper {
    /// Sees to it for ever.
    pub async fn keep(self) {
        let mut wanted = self.floats.0.subscribe();
        let mut fence = self.membership.fence();
        let mut held: BTreeMap<u64, Held> = BTreeMap::new();
        // What this host may have: what it has, asked for, or an agent before this one had for its instances.
        let mut had: BTreeMap<u64, Ipv4Addr> =
            self.floats.all().into_iter().map(|(id, want)| (id, want.address)).collect();
        let mut leaving: BTreeMap<u64, Leaving> = BTreeMap::new();
        let mut before =
            AbortOnDropHandle::new(tokio::spawn(self.clone().give_back_old(had.keys().copied().collect())));
        let mut looked = false;
        loop {
            wanted.mark_unchanged();
            let all = self.floats.all();
            self.membership.set_floating(!all.is_empty() || !leaving.is_empty() || !held.is_empty());
            let now: Option<Fence> = *fence.borrow_and_update();
            self.network.until(now);
            // Where another instance of this host has it now, it stays this host's.
            held.retain(|id, held| all.get(id) == Some(&held.want));
            for (id, address) in &had {
                if !all.contains_key(id) && !leaving.contains_key(id) {
                    let giving = tokio::spawn(self.clone().give_back(*id, *address));
                    leaving.insert(*id, AbortOnDropHandle::new(giving));
                }
            }
            if let Some(Fence { life, .. }) = now {
                for (id, want) in &all {
                    if leaving.contains_key(id) || held.get(id).is_some_and(|held| held.life == life) {
                        continue;
                    }
                    had.insert(*id, want.address);
                    let holding = tokio::spawn(self.clone().hold(*id, want.clone(), life));
                    held.insert(*id, Held { want: want.clone(), life, _holding: AbortOnDropHandle::new(holding) });
                }
            }
            tokio::select! {
                // Both are ours, or end with the agent.
                _ = wanted.changed() => {}
                _ = fence.changed() => {}
                (id, left) = finished(&mut leaving) => {
                    leaving.remove(&id);
                    if left {
                        had.remove(&id);
                    }
                }
                _ = &mut before, if !looked => looked = true,
            }
        }
    }

    /// Takes an address in this life, and has the network have it; as long as it takes.
    async fn hold(self, id: u64, want: Want, life: i64) {
        let mut backoff = Backoff::new(&self.environment, AGAIN, LONGEST);
        let follow = |key| -> Mirror<Value> { Mirror::one_of_many(self.store.clone(), &self.environment, key) };
        let holder = follow(key::holder(id));
        let mut changes = holder.changes();
        // The lives of the hosts that had it.
        let mut theirs: BTreeMap<String, (Changes, Mirror<Value>)> = BTreeMap::new();
        let mut told = false;
        loop {
            let mut waits_for = None;
            match self.orchestrator.hold_address(&self.host, life, id, want.instance).await {
                Ok(Hold::Held) => {
                    tracing::info!(address = %want.address, instance = identifier::instance(want.instance), "a floating address is here");
                    return self.network.hold(want.address, Lead { id, to: want.to }, life);
                }
                // The instance's loop hears of it too; but of one that the store knows no more, since it went back, nobody hears anything.
                Ok(Hold::NotOurs) => {
                    let leads_here = matches!(self.orchestrator.leads_to(&self.host, id).await, Ok(true));
                    if !leads_here && (!told || self.network.is_held(want.address)) {
                        self.drop_and_release(id, want.address).await;
                        told = true;
                    }
                }
                Ok(Hold::Waits { host }) => {
                    tracing::debug!(address = %want.address, host, "a floating address is still elsewhere");
                    match self.orchestrator.take_back(id).await {
                        Ok(true) => continue,
                        Ok(false) => waits_for = Some(host),
                        Err(error) => tracing::debug!(error = chain(&error), "not taken back yet"),
                    }
                }
                Err(error) => {
                    tracing::debug!(address = %want.address, error = chain(&error), "not had yet");
                }
            }
            let Some(host) = waits_for else {
                tokio::select! {
                    _ = changes.next() => {}
                    () = backoff.wait() => {}
                }
                continue;
            };
            // Until it gives it back, or its life ends.
            let alive = theirs.entry(host).or_insert_with_key(|host| {
                let alive = follow(key::alive(host));
                (alive.changes(), alive)
            });
            tokio::select! {
                _ = changes.next() => {}
                _ = alive.0.next() => {}
                () = tokio::time::sleep(self.environment.jitter(LOOK)) => {}
            }
        }
    }

    /// Gives an address back as soon as the kernel has it no more; not where another instance of this host is about to have it. Whether
    /// it did.
    async fn give_back(self, id: u64, address: Ipv4Addr) -> bool {
        if matches!(self.orchestrator.leads_to(&self.host, id).await, Ok(true)) && self.is_wanted_soon(id).await {
            return false;
        }
        self.drop_and_release(id, address).await;
        true
    }

    async fn drop_and_release(&self, id: u64, address: Ipv4Addr) {
        self.network.give_up(address, id);
        // Of two with the same address the other one has it.
        let is_gone = async || {
            if !self.network.is_held(address) {
                self.network.gone(address).await;
            }
        };
        if tokio::time::timeout(DROPPED, is_gone()).await.is_err() {
            tracing::warn!(%address, "the kernel keeps a floating address that is to go elsewhere; its time there ends by itself");
        }
        self.release(id, None).await;
    }

    async fn is_wanted_soon(&self, id: u64) -> bool {
        let mut floats = self.floats.0.subscribe();
        let wanted = floats.wait_for(|all| all.values().any(|tenant| tenant.wants.contains_key(&id)));
        matches!(tokio::time::timeout(SOON, wanted).await, Ok(Ok(_)))
    }

    async fn release(&self, id: u64, seen: Option<Revision>) {
        let mut backoff = Backoff::new(&self.environment, AGAIN, LONGEST);
        while let Err(error) = self.orchestrator.release_address(&self.host, id, seen).await {
            tracing::debug!(address = id, error = chain(&error), "not given back yet");
            backoff.wait().await;
        }
    }

    /// What the store says this host has, and of which the ledger knew nothing when the agent began: only those are `known`.
    async fn give_back_old(self, known: BTreeSet<u64>) {
        let mut backoff = Backoff::new(&self.environment, AGAIN, LONGEST);
        let had = loop {
            match self.orchestrator.held_by(&self.host).await {
                Ok(had) => break had,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "not known yet which floating addresses this host had")
                }
            }
            backoff.wait().await;
        };
        let wanted: BTreeSet<u64> = self.floats.all().into_keys().collect();
        let is_old = |(id, _): &(u64, Revision)| !wanted.contains(id) && !known.contains(id);
        let old: Vec<_> = had.into_iter().filter(is_old).collect();
        if old.is_empty() {
            return;
        }
        // Whatever its address was: the network drops all that nobody here wants.
        self.network.settled().await;
        for (id, seen) in old {
            if !self.floats.all().contains_key(&id) {
                self.release(id, Some(seen)).await;
            }
        }
    }
}

/// Waits until one of them is done; for ever where there are none. Which, and whether it was given back.
async fn finished(leaving: &mut BTreeMap<u64, Leaving>) -> (u64, bool) {
    if leaving.is_empty() {
        return std::future::pending().await;
    }
    let each = leaving.iter_mut().map(|(id, leaving)| leaving.map(|left| (*id, left.unwrap_or_default())));
    futures::future::select_all(each).await.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::SubnetSpec;
    use crate::resource::assignment::{AssignedFloating, ManagedAddress};

    fn assignment(id: &str, desired: Desired, floating: &[u64]) -> Assignment {
        let address = Ipv4Addr::new(10, 42, 7, 9);
        let network = SubnetSpec::default().managed(address, 1380);
        let one =
            |id: &u64| AssignedFloating { id: *id, address: Ipv4Addr::new(192, 168, 10, u8::try_from(*id).unwrap()) };
        Assignment {
            desired,
            network: Some(ManagedAddress { address, ..network }),
            floating: floating.iter().map(one).collect(),
            ..Assignment::example(id)
        }
    }

    #[test]
    fn of_two_with_one_address_the_later_claim_has_it() {
        let of = |id: &str, generation| Assignment {
            token: Token { generation, revision: 5 },
            ..assignment(id, Desired::Running, &[3])
        };
        for (one, other) in [("1i1", "1i2"), ("1i2", "1i1")] {
            let floats = Floats::new(&[of(one, 1), of(other, 2)]);
            let instance = floats.all().get(&3).map(|want| identifier::instance(want.instance));
            assert_eq!(instance.as_deref(), Some(other));
        }
    }

    #[test]
    fn only_what_is_to_run_has_addresses() {
        let wanted =
            Floats::new(&[assignment("1i1", Desired::Running, &[3]), assignment("1i2", Desired::Stopped, &[4])]);
        let mut changes = wanted.0.subscribe();
        let ids = |wanted: &Floats| wanted.all().into_keys().collect::<Vec<_>>();
        assert_eq!(ids(&wanted), [3]);
        wanted.put(&assignment("1i1", Desired::Running, &[3]));
        assert!(!changes.has_changed().unwrap(), "the same again is no news");
        wanted.put(&assignment("1i2", Desired::Running, &[4, 5]));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        assert_eq!(ids(&wanted), [3, 4, 5]);
        wanted.put(&assignment("1i2", Desired::Stopped, &[4, 5]));
        wanted.forget("1i1");
        assert_eq!(ids(&wanted), [0_u64; 0]);
    }
}
