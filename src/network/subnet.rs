//! The managed subnet's arithmetic: which addresses there are, in which block each lies, and what follows from one.

use crate::resource::assignment::ManagedAddress;
use serde::{Deserialize, Serialize};
use stampede_netlink::{Mac, Prefix};
use std::net::{IpAddr, Ipv4Addr};

/// A subnet that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    #[error("{network}/{prefix} is no network: bits behind the prefix are set, or the prefix is not 8 to 28")]
    Network { network: Ipv4Addr, prefix: u8 },
    #[error("blocks of /{block} do not fit into /{prefix}; a block is larger than its subnet's prefix and at most /29")]
    Block { prefix: u8, block: u8 },
    #[error("{0} does not lie in the subnet")]
    Outside(Ipv4Addr),
}

/// The managed subnet, the same on all hosts of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubnetSpec {
    pub network: Ipv4Addr,
    /// Bits of the network.
    pub prefix: u8,
    /// The same on every host.
    pub gateway: Ipv4Addr,
    /// First address to give away.
    pub first: Ipv4Addr,
    /// Last address to give away.
    pub last: Ipv4Addr,
    /// Bits of a block's network; a block is what one host routes for itself.
    pub block_prefix: u8,
}

impl Default for SubnetSpec {
    fn default() -> Self {
        Self {
            network: Ipv4Addr::new(10, 42, 0, 0),
            prefix: 16,
            gateway: Ipv4Addr::new(10, 42, 0, 1),
            first: Ipv4Addr::new(10, 42, 0, 2),
            last: Ipv4Addr::new(10, 42, 255, 250),
            block_prefix: 26,
        }
    }
}

impl SubnetSpec {
    /// A subnet by its prefix: the gateway is its first address, the last five are left for other uses.
    ///
    /// # Errors
    /// As [`Self::checked`].
    pub fn of(network: Ipv4Addr, prefix: u8, block_prefix: u8) -> Result<Self, SubnetError> {
        let start = u32::from(network);
        let size = 1_u32.checked_shl(32 - u32::from(prefix.clamp(1, 32))).unwrap_or(1);
        let at = |offset: u32| Ipv4Addr::from(start.saturating_add(offset));
        let spec =
            Self { network, prefix, gateway: at(1), first: at(2), last: at(size.saturating_sub(6)), block_prefix };
        spec.checked()
    }

    /// An address as an instance's host is told it.
    pub fn managed(&self, address: Ipv4Addr, mtu: u32) -> ManagedAddress {
        ManagedAddress { address, prefix: self.prefix, gateway: self.gateway, mac: self.mac(address).to_string(), mtu }
    }

    /// The same subnet if it can be used.
    ///
    /// # Errors
    /// [`SubnetError`] says what is wrong with it.
    pub fn checked(self) -> Result<Self, SubnetError> {
        let Self { network, prefix, block_prefix: block, .. } = self;
        if !(8..=28).contains(&prefix) || u32::from(network) & !mask(prefix) != 0 {
            return Err(SubnetError::Network { network, prefix });
        }
        if !(prefix < block && block <= 29) {
            return Err(SubnetError::Block { prefix, block });
        }
        match [self.gateway, self.first, self.last].into_iter().find(|address| !self.contains(*address)) {
            Some(address) => Err(SubnetError::Outside(address)),
            None => Ok(self),
        }
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u32::from(address) & mask(self.prefix) == u32::from(self.network)
    }

    /// As routes and rules have it.
    pub fn as_prefix(&self) -> Option<Prefix> {
        Prefix::new(IpAddr::V4(self.network), self.prefix)
    }

    /// A block as routes have it.
    pub fn block_as_prefix(&self, block: Ipv4Addr) -> Option<Prefix> {
        Prefix::new(IpAddr::V4(block), self.block_prefix)
    }

    /// The block in which an address lies.
    pub fn block_of(&self, address: Ipv4Addr) -> Ipv4Addr {
        (u32::from(address) & mask(self.block_prefix)).into()
    }

    /// How many blocks there are.
    pub fn block_count(&self) -> u32 {
        1 << (self.block_prefix - self.prefix)
    }

    /// The block with this number, counted round.
    pub fn block_at(&self, number: u32) -> Ipv4Addr {
        let number = number % self.block_count();
        (u32::from(self.network) + (number << (32 - self.block_prefix))).into()
    }

    /// The addresses of a block that may be used at all. Those that end in .0 and .255 are left out: they are good in a
    /// /16, but too many programs take them for a network and its broadcast.
    fn usable(self, block: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        let start = u32::from(block);
        (start..=start | !mask(self.block_prefix)).map(Ipv4Addr::from).filter(move |address| {
            *address >= self.first
                && *address <= self.last
                && *address != self.gateway
                && !matches!(address.octets()[3], 0 | 255)
        })
    }

    /// The block's first usable address: the host's own, the source of what it sends into the managed network itself.
    pub fn router(&self, block: Ipv4Addr) -> Option<Ipv4Addr> {
        self.usable(block).next()
    }

    /// The addresses of a block for instances.
    pub fn assignable(self, block: Ipv4Addr) -> impl Iterator<Item = Ipv4Addr> {
        self.usable(block).skip(1)
    }

    /// The hardware address of whoever holds an address: `02:00:01:00:xx:yy`, the last two bytes being the address's.
    /// Known without asking anybody, and the same wherever the address goes.
    pub fn mac(&self, address: Ipv4Addr) -> Mac {
        let [_, b, c, d] = (u32::from(address) & !mask(self.prefix)).to_be_bytes();
        Mac([2, 0, 1, b, c, d])
    }

    /// Whose hardware address it is; `None` where it is of no address here.
    pub fn address_of(&self, mac: Mac) -> Option<Ipv4Addr> {
        let Mac([2, 0, 1, b, c, d]) = mac else { return None };
        let address = Ipv4Addr::from(u32::from(self.network) | u32::from_be_bytes([0, b, c, d]));
        (self.mac(address) == mac).then_some(address)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_managed_subnet_is_as_the_contract_has_it() {
        let subnet = SubnetSpec::default().checked().unwrap();
        assert_eq!(subnet.block_count(), 1024);
        assert_eq!(subnet.router(Ipv4Addr::new(10, 42, 0, 0)), Some(Ipv4Addr::new(10, 42, 0, 2)));
        assert_eq!(subnet.router(Ipv4Addr::new(10, 42, 7, 0)), Some(Ipv4Addr::new(10, 42, 7, 1)));
        assert_eq!(subnet.assignable(Ipv4Addr::new(10, 42, 255, 192)).last(), Some(Ipv4Addr::new(10, 42, 255, 250)));
        assert_eq!(subnet.mac(Ipv4Addr::new(10, 42, 7, 9)).to_string(), "02:00:01:00:07:09");
    }

    #[test]
    fn what_cannot_be_a_subnet_is_refused() {
        let good = SubnetSpec::default();
        for bad in [
            SubnetSpec { prefix: 15, network: Ipv4Addr::new(10, 43, 0, 0), ..good },
            SubnetSpec { prefix: 0, ..good },
            SubnetSpec { block_prefix: 16, ..good },
            SubnetSpec { block_prefix: 30, ..good },
            SubnetSpec { gateway: Ipv4Addr::new(10, 43, 0, 1), ..good },
        ] {
            assert!(bad.checked().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn blocks_part_the_subnet(block_prefix in 17..=29u8, number in 0..u32::MAX) {
            let subnet = SubnetSpec { block_prefix, ..SubnetSpec::default() }.checked().unwrap();
            let block = subnet.block_at(number);
            prop_assert!(subnet.contains(block));
            prop_assert_eq!(subnet.block_of(block), block);
            let addresses: BTreeSet<_> = subnet.assignable(block).collect();
            let macs: BTreeSet<_> = addresses.iter().map(|address| subnet.mac(*address)).collect();
            prop_assert_eq!(macs.len(), addresses.len());
            for address in addresses {
                prop_assert_eq!(subnet.block_of(address), block);
                prop_assert!(address != subnet.gateway && address >= subnet.first && address <= subnet.last);
                prop_assert!(subnet.router(block).unwrap() < address);
            }
        }
    }
}
