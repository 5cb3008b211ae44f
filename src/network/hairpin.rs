//! Ways to a published port that are not straight: from the host by 127.0.0.1, and from its own containers.
//!
//! ```text
//!  127.0.0.1 ─ led to 10.42.7.9 ─┐                       (untracked)
//!                                ├─► stampede-hp ══ veth ══ stampede-hp1 ─► routing ─► stampede0 ─► container
//!  container ─ led to 10.42.7.9 ─┘   source 169.254.42.1 for those that cannot keep theirs
//! ```
//! Two things stand in the way of these packets, and both mind the link: the kernel lets no packet from 127.0.0.1 out of a link, and
//! none for it in, unless `route_localnet` is on there; and where bridges call iptables (br_netfilter, which Docker loads) a packet
//! from a port of a bridge that is led to another port of it is handed over inside the bridge, where ours are isolated.
//! `route_localnet` on the bridge would open the host's 127.0.0.1 to all containers, with but a rule before it that somebody
//! can flush. So such packets are routed out of a link of their own and come in again by its other end, where connection
//! tracking does not look at them; from there on it is like any other way to a container. Nobody else can send into that
//! link, and it needs no rule to be safe.

use super::apply::Applied;
use super::kernel::{Kernel, Wish};
use super::metadata;
use super::overlay::BRIDGE;
use super::subnet::SubnetSpec;
use stampede_netlink::{
    Mac, Prefix,
    address::{AddressSpec, Others},
    link::{LinkKind, LinkSpec},
    route::RouteSpec,
    rule::RuleSpec,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Where such packets go out, and where they come in again.
pub const OUT: &str = "stampede-hp";
pub const IN: &str = "stampede-hp1";
/// The bit by which packets from containers to published ports are told from others.
pub const MARK: u32 = 0x1000_0000;
/// Whom a container sees where the source cannot be kept. No link has it; it is reached by the pair.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 1);

/// What stands for the other end.
const THROUGH: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 2);
/// Without an address of its own a link takes nothing in where sources are checked.
const OUT_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 3);
const IN_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 42, 4);
const OUT_MAC: Mac = Mac([2, 0, 3, 0, 0, 1]);
const IN_MAC: Mac = Mac([2, 0, 3, 0, 0, 2]);
/// The routing table that leads there, and the place of the rules that ask it.
const TABLE: u32 = 4242;
const PRIORITY: u32 = 4242;

/// The host's own addresses that no link carries.
pub fn loopback() -> Option<Prefix> {
    Prefix::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8)
}

/// The routes: through the pair to the managed network for those that are sent there, and back from it.
pub fn routes(subnet: &SubnetSpec) -> Vec<RouteSpec> {
    let there = subnet.as_prefix().map(|managed| RouteSpec {
        via: Some(IpAddr::V4(THROUGH)),
        onlink: true,
        table: TABLE,
        ..RouteSpec::on(managed, OUT)
    });
    let back = Prefix::new(IpAddr::V4(SOURCE), 32).map(|source| RouteSpec::on(source, IN));
    there.into_iter().chain(back).collect()
}

fn rules(managed: Prefix) -> [RuleSpec; 2] {
    let rule =
        RuleSpec { priority: PRIORITY, source: None, destination: Some(managed), from: None, mark: None, table: TABLE };
    [
        RuleSpec { source: loopback(), ..rule.clone() },
        RuleSpec { from: Some(BRIDGE.to_owned()), mark: Some(MARK), ..rule },
    ]
}

fn link(name: &str, peer: &str, mac: Mac, mtu: Option<u32>) -> LinkSpec {
    LinkSpec {
        mtu,
        mac: Some(mac),
        alias: Some("stampede: from this host to its own published ports".to_owned()),
        ..LinkSpec::new(name, LinkKind::Veth { peer: peer.to_owned() })
    }
}

fn settings() -> Vec<Wish> {
    let both = [OUT, IN].into_iter().flat_map(|name| {
        let wish = |setting, value| Wish::Interface4(name.to_owned(), setting, value);
        // Loose, since answers take another way than what they answer; a strict setting for all links is outdone by it.
        let all = [wish("forwarding", "1"), wish("rp_filter", "2"), wish("send_redirects", "0")];
        all.into_iter().chain([Wish::Interface6(name.to_owned(), "disable_ipv6", "1")])
    });
    both.chain([Wish::Interface4(OUT.to_owned(), "route_localnet", "1")]).collect()
}

/// Makes links, addresses, neighbours and all rules of ours so; the routes are made with all others.
pub(super) async fn apply(kernel: &Kernel, subnet: &SubnetSpec, mtu: Option<u32>, applied: &mut Applied) {
    let netlink = &kernel.netlink;
    let ends = [
        (link(OUT, IN, OUT_MAC, mtu), OUT_ADDRESS, (THROUGH, IN_MAC)),
        (link(IN, OUT, IN_MAC, mtu), IN_ADDRESS, (SOURCE, OUT_MAC)),
    ];
    for (spec, address, (neighbour, mac)) in ends {
        let Some(index) = applied.link(kernel, &spec).await else { continue };
        let addresses = [AddressSpec::new(IpAddr::V4(address), 32)];
        applied.count(netlink.ensure_addresses(index, &addresses, Others::Remove).await);
        let neighbours = BTreeMap::from([(IpAddr::V4(neighbour), mac)]);
        applied.count(netlink.reconcile_neighbours(index, &neighbours).await);
    }
    applied.settings(kernel, &settings());
    if let Some(managed) = subnet.as_prefix() {
        let all: Vec<RuleSpec> = rules(managed).into_iter().chain(metadata::way::guard()).collect();
        applied.count(netlink.reconcile_rules(&all).await);
    }
}
