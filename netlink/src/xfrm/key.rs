//! Keys of associations.

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use zeroize::Zeroizing;

/// Bytes of salt behind the key (RFC 4106, section 8.1).
const SALT: usize = 4;

/// A key for AES-GCM in ESP, with its four bytes of salt behind it. Wiped when dropped; never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct AeadKey(Zeroizing<Vec<u8>>);

impl AeadKey {
    /// AES-256 and salt.
    pub fn aes256(material: &[u8; 32 + SALT]) -> Self {
        Self(Zeroizing::new(material.to_vec()))
    }

    /// AES-128 and salt.
    pub fn aes128(material: &[u8; 16 + SALT]) -> Self {
        Self(Zeroizing::new(material.to_vec()))
    }

    /// What the kernel shows: 128, 192 or 256 bits and salt.
    pub(super) fn read(material: &[u8]) -> Option<Self> {
        matches!(material.len(), 20 | 28 | 36).then(|| Self(Zeroizing::new(material.to_vec())))
    }

    pub(super) fn material(&self) -> &[u8] {
        &self.0
    }

    /// A kernel in lockdown shows zeros.
    pub fn is_hidden(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// Nothing says that they differ.
    pub(super) fn agrees(&self, other: &Self) -> bool {
        self == other || self.is_hidden() || other.is_hidden()
    }
}

/// For who has to know whether a key was there before.
impl Hash for AeadKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.material().hash(state);
    }
}

impl fmt::Debug for AeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AeadKey({} bits, not shown)", (self.0.len() - SALT) * 8)
    }
}
