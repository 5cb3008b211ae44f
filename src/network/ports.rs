//! Published ports: what this host opens, and where that leads.
//!
//! ```text
//!  the ledger, the instances' loop ──► Published ──► plan (pure) ──► two sets of our table, element by element
//!                                                       │
//!                    connection tracking ── stale (pure) ┴──► what leads elsewhere now is forgotten
//! ```
//! What is opened stands in the host's ledger, so that it is known before the store is. A connection is led where the rules led its
//! first packet, so after a change those that lead elsewhere now are forgotten. [`super::hairpin`] has the ways that are
//! not straight.

use super::apply::Applied;
use super::firewall;
use super::kernel::{Error, Kernel};
use super::subnet::SubnetSpec;
use crate::resource::assignment::{Assignment, Desired, PublicPort, Token};
use crate::resource::port::{self, Protocol};
use stampede_netlink::conntrack::Flow;
use stampede_netlink::nftables::{DataType, Element, ElementData, Protocol as Transport, Set, SetData, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Protocol and public port → address and private port.
pub const PORTS: &str = "ports";
/// The addresses that ports lead to, each as source and destination of a packet.
pub const ITSELF: &str = "itself";

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

fn transport(protocol: Protocol) -> Transport {
    match protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp => Transport::Udp,
    }
}

impl Opened {
    /// As sets of our table.
    pub fn sets(&self) -> Vec<Set> {
        let port = |((protocol, public), to): (&(Protocol, u16), &SocketAddrV4)| Element {
            key: vec![Value::Protocol(transport(*protocol)), Value::Port(*public)],
            data: Some(ElementData::Values(vec![Value::Ipv4(*to.ip()), Value::Port(to.port())])),
        };
        let addresses: BTreeSet<Ipv4Addr> = self.ports.values().map(|to| *to.ip()).collect();
        let itself = |address: Ipv4Addr| Element { key: vec![Value::Ipv4(address), Value::Ipv4(address)], data: None };
        vec![
            Set {
                name: PORTS.to_owned(),
                comment: Some("published ports".to_owned()),
                key: vec![DataType::Protocol, DataType::Port],
                data: Some(SetData::Values(vec![DataType::Ipv4, DataType::Port])),
                elements: self.ports.iter().map(port).collect(),
            },
            Set {
                name: ITSELF.to_owned(),
                comment: Some("who asks for a port of its own".to_owned()),
                key: vec![DataType::Ipv4, DataType::Ipv4],
                data: None,
                elements: addresses.into_iter().map(itself).collect(),
            },
        ]
    }

    /// Connections that are led elsewhere than they would be now; `own` are this host's addresses, `managed` tells which are
    /// those of instances.
    ///
    /// A conversation by UDP that began before its port was open would go past it for ever; one by TCP has an end of its own.
    fn stale(&self, flows: Vec<Flow>, own: &BTreeSet<Ipv4Addr>, managed: impl Fn(Ipv4Addr) -> bool) -> Vec<Flow> {
        let is_stale = |flow: &Flow| {
            let (asked, led) = (flow.original.destination, flow.reply.source);
            let protocol = if flow.protocol == Transport::Tcp { Protocol::Tcp } else { Protocol::Udp };
            let wanted = self.ports.get(&(protocol, asked.port()));
            let to_us = asked.ip().is_loopback() || own.contains(asked.ip());
            let past = asked == led && protocol == Protocol::Udp && wanted.is_some();
            let elsewhere = asked != led && managed(*led.ip()) && wanted != Some(&led);
            // Whoever asks itself and keeps its source gets no answer.
            let asker = flow.original.source;
            let alone = asked != led && asker.ip() == led.ip() && flow.reply.destination == asker;
            to_us && (past || elsewhere || alone)
        };
        flows.into_iter().filter(is_stale).collect()
    }
}

/// Opens what is to be open, and nothing else.
pub(super) async fn apply(kernel: &Kernel, subnet: &SubnetSpec, published: &Published, applied: &mut Applied) {
    let mut opened = published.plan();
    applied.warnings.append(&mut opened.problems);
    let unseen = &published.0.unseen;
    let changed = firewall::ensure_table(kernel, subnet, &opened).await;
    unseen.fetch_or(matches!(changed, Ok(true)), Ordering::Relaxed);
    applied.note(changed);
    if unseen.load(Ordering::Relaxed) {
        match forget_stale(kernel, subnet, &opened).await {
            Ok(()) => unseen.store(false, Ordering::Relaxed),
            Err(error) => applied.note(Err(error)),
        }
    }
}

async fn forget_stale(kernel: &Kernel, subnet: &SubnetSpec, opened: &Opened) -> Result<(), Error> {
    let Some(managed) = subnet.as_prefix() else { return Ok(()) };
    let own = kernel.netlink.addresses().await?.into_iter().filter_map(|found| match found.spec.address {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    });
    let own: BTreeSet<Ipv4Addr> = own.collect();
    let stale = opened.stale(kernel.netlink.flows().await?, &own, |address| managed.contains(address.into()));
    let forgotten = kernel.netlink.forget_flows(&stale).await?;
    if forgotten > 0 {
        tracing::info!(connections = forgotten, "led elsewhere than published ports lead now: forgotten");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::assignment::ManagedAddress;
    use proptest::prelude::*;
    use stampede_netlink::conntrack::Way;

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

    #[test]
    fn only_what_is_led_elsewhere_is_forgotten() {
        let opened = Published::new(&[assignment("1i1", 5, 9, &[(8080, 80)])]).plan();
        let end = |text: &str| text.parse::<SocketAddrV4>().unwrap();
        let flow = |protocol, asked: &str, led: &str| {
            let client = end("198.18.0.9:40000");
            let original = Way { source: client, destination: end(asked) };
            Flow::new(protocol, original, Way { source: end(led), destination: client })
        };
        let own = BTreeSet::from([Ipv4Addr::new(198, 18, 0, 1)]);
        let managed = |address: Ipv4Addr| address.octets()[..2] == [10, 42];
        let is_stale = |flow: Flow| !opened.stale(vec![flow], &own, managed).is_empty();
        let mut udp = opened.clone();
        udp.ports.insert((Protocol::Udp, 53), end("10.42.7.9:53"));
        let udp_is_stale = |flow: Flow| !udp.stale(vec![flow], &own, managed).is_empty();
        assert!(!is_stale(flow(Transport::Tcp, "198.18.0.1:8080", "10.42.7.9:80")), "it leads there");
        assert!(is_stale(flow(Transport::Tcp, "198.18.0.1:8080", "10.42.7.10:80")), "it leads elsewhere now");
        let itself = Way { source: end("10.42.7.9:5000"), destination: end("198.18.0.1:8080") };
        let answer = |destination| Way { source: end("10.42.7.9:80"), destination: end(destination) };
        assert!(is_stale(Flow::new(Transport::Tcp, itself, answer("10.42.7.9:5000"))), "begun without a source");
        assert!(!is_stale(Flow::new(Transport::Tcp, itself, answer("169.254.42.1:5000"))));
        assert!(is_stale(flow(Transport::Tcp, "127.0.0.1:8081", "10.42.7.9:80")), "it is closed");
        assert!(!is_stale(flow(Transport::Tcp, "198.18.0.1:8080", "198.18.0.1:8080")), "begun before it was open");
        assert!(udp_is_stale(flow(Transport::Udp, "198.18.0.1:53", "198.18.0.1:53")), "it would go past it for ever");
        assert!(!udp_is_stale(flow(Transport::Udp, "198.18.0.1:54", "198.18.0.1:54")), "the host's own");
        assert!(!is_stale(flow(Transport::Tcp, "198.18.0.2:8080", "198.18.0.2:8080")), "to another host");
        assert!(!is_stale(flow(Transport::Tcp, "198.18.0.1:5000", "172.17.0.2:80")), "another's");
    }
}
