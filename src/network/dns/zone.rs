//! What a name is to us: one of ours, an address turned round, a word, or somebody else's. Pure.

use crate::network::subnet::SubnetSpec;
use crate::resource::dns_name::{self, DOMAIN};
use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record};
use std::net::Ipv4Addr;

/// Seconds for which a name may be remembered: what it leads to may stop any moment.
pub const TTL: u32 = 2;
/// Seconds for which it may be remembered that there is none: what is being started comes soon.
pub const NEGATIVE_TTL: u32 = 1;
/// Where addresses are turned round.
const REVERSE: [&[u8]; 2] = [b"in-addr", b"arpa"];

/// What a name is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The domain itself, or a name that others are below.
    Apex,
    /// Below the domain, without it; `None` where it can be no instance's.
    Inside(Option<String>),
    /// A word by itself, which is never asked for elsewhere.
    Bare(Option<String>),
    /// An address of the managed network, turned round.
    Reverse(Ipv4Addr),
    /// Turned round as well, and no whole address; whether there may be addresses below.
    ReverseInner(bool),
    /// Not ours.
    Elsewhere,
}

/// What the name is.
pub fn place(name: &Name, subnet: &SubnetSpec) -> Place {
    let labels: Vec<&[u8]> = name.iter().collect();
    let domain: Vec<&[u8]> = DOMAIN.split('.').map(str::as_bytes).collect();
    if let Some(inner) = below(&labels, &domain) {
        return if inner.is_empty() { Place::Apex } else { Place::Inside(text(inner)) };
    }
    if let Some(inner) = below(&labels, &REVERSE) {
        return reverse(inner, subnet);
    }
    match labels.as_slice() {
        [_] => Place::Bare(text(&labels)),
        _ => Place::Elsewhere,
    }
}

/// What stands before `suffix`.
fn below<'a, 'l>(labels: &'a [&'l [u8]], suffix: &[&[u8]]) -> Option<&'a [&'l [u8]]> {
    let (inner, end) = labels.split_at_checked(labels.len().checked_sub(suffix.len())?)?;
    let same = end.iter().zip(suffix).all(|(label, wanted)| label.eq_ignore_ascii_case(wanted));
    same.then_some(inner)
}

fn text(labels: &[&[u8]]) -> Option<String> {
    // A dot within a label parts nothing: it is no name of ours.
    if labels.iter().any(|label| label.contains(&b'.')) {
        return None;
    }
    let labels: Option<Vec<&str>> = labels.iter().map(|label| std::str::from_utf8(label).ok()).collect();
    dns_name::normal(&labels?.join("."))
}

fn reverse(labels: &[&[u8]], subnet: &SubnetSpec) -> Place {
    // From the end: the first part of the address is the last label.
    let parts: Vec<Option<u8>> = labels.iter().rev().map(|label| octet(label)).collect();
    let known: Vec<u8> = parts.iter().map_while(|part| *part).take(4).collect();
    let mut octets = [0; 4];
    octets.iter_mut().zip(&known).for_each(|(octet, part)| *octet = *part);
    let whole = known.len() * 8 >= usize::from(subnet.prefix);
    if !whole || !subnet.contains(octets.into()) {
        return Place::Elsewhere;
    }
    match (known.len(), parts.len()) {
        (4, 4) => Place::Reverse(octets.into()),
        (known, all) => Place::ReverseInner(known == all),
    }
}

/// A number as it is written there: without zeros before it.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok()?;
    text.parse().ok().filter(|number: &u8| number.to_string() == text)
}

/// The zone that an address turned round is in: as many parts as the subnet's prefix has.
fn reverse_zone(name: &Name, subnet: &SubnetSpec) -> Name {
    name.trim_to(usize::from(subnet.prefix.div_ceil(8)) + REVERSE.len())
}

/// What ends an answer that has nothing: how long that may be remembered. Nothing for a word by itself, which is in no zone.
pub fn soa(place: &Place, name: &Name, subnet: &SubnetSpec) -> Option<Record> {
    let zone = match place {
        Place::Apex | Place::Inside(_) => name.trim_to(DOMAIN.split('.').count()),
        Place::Reverse(_) | Place::ReverseInner(_) => reverse_zone(name, subnet),
        Place::Bare(_) | Place::Elsewhere => return None,
    };
    start_of(zone).ok()
}

fn start_of(zone: Name) -> Result<Record, ProtoError> {
    let primary = Name::from_ascii(format!("{DOMAIN}."))?;
    let people = primary.prepend_label("hostmaster")?;
    // Nobody copies the zone: only the last number means anything.
    let soa = SOA::new(primary, people, 1, 3600, 600, 86_400, NEGATIVE_TTL);
    Ok(Record::from_rdata(zone, NEGATIVE_TTL, RData::SOA(soa)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(name: &str) -> Place {
        place(&Name::from_ascii(name).unwrap(), &SubnetSpec::default())
    }

    fn inside(name: &str) -> Place {
        Place::Inside(Some(name.to_owned()))
    }

    #[test]
    fn names_are_ours_words_addresses_or_somebody_elses() {
        assert_eq!(of("Web.Stampede.Internal."), inside("web"));
        assert_eq!(of("www.front.stampede.internal."), inside("www.front"));
        assert_eq!(of("stampede.internal."), Place::Apex);
        assert_eq!(of("web."), Place::Bare(Some("web".into())));
        assert_eq!(of("example.com."), Place::Elsewhere);
        assert_eq!(of("other.internal."), Place::Elsewhere);
        assert_eq!(of("."), Place::Elsewhere);
        assert_eq!(of("9.7.42.10.in-addr.arpa."), Place::Reverse(Ipv4Addr::new(10, 42, 7, 9)));
        assert_eq!(of("7.42.10.IN-ADDR.arpa."), Place::ReverseInner(true));
        assert_eq!(of("1.9.7.42.10.in-addr.arpa."), Place::ReverseInner(false));
        assert_eq!(of("x.7.42.10.in-addr.arpa."), Place::ReverseInner(false));
        assert_eq!(of("09.7.42.10.in-addr.arpa."), Place::ReverseInner(false));
        assert_eq!(of("9.7.43.10.in-addr.arpa."), Place::Elsewhere);
        assert_eq!(of("10.in-addr.arpa."), Place::Elsewhere);
        assert_eq!(of("arpa."), Place::Bare(Some("arpa".into())));
    }

    #[test]
    fn what_no_instance_can_be_called_is_nobodys() {
        let made = |labels: &[&[u8]]| place(&Name::from_labels(labels.to_vec()).unwrap(), &SubnetSpec::default());
        assert_eq!(made(&[b"a.b", b"stampede", b"internal"]), Place::Inside(None), "one label, not two");
        assert_eq!(made(&[b"a b"]), Place::Bare(None));
        assert_eq!(made(&[b"\xff\xfe"]), Place::Bare(None));
        assert_eq!(of("*.stampede.internal."), Place::Inside(None));
    }

    #[test]
    fn subnets_that_end_within_a_number() {
        let subnet = SubnetSpec::of(Ipv4Addr::new(10, 42, 16, 0), 20, 26).unwrap();
        let of = |name: &str| place(&Name::from_ascii(name).unwrap(), &subnet);
        assert_eq!(of("9.17.42.10.in-addr.arpa."), Place::Reverse(Ipv4Addr::new(10, 42, 17, 9)));
        assert_eq!(of("9.32.42.10.in-addr.arpa."), Place::Elsewhere);
        assert_eq!(of("42.10.in-addr.arpa."), Place::Elsewhere);
        let name = Name::from_ascii("9.17.42.10.in-addr.arpa.").unwrap();
        let soa = soa(&of("9.17.42.10.in-addr.arpa."), &name, &subnet).unwrap();
        assert_eq!(soa.name.to_ascii(), "17.42.10.in-addr.arpa.");
    }

    #[test]
    fn the_zone_is_above_the_name() {
        let subnet = SubnetSpec::default();
        let zone = |name: &str| {
            let name = Name::from_ascii(name).unwrap();
            soa(&place(&name, &subnet), &name, &subnet).map(|soa| soa.name.to_ascii())
        };
        assert_eq!(zone("a.b.stampede.internal.").as_deref(), Some("stampede.internal."));
        assert_eq!(zone("9.7.42.10.in-addr.arpa.").as_deref(), Some("42.10.in-addr.arpa."));
        assert_eq!(zone("web."), None);
    }

    proptest! {
        #[test]
        fn every_name_has_a_place(labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 0..6)) {
            let subnet = SubnetSpec::default();
            let name = Name::from_labels(labels.iter().map(Vec::as_slice)).unwrap();
            let place = place(&name, &subnet);
            if let Some(soa) = soa(&place, &name, &subnet) {
                prop_assert!(soa.name.zone_of(&name));
            }
            prop_assert!(labels.len() != 1 || matches!(place, Place::Bare(_)));
        }
    }
}
