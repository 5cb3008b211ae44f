//! A host's half of a key agreement. The private part lives in memory only, a day or until the agent ends.

use super::secret::SecretName;
use crate::environment::Environment;
use std::fmt;
use x25519_dalek::{PublicKey, SharedSecret, StaticSecret};
use zeroize::Zeroizing;

/// What all hosts may know of a half. The public key is what it is known by; a nonce is used once, with it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicHalf {
    /// Counts a host's halves; its lowest five bits stand in SPIs.
    pub generation: u32,
    /// X25519.
    pub public: [u8; 32],
    pub nonce: [u8; 32],
    /// The cluster secret it was made under, which goes into its keys.
    pub secret: SecretName,
}

impl fmt::Debug for PublicHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.public;
        write!(f, "{}:{a:02x}{b:02x}{c:02x}{d:02x}", self.generation)
    }
}

/// A half of this host's own. The private key is wiped when dropped and never printed.
pub struct Half {
    pub public: PublicHalf,
    private: StaticSecret,
}

impl Half {
    /// A new one.
    pub fn generate(environment: &Environment, generation: u32, secret: SecretName) -> Self {
        let mut private = Zeroizing::new([0; 32]);
        let mut nonce = [0; 32];
        environment.random.fill(private.as_mut_slice());
        environment.random.fill(&mut nonce);
        Self::from_parts(generation, &private, nonce, secret)
    }

    fn from_parts(generation: u32, private: &[u8; 32], nonce: [u8; 32], secret: SecretName) -> Self {
        let private = StaticSecret::from(*private);
        let public = PublicKey::from(&private).to_bytes();
        Self { public: PublicHalf { generation, public, nonce, secret }, private }
    }

    /// `None` for a public key that makes the same secret with everybody's (a point of low order).
    pub(super) fn agree(&self, other: &PublicHalf) -> Option<SharedSecret> {
        let shared = self.private.diffie_hellman(&PublicKey::from(other.public));
        shared.was_contributory().then_some(shared)
    }

    #[cfg(test)]
    pub(super) fn fixed(generation: u32, byte: u8, secret: SecretName) -> Self {
        Self::from_parts(generation, &[byte; 32], [byte ^ 0xff; 32], secret)
    }
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Half({:?}, private key not shown)", self.public)
    }
}
