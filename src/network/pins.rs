//! Where an address is: each instance's is pinned to its own port of the bridge ([`stampede_netlink::pin`]).
//!
//! What is sent to an address goes to the port of the instance that has it, and to no other, whoever says that the address is
//! his: so a connection that is open tells who is at its other end. That is what names and metadata go by, and it takes no rule that
//! somebody could flush.
//!
//! ```text
//!  network driver, as it makes the port ──► pinned
//!  agent, at each look at the network: what is there ── plan (pure) ──► what lacks a pin, and what has one for nothing
//! ```

use super::apply::Applied;
use super::dns::Askers;
use super::driver::endpoint_end;
use super::kernel::{Error, Kernel};
use super::overlay::BRIDGE;
use super::spares;
use super::subnet::SubnetSpec;
use stampede_netlink::{
    Mac,
    link::{Link, PortFlags, Settings},
    pin::Pin,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// What is there, in the order in which it has to be looked at: an instance's port is there before its pin is.
#[derive(Debug, Default)]
struct Seen {
    bridge: u32,
    neighbours: Vec<(IpAddr, Mac)>,
    ports: BTreeMap<Mac, u32>,
    links: Vec<Link>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    /// Ports that learn, by name.
    teach: Vec<String>,
    pin: Vec<Pin>,
    unpin: Vec<(IpAddr, Mac)>,
}

fn plan(seen: &Seen, known: &BTreeMap<String, Ipv4Addr>, subnet: &SubnetSpec) -> Plan {
    let mut plan = Plan::default();
    let mut there = Vec::new();
    let instances = known.iter().map(|(id, address)| (endpoint_end(id), *address));
    // Docker's own containers have links that tell.
    let spares = seen.links.iter().filter_map(|link| Some((link.name.clone(), spares::of_link(&link.name)?)));
    for (name, address) in instances.chain(spares) {
        let port = seen.links.iter().find(|link| link.name == name && link.master == Some(seen.bridge));
        let Some(port) = port else { continue };
        let (address, mac) = (IpAddr::V4(address), subnet.mac(address));
        there.push(address);
        let pinned = seen.ports.get(&mac) == Some(&port.index) && seen.neighbours.contains(&(address, mac));
        if !pinned {
            plan.pin.push(Pin { bridge: seen.bridge, port: port.index, address, mac });
        }
        if !PortFlags::pinned().satisfied_by(port.port) {
            plan.teach.push(name);
        }
    }
    plan.unpin = seen.neighbours.iter().filter(|(address, _)| !there.contains(address)).copied().collect();
    plan
}

/// Makes all pins of this host so.
pub(super) async fn apply(kernel: &Kernel, askers: &Askers, subnet: &SubnetSpec, applied: &mut Applied) {
    let netlink = &kernel.netlink;
    let seen = async {
        let bridge = netlink.link_index(BRIDGE).await?;
        let neighbours = netlink.neighbours(bridge).await?;
        let ports = netlink.pinned(bridge).await?;
        Ok::<_, Error>(Seen { bridge, neighbours, ports, links: netlink.links().await? })
    };
    let seen = match seen.await {
        Ok(seen) => seen,
        Err(error) => return applied.note(Err(error)),
    };
    let plan = plan(&seen, &askers.addresses(), subnet);
    // A port that is gone by now needs none; that is no failure.
    let done = |result: Result<(), Error>| match result {
        Err(error) if error.is_not_found() => Ok(false),
        result => result.map(|()| true),
    };
    for pin in &plan.pin {
        applied.note(done(netlink.pin(pin).await));
    }
    for name in &plan.teach {
        let settings = Settings { port: PortFlags::pinned(), ..Settings::default() };
        applied.note(done(netlink.set_link(name, &settings).await));
    }
    for (address, mac) in &plan.unpin {
        applied.note(done(netlink.unpin(seen.bridge, *address, *mac).await));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, master: Option<u32>, port: PortFlags) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: "veth".to_owned(),
            vxlan: None,
            mtu: 1380,
            mac: None,
            alias: None,
            up: true,
            carrier: true,
            master,
            port,
            lower: None,
        }
    }

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 42, 7, last)
    }

    #[test]
    fn what_lacks_a_pin_gets_one_and_what_needs_none_loses_it() {
        let subnet = SubnetSpec::default();
        let known = |last: u8| (format!("1i{last}"), address(last));
        let mac = |last: u8| subnet.mac(address(last));
        let seen = Seen {
            bridge: 3,
            neighbours: [9, 10, 12].map(|last| (IpAddr::V4(address(last)), mac(last))).to_vec(),
            ports: BTreeMap::from([(mac(9), 5), (mac(10), 9)]),
            links: vec![
                link(5, "st-1i9", Some(3), PortFlags::pinned()),
                link(6, "st-1i10", Some(3), PortFlags::isolated()),
                link(7, "st-1i11", Some(8), PortFlags::isolated()),
            ],
        };
        let known = BTreeMap::from([known(9), known(10), known(11), known(12)]);
        let plan = plan(&seen, &known, &subnet);
        let pin = Pin { bridge: 3, port: 6, address: address(10).into(), mac: mac(10) };
        assert_eq!((plan.pin, plan.teach), (vec![pin], vec!["st-1i10".to_owned()]), "it is pinned to another's port");
        assert_eq!(plan.unpin, [(IpAddr::V4(address(12)), mac(12))], "it has no port any more");
    }
}
