//! An agent's way to its kernel, on which a guard of the encryption may be lost. As in [`crate::guards`], the product knows nothing
//! of it: what it asks for is changed on its way, and what it is shown is what it asked for.

use super::Encrypting;
use crate::guards::Guard;
use stampede::network::ipsec::encryptor::{Encryptor, Events};
use stampede::network::kernel::Error;
use stampede_netlink::Outcome;
use stampede_netlink::xfrm::{
    Action, AeadKey, Association, AssociationChange, AssociationId, AssociationSpec, AssociationTable, Policy,
    PolicyChange, PolicySpec,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

/// How late ways in are where nobody waits for them, milliseconds.
const LATE: (u64, u64) = (500, 4000);

/// See the module's text. One agent's.
#[derive(Debug)]
pub struct Bent {
    inner: Encrypting,
    guard: Option<Guard>,
    memory: Arc<Mutex<Memory>>,
}

/// What the agent asked for and the kernel does not have, or the other way round.
#[derive(Debug, Default)]
struct Memory {
    /// Asked for, and not asked to be taken away.
    made: BTreeMap<AssociationId, AssociationSpec>,
    /// Still to come.
    late: BTreeMap<AssociationId, AssociationSpec>,
    /// To be gone, and there.
    kept: BTreeSet<AssociationId>,
}

impl Bent {
    pub fn new(inner: Encrypting, guard: Option<Guard>) -> Self {
        Self { inner, guard, memory: Arc::default() }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap()
    }

    /// What is asked of the kernel instead.
    fn bend(&self, changes: &[AssociationChange]) -> Vec<AssociationChange> {
        let own = self.inner.address();
        let mut bent = Vec::new();
        for change in changes {
            match (self.guard, change) {
                (Some(Guard::Once), AssociationChange::Add(spec)) => {
                    self.memory().made.insert(spec.id, spec.clone());
                }
                (Some(Guard::Once), AssociationChange::Remove(id)) => drop(self.memory().made.remove(id)),
                (Some(Guard::Inward), AssociationChange::Add(spec)) if spec.id.destination == own => {
                    self.memory().late.insert(spec.id, spec.clone());
                    self.add_later(spec.clone());
                    continue;
                }
                (Some(Guard::Inward), AssociationChange::Remove(id)) => drop(self.memory().late.remove(id)),
                (Some(Guard::Old), AssociationChange::Remove(id)) => {
                    self.memory().kept.insert(*id);
                    continue;
                }
                // What takes its place cannot come before it went.
                (Some(Guard::Old), AssociationChange::Add(spec)) if self.memory().kept.remove(&spec.id) => {
                    bent.push(AssociationChange::Remove(spec.id));
                }
                _ => {}
            }
            bent.push(change.clone());
        }
        bent
    }

    fn add_later(&self, spec: AssociationSpec) {
        let (inner, memory) = (self.inner.clone(), self.memory.clone());
        tokio::spawn(async move {
            inner.later(LATE.0, LATE.1).await;
            let wanted = memory.lock().unwrap().late.remove(&spec.id);
            if wanted.is_some_and(|wanted| wanted == spec) {
                // The kernel says no to nothing of it.
                drop(inner.change_associations(vec![AssociationChange::Add(spec)]).await);
            }
        });
    }
}

#[async_trait::async_trait]
impl Encryptor for Bent {
    fn has_ipv6(&self) -> bool {
        self.inner.has_ipv6()
    }

    async fn policies(&self) -> Result<Vec<Policy>, Error> {
        self.inner.policies().await
    }

    async fn reconcile_policies(&self, desired: &[PolicySpec]) -> Result<Outcome<PolicyChange>, Error> {
        if self.guard != Some(Guard::Block) {
            return self.inner.reconcile_policies(desired).await;
        }
        let open: Vec<_> = desired.iter().filter(|policy| policy.action != Action::Block).cloned().collect();
        self.inner.reconcile_policies(&open).await
    }

    async fn associations(&self) -> Result<Vec<Association>, Error> {
        let mut found = self.inner.associations().await?;
        match self.guard {
            Some(Guard::Once) => {
                let is_there = |id: &AssociationId| found.iter().any(|association| association.spec.id == *id);
                let made = self.memory().made.clone();
                let lost: Vec<_> = made.into_values().filter(|spec| !is_there(&spec.id)).collect();
                if !lost.is_empty() {
                    let again = lost.into_iter().map(AssociationChange::Add).collect();
                    drop(self.inner.change_associations(again).await?);
                    found = self.inner.associations().await?;
                }
            }
            Some(Guard::Inward) => {
                let late = self.memory().late.clone();
                found.extend(late.into_values().map(there));
            }
            Some(Guard::Old) => found.retain(|association| !self.memory().kept.contains(&association.spec.id)),
            _ => {}
        }
        Ok(found)
    }

    async fn change_associations(&self, changes: Vec<AssociationChange>) -> Result<Outcome<AssociationChange>, Error> {
        let bent = self.bend(&changes);
        let outcome = self.inner.change_associations(bent).await?;
        Ok(if self.guard.is_some() { Outcome { made: changes, failed: Vec::new() } } else { outcome })
    }

    async fn make_room(&self, buckets: u32, spi: u32, key: &AeadKey) -> Result<AssociationTable, Error> {
        self.inner.make_room(buckets, spi, key).await
    }

    fn events(&self) -> Result<Events, Error> {
        self.inner.events()
    }

    fn probe(&self, own: IpAddr, peer: IpAddr) -> io::Result<()> {
        self.inner.probe(own, peer)
    }
}

/// An association through which nothing has come.
fn there(spec: AssociationSpec) -> Association {
    Association {
        spec,
        bytes: 0,
        packets: 0,
        added: 0,
        used: 0,
        sent: 0,
        received: 0,
        too_old: 0,
        replayed: 0,
        forged: 0,
    }
}
