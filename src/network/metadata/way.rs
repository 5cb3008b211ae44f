//! The way from an instance to its metadata: 169.254.169.254, port 80, is led to where the agent listens.
//!
//! No link has that address, for it is also where a cloud tells the *host* about itself: the host's own way there stays as it
//! was. What comes from instances is led by a rule of our table; a rule of routing that no flush of those takes away sees to it that it
//! never goes on to the cloud, which would take it for the host's, and that who asks for the address on its own link (ARP) finds it.

use crate::network::overlay::BRIDGE;
use stampede_netlink::{
    Prefix,
    conntrack::Flow,
    nftables::{Expression, Protocol, Rule, Side, Target},
    route::RouteSpec,
    rule::RuleSpec,
};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};

/// Where instances ask.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const PORT: u16 = 80;
/// Where the agent listens, at the gateway's address: a host may have a web server of its own on port 80 of all addresses.
pub const LISTEN: u16 = 9169;
/// The routing table in which the address is this host's own, and the place of the rule that asks it.
const TABLE: u32 = 4243;
const PRIORITY: u32 = 4243;

fn destination() -> Option<Prefix> {
    Prefix::new(IpAddr::V4(ADDRESS), 32)
}

/// To the agent.
pub fn rule(gateway: Ipv4Addr) -> Option<Rule> {
    let led = Expression::DestinationNat(Target::Address(IpAddr::V4(gateway), Some(LISTEN)));
    let to_port = Expression::Port(Protocol::Tcp, Side::Destination, PORT..=PORT);
    let expressions = [Expression::from(BRIDGE), Expression::destination(destination()?), to_port, led];
    Some(Rule::new(expressions).comment("what an instance may know of itself"))
}

/// Whether a connection is led by that rule.
pub fn leads(flow: &Flow) -> bool {
    flow.protocol == Protocol::Tcp && flow.original.destination == SocketAddrV4::new(ADDRESS, PORT)
}

/// What comes from instances is routed by a table of its own.
pub fn guard() -> Option<RuleSpec> {
    Some(RuleSpec {
        priority: PRIORITY,
        source: None,
        destination: Some(destination()?),
        from: Some(BRIDGE.to_owned()),
        mark: None,
        table: TABLE,
    })
}

/// What that table has.
pub fn routes() -> Vec<RouteSpec> {
    destination().map(|own| RouteSpec { table: TABLE, ..RouteSpec::local(own, BRIDGE) }).into_iter().collect()
}
