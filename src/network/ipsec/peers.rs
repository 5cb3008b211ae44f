//! Who the other hosts are: those whose records hold, and why the rest do not.

use super::super::mesh::{Encryption, Mesh};
use super::{engine::Ways, record::Opened, secret::Secrets};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// One whose seal is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub address: IpAddr,
    pub opened: Opened,
}

/// What all records come to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Peers {
    pub known: BTreeMap<String, Known>,
    /// Hosts that nothing is sent to, and why. Those that do not encrypt at all are not in here: that is in their records
    /// for everybody to see.
    pub refused: BTreeMap<String, String>,
    /// Hosts that do not encrypt, where plain text is spoken with them.
    pub plain: BTreeMap<String, IpAddr>,
}

impl Peers {
    /// Opens all records but this host's own, as far as its ways lead to them.
    pub fn of(
        records: &BTreeMap<String, Mesh>,
        host: &str,
        own: IpAddr,
        (cluster, secrets): (&str, &Secrets),
        ways: &Ways,
    ) -> Self {
        let mut peers = Self::default();
        let mut places = BTreeMap::from([(own, host.to_owned())]);
        let others = records.iter().filter(|(name, record)| *name != host && record.encryption == Encryption::Ipsec);
        for (name, record) in others {
            match look(record, name, own, (cluster, secrets), ways, &places) {
                Ok(known) => {
                    places.insert(known.address, name.clone());
                    peers.known.insert(name.clone(), known);
                }
                Err(why) => drop(peers.refused.insert(name.clone(), why)),
            }
        }
        for (name, record) in records.iter().filter(|(_, record)| ways.plain && record.encryption == Encryption::None) {
            let fits = record.at(&ways.outside, own.is_ipv4());
            // Nobody opens the way to one that encrypts by saying that he is there.
            if let Some(address) = fits.filter(|address| *name != host && !places.contains_key(address)) {
                peers.plain.insert(name.clone(), address);
            }
        }
        peers
    }
}

fn look(
    record: &Mesh,
    host: &str,
    own: IpAddr,
    (cluster, secrets): (&str, &Secrets),
    ways: &Ways,
    places: &BTreeMap<IpAddr, String>,
) -> Result<Known, String> {
    let opened = record.open(cluster, host, secrets).map_err(|error| error.to_string())?;
    let Some(address) = record.at(&ways.outside, own.is_ipv4()) else {
        return Err(format!("none of its addresses {:?} fits ours", opened.underlay));
    };
    // The kernel mends the checksums of what was translated only where it came in UDP (RFC 3948, 3.1.2).
    let translated = opened.outside.is_translated(&ways.outside) || ways.outside.is_translated(&opened.outside);
    if translated && (ways.esp_port.is_none() || opened.esp_port.is_none()) {
        return Err("addresses are translated on the way to it: set network.esp_udp_port on both".to_owned());
    }
    match places.get(&address) {
        // Transport mode tells hosts apart by their addresses.
        Some(other) => Err(format!("it says that it is at {address}, where {other} is")),
        None => Ok(Known { address, opened }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{half::Half, secret::ClusterSecret};
    use super::*;
    use crate::network::ipsec::record::Sealed;
    use crate::network::mesh::{Outside, Underlay};

    fn secrets(byte: u8) -> Secrets {
        Secrets::new(ClusterSecret::new(&[byte; 32]), None)
    }

    fn ways(plain: bool) -> Ways {
        Ways { esp_port: None, plain, outside: Outside::default() }
    }

    fn record(host: &str, number: u32, address: &str, byte: u8) -> (String, Mesh) {
        let secrets = secrets(byte);
        let halves = vec![Half::fixed(1, 7, secrets.current().name()).public];
        let underlay = Underlay { address: address.parse().unwrap(), mtu: 1500 };
        let opened =
            Opened { number, underlay: vec![underlay.address], outside: Outside::default(), esp_port: None, halves };
        let sealed = opened.seal("c1", host, &secrets);
        (host.to_owned(), Mesh::new(number, underlay, 1380, Encryption::Ipsec, sealed))
    }

    #[test]
    fn whose_seal_is_good_is_a_peer_and_of_the_others_it_is_said_why_not() {
        let own = "198.18.0.1".parse().unwrap();
        let mut records = BTreeMap::from([
            record("h1", 1, "198.18.0.1", 1),
            record("h2", 2, "198.18.0.2", 1),
            record("h3", 3, "198.18.0.3", 2),
            record("h4", 4, "198.18.0.2", 1),
            record("h5", 5, "fd00::5", 1),
            record("h6", 6, "198.18.0.6", 1),
            record("h7", 7, "198.18.0.1", 1),
        ]);
        let plain = records.get_mut("h6").unwrap();
        (plain.encryption, plain.sealed) = (Encryption::None, Sealed::default());
        let peers = Peers::of(&records, "h1", own, ("c1", &secrets(1)), &ways(false));
        assert_eq!(peers.known.keys().collect::<Vec<_>>(), ["h2"]);
        assert!(peers.plain.is_empty());
        let mut others = records.clone();
        for (host, address) in [("h8", "198.18.0.2"), ("h9", "198.18.0.1"), ("h1", "198.18.0.9")] {
            let underlay = vec![address.parse().unwrap()];
            others.insert(host.to_owned(), Mesh { underlay, ..records["h6"].clone() });
        }
        let either = Peers::of(&others, "h1", own, ("c1", &secrets(1)), &ways(true));
        assert_eq!(either.plain, BTreeMap::from([("h6".to_owned(), "198.18.0.6".parse().unwrap())]));
        assert_eq!(either.known, peers.known);
        let refused: Vec<_> = peers.refused.iter().map(|(host, why)| (host.as_str(), why.as_str())).collect();
        assert!(
            matches!(refused[..], [("h3", seal), ("h4", taken), ("h5", family), ("h7", own)]
            if seal.contains("seal") && taken.contains("where h2 is") && family.contains("fits") && own.contains("where h1 is")),
            "{refused:?}"
        );
    }
}
