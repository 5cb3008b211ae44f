//! Published ports: what this host opens, and where that leads.
//!
//! ```text
//!  the ledger, the instances' loop ──► Published ──► plan (pure) ──► [`super::led`]
//! ```
//! What is opened stands in the host's ledger, so that it is known before the store is.

use crate::resource::assignment::{Assignment, Desired, PublicPort, Token};
use crate::resource::port::{self, Protocol};
use stampede_netlink::nftables::Protocol as Transport;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;

/// An instance with ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    token: Token,
    address: Ipv4Addr,
    ports: Vec<PublicPort>,
}

impl Tenant {
    /// `None` where nothing of it is to be open.
    fn of(assignment: &Assignment) -> Option<Self> {
        let address = assignment.address().filter(|_| assignment.desired == Desired::Running)?;
        let ports = assignment.ports.clone();
        (!ports.is_empty()).then_some(Self { token: assignment.token, address, ports })
    }
}

pub(super) type Tenants = BTreeMap<String, Tenant>;

/// What this host opens, by instance. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Published(Arc<State>);

#[derive(Debug)]
struct State {
    tenants: watch::Sender<Tenants>,
    /// Rules changed, and connections were not looked at since; nor were they by who ran before.
    unseen: AtomicBool,
}

impl Published {
    /// What is known at the beginning: all of the ledger.
    pub fn new(known: &[Assignment]) -> Self {
        let tenants = known.iter().filter_map(|one| Some((one.id.clone(), Tenant::of(one)?))).collect();
        Self(Arc::new(State { tenants: watch::Sender::new(tenants), unseen: AtomicBool::new(true) }))
    }

    /// An instance is to be so on this host.
    pub fn put(&self, assignment: &Assignment) {
        match Tenant::of(assignment) {
            Some(tenant) => drop(self.0.tenants.send_if_modified(|tenants| {
                let before = tenants.insert(assignment.id.clone(), tenant.clone());
                before.as_ref() != Some(&tenant)
            })),
            None => self.forget(&assignment.id),
        }
    }

    /// Nothing of it is here any more.
    pub fn forget(&self, id: &str) {
        self.0.tenants.send_if_modified(|tenants| tenants.remove(id).is_some());
    }

    pub(super) fn changes(&self) -> watch::Receiver<Tenants> {
        self.0.tenants.subscribe()
    }

    pub(super) fn plan(&self) -> Opened {
        plan(&self.0.tenants.borrow())
    }

    pub(super) fn unseen(&self) -> &AtomicBool {
        &self.0.unseen
    }
}

/// What is to be open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    pub ports: BTreeMap<(Protocol, u16), SocketAddrV4>,
    /// What cannot be, in words for the operator.
    pub problems: Vec<String>,
}

/// Of two that want one port, the later claim has it: the earlier one is of a store that went back.
fn plan(tenants: &Tenants) -> Opened {
    let mut opened = Opened::default();
    let mut holders: BTreeMap<(Protocol, u16), &str> = BTreeMap::new();
    let mut latest: Vec<(&String, &Tenant)> = tenants.iter().collect();
    latest.sort_by_key(|(id, tenant)| (std::cmp::Reverse((tenant.token.generation, tenant.token.revision)), *id));
    for (id, tenant) in latest {
        for PublicPort { protocol, public, private } in &tenant.ports {
            let key = (*protocol, *public);
            if let Some(holder) = holders.get(&key) {
                let port = port::key(*public, *protocol);
                opened.problems.push(format!("port {port} of {id} is not open: {holder} has it on this host"));
                continue;
            }
            holders.insert(key, id);
            opened.ports.insert(key, SocketAddrV4::new(tenant.address, *private));
        }
    }
    opened
}

pub(super) fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::SubnetSpec;
    use crate::resource::assignment::ManagedAddress;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn assignment(id: &str, revision: i64, last: u8, ports: &[(u16, u16)]) -> Assignment {
        let address = Ipv4Addr::new(10, 42, 7, last);
        let network = SubnetSpec::default().managed(address, 1380);
        let port =
            |(public, private): &(u16, u16)| PublicPort { protocol: Protocol::Tcp, public: *public, private: *private };
        Assignment {
            token: Token { generation: 1, revision },
            network: Some(ManagedAddress { address, ..network }),
            ports: ports.iter().map(port).collect(),
            ..Assignment::example(id)
        }
    }

    fn leads(opened: &Opened, public: u16) -> Option<String> {
        opened.ports.get(&(Protocol::Tcp, public)).map(ToString::to_string)
    }

    #[test]
    fn what_runs_is_open_and_what_is_down_is_not() {
        let published = Published::new(&[assignment("1i1", 5, 9, &[(8080, 80)])]);
        let mut changes = published.changes();
        changes.mark_unchanged();
        assert_eq!(leads(&published.plan(), 8080).as_deref(), Some("10.42.7.9:80"));
        published.put(&assignment("1i1", 5, 9, &[(8080, 80)]));
        assert!(!changes.has_changed().unwrap(), "the same again is no news");
        published.put(&assignment("1i1", 5, 9, &[(8081, 80)]));
        assert_eq!((leads(&published.plan(), 8080), leads(&published.plan(), 8081).is_some()), (None, true));
        published.put(&Assignment { desired: Desired::Stopped, ..assignment("1i1", 5, 9, &[(8081, 80)]) });
        assert_eq!(published.plan(), Opened::default());
        assert!(changes.has_changed().unwrap());
    }

    #[test]
    fn of_two_with_one_port_the_later_claim_has_it() {
        let published = Published::new(&[
            assignment("1i1", 5, 9, &[(8080, 80), (8081, 81)]),
            assignment("1i2", 7, 10, &[(8080, 80)]),
        ]);
        let opened = published.plan();
        assert_eq!(leads(&opened, 8080).as_deref(), Some("10.42.7.10:80"));
        assert_eq!(leads(&opened, 8081).as_deref(), Some("10.42.7.9:81"));
        assert_eq!(opened.problems, ["port 8080/tcp of 1i1 is not open: 1i2 has it on this host"]);
    }

    proptest! {
        #[test]
        fn each_port_leads_to_one_who_has_it(
            wishes in prop::collection::vec((0..6_u8, 0..9_i64, prop::collection::vec(8000..8006_u16, 0..4)), 0..8),
        ) {
            let known: Vec<Assignment> = wishes
                .iter()
                .map(|(id, revision, ports)| {
                    let ports: Vec<(u16, u16)> = ports.iter().map(|public| (*public, 80)).collect();
                    assignment(&format!("1i{id}"), *revision, *id, &ports)
                })
                .collect();
            let published = Published::new(&known);
            let opened = published.plan();
            let tenants = published.0.tenants.borrow();
            let wanted: BTreeSet<u16> =
                tenants.values().flat_map(|tenant| tenant.ports.iter().map(|port| port.public)).collect();
            prop_assert_eq!(opened.ports.keys().map(|(_, public)| *public).collect::<BTreeSet<_>>(), wanted);
            for ((_, public), to) in &opened.ports {
                let is_its = |tenant: &Tenant| {
                    tenant.address == *to.ip() && tenant.ports.iter().any(|port| port.public == *public)
                };
                prop_assert!(tenants.values().any(is_its));
            }
        }
    }
}
