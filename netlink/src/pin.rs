//! Pins: behind which port of a bridge an IP address is, whatever is said by whom.
//!
//! A bridge learns where a hardware address is from whoever sends with it, and a host learns from any answer which hardware address
//! an IP address has; so whoever claims another's addresses is sent what was meant for the other. A pin is a static entry of each
//! kind: a neighbour of the bridge, and a forwarding entry of the port that no learning moves (`bridge fdb`: `static sticky`).

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

use crate::{
    Error, Mac, Netlink,
    neighbour::{parts, write_neighbour},
    socket::{NLM_F_CREATE, NLM_F_REPLACE},
};

/// One address's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pin {
    /// The bridge, by index.
    pub bridge: u32,
    /// Its port, by index.
    pub port: u32,
    /// The IP address that is there.
    pub address: IpAddr,
    /// The hardware address that it has.
    pub mac: Mac,
}

fn write_port(port: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = port;
    // NUD_NOARP alone is "static"; NUD_PERMANENT would be the bridge's own address.
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())];
    message
}

/// A static entry of a bridge's port that stays where it is.
fn read_port(message: &NeighbourMessage) -> Option<(Mac, u32)> {
    let sticky = message.header.flags.contains(NeighbourFlags::Sticky);
    parts(message).1.filter(|_| sticky).map(|mac| (mac, message.header.ifindex))
}

impl Netlink {
    /// Puts both entries there, at once; those of the same addresses that led elsewhere are no more.
    pub async fn pin(&self, pin: &Pin) -> Result<(), Error> {
        let forwarding = RouteNetlinkMessage::NewNeighbour(write_port(pin.port, pin.mac));
        let neighbour = RouteNetlinkMessage::NewNeighbour(write_neighbour(pin.bridge, pin.address, pin.mac));
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        let action = || format!("pin {} at {} to port {}", pin.address, pin.mac, pin.port);
        let answers = self.request(&[(forwarding, flags), (neighbour, flags)]).await;
        for answer in answers.map_err(|source| Error::request(action(), source))? {
            answer.map_err(|source| Error::request(action(), source))?;
        }
        Ok(())
    }

    /// Takes the neighbour away; fine where there is none. The port's entry goes with the port.
    pub async fn unpin(&self, bridge: u32, address: IpAddr, mac: Mac) -> Result<(), Error> {
        let message = RouteNetlinkMessage::DelNeighbour(write_neighbour(bridge, address, mac));
        match self.one(message, 0, &format!("unpin {address}")).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }

    /// Which hardware addresses are pinned to ports of this bridge.
    pub async fn pinned(&self, bridge: u32) -> Result<BTreeMap<Mac, u32>, Error> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.attributes.push(NeighbourAttribute::Controller(bridge));
        let found = self
            .dump("list forwarding entries", &RouteNetlinkMessage::GetNeighbour(request), |message| match message {
                RouteNetlinkMessage::NewNeighbour(entry) => {
                    let of = entry.attributes.contains(&NeighbourAttribute::Controller(bridge));
                    read_port(&entry).filter(|_| of)
                }
                _ => None,
            })
            .await?;
        Ok(found.into_iter().collect())
    }
}
