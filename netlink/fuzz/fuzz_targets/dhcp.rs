//! Any packet, as if from an instance that asks for its address. The two files it is answered by stand alone, so this needs nothing
//! else of Stampede.

#![no_main]
#![allow(dead_code, reason = "of both, only what answers is used here")]

#[path = "../../../src/network/dhcp/answer.rs"]
mod answer;
#[path = "../../../src/network/dhcp/wire.rs"]
mod wire;

use answer::{Guest, Offer, Outcome};
use libfuzzer_sys::fuzz_target;
use std::net::Ipv4Addr;

fuzz_target!(|packet: &[u8]| {
    let (gateway, address) = (Ipv4Addr::new(10, 42, 0, 1), Ipv4Addr::new(10, 42, 7, 9));
    let offer = Offer {
        gateway,
        mask: Ipv4Addr::new(255, 255, 0, 0),
        domain: "stampede.internal",
        through: Ipv4Addr::new(169, 254, 169, 254),
    };
    let guest = Guest { id: "1i1".to_owned(), address, hostname: "web".to_owned(), mtu: 1380 };
    if let Outcome::Answer { packet, to } = answer::answer(packet, &offer, |_| Some(guest)) {
        assert!((300..=1500).contains(&packet.len()));
        assert!([Ipv4Addr::UNSPECIFIED.octets(), address.octets()].iter().any(|own| packet[16..20] == *own));
        assert!([address, Ipv4Addr::BROADCAST].contains(to.ip()));
    }
});
