//! Static neighbours: which hardware address an IP address has (`ip neigh`), and behind which underlay address a
//! hardware address lives, for a VXLAN device (`bridge fdb`).
//!
//! Both are reconciled for a whole device of ours: permanent entries that are not desired go. What the kernel
//! learns by itself is not permanent and is left alone.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use crate::{
    Error, Mac, Netlink, Outcome,
    socket::{NLM_F_CREATE, NLM_F_REPLACE},
};

/// One change of a device's static entries: IP address → hardware address, or hardware address → underlay address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<K, V> {
    /// Set what the key leads to; replaces what is there, at once.
    Set(K, V),
    /// Remove the key with what it leads to.
    Remove(K, V),
}

impl<K: fmt::Display, V: fmt::Display> fmt::Display for Change<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Set(key, value) => write!(f, "set neighbour {key} to {value}"),
            Self::Remove(key, value) => write!(f, "remove neighbour {key} at {value}"),
        }
    }
}

/// The changes from the permanent entries that are there to those desired. Entries come before removals, so that an
/// address that moves from one peer to another is never without one.
///
/// A forwarding entry may lead to several underlay addresses; all but the desired one go.
pub fn plan<K: Ord + Copy, V: PartialEq + Copy>(current: &[(K, V)], desired: &BTreeMap<K, V>) -> Vec<Change<K, V>> {
    let mut set = Vec::new();
    let mut removed = Vec::new();
    for (key, value) in desired {
        let mut there = current.iter().filter(|(other, _)| other == key).map(|(_, value)| value).peekable();
        if there.peek().is_none() || !there.any(|other| other == value) {
            set.push(Change::Set(*key, *value));
        }
    }
    for (key, value) in current {
        let wish = desired.get(key);
        // A replacement takes the place of a single other value; what is beside the desired value must go by itself.
        let replaced = wish.is_some_and(|wish| !current.iter().any(|(k, v)| k == key && v == wish))
            && current.iter().find(|(other, _)| other == key).is_some_and(|(_, first)| first == value);
        if wish != Some(value) && !replaced {
            removed.push(Change::Remove(*key, *value));
        }
    }
    set.into_iter().chain(removed).collect()
}

/// Permanent entries of the device with this index, of the family.
async fn dump<T>(
    netlink: &Netlink,
    device: u32,
    family: AddressFamily,
    read: impl Fn(&NeighbourMessage) -> Option<T>,
) -> Result<Vec<T>, Error> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    request.attributes.push(NeighbourAttribute::IfIndex(device));
    netlink
        .dump("list neighbours", &RouteNetlinkMessage::GetNeighbour(request), |message| match message {
            RouteNetlinkMessage::NewNeighbour(entry) if entry.header.ifindex == device => {
                // NUD_PERMANENT may stand beside NUD_NOARP in forwarding entries.
                let permanent = u16::from(entry.header.state) & u16::from(NeighbourState::Permanent) != 0;
                permanent.then(|| read(&entry)).flatten()
            }
            _ => None,
        })
        .await
}

impl Netlink {
    /// The permanent neighbours of the device with this index.
    pub async fn neighbours(&self, device: u32) -> Result<Vec<(IpAddr, Mac)>, Error> {
        let mut all = dump(self, device, AddressFamily::Inet, read_neighbour).await?;
        all.extend(dump(self, device, AddressFamily::Inet6, read_neighbour).await?);
        Ok(all)
    }

    /// The permanent forwarding entries of the VXLAN device with this index: hardware address, underlay address.
    pub async fn forwarding(&self, device: u32) -> Result<Vec<(Mac, IpAddr)>, Error> {
        dump(self, device, AddressFamily::Bridge, read_forwarding).await
    }

    /// Makes the device's permanent neighbours those desired.
    pub async fn reconcile_neighbours(
        &self,
        device: u32,
        desired: &BTreeMap<IpAddr, Mac>,
    ) -> Result<Outcome<Change<IpAddr, Mac>>, Error> {
        let changes = plan(&self.neighbours(device).await?, desired);
        self.make(changes, |change| match change {
            Change::Set(ip, mac) => set(write_neighbour(device, *ip, *mac)),
            Change::Remove(ip, mac) => remove(write_neighbour(device, *ip, *mac)),
        })
        .await
    }

    /// Makes the VXLAN device's permanent forwarding entries those desired.
    pub async fn reconcile_forwarding(
        &self,
        device: u32,
        desired: &BTreeMap<Mac, IpAddr>,
    ) -> Result<Outcome<Change<Mac, IpAddr>>, Error> {
        let changes = plan(&self.forwarding(device).await?, desired);
        self.make(changes, |change| match change {
            Change::Set(mac, underlay) => set(write_forwarding(device, *mac, *underlay)),
            Change::Remove(mac, underlay) => remove(write_forwarding(device, *mac, *underlay)),
        })
        .await
    }
}

fn set(message: NeighbourMessage) -> (RouteNetlinkMessage, u16, bool) {
    (RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, false)
}

fn remove(message: NeighbourMessage) -> (RouteNetlinkMessage, u16, bool) {
    (RouteNetlinkMessage::DelNeighbour(message), 0, true)
}

fn destination(address: IpAddr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    })
}

pub(crate) fn write_neighbour(device: u32, address: IpAddr, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = device;
    message.header.state = NeighbourState::Permanent;
    message.attributes = vec![destination(address), NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

fn write_forwarding(device: u32, mac: Mac, underlay: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = device;
    message.header.state = NeighbourState::Permanent;
    // NTF_SELF: the device's own table, not that of a bridge it may be a port of.
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()), destination(underlay)];
    message
}

pub(crate) fn parts(message: &NeighbourMessage) -> (Option<IpAddr>, Option<Mac>) {
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => address = ip(bytes),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = Mac::from_slice(bytes),
            _ => {}
        }
    }
    (address, mac)
}

/// In a message of family AF_BRIDGE only the length says what an address is.
fn ip(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn read_neighbour(message: &NeighbourMessage) -> Option<(IpAddr, Mac)> {
    let (address, mac) = parts(message);
    address.zip(mac)
}

fn read_forwarding(message: &NeighbourMessage) -> Option<(Mac, IpAddr)> {
    let (address, mac) = parts(message);
    mac.zip(address).filter(|_| message.header.flags.contains(NeighbourFlags::Own))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_plan_reaches_what_is_desired(
            current in prop::collection::btree_set((0..5u8, 0..4u8), 0..12),
            desired in prop::collection::btree_map(0..5u8, 0..4u8, 0..5),
        ) {
            let mut table: Vec<_> = current.into_iter().collect();
            for change in plan(&table, &desired) {
                match change {
                    Change::Set(key, value) => match table.iter_mut().find(|(other, _)| *other == key) {
                        Some(entry) => entry.1 = value,
                        None => table.push((key, value)),
                    },
                    Change::Remove(key, value) => {
                        let place = table.iter().position(|entry| *entry == (key, value)).expect("one to remove");
                        table.remove(place);
                    }
                }
            }
            table.sort_unstable();
            prop_assert_eq!(&table, &desired.clone().into_iter().collect::<Vec<_>>());
            prop_assert_eq!(plan(&table, &desired), vec![]);
        }
    }
}
