//! The kernel's associations in the words of [`super::rotation`]: which peer, which way, which SPI.

use super::super::mesh::PORT;
use super::{derive::Way, rotation::Name, rotation::View};
use stampede_netlink::xfrm::{AeadKey, Association, AssociationId, AssociationSpec, UdpEncapsulation};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// This host's address, and whose the others' are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub own: IpAddr,
    pub peers: BTreeMap<IpAddr, String>,
}

impl Places {
    /// Which peer an association between these addresses is with, and which way it goes.
    pub fn between(&self, source: IpAddr, destination: IpAddr) -> Option<(&str, Way)> {
        if destination == self.own {
            self.peers.get(&source).map(|host| (host.as_str(), Way::In))
        } else if source == self.own {
            self.peers.get(&destination).map(|host| (host.as_str(), Way::Out))
        } else {
            None
        }
    }
}

/// What the kernel has.
#[derive(Debug, Default)]
pub struct Seen {
    pub view: View,
    ids: BTreeMap<Name, AssociationId>,
}

impl Seen {
    /// Of these associations those that are ours. One between addresses that are not (any more) this host's and a known
    /// peer's stands under a name that no host can have, so that it goes when all peers are known.
    pub fn of(associations: &[Association], places: &Places) -> Self {
        let mut seen = Self::default();
        for association in associations.iter().filter(|association| association.is_ours()) {
            let (id, source) = (association.spec.id, association.spec.source);
            let known = places.between(source, id.destination);
            let (host, way) = known.map_or_else(
                || (format!("{source} to {}", id.destination), Way::Out),
                |(host, way)| (host.to_owned(), way),
            );
            let name = (host, way, id.spi);
            seen.view.insert(name.clone(), association.packets);
            seen.ids.insert(name, id);
        }
        seen
    }

    pub fn id(&self, name: &Name) -> Option<AssociationId> {
        self.ids.get(name).copied()
    }
}

/// One end of the way between this host and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    pub address: IpAddr,
    /// The UDP port that it takes ESP in at, where it does.
    pub esp_port: Option<u16>,
}

/// One direction between this host and a peer: only the overlay's packets between just these two come through it. In UDP where
/// both take it so: each end sees that in the other's record and comes to the same.
pub fn association(own: At, peer: At, way: Way, spi: u32, key: AeadKey) -> AssociationSpec {
    let (source, destination) = match way {
        Way::In => (peer, own),
        Way::Out => (own, peer),
    };
    let mut spec = AssociationSpec::new(source.address, destination.address, spi, key);
    spec.selector = spec.selector.udp_to(PORT);
    let ports = source.esp_port.zip(destination.esp_port);
    spec.encapsulation =
        ports.map(|(source_port, destination_port)| UdpEncapsulation { source_port, destination_port });
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(source: &str, destination: &str, spi: u32, packets: u64) -> Association {
        let spec =
            AssociationSpec::new(source.parse().unwrap(), destination.parse().unwrap(), spi, AeadKey::aes256(&[1; 36]));
        Association {
            spec,
            bytes: 0,
            packets,
            added: 0,
            used: 0,
            sent: 0,
            received: 0,
            too_old: 0,
            replayed: 0,
            forged: 0,
        }
    }

    #[test]
    fn both_ends_come_to_the_same_ports() {
        let at = |address: &str, esp_port| At { address: address.parse().unwrap(), esp_port };
        let key = || AeadKey::aes256(&[1; 36]);
        let (one, two) = (at("198.18.0.1", Some(4500)), at("198.18.0.2", Some(4501)));
        let (out, into) = (association(one, two, Way::Out, 1, key()), association(two, one, Way::In, 1, key()));
        assert_eq!(out.encapsulation, Some(UdpEncapsulation { source_port: 4500, destination_port: 4501 }));
        assert_eq!(out.encapsulation, into.encapsulation);
        // One that takes none gets none, and sends none.
        let three = at("198.18.0.3", None);
        for way in [Way::In, Way::Out] {
            assert_eq!(association(one, three, way, 1, key()).encapsulation, None);
            assert_eq!(association(three, one, way, 1, key()).encapsulation, None);
        }
    }

    #[test]
    fn associations_have_the_names_of_their_peers_and_others_a_name_of_nobody() {
        let own = "198.18.0.1".parse().unwrap();
        let places = Places { own, peers: BTreeMap::from([("198.18.0.2".parse().unwrap(), "h2".to_owned())]) };
        let mut foreign = there("198.18.0.1", "198.18.0.2", 9, 0);
        foreign.spec.request_id = 7;
        let seen = Seen::of(
            &[
                there("198.18.0.1", "198.18.0.2", 1, 5),
                there("198.18.0.2", "198.18.0.1", 2, 6),
                there("198.18.0.1", "198.18.0.3", 3, 7),
                there("198.18.0.9", "198.18.0.2", 4, 8),
                foreign,
            ],
            &places,
        );
        let names: Vec<_> =
            seen.view.iter().map(|((host, way, spi), packets)| (host.as_str(), *way, *spi, *packets)).collect();
        assert_eq!(
            names,
            [
                ("198.18.0.1 to 198.18.0.3", Way::Out, 3, 7),
                ("198.18.0.9 to 198.18.0.2", Way::Out, 4, 8),
                ("h2", Way::In, 2, 6),
                ("h2", Way::Out, 1, 5),
            ]
        );
        assert_eq!(seen.id(&("h2".to_owned(), Way::In, 2)), Some(AssociationId::new(own, 2)));
    }
}
