//! The overlay: what links, addresses, routes and neighbours this host should have, from what is known of all hosts.
//!
//! ```text
//!  container ── veth (isolated port) ── stampede0 ── routing ── stampede-vx ══ VXLAN ══ the others' stampede-vx
//!   10.42.7.9                          10.42.0.1/32            own block's first address as source
//!                                      10.42.7.1/32            other blocks via the peer's first address, onlink
//!                                                unreachable 10.42.0.0/16 below all
//! ```
//! Every packet is routed, also between two containers of one host: ports are isolated, and the host answers for every
//! address that it has a route to (proxy ARP, also towards the port a request came from). An address in nobody's block has
//! no route, so it is answered for by nobody and leaves by no default route.
//!
//! A peer is one neighbour and one forwarding entry, both static, and a route for each of its blocks. A host without a block
//! of its own has nobody to speak for on the managed network and gets no routes to the others.

use super::block::Taken;
use super::kernel::Wish;
use super::mesh::{Mesh, Mode, Outside, PORT, Underlay, VNI, vtep_mac};
use super::subnet::SubnetSpec;
use stampede_netlink::{
    Mac,
    address::AddressSpec,
    link::{LinkKind, LinkSpec, Vxlan},
    route::RouteSpec,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// The bridge that all of a host's containers and machines are ports of.
pub const BRIDGE: &str = "stampede0";
/// The VXLAN device.
pub const OVERLAY: &str = "stampede-vx";

/// All that a plan is made from.
#[derive(Debug, Clone)]
pub struct View<'a> {
    pub host: &'a str,
    pub subnet: &'a SubnetSpec,
    /// Where this host's overlay packets come from; `None` where it has no way to others.
    pub underlay: Option<Underlay>,
    pub outside: &'a Outside,
    /// The overlay's MTU.
    pub mtu: u32,
    /// How this host sends.
    pub encryption: Mode,
    pub mesh: &'a BTreeMap<String, Mesh>,
    /// Whether whose a packet is crosses with it: [`super::apart`].
    pub apart: bool,
    /// Hosts that nothing is sent to, and why.
    pub refused: &'a BTreeMap<String, String>,
    /// The oldest first.
    pub blocks: &'a [Taken],
}

/// What should be on this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Settings that belong to no link of ours; before everything else.
    pub global: Vec<Wish>,
    pub bridge: Option<LinkSpec>,
    pub bridge_addresses: Vec<AddressSpec>,
    pub overlay: Option<LinkSpec>,
    /// Settings of the links, once they are there.
    pub settings: Vec<Wish>,
    pub neighbours: BTreeMap<IpAddr, Mac>,
    pub forwarding: BTreeMap<Mac, IpAddr>,
    pub routes: Vec<RouteSpec>,
    /// Own blocks that are routed.
    pub routed: Vec<Ipv4Addr>,
    /// What cannot be as it should, in words for the operator.
    pub problems: Vec<String>,
}

/// The bridge. Without an MTU it takes the smallest of its ports', which is as good until the agent knows better. Its
/// hardware address is the gateway's and thus the same on all hosts: what moves keeps its neighbour.
pub fn bridge_spec(subnet: &SubnetSpec, mtu: Option<u32>) -> LinkSpec {
    LinkSpec {
        mtu,
        mac: Some(subnet.mac(subnet.gateway)),
        alias: Some("stampede: the managed network".to_owned()),
        ..LinkSpec::new(BRIDGE, LinkKind::Bridge)
    }
}

/// The address every host has on its bridge.
pub fn gateway_address(subnet: &SubnetSpec) -> AddressSpec {
    AddressSpec::new(IpAddr::V4(subnet.gateway), 32)
}

/// Forwarding is on before Docker starts: where Docker turns it on itself, it also drops what others forward. The kernel
/// takes "send redirects" from a link *or* from `all`, so both must be off; the other links keep theirs.
pub fn global_settings() -> Vec<Wish> {
    vec![Wish::Ipv4("ip_forward", "1"), Wish::Interface4("all".to_owned(), "send_redirects", "0")]
}

/// The bridge's settings: it answers for all that this host routes, at once, and takes from its ports only what it would
/// send to them (strict source check).
pub fn bridge_settings() -> Vec<Wish> {
    let bridge = || BRIDGE.to_owned();
    vec![
        Wish::Interface4(bridge(), "proxy_arp", "1"),
        Wish::Interface4(bridge(), "proxy_arp_pvlan", "1"),
        // Else the first packet to each address waits up to 0.8 s.
        Wish::Neighbour4(bridge(), "proxy_delay", "0"),
        Wish::Interface4(bridge(), "send_redirects", "0"),
        Wish::Interface4(bridge(), "rp_filter", "1"),
        Wish::Interface6(bridge(), "disable_ipv6", "1"),
    ]
}

fn overlay_settings() -> Vec<Wish> {
    vec![
        Wish::Interface4(OVERLAY.to_owned(), "send_redirects", "0"),
        Wish::Interface4(OVERLAY.to_owned(), "rp_filter", "1"),
        Wish::Interface6(OVERLAY.to_owned(), "disable_ipv6", "1"),
    ]
}

/// What there is to do before anything is known of the others: the bridge, so that containers can start.
pub fn base(subnet: &SubnetSpec) -> Plan {
    Plan {
        global: global_settings(),
        bridge: Some(bridge_spec(subnet, None)),
        bridge_addresses: vec![gateway_address(subnet)],
        settings: bridge_settings(),
        ..Plan::default()
    }
}

/// The overlay's MTU: the smallest of all hosts', so that what one sends arrives at any.
pub fn mtu(own: u32, mesh: &BTreeMap<String, Mesh>) -> u32 {
    mesh.values().map(|mesh| mesh.mtu).chain([own]).min().unwrap_or(own)
}

/// What should be on this host. Pure: the same view gives the same plan.
pub fn plan(view: &View<'_>) -> Plan {
    let subnet = view.subnet;
    let mut plan = base(subnet);
    plan.bridge = Some(bridge_spec(subnet, Some(view.mtu)));
    plan.routes.extend(subnet.as_prefix().map(RouteSpec::unreachable));

    // The first block that has room for the host's own address.
    let router = |host: &str| blocks(view, host).find_map(|block| subnet.router(block));
    let own = router(view.host);
    for block in blocks(view, view.host) {
        if let Some(prefix) = subnet.block_as_prefix(block) {
            let source = own.map(IpAddr::V4);
            plan.routes.push(RouteSpec { source, ..RouteSpec::on(prefix, BRIDGE) });
            plan.routed.push(block);
        }
    }
    plan.bridge_addresses.extend(own.map(|own| AddressSpec::new(IpAddr::V4(own), 32)));

    let (Some(this), Some(underlay)) = (view.mesh.get(view.host), view.underlay) else { return plan };
    let kind = LinkKind::Vxlan(Vxlan {
        vni: VNI,
        port: PORT,
        local: underlay.address,
        learning: false,
        group_policy: view.apart,
    });
    plan.overlay = Some(LinkSpec {
        mtu: Some(view.mtu),
        mac: Some(vtep_mac(this.number)),
        alias: Some("stampede: the other hosts".to_owned()),
        ..LinkSpec::new(OVERLAY, kind)
    });
    plan.settings.extend(overlay_settings());
    let Some(own) = own else { return plan };
    for (host, peer) in view.mesh.iter().filter(|(host, _)| *host != view.host) {
        let Some(via) = router(host) else { continue };
        let refused = view.refused.get(host).map_or(Ok(()), |why| Err(why.clone()));
        let (mac, address) = match refused.and_then(|()| reach(peer, view, underlay)) {
            Ok(reached) => reached,
            Err(why) => {
                plan.problems.push(format!("no overlay to {host}: {why}"));
                continue;
            }
        };
        plan.neighbours.insert(IpAddr::V4(via), mac);
        plan.forwarding.insert(mac, address);
        for block in blocks(view, host) {
            if let Some(prefix) = subnet.block_as_prefix(block) {
                plan.routes.push(RouteSpec {
                    via: Some(IpAddr::V4(via)),
                    onlink: true,
                    source: Some(IpAddr::V4(own)),
                    ..RouteSpec::on(prefix, OVERLAY)
                });
            }
        }
    }
    plan
}

/// A host's blocks, the oldest first.
fn blocks(view: &View<'_>, host: &str) -> impl Iterator<Item = Ipv4Addr> {
    view.blocks.iter().filter(move |taken| taken.host == host).map(|taken| taken.block)
}

/// How a peer is reached, or why it cannot be.
fn reach(peer: &Mesh, view: &View<'_>, underlay: Underlay) -> Result<(Mac, IpAddr), String> {
    if (peer.port, peer.vni) != (PORT, VNI) {
        return Err(format!("it speaks another overlay (port {}, VNI {})", peer.port, peer.vni));
    }
    view.encryption.meets(peer)?;
    let mac = peer.mac.parse().map_err(|_| format!("{:?} is no hardware address", peer.mac))?;
    let address = peer.at(view.outside, underlay.address.is_ipv4());
    address.map(|address| (mac, address)).ok_or_else(|| format!("none of its addresses {:?} fits ours", peer.underlay))
}

#[cfg(test)]
mod tests;
