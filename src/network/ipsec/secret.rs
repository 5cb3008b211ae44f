//! The cluster's secret: 256 bits that every host has and the store never sees.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use zeroize::Zeroizing;

const LENGTH: usize = 32;
const SEAL: &[u8] = b"stampede-mesh-seal-1";
const NAME: &[u8] = b"stampede-secret-name-1";

/// A text that is no secret.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a cluster secret is 64 hexadecimal digits")]
pub struct NotASecret;

/// Which secret, without saying anything of it: eight bytes of a hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecretName(pub [u8; 8]);

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The secret, and what is derived from it for each record. Wiped when dropped; never printed.
#[derive(Clone)]
pub struct ClusterSecret {
    bytes: Zeroizing<Vec<u8>>,
    name: SecretName,
    /// What seals.
    seal: Zeroizing<[u8; LENGTH]>,
}

impl ClusterSecret {
    /// From 256 random bits.
    pub fn new(bytes: &[u8; LENGTH]) -> Self {
        Self::of(Zeroizing::new(bytes.to_vec()))
    }

    /// As a file or a systemd credential holds it: 64 hexadecimal digits, white space around them.
    ///
    /// # Errors
    /// [`NotASecret`], which does not say what was read.
    pub fn parse(text: &str) -> Result<Self, NotASecret> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * LENGTH {
            return Err(NotASecret);
        }
        let digit =
            |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(NotASecret);
        let mut bytes = Zeroizing::new(Vec::with_capacity(LENGTH));
        for pair in digits.chunks_exact(2) {
            bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
        }
        Ok(Self::of(bytes))
    }

    fn of(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self { name: SecretName(*expand(&bytes, NAME)), seal: expand(&bytes, SEAL), bytes }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Which secret this is.
    pub fn name(&self) -> SecretName {
        self.name
    }

    fn mac(&self) -> Option<Hmac<Sha256>> {
        // HMAC takes a key of any length.
        Hmac::new_from_slice(self.seal.as_slice()).ok()
    }

    /// The seal of these bytes.
    pub(super) fn seal(&self, bytes: &[u8]) -> [u8; 32] {
        self.mac().map_or([0; 32], |mac| mac.chain_update(bytes).finalize().into_bytes().into())
    }

    /// Whether it is the seal of these bytes, in constant time.
    pub(super) fn is_seal(&self, bytes: &[u8], seal: &[u8; 32]) -> bool {
        self.mac().is_some_and(|mac| mac.chain_update(bytes).verify_slice(seal).is_ok())
    }
}

fn expand<const N: usize>(secret: &[u8], label: &[u8]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    // Only more than 255 hashes' length is refused.
    let expanded = Hkdf::<Sha256>::new(None, secret).expand(label, out.as_mut_slice());
    debug_assert!(expanded.is_ok());
    out
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterSecret({}, not shown)", self.name())
    }
}

/// The secrets that count: the one in use, and while it is changed the one before or the one to come.
#[derive(Debug, Clone)]
pub struct Secrets {
    current: ClusterSecret,
    other: Option<ClusterSecret>,
}

impl Secrets {
    /// `current` seals; `other` is accepted too.
    pub fn new(current: ClusterSecret, other: Option<ClusterSecret>) -> Self {
        Self { current, other }
    }

    /// The one that seals and that new halves are made under.
    pub fn current(&self) -> &ClusterSecret {
        &self.current
    }

    /// The one of this name.
    pub fn get(&self, name: SecretName) -> Option<&ClusterSecret> {
        self.all().find(|secret| secret.name() == name)
    }

    pub(in crate::network::ipsec) fn all(&self) -> impl Iterator<Item = &ClusterSecret> {
        [&self.current].into_iter().chain(&self.other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_read_from_its_digits_and_never_shown() {
        let secret = ClusterSecret::parse(&format!(" {}\n", "a5".repeat(32))).unwrap();
        assert_eq!(secret.bytes(), [0xa5; 32]);
        assert!(!format!("{secret:?}").contains("a5a5"));
        for bad in ["", "a5", &"a5".repeat(33), &"g0".repeat(32), &"ä".repeat(32)] {
            assert_eq!(ClusterSecret::parse(bad).unwrap_err(), NotASecret);
        }
        assert_ne!(secret.name(), ClusterSecret::new(&[0xa6; 32]).name());
    }

    #[test]
    fn a_seal_is_of_these_bytes_under_this_secret() {
        let secret = ClusterSecret::new(&[1; 32]);
        let seal = secret.seal(b"a record");
        assert!(secret.is_seal(b"a record", &seal));
        assert!(!secret.is_seal(b"a recorD", &seal));
        assert!(!ClusterSecret::new(&[2; 32]).is_seal(b"a record", &seal));
    }
}
