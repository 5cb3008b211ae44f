//! Routes to and from RTM_NEWROUTE messages (linux/rtnetlink.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia},
};

use super::{Names, PROTOCOL, Route, RouteKind, RouteSpec};
use crate::Prefix;

fn family(ipv4: bool) -> AddressFamily {
    if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A dump of one family, of one protocol (0: all).
pub(super) fn request(ipv4: bool, protocol: u8) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ipv4);
    message.header.protocol = RouteProtocol::from(protocol);
    message
}

pub(super) fn write(spec: &RouteSpec, names: &Names) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family(spec.destination.address().is_ipv4());
    header.destination_prefix_length = spec.destination.length();
    header.protocol = RouteProtocol::from(PROTOCOL);
    header.scope = match (spec.kind, spec.via) {
        (RouteKind::Unicast, None) if spec.destination.address().is_ipv4() => RouteScope::Link,
        (RouteKind::Local, _) => RouteScope::Host,
        _ => RouteScope::Universe,
    };
    header.kind = match spec.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Unreachable => RouteType::Unreachable,
        RouteKind::Local => RouteType::Local,
    };
    if spec.onlink {
        header.flags = RouteFlags::Onlink;
    }
    // The header has one byte for the table; the attribute holds all.
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(spec.table));
    attributes.push(RouteAttribute::Destination(spec.destination.address().into()));
    if let Some(via) = spec.via {
        attributes.push(match (spec.destination.address(), via) {
            (IpAddr::V4(_), IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
            _ => RouteAttribute::Gateway(via.into()),
        });
    }
    if let Some(index) = spec.device.as_deref().and_then(|device| names.index(device)) {
        attributes.push(RouteAttribute::Oif(index));
    }
    if let Some(source) = spec.source {
        attributes.push(RouteAttribute::PrefSource(source.into()));
    }
    if spec.metric != 0 {
        attributes.push(RouteAttribute::Priority(spec.metric));
    }
    message
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

pub(super) fn read(message: RouteNetlinkMessage, names: &Names) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else { return None };
    let header = &message.header;
    let ipv4 = match header.address_family {
        AddressFamily::Inet => true,
        AddressFamily::Inet6 => false,
        _ => return None,
    };
    let kind = match header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Local if u8::from(header.protocol) == PROTOCOL => RouteKind::Local,
        _ => return None,
    };
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let nowhere = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let mut destination = nowhere;
    let mut spec = RouteSpec {
        destination: Prefix::new(nowhere, header.destination_prefix_length)?,
        kind,
        via: None,
        onlink: header.flags.contains(RouteFlags::Onlink),
        device: None,
        source: None,
        metric: 0,
        table: u32::from(header.table),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => spec.via = ip(address),
            RouteAttribute::Via(RouteVia::Inet(via)) => spec.via = Some(IpAddr::V4(*via)),
            RouteAttribute::Via(RouteVia::Inet6(via)) => spec.via = Some(IpAddr::V6(*via)),
            // IPv6 hangs unreachable routes onto `lo` by itself.
            RouteAttribute::Oif(index) if kind != RouteKind::Unreachable => spec.device = Some(names.name(*index)),
            RouteAttribute::PrefSource(address) => spec.source = ip(address),
            RouteAttribute::Priority(metric) => spec.metric = *metric,
            RouteAttribute::Table(table) => spec.table = *table,
            _ => {}
        }
    }
    spec.destination = Prefix::new(destination, header.destination_prefix_length)?;
    Some(Route { spec, protocol: u8::from(header.protocol) })
}
