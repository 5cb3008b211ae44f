//! From two halves and the secret to the key and the SPI of one direction.
//!
//! ```text
//! PRK = HKDF-Extract(salt = nonce(sender) ‖ nonce(receiver),
//!                    ikm  = X25519 ‖ secret of the sender's half ‖ secret of the receiver's half)
//! key ‖ salt = HKDF-Expand(PRK, info, 36)
//! info = "stampede-esp-1" ‖ name(sender) ‖ name(receiver) ‖ generation(sender) ‖ generation(receiver)
//!        ‖ public(sender) ‖ public(receiver) ‖ SPI
//! ```
//! SHA-256; numbers are big-endian, names behind their length in two bytes.

use super::{
    half::{Half, PublicHalf},
    secret::Secrets,
};
use hkdf::Hkdf;
use sha2::Sha256;
use stampede_netlink::xfrm::AeadKey;
use zeroize::Zeroizing;

const LABEL: &[u8] = b"stampede-esp-1";
/// AES-256 and the four bytes of salt of RFC 4106.
const KEY: usize = 36;

/// Why there is no key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("a half was made under cluster secret {0}, which this host does not have")]
    UnknownSecret(super::secret::SecretName),
    #[error("a public key of low order: nobody makes one by accident")]
    LowOrder,
    #[error("the name of a host is longer than 65,535 bytes")]
    LongName,
}

/// One end: a host's name, its number in the cluster, and a half of it.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    pub host: &'a str,
    pub number: u32,
    pub half: &'a PublicHalf,
}

/// Which way packets go, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Way {
    In,
    Out,
}

/// The SPI of the association from a host to another: unique at the receiver, as both ends compute it.
///
/// ```text
///  31  30  29        25 24        20 19                 0
/// | 1 | 0 | sender's   | receiver's | the sender's number |
///           generation   generation
/// ```
pub fn spi(sender_generation: u32, receiver_generation: u32, sender_number: u32) -> u32 {
    0x8000_0000 | (sender_generation % 32) << 25 | (receiver_generation % 32) << 20 | (sender_number & 0x000f_ffff)
}

/// The generations (modulo 32) in an SPI: the sender's, the receiver's.
pub fn generations(spi: u32) -> (u32, u32) {
    (spi >> 25 & 31, spi >> 20 & 31)
}

/// The key of one direction between this host (with its own half) and a peer.
///
/// # Errors
/// See [`Error`]; none of them says anything of a key.
pub fn key(own: &Half, host: &str, number: u32, peer: End<'_>, way: Way, secrets: &Secrets) -> Result<AeadKey, Error> {
    let shared = own.agree(peer.half).ok_or(Error::LowOrder)?;
    let here = End { host, number, half: &own.public };
    let (sender, receiver) = match way {
        Way::Out => (here, peer),
        Way::In => (peer, here),
    };
    let secret = |end: &End<'_>| secrets.get(end.half.secret).ok_or(Error::UnknownSecret(end.half.secret));
    let mut material = Zeroizing::new(Vec::with_capacity(96));
    material.extend_from_slice(shared.as_bytes());
    material.extend_from_slice(secret(&sender)?.bytes());
    material.extend_from_slice(secret(&receiver)?.bytes());
    let salt = [sender.half.nonce, receiver.half.nonce].concat();
    let mut info = LABEL.to_vec();
    for end in [&sender, &receiver] {
        info.extend(u16::try_from(end.host.len()).map_err(|_| Error::LongName)?.to_be_bytes());
        info.extend(end.host.as_bytes());
    }
    info.extend(sender.half.generation.to_be_bytes());
    info.extend(receiver.half.generation.to_be_bytes());
    info.extend(sender.half.public);
    info.extend(receiver.half.public);
    info.extend(spi(sender.half.generation, receiver.half.generation, sender.number).to_be_bytes());
    let mut key = Zeroizing::new([0; KEY]);
    // Only more than 255 hashes' length is refused.
    let expanded = Hkdf::<Sha256>::new(Some(&salt), &material).expand(&info, key.as_mut_slice());
    debug_assert!(expanded.is_ok());
    Ok(AeadKey::aes256(&key))
}

#[cfg(test)]
mod tests {
    use super::super::secret::ClusterSecret;
    use super::*;
    use proptest::prelude::*;

    fn secrets(byte: u8) -> Secrets {
        Secrets::new(ClusterSecret::new(&[byte; 32]), None)
    }

    fn end<'a>(host: &'a str, number: u32, half: &'a Half) -> End<'a> {
        End { host, number, half: &half.public }
    }

    /// Computed by another program from docs/ipsec.md: see there.
    #[test]
    fn known_answers() {
        let secrets = secrets(0x33);
        let name = secrets.current().name();
        assert_eq!(name.to_string(), KNOWN_NAME);
        let (one, two) = (Half::fixed(7, 0x11, name), Half::fixed(40, 0x22, name));
        let there = key(&one, "h1", 1, end("h2", 2, &two), Way::Out, &secrets).unwrap();
        let back = key(&one, "h1", 1, end("h2", 2, &two), Way::In, &secrets).unwrap();
        assert_eq!(there, AeadKey::aes256(&bytes(KNOWN_THERE)));
        assert_eq!(back, AeadKey::aes256(&bytes(KNOWN_BACK)));
        assert_eq!(spi(7, 40, 1), 0x8e80_0001);
        assert_eq!(spi(40, 7, 2), 0x9070_0002);
    }

    const KNOWN_NAME: &str = "e9731eacf1ad9d1b";
    const KNOWN_THERE: &str = "28d632174e5628a6fdd28b5489504c0e7b368f20ecb0b0d66fa96f721d1ffda8af9dacb1";
    const KNOWN_BACK: &str = "6acd56476fdb935322752106e897728534cc9c1ad85be1e14020d8705146029d92785e24";

    fn bytes(hex: &str) -> [u8; 36] {
        let pairs = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect::<Vec<_>>().try_into().unwrap()
    }

    #[test]
    fn whatever_differs_makes_another_key() {
        let secrets = secrets(1);
        let name = secrets.current().name();
        let (one, two) = (Half::fixed(1, 1, name), Half::fixed(1, 2, name));
        let derive = |own: &Half, host, peer, way| key(own, host, 1, peer, way, &secrets).unwrap();
        let base = derive(&one, "h1", end("h2", 2, &two), Way::Out);
        let mut other_nonce = Half::fixed(1, 2, name);
        other_nonce.public.nonce = [9; 32];
        let others = [
            derive(&one, "h1", end("h2", 2, &two), Way::In),
            derive(&one, "h1", end("h2", 2, &other_nonce), Way::Out),
            derive(&one, "h1", end("h2", 2, &Half::fixed(2, 2, name)), Way::Out),
            derive(&one, "h1", end("h3", 2, &two), Way::Out),
            derive(&one, "h", end("1h2", 2, &two), Way::Out),
            derive(&Half::fixed(1, 3, name), "h1", end("h2", 2, &two), Way::Out),
        ];
        assert!(others.iter().all(|other| *other != base));
        let elsewhere = self::secrets(2);
        let name = elsewhere.current().name();
        let (one, two) = (Half::fixed(1, 1, name), Half::fixed(1, 2, name));
        assert_ne!(key(&one, "h1", 1, end("h2", 2, &two), Way::Out, &elsewhere).unwrap(), base);
    }

    #[test]
    fn while_the_secret_is_changed_both_ends_still_agree() {
        let (old, new) = (ClusterSecret::new(&[1; 32]), ClusterSecret::new(&[2; 32]));
        let (one, two) = (Half::fixed(1, 1, old.name()), Half::fixed(1, 2, new.name()));
        let here = Secrets::new(old.clone(), Some(new.clone()));
        let there = Secrets::new(new, Some(old.clone()));
        let out = key(&one, "h1", 1, end("h2", 2, &two), Way::Out, &here).unwrap();
        let arriving = key(&two, "h2", 2, end("h1", 1, &one), Way::In, &there).unwrap();
        assert_eq!(out, arriving);
        let alone = Secrets::new(old, None);
        let failed = key(&one, "h1", 1, end("h2", 2, &two), Way::Out, &alone).unwrap_err();
        assert_eq!(failed, Error::UnknownSecret(two.public.secret));
    }

    #[test]
    fn a_point_of_low_order_is_refused() {
        let secrets = secrets(1);
        let name = secrets.current().name();
        let mut peer = Half::fixed(1, 2, name);
        for point in [[0; 32], {
            let mut one = [0; 32];
            one[0] = 1;
            one
        }] {
            peer.public.public = point;
            let refused = key(&Half::fixed(1, 1, name), "h1", 1, end("h2", 2, &peer), Way::Out, &secrets);
            assert_eq!(refused.unwrap_err(), Error::LowOrder);
        }
    }

    proptest! {
        #[test]
        fn both_ends_derive_the_same(a in any::<u8>(), b in any::<u8>(), generations in any::<[u32; 2]>(), numbers in prop::array::uniform2(1..1u32 << 20)) {
            let secrets = secrets(5);
            let name = secrets.current().name();
            let (one, two) = (Half::fixed(generations[0], a, name), Half::fixed(generations[1], b, name));
            let out = key(&one, "h1", numbers[0], end("h2", numbers[1], &two), Way::Out, &secrets).unwrap();
            let arriving = key(&two, "h2", numbers[1], end("h1", numbers[0], &one), Way::In, &secrets).unwrap();
            prop_assert_eq!(out, arriving);
        }

        #[test]
        fn spis_of_what_is_live_at_once_differ(a in (0..32u32, 0..32u32, 1..1u32 << 20), b in (0..32u32, 0..32u32, 1..1u32 << 20)) {
            prop_assert_eq!(spi(a.0, a.1, a.2) == spi(b.0, b.1, b.2), a == b);
            prop_assert_eq!(super::generations(spi(a.0, a.1, a.2)), (a.0, a.1));
            prop_assert!(spi(a.0, a.1, a.2) > 255, "the first 256 are reserved");
        }
    }
}
