//! Gratuitous ARP: everybody on the wire is told that an address is here now (RFC 5227, 3; RFC 826).
//!
//! A host that knew the address elsewhere would send there until its entry grows old, which takes minutes. An announcement is an ARP
//! request for one's own address; who has an entry of it takes the new hardware address, and nobody else does anything.

use super::kernel::{Error, Kernel};
use pnet_datalink::{Channel, ChannelType, Config, MacAddr, NetworkInterface};
use stampede_netlink::Mac;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// ETH_P_ARP and ETH_P_IP of linux/if_ether.h.
const ARP: u16 = 0x0806;
const IP: u16 = 0x0800;
/// ARPHRD_ETHER and ARPOP_REQUEST of linux/if_arp.h.
const ETHER: u16 = 1;
const REQUEST: u16 = 1;

/// A link by which announcements go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wire {
    pub name: String,
    pub index: u32,
    pub mac: Mac,
}

/// The frame that says that `address` is at `mac`.
fn frame(mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    for field in [ARP, ETHER, IP] {
        frame.extend(field.to_be_bytes());
    }
    // The lengths of both kinds of addresses.
    frame.extend([6, 4]);
    frame.extend(REQUEST.to_be_bytes());
    frame.extend(mac);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// The links of whose networks `address` is; where it is of none, that by which the other hosts are reached.
pub(super) async fn wires(kernel: &Kernel, address: Ipv4Addr, underlay: Option<IpAddr>) -> Result<Vec<Wire>, Error> {
    let own = kernel.netlink.addresses().await?;
    let links = kernel.netlink.links().await?;
    let is_near = |near: &stampede_netlink::address::Address| {
        let IpAddr::V4(own) = near.spec.address else { return false };
        let bits = u32::from(near.spec.prefix_length);
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        bits < 32 && own.to_bits() & mask == address.to_bits() & mask
    };
    let mut indices: Vec<u32> = own.iter().filter(|near| is_near(near)).map(|near| near.link).collect();
    if indices.is_empty() {
        indices.extend(own.iter().filter(|near| Some(near.spec.address) == underlay).map(|near| near.link));
    }
    indices.sort_unstable();
    indices.dedup();
    let wire = |index: u32| {
        let link = links.iter().find(|link| link.index == index)?;
        Some(Wire { name: link.name.clone(), index, mac: link.mac? })
    };
    Ok(indices.into_iter().filter_map(wire).collect())
}

/// Says it once. Blocks for as long as a frame takes.
pub(super) fn announce(kernel: &Kernel, wire: &Wire, address: Ipv4Addr) -> Result<io::Result<()>, Error> {
    let mac = wire.mac.0;
    let interface = NetworkInterface {
        name: wire.name.clone(),
        description: String::new(),
        index: wire.index,
        mac: Some(MacAddr::new(mac[0], mac[1], mac[2], mac[3], mac[4], mac[5])),
        ips: Vec::new(),
        flags: 0,
    };
    kernel.within(|| {
        let config = Config { channel_type: ChannelType::Layer2, promiscuous: false, ..Config::default() };
        match pnet_datalink::channel(&interface, config)? {
            Channel::Ethernet(mut sender, _) => sender
                .send_to(&frame(mac, address), None)
                .unwrap_or_else(|| Err(io::Error::other("the frame is too long"))),
            _ => Err(io::Error::other("no way to send frames")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_a_request_for_ones_own_address() {
        let frame = frame([2, 0, 0, 0, 0, 7], Ipv4Addr::new(192, 168, 10, 2));
        let expected = "ffffffffffff020000000007 0806 0001 0800 06 04 0001 020000000007 c0a80a02 000000000000 c0a80a02";
        let shown: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(shown, expected.replace(' ', ""));
    }
}
