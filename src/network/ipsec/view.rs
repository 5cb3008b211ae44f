//! The kernel's associations in the words of [`super::rotation`]: which peer, which way, which SPI.

use super::super::mesh::PORT;
use super::{derive::Way, rotation::Name, rotation::View};
use stampede_netlink::xfrm::{AeadKey, Association, AssociationId, AssociationSpec};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// This host's address, and whose the others' are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    pub own: IpAddr,
    pub peers: BTreeMap<IpAddr, String>,
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
            let peer = |address| places.peers.get(&address).cloned();
            let known = if id.destination == places.own {
                peer(source).map(|host| (host, Way::In))
            } else if source == places.own {
                peer(id.destination).map(|host| (host, Way::Out))
            } else {
                None
            };
            let (host, way) = known.unwrap_or_else(|| (format!("{source} to {}", id.destination), Way::Out));
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

/// One direction between this host and a peer: only the overlay's packets between just these two come through it.
pub fn association(own: IpAddr, peer: IpAddr, way: Way, spi: u32, key: AeadKey) -> AssociationSpec {
    let (source, destination) = match way {
        Way::In => (peer, own),
        Way::Out => (own, peer),
    };
    let mut spec = AssociationSpec::new(source, destination, spi, key);
    spec.selector = spec.selector.udp_to(PORT);
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
