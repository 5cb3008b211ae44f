//! Hardware addresses and prefixes.

use std::{fmt, net::IpAddr, str::FromStr};

/// A text that is no address of the kind wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct InvalidAddress {
    text: String,
    wanted: &'static str,
}

impl InvalidAddress {
    fn new(text: &str, wanted: &'static str) -> Self {
        Self { text: text.to_owned(), wanted }
    }
}

/// An Ethernet address, written `02:42:0a:2a:00:05`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub(crate) fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidAddress::new(text, "an Ethernet address");
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(invalid)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| invalid())?;
        }
        if parts.next().is_some() { Err(invalid()) } else { Ok(Self(octets)) }
    }
}

/// An address with a prefix length. The bits below the prefix are zero, so that equal prefixes compare equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of this length that holds the address; `None` if the length exceeds the family's 32 or 128 bits.
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4((u32::from(v4) & mask).into())
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6((u128::from(v6) & mask).into())
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The prefix that holds this address alone: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether the address lies within.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self::new(address, self.length).is_some_and(|prefix| prefix == *self)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = InvalidAddress;

    /// `10.42.0.0/16`; an address alone is its host prefix. Bits below the prefix are an error: they are a slip.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidAddress::new(text, "a prefix");
        let Some((address, length)) = text.split_once('/') else {
            return text.parse().map(Self::host).map_err(|_| invalid());
        };
        let address: IpAddr = address.parse().map_err(|_| invalid())?;
        let length = length.parse().map_err(|_| invalid())?;
        Self::new(address, length).filter(|prefix| prefix.address == address).ok_or_else(invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_strictly_and_compare_by_their_bits() {
        let parsed: Prefix = "10.42.0.0/16".parse().unwrap();
        assert_eq!(Prefix::new("10.42.3.7".parse().unwrap(), 16), Some(parsed));
        assert!(parsed.contains("10.42.255.255".parse().unwrap()));
        assert!(!parsed.contains("10.43.0.0".parse().unwrap()));
        assert!(!parsed.contains("::1".parse().unwrap()));
        assert_eq!("10.1.1.1".parse::<Prefix>().unwrap().length(), 32);
        assert_eq!("0.0.0.0/0".parse::<Prefix>().unwrap().to_string(), "0.0.0.0/0");
        for bad in ["10.42.0.1/16", "10.42.0.0/33", "10.42/16", "", "::/129"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ethernet_addresses_are_read_strictly() {
        assert_eq!("02:42:0a:2a:00:05".parse::<Mac>().unwrap().to_string(), "02:42:0a:2a:00:05");
        for bad in ["02:42:0a:2a:00", "02:42:0a:2a:00:05:06", "2:42:0a:2a:00:05", "zz:42:0a:2a:00:05"] {
            assert!(bad.parse::<Mac>().is_err(), "{bad}");
        }
    }
}
