//! Who asks: the instances of this host by their addresses, which nobody else can send with.

use crate::network::subnet::SubnetSpec;
use crate::resource::assignment::Assignment;
use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// Names that only one instance has: its links.
///
/// They go before the names of its account. Answered from memory, while a question waits.
pub trait OwnNames: Debug + Send + Sync {
    /// Where `name` leads `instance` (`1i54`); `None` where it has none such, and no address where it leads nowhere now.
    fn addresses(&self, instance: &str, name: &str) -> Option<Vec<Ipv4Addr>>;
}

/// An instance of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// `1i54`.
    pub instance: String,
    pub account: u64,
}

/// Who a packet is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    Instance(Tenant),
    /// On the managed network, and unknown here: it may reach what everybody may.
    Unknown,
    /// The host itself, which has its own way to names. That it gets no answer here keeps questions from going round.
    Host,
    /// Not on the managed network: what it sent should not have come so far.
    Outsider,
}

/// The instances of this host. Cheap to clone; clones share them.
#[derive(Clone, Debug)]
pub struct Askers {
    known: Arc<RwLock<Known>>,
    changed: Arc<watch::Sender<()>>,
}

impl Default for Askers {
    fn default() -> Self {
        Self { known: Arc::default(), changed: Arc::new(watch::Sender::new(())) }
    }
}

#[derive(Debug, Default)]
struct Known {
    tenants: HashMap<Ipv4Addr, Tenant>,
    addresses: HashMap<String, Ipv4Addr>,
}

impl Known {
    fn forget(&mut self, id: &str) {
        if let Some(address) = self.addresses.remove(id)
            && self.tenants.get(&address).is_some_and(|tenant| tenant.instance == id)
        {
            self.tenants.remove(&address);
        }
    }

    fn put(&mut self, assignment: &Assignment) {
        self.forget(&assignment.id);
        if let (Some(address), Some(account)) = (assignment.address(), assignment.account) {
            self.addresses.insert(assignment.id.clone(), address);
            self.tenants.insert(address, Tenant { instance: assignment.id.clone(), account });
        }
    }
}

impl Askers {
    /// What is known at the beginning: all of the ledger.
    pub fn new(known: &[Assignment]) -> Self {
        let askers = Self::default();
        known.iter().for_each(|assignment| askers.put(assignment));
        askers
    }

    /// An instance is to be so on this host.
    pub fn put(&self, assignment: &Assignment) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).put(assignment);
        self.changed.send_replace(());
    }

    /// Nothing of it is here any more.
    pub fn forget(&self, id: &str) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).forget(id);
        self.changed.send_replace(());
    }

    pub(in crate::network) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The account of each address.
    pub(in crate::network) fn accounts(&self) -> BTreeMap<Ipv4Addr, u64> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.tenants.iter().map(|(address, tenant)| (*address, tenant.account)).collect()
    }

    /// The address of each.
    pub(in crate::network) fn addresses(&self) -> BTreeMap<String, Ipv4Addr> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.addresses.iter().map(|(id, address)| (id.clone(), *address)).collect()
    }

    /// One whose address is so, and that.
    pub(in crate::network) fn find(&self, is: impl Fn(Ipv4Addr) -> bool) -> Option<(String, Ipv4Addr)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.addresses.iter().find(|(_, address)| is(**address)).map(|(id, address)| (id.clone(), *address))
    }

    /// Who sent a packet with this source.
    pub(in crate::network) fn who(&self, source: IpAddr, subnet: &SubnetSpec) -> Asker {
        let address = match source.to_canonical() {
            IpAddr::V4(address) if subnet.contains(address) => address,
            _ => return Asker::Outsider,
        };
        if let Some(tenant) = self.known.read().unwrap_or_else(PoisonError::into_inner).tenants.get(&address) {
            return Asker::Instance(tenant.clone());
        }
        let of_hosts = address == subnet.gateway || subnet.router(subnet.block_of(address)) == Some(address);
        if of_hosts { Asker::Host } else { Asker::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assignment(id: &str, last: u8, account: Option<u64>) -> Assignment {
        let network = SubnetSpec::default().managed(Ipv4Addr::new(10, 42, 7, last), 1380);
        Assignment { network: Some(network), account, ..Assignment::example(id) }
    }

    #[test]
    fn askers_are_known_by_their_addresses() {
        let askers = Askers::new(&[assignment("1i1", 9, Some(5)), assignment("1i2", 10, None)]);
        let who = |address: &str| askers.who(address.parse().unwrap(), &SubnetSpec::default());
        let tenant = |id: &str, account| Asker::Instance(Tenant { instance: id.to_owned(), account });
        assert_eq!(who("10.42.7.9"), tenant("1i1", 5));
        assert_eq!(who("::ffff:10.42.7.9"), tenant("1i1", 5));
        assert_eq!(who("10.42.7.10"), Asker::Unknown, "an earlier version did not write whose it is");
        assert_eq!(who("10.42.0.1"), Asker::Host);
        assert_eq!(who("10.42.7.1"), Asker::Host);
        assert_eq!(who("198.18.0.1"), Asker::Outsider);
        askers.put(&assignment("1i2", 10, Some(6)));
        assert_eq!(who("10.42.7.10"), tenant("1i2", 6));
        askers.put(&assignment("1i1", 11, Some(5)));
        assert_eq!((who("10.42.7.9"), who("10.42.7.11")), (Asker::Unknown, tenant("1i1", 5)));
        askers.put(&assignment("1i3", 11, Some(7)));
        askers.forget("1i1");
        assert_eq!(who("10.42.7.11"), tenant("1i3", 7), "what another has by now stays its own");
    }
}
