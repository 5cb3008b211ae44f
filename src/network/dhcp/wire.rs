//! Packets (RFC 2131, 2132): what is read of a question, and how an answer is written. Anything can be read without harm.

use stampede_netlink::Mac;
use std::net::Ipv4Addr;

/// What tells DHCP from what was there before it.
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where the options begin, behind the cookie.
const HEAD: usize = 236;
const OPTIONS: usize = HEAD + COOKIE.len();
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const ETHERNET: [u8; 2] = [1, 6];
/// Of the flags: the client hears only what is sent to all.
const ALOUD: u8 = 0x80;
const PAD: u8 = 0;
const END: u8 = 255;
/// The smallest packet of some clients (RFC 951); others take smaller ones too.
const SMALLEST: usize = 300;

/// Options by their numbers.
pub mod option {
    pub const MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const NAME_SERVER: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const MTU: u8 = 26;
    pub const REQUESTED: u8 = 50;
    pub const LEASE: u8 = 51;
    pub const KIND: u8 = 53;
    pub const SERVER: u8 = 54;
    pub const MESSAGE: u8 = 56;
    pub const RENEW: u8 = 58;
    pub const REBIND: u8 = 59;
    pub const CLIENT: u8 = 61;
    pub const ROUTES: u8 = 121;
}

/// What a packet is, asked or answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Discover = 1,
    Offer,
    Request,
    Decline,
    Ack,
    Nak,
    Release,
    Inform,
}

impl Kind {
    const ALL: [Self; 8] =
        [Self::Discover, Self::Offer, Self::Request, Self::Decline, Self::Ack, Self::Nak, Self::Release, Self::Inform];

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == number)
    }
}

/// What is read of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    pub kind: Kind,
    pub mac: Mac,
    /// The address that it has.
    pub has: Ipv4Addr,
    /// That of a relay, through which it came.
    pub relay: Ipv4Addr,
    /// The address that it wants.
    pub requested: Option<Ipv4Addr>,
    /// The server that it chose.
    pub server: Option<Ipv4Addr>,
    pub client: Option<Vec<u8>>,
    /// It hears only what is sent to all.
    pub aloud: bool,
    /// What an answer repeats.
    exchange: [u8; 4],
    flags: [u8; 2],
}

fn part<const N: usize>(packet: &[u8], at: usize) -> Option<[u8; N]> {
    packet.get(at..at + N)?.try_into().ok()
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(part::<4>(value, 0)?))
}

/// The first option of each number; `None` where one is cut.
fn options(mut rest: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found: Vec<(u8, &[u8])> = Vec::new();
    loop {
        match rest {
            [] | [END, ..] => return Some(found),
            [PAD, more @ ..] => rest = more,
            [number, length, more @ ..] => {
                let value = more.get(..usize::from(*length))?;
                if found.iter().all(|(known, _)| known != number) {
                    found.push((*number, value));
                }
                rest = &more[value.len()..];
            }
            [_] => return None,
        }
    }
}

impl Asking {
    /// A question of an Ethernet client's; `None` where it is something else.
    pub fn read(packet: &[u8]) -> Option<Self> {
        if part::<1>(packet, 0)? != [REQUEST] || part::<2>(packet, 1)? != ETHERNET || part(packet, HEAD)? != COOKIE {
            return None;
        }
        let options = options(&packet[OPTIONS..])?;
        let value = |number| options.iter().find(|(known, _)| *known == number).map(|(_, value)| *value);
        let flags: [u8; 2] = part(packet, 10)?;
        Some(Self {
            kind: Kind::of(*value(option::KIND)?.first()?)?,
            mac: Mac(part(packet, 28)?),
            has: address(packet.get(12..)?)?,
            relay: address(packet.get(24..)?)?,
            requested: value(option::REQUESTED).and_then(address),
            server: value(option::SERVER).and_then(address),
            client: value(option::CLIENT).map(<[u8]>::to_vec),
            aloud: flags[0] & ALOUD != 0,
            exchange: part(packet, 4)?,
            flags,
        })
    }
}

/// An answer as it is written.
#[derive(Clone, Debug)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// To a question; it gives `yours`, where that is an address.
    pub fn to(asking: &Asking, kind: Kind, yours: Ipv4Addr) -> Self {
        let mut packet = vec![0; HEAD];
        packet[0] = REPLY;
        packet[1..3].copy_from_slice(&ETHERNET);
        packet[4..8].copy_from_slice(&asking.exchange);
        packet[10..12].copy_from_slice(&asking.flags);
        if kind != Kind::Nak {
            packet[12..16].copy_from_slice(&asking.has.octets());
        }
        packet[16..20].copy_from_slice(&yours.octets());
        packet[28..34].copy_from_slice(&asking.mac.0);
        packet.extend(COOKIE);
        Self(packet).with(option::KIND, &[kind as u8])
    }

    /// The same, so that who hears only what is sent to all hears it.
    #[must_use]
    pub fn aloud(mut self) -> Self {
        self.0[10] |= ALOUD;
        self
    }

    /// With an option; one that is too long for one is left out.
    #[must_use]
    pub fn with(mut self, number: u8, value: &[u8]) -> Self {
        if let (Ok(length), false) = (u8::try_from(value.len()), value.is_empty()) {
            self.0.extend([number, length]);
            self.0.extend(value);
        }
        self
    }

    pub fn bytes(mut self) -> Vec<u8> {
        self.0.push(END);
        if self.0.len() < SMALLEST {
            self.0.resize(SMALLEST, PAD);
        }
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn options_are_read_once_each_and_not_beyond_the_end() {
        let read = |bytes: &'static [u8]| options(bytes);
        assert_eq!(read(&[]), Some(vec![]));
        assert_eq!(read(&[0, 0, 53, 1, 3, 53, 1, 4, 255, 9, 9]), Some(vec![(53, [3].as_slice())]));
        assert_eq!(read(&[53]), None);
        assert_eq!(read(&[53, 2, 1]), None);
        assert_eq!(read(&[12, 0, 255]), Some(vec![(12, [].as_slice())]));
    }

    proptest! {
        #[test]
        fn anything_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..600), whole in any::<bool>()) {
            let mut bytes = bytes;
            if whole && bytes.len() > OPTIONS {
                bytes[..3].copy_from_slice(&[1, 1, 6]);
                bytes[HEAD..OPTIONS].copy_from_slice(&COOKIE);
            }
            Asking::read(&bytes);
        }
    }
}
