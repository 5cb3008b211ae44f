//! Checksums of images: md5, sha1, sha256 and sha512, as distributions publish them.

use sha2::Digest;
use std::str::FromStr;

/// A checksum as it is given: `sha256:…`, or the digits alone, whose number tells which it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    pub kind: Kind,
    /// Small hexadecimal digits.
    pub digits: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Md5,
    Sha1,
    Sha256,
    Sha512,
}

const KINDS: [Kind; 4] = [Kind::Md5, Kind::Sha1, Kind::Sha256, Kind::Sha512];

/// It is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no checksum: give 32 (md5), 40 (sha1), 64 (sha256) or 128 (sha512) hexadecimal digits, with or without `sha256:` before them"
)]
pub struct Error(String);

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn length(self) -> usize {
        match self {
            Self::Md5 => 32,
            Self::Sha1 => 40,
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

impl FromStr for Checksum {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error(text.chars().take(160).collect());
        let trimmed = text.trim();
        let (named, digits) = match trimmed.split_once(':') {
            Some((name, digits)) => (Some(name.to_ascii_lowercase().replace('-', "")), digits.trim()),
            None => (None, trimmed),
        };
        let kind = KINDS.into_iter().find(|kind| kind.length() == digits.len()).ok_or_else(wrong)?;
        let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !hexadecimal || named.is_some_and(|name| name != kind.name()) {
            return Err(wrong());
        }
        Ok(Self { kind, digits: digits.to_ascii_lowercase() })
    }
}

/// Reckons one as the bytes come.
#[derive(Clone, Debug)]
pub enum Hasher {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(sha2::Sha512),
}

impl Hasher {
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Md5 => Self::Md5(md5::Md5::new()),
            Kind::Sha1 => Self::Sha1(sha1::Sha1::new()),
            Kind::Sha256 => Self::Sha256(sha2::Sha256::new()),
            Kind::Sha512 => Self::Sha512(sha2::Sha512::new()),
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Its digits.
    pub fn finish(self) -> String {
        match self {
            Self::Md5(hasher) => digits(&hasher.finalize()),
            Self::Sha1(hasher) => digits(&hasher.finalize()),
            Self::Sha256(hasher) => digits(&hasher.finalize()),
            Self::Sha512(hasher) => digits(&hasher.finalize()),
        }
    }
}

/// Bytes as small hexadecimal digits.
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_they_are_published() {
        // RFC 1321 and FIPS 180-4: of "abc".
        for (kind, digits) in [
            ("md5", "900150983cd24fb0d6963f7d28e17f72"),
            ("sha1", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("sha256", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                "sha512",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
            ),
        ] {
            for text in [
                digits.to_owned(),
                format!("{kind}:{digits}"),
                format!(" {}:{} ", kind.to_uppercase(), digits.to_uppercase()),
            ] {
                let checksum: Checksum = text.parse().unwrap();
                assert_eq!((checksum.kind.name(), checksum.digits.as_str()), (kind, digits));
                let mut hasher = Hasher::new(checksum.kind);
                hasher.update(b"a");
                hasher.update(b"bc");
                assert_eq!(hasher.finish(), digits);
            }
        }
    }

    #[test]
    fn what_is_none() {
        for text in ["", "abc", "md5:", "sha256:900150983cd24fb0d6963f7d28e17f72", &"g".repeat(64), "crc32:00000000"] {
            assert!(text.parse::<Checksum>().is_err(), "{text}");
        }
    }
}
