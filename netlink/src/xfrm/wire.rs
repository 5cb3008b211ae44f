//! The structs of include/uapi/linux/xfrm.h, written and read field by field.
//!
//! In the host's byte order but for addresses, ports and SPIs; 64-bit fields are aligned to 8 bytes, and the structs that hold
//! them are padded to a multiple of that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::parts::{Lifetimes, Limits, Selector};
use crate::Prefix;

pub(super) const AF_INET: u16 = 2;
pub(super) const AF_INET6: u16 = 10;
/// XFRM_INF
const INFINITE: u64 = u64::MAX;

pub(super) fn family(address: IpAddr) -> u16 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// A struct being written.
#[derive(Debug, Default)]
pub(super) struct Put {
    pub(super) bytes: Vec<u8>,
}

impl Put {
    /// Large enough for all that is written, so that no half-written copy is left behind by growing.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { bytes: Vec::with_capacity(capacity) }
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub(super) fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_ne_bytes())
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_ne_bytes())
    }

    pub(super) fn be16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn be32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// Zeros.
    pub(super) fn pad(&mut self, count: usize) -> &mut Self {
        self.bytes.resize(self.bytes.len() + count, 0);
        self
    }

    /// xfrm_address_t: 16 bytes, IPv4 in the first four.
    pub(super) fn address(&mut self, address: IpAddr) -> &mut Self {
        match address {
            IpAddr::V4(address) => self.raw(&address.octets()).pad(12),
            IpAddr::V6(address) => self.raw(&address.octets()),
        }
    }

    /// struct xfrm_id
    pub(super) fn id(&mut self, destination: IpAddr, spi: u32, protocol: u8) -> &mut Self {
        self.address(destination).be32(spi).u8(protocol).pad(3)
    }

    /// struct xfrm_selector
    pub(super) fn selector(&mut self, selector: &Selector) -> &mut Self {
        let port = |port: Option<u16>| (port.unwrap_or(0), if port.is_some() { u16::MAX } else { 0 });
        let (destination_port, destination_mask) = port(selector.destination_port);
        let (source_port, source_mask) = port(selector.source_port);
        self.address(selector.destination.address())
            .address(selector.source.address())
            .be16(destination_port)
            .be16(destination_mask)
            .be16(source_port)
            .be16(source_mask)
            .u16(family(selector.destination.address()))
            .u8(selector.destination.length())
            .u8(selector.source.length())
            .u8(selector.protocol)
            .pad(3)
            .u32(selector.interface)
            .u32(0)
    }

    /// struct xfrm_lifetime_cfg. No limit is XFRM_INF for bytes and packets and 0 for times.
    pub(super) fn lifetimes(&mut self, lifetimes: &Lifetimes) -> &mut Self {
        for limits in [lifetimes.bytes, lifetimes.packets] {
            self.u64(limits.soft.unwrap_or(INFINITE)).u64(limits.hard.unwrap_or(INFINITE));
        }
        for limits in [lifetimes.since_added, lifetimes.since_used] {
            self.u64(limits.soft.unwrap_or(0)).u64(limits.hard.unwrap_or(0));
        }
        self
    }
}

/// A struct being read. What is too short is `None`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Take<'a> {
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn raw(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.raw(N)?.try_into().ok()
    }

    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        self.raw(count).map(drop)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_ne_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_ne_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_ne_bytes)
    }

    pub(super) fn be16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn be32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    /// xfrm_address_t; which family it is of stands elsewhere.
    pub(super) fn address(&mut self) -> Option<[u8; 16]> {
        self.array()
    }

    /// struct xfrm_selector; the family given counts where it has none, as in associations made by others.
    pub(super) fn selector(&mut self, otherwise: u16) -> Option<Selector> {
        let (destination, source) = (self.address()?, self.address()?);
        let (destination_port, destination_mask) = (self.be16()?, self.be16()?);
        let (source_port, source_mask) = (self.be16()?, self.be16()?);
        let family = match self.u16()? {
            0 => otherwise,
            family => family,
        };
        let (destination_length, source_length) = (self.u8()?, self.u8()?);
        let protocol = self.u8()?;
        self.skip(3)?;
        let interface = self.u32()?;
        self.skip(4)?;
        Some(Selector {
            source: Prefix::new(address(source, family)?, source_length)?,
            destination: Prefix::new(address(destination, family)?, destination_length)?,
            protocol,
            source_port: (source_mask != 0).then_some(source_port),
            destination_port: (destination_mask != 0).then_some(destination_port),
            interface,
        })
    }

    /// struct xfrm_lifetime_cfg
    pub(super) fn lifetimes(&mut self) -> Option<Lifetimes> {
        let mut limits = |none: u64| {
            let (soft, hard) = (self.u64()?, self.u64()?);
            Some(Limits {
                soft: Some(soft).filter(|limit| *limit != none),
                hard: Some(hard).filter(|limit| *limit != none),
            })
        };
        Some(Lifetimes {
            bytes: limits(INFINITE)?,
            packets: limits(INFINITE)?,
            since_added: limits(0)?,
            since_used: limits(0)?,
        })
    }
}

/// An address of the family, from an xfrm_address_t.
pub(super) fn address(bytes: [u8; 16], family: u16) -> Option<IpAddr> {
    match family {
        AF_INET => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}
