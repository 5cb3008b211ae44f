//! Links to and from RTM_NEWLINK messages (linux/if_link.h, linux/rtnetlink.h).

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage,
    },
};

use super::{Link, LinkKind, PortFlags, Settings, Vxlan};
use crate::Mac;

/// Names a link: by index if there is one, else by name.
pub(super) enum Handle<'a> {
    Index(u32),
    Name(&'a str),
}

pub(super) fn base(handle: &Handle<'_>) -> LinkMessage {
    let mut message = LinkMessage::default();
    match handle {
        Handle::Index(index) => message.header.index = *index,
        Handle::Name(name) => message.attributes.push(LinkAttribute::IfName((*name).to_owned())),
    }
    message
}

/// Makes a link of this kind and no more.
pub(super) fn create(name: &str, kind: &LinkKind) -> LinkMessage {
    let mut message = base(&Handle::Name(name));
    let info = match kind {
        LinkKind::Bridge => vec![LinkInfo::Kind(InfoKind::Bridge)],
        LinkKind::Vxlan(vxlan) => vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(encode(vxlan)))],
        LinkKind::Veth { peer } => vec![LinkInfo::Kind(InfoKind::Veth), veth_peer(base(&Handle::Name(peer)))],
    };
    message.attributes.push(LinkAttribute::LinkInfo(info));
    message
}

pub(super) fn veth_peer(peer: LinkMessage) -> LinkInfo {
    LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer)))
}

fn encode(vxlan: &Vxlan) -> Vec<InfoVxlan> {
    let mut data = vec![
        InfoVxlan::Id(vxlan.vni),
        match vxlan.local {
            IpAddr::V4(local) => InfoVxlan::Local(local),
            IpAddr::V6(local) => InfoVxlan::Local6(local),
        },
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(vxlan.learning),
    ];
    // A flag: off is not to say it.
    data.extend(vxlan.group_policy.then_some(InfoVxlan::Gbp));
    data
}

/// Sets what is asked for. The kernel takes the port's flags before the master, of the master that is set *already*;
/// so a message that sets both is two (see `apply`).
pub(super) fn set(handle: &Handle<'_>, settings: &Settings) -> LinkMessage {
    let mut message = base(handle);
    let attributes = &mut message.attributes;
    if let Some(mtu) = settings.mtu {
        attributes.push(LinkAttribute::Mtu(mtu));
    }
    if let Some(mac) = settings.mac {
        attributes.push(LinkAttribute::Address(mac.0.to_vec()));
    }
    if let Some(alias) = &settings.alias {
        attributes.push(LinkAttribute::IfAlias(alias.clone()));
    }
    if let Some(master) = settings.master {
        attributes.push(LinkAttribute::Controller(master));
    }
    if let Some(info) = port(settings.port) {
        attributes.push(LinkAttribute::LinkInfo(info));
    }
    if let Some(up) = settings.up {
        message.header.change_mask = LinkFlags::Up;
        message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
    }
    message
}

fn port(flags: PortFlags) -> Option<Vec<LinkInfo>> {
    let data: Vec<_> = [
        flags.isolated.map(InfoBridgePort::Isolated),
        flags.learning.map(InfoBridgePort::Learning),
        flags.unicast_flood.map(InfoBridgePort::UnicastFlood),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!data.is_empty())
        .then(|| vec![LinkInfo::PortKind(InfoPortKind::Bridge), LinkInfo::PortData(InfoPortData::BridgePort(data))])
}

/// A link out of a dump, an answer or a notification.
pub(crate) fn read(message: RouteNetlinkMessage) -> Option<Link> {
    let (RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        vxlan: None,
        mtu: 0,
        mac: None,
        alias: None,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        master: None,
        port: PortFlags::default(),
        lower: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Address(address) => link.mac = Mac::from_slice(&address),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::Link(lower) => link.lower = Some(lower),
            LinkAttribute::LinkInfo(info) => info.iter().for_each(|info| read_info(info, &mut link)),
            _ => {}
        }
    }
    Some(link)
}

fn read_info(info: &LinkInfo, link: &mut Link) {
    match info {
        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
        LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = decode(data),
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
            for flag in data {
                match flag {
                    InfoBridgePort::Isolated(on) => link.port.isolated = Some(*on),
                    InfoBridgePort::Learning(on) => link.port.learning = Some(*on),
                    InfoBridgePort::UnicastFlood(on) => link.port.unicast_flood = Some(*on),
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

fn decode(data: &[InfoVxlan]) -> Option<Vxlan> {
    let (mut vni, mut port, mut local, mut learning, mut group_policy) = (None, None, None, false, false);
    for attribute in data {
        match attribute {
            InfoVxlan::Id(id) => vni = Some(*id),
            InfoVxlan::Port(number) => port = Some(*number),
            InfoVxlan::Local(address) => local = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => local = Some(IpAddr::V6(*address)),
            InfoVxlan::Learning(on) => learning = *on,
            InfoVxlan::Gbp => group_policy = true,
            _ => {}
        }
    }
    Some(Vxlan { vni: vni?, port: port?, local: local?, learning, group_policy })
}
