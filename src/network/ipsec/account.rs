//! What went through the associations with each of the others, added up over the associations that come and go.

use super::derive::Way;
use super::rotation::Name;
use super::view::Places;
use crate::environment::Timestamp;
use crate::network::report::Traffic;
use stampede_netlink::xfrm::Association;
use std::collections::BTreeMap;

/// Of one of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    pub traffic: Traffic,
    /// Associations now.
    pub associations: u32,
    /// When the newest way out was made.
    pub rotated: Option<Timestamp>,
}

/// Of all of them.
#[derive(Debug, Default)]
pub struct Accounts {
    last: BTreeMap<Name, Traffic>,
    peers: BTreeMap<String, Account>,
}

impl Accounts {
    /// Takes in what the kernel counts now. What was counted by an association between two looks and is gone with it is lost.
    pub fn look(&mut self, associations: &[Association], places: &Places) {
        let mut now = BTreeMap::new();
        for account in self.peers.values_mut() {
            account.associations = 0;
        }
        for association in associations.iter().filter(|association| association.is_ours()) {
            let Some((host, way)) = places.between(association.spec.source, association.spec.id.destination) else {
                continue;
            };
            let name = (host.to_owned(), way, association.spec.id.spi);
            let counted = traffic(association, way);
            let account = self.peers.entry(host.to_owned()).or_default();
            account.associations += 1;
            if way == Way::Out {
                let made = i64::try_from(association.added).unwrap_or_default().saturating_mul(1000);
                account.rotated = account.rotated.max(Some(Timestamp(made)));
            }
            account.traffic.grow(&counted, &self.last.get(&name).copied().unwrap_or_default());
            now.insert(name, counted);
        }
        self.last = now;
        let known = |host: &String| places.peers.values().any(|peer| peer == host);
        self.peers.retain(|host, account| account.associations > 0 || known(host));
    }

    pub fn of(&self, host: &str) -> Account {
        self.peers.get(host).copied().unwrap_or_default()
    }
}

fn traffic(association: &Association, way: Way) -> Traffic {
    let (packets, bytes) = (association.packets, association.bytes);
    match way {
        Way::In => Traffic {
            packets_in: packets,
            bytes_in: bytes,
            too_old: association.too_old.into(),
            replayed: association.replayed.into(),
            forged: association.forged.into(),
            ..Traffic::default()
        },
        Way::Out => Traffic { packets_out: packets, bytes_out: bytes, ..Traffic::default() },
    }
}

impl Traffic {
    /// By what an association counts now more than it did; one that counts less is another of the same name.
    fn grow(&mut self, now: &Self, before: &Self) {
        let fields: [(&mut u64, u64, u64); 7] = [
            (&mut self.packets_in, now.packets_in, before.packets_in),
            (&mut self.bytes_in, now.bytes_in, before.bytes_in),
            (&mut self.packets_out, now.packets_out, before.packets_out),
            (&mut self.bytes_out, now.bytes_out, before.bytes_out),
            (&mut self.too_old, now.too_old, before.too_old),
            (&mut self.replayed, now.replayed, before.replayed),
            (&mut self.forged, now.forged, before.forged),
        ];
        for (sum, now, before) in fields {
            *sum += now.checked_sub(before).unwrap_or(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::{At, association};
    use super::*;
    use stampede_netlink::xfrm::AeadKey;

    fn counting(way: Way, spi: u32, packets: u64, added: u64) -> Association {
        let at = |address: &str| At { address: address.parse().unwrap(), esp_port: None };
        let spec = association(at("198.18.0.1"), at("198.18.0.2"), way, spi, AeadKey::aes256(&[1; 36]));
        Association {
            spec,
            bytes: 100 * packets,
            packets,
            added,
            used: 0,
            sent: 0,
            received: 0,
            too_old: 0,
            replayed: 1,
            forged: 0,
        }
    }

    #[test]
    fn sums_outlive_associations() {
        let own = "198.18.0.1".parse().unwrap();
        let mut places = Places { own, peers: BTreeMap::from([("198.18.0.2".parse().unwrap(), "h2".to_owned())]) };
        let mut accounts = Accounts::default();
        accounts.look(&[counting(Way::In, 1, 5, 10), counting(Way::Out, 2, 3, 10)], &places);
        accounts.look(&[counting(Way::In, 1, 7, 10), counting(Way::Out, 3, 1, 20)], &places);
        let account = accounts.of("h2");
        assert_eq!((account.associations, account.rotated), (2, Some(Timestamp(20_000))));
        let Traffic { packets_in, bytes_in, packets_out, replayed, .. } = account.traffic;
        assert_eq!((packets_in, bytes_in, packets_out, replayed), (7, 700, 4, 1));
        // One of the same name that begins anew.
        accounts.look(&[counting(Way::In, 1, 2, 30)], &places);
        assert_eq!(accounts.of("h2").traffic.packets_in, 9);
        // Who left is forgotten.
        places.peers.clear();
        accounts.look(&[], &places);
        assert_eq!(accounts.of("h2"), Account::default());
    }
}
