//! Floating addresses: pools of them, those that were acquired, and whose they are.
//!
//! A pool is a subnet of a network that the hosts are on too. An address of it is acquired, and then leads to whatever instance it
//! is associated with, on that one's host. Both rows say so: the address's ([`INSTANCE`]) and the instance's ([`ASSOCIATED`]).

use super::validation::{Invalid, InvalidCode};
use super::{Resource, State, instance};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;

/// Pools are stored under it.
pub const POOL: &str = "ipPool";
/// Acquired addresses are stored under it, and shown among the ipAddresses.
pub const BASE: &str = "floatingAddress";
/// The type that they are shown as.
pub const SHOWN: &str = "ipAddress";
/// Of an instance's row: what is associated with it.
pub const ASSOCIATED: &str = "floatingAddresses";
/// Of the same: the first of them.
pub const FIRST: &str = instance::PUBLIC_ADDRESS;
/// Asked for with an instance: one address of that pool, for as long as it is there.
pub const ON_CREATE: &str = "publicIpAddressPoolId";
/// What is asked for to associate: the private address of an instance.
pub const PRIVATE: &str = "ipAddressId";
/// Of an address's row.
pub const POOL_ID: &str = "ipPoolId";
pub const ADDRESS: &str = "address";
/// The number of the instance that it is associated with.
pub const INSTANCE: &str = "instanceId";
/// It was acquired with its instance, and goes with it.
const FREED_WITH_INSTANCE: &str = "freedWithInstance";
/// Most addresses of one instance.
pub const MOST: usize = 16;

/// Private addresses are shown under the numbers of their instances; floating ones above all of those.
const SPACE: u64 = 1 << 40;

/// Under which number it is shown.
pub fn shown_id(id: u64) -> u64 {
    SPACE | id
}

/// Its own number; `None` where that is an instance's private address.
pub fn stored_id(shown: u64) -> Option<u64> {
    (shown & SPACE != 0).then_some(shown & !SPACE)
}

/// An address that an instance has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Associated {
    /// The address's own number.
    pub id: u64,
    pub address: Ipv4Addr,
    pub pool: u64,
    /// Acquired with the instance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub own: bool,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Those of an instance; what cannot be read was written by something newer, and is passed over.
pub fn of(instance: &Resource) -> Vec<Associated> {
    let list = instance.fields.get(ASSOCIATED).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|one| Associated::deserialize(one).ok()).collect()
}

pub fn set(instance: &mut Resource, all: &[Associated]) {
    let value = if all.is_empty() { Value::Null } else { json!(all) };
    instance.set(ASSOCIATED, value);
    instance.set(FIRST, all.first().map(|first| first.address.to_string()));
}

/// The instance that an address leads to.
pub fn target(address: &Resource) -> Option<u64> {
    address.get(INSTANCE)
}

pub fn is_freed_with_instance(address: &Resource) -> bool {
    address.get(FREED_WITH_INSTANCE).unwrap_or(false)
}

/// The row of an address that was acquired with `instance`: it follows from that, so that both are written at once.
pub fn born_with(instance: &Resource, associated: &Associated) -> Resource {
    let mut row = Resource {
        id: associated.id,
        kind: BASE.into(),
        uuid: format!("{}-floating", instance.uuid),
        name: None,
        description: None,
        data: Map::new(),
        fields: Map::new(),
        generation: 1,
        removed: None,
        remove_time: None,
        ..instance.clone()
    };
    let runs = instance::desired(instance) == super::assignment::Desired::Running;
    row.enter(if runs { State::Associating } else { State::Associated });
    row.set(ADDRESS, associated.address.to_string());
    row.set(POOL_ID, associated.pool);
    row.set(INSTANCE, instance.id);
    row.set(FREED_WITH_INSTANCE, true);
    row
}

/// The addresses of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    pub network: Ipv4Addr,
    pub prefix: u8,
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
    pub gateway: Ipv4Addr,
}

const NETWORK: &str = "networkAddress";
const PREFIX: &str = "cidrSize";
const FROM: &str = "startAddress";
const TO: &str = "endAddress";
const GATEWAY: &str = "gateway";

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

/// Whether two networks have addresses in common.
pub fn overlap(one: (Ipv4Addr, u8), other: (Ipv4Addr, u8)) -> bool {
    let common = mask(one.1.min(other.1));
    one.0.to_bits() & common == other.0.to_bits() & common
}

impl Pool {
    /// What a client asked for, or what is stored of it.
    pub fn asked(fields: &Map<String, Value>) -> Result<Self, Invalid> {
        let network = address(fields, NETWORK)?
            .ok_or_else(|| Invalid::new(InvalidCode::MissingRequired, NETWORK, "say which network: 192.168.10.0"))?;
        let prefix = fields.get(PREFIX).and_then(Value::as_u64).unwrap_or(24);
        let prefix = u8::try_from(prefix).ok().filter(|prefix| (8..=28).contains(prefix));
        let prefix = prefix
            .ok_or_else(|| Invalid::new(InvalidCode::InvalidOption, PREFIX, "8 to 28; a /24 has 256 addresses"))?;
        let base = Ipv4Addr::from_bits(network.to_bits() & mask(prefix));
        if base != network {
            let message = format!("{network} lies within a network of /{prefix}; its own address is {base}");
            return Err(Invalid::new(InvalidCode::InvalidOption, NETWORK, message));
        }
        if base.is_loopback() || base.is_multicast() || base.octets()[0] == 0 || base.octets()[0] >= 240 {
            let message = format!("hosts on a wire have no addresses of {base}/{prefix}; give one that they have");
            return Err(Invalid::new(InvalidCode::InvalidOption, NETWORK, message));
        }
        let broadcast = Ipv4Addr::from_bits(base.to_bits() | !mask(prefix));
        let at = |field, usual: u32| match address(fields, field)? {
            None => Ok(Ipv4Addr::from_bits(usual)),
            Some(address) if overlap((address, 32), (base, prefix)) && address != base && address != broadcast => {
                Ok(address)
            }
            Some(address) => {
                let message = format!("{address} is no host's address of {base}/{prefix}");
                Err(Invalid::new(InvalidCode::InvalidOption, field, message))
            }
        };
        let gateway = at(GATEWAY, base.to_bits() + 1)?;
        // As the original has it for a /24: from .2 to .250.
        let (first, last) = (at(FROM, base.to_bits() + 2)?, at(TO, broadcast.to_bits() - 5)?);
        if first > last {
            let message = format!("the last address {last} comes before the first, {first}");
            return Err(Invalid::new(InvalidCode::InvalidOption, TO, message));
        }
        Ok(Self { network: base, prefix, first, last, gateway })
    }

    /// `None` where the row is of a version that says it otherwise.
    pub fn of(row: &Resource) -> Option<Self> {
        Self::asked(&row.fields).ok()
    }

    /// All of it, spelled out.
    pub fn write(&self, fields: &mut Map<String, Value>) {
        fields.insert(NETWORK.into(), json!(self.network));
        fields.insert(PREFIX.into(), json!(self.prefix));
        fields.insert(FROM.into(), json!(self.first));
        fields.insert(TO.into(), json!(self.last));
        fields.insert(GATEWAY.into(), json!(self.gateway));
    }

    /// Those that can be had.
    pub fn addresses(&self) -> impl Iterator<Item = Ipv4Addr> + use<> {
        let gateway = self.gateway;
        (self.first.to_bits()..=self.last.to_bits()).map(Ipv4Addr::from_bits).filter(move |one| *one != gateway)
    }
}

fn address(fields: &Map<String, Value>, field: &'static str) -> Result<Option<Ipv4Addr>, Invalid> {
    let text = match fields.get(field) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_str().unwrap_or_default(),
    };
    let wrong = || {
        let message = format!("{text:.40} is no IPv4 address; write it as 192.168.10.2");
        Invalid::new(InvalidCode::InvalidFormat, field, message)
    };
    text.parse().map(Some).map_err(|_| wrong())
}

/// A check of what is asked for, by itself.
pub fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    Pool::asked(input).map(drop)
}

/// The number of the instance whose private address that is.
pub fn instance_of(shown: u64) -> Option<u64> {
    stored_id(shown).is_none().then_some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pool(fields: Value) -> Result<Pool, Invalid> {
        Pool::asked(fields.as_object().unwrap())
    }

    fn code(fields: Value) -> Option<InvalidCode> {
        pool(fields).err().map(|invalid| invalid.code)
    }

    #[test]
    fn unless_told_a_pool_is_as_the_original_has_it() {
        let found = pool(json!({"networkAddress": "192.168.10.0"})).unwrap();
        assert_eq!(found.gateway, Ipv4Addr::new(192, 168, 10, 1));
        assert_eq!((found.first, found.last), (Ipv4Addr::new(192, 168, 10, 2), Ipv4Addr::new(192, 168, 10, 250)));
        let small =
            pool(json!({"networkAddress": "192.168.10.16", "cidrSize": 28, "gateway": "192.168.10.20"})).unwrap();
        let all: Vec<_> = small.addresses().map(|address| address.octets()[3]).collect();
        assert_eq!(all, [18, 19, 21, 22, 23, 24, 25, 26]);
    }

    #[test]
    fn what_is_no_pool_is_refused() {
        use InvalidCode::{InvalidFormat, InvalidOption, MissingRequired};
        assert_eq!(code(json!({})), Some(MissingRequired));
        assert_eq!(code(json!({"networkAddress": "here"})), Some(InvalidFormat));
        for fields in [
            json!({"networkAddress": "192.168.10.7"}),
            json!({"networkAddress": "192.168.10.0", "cidrSize": 29}),
            json!({"networkAddress": "127.0.0.0"}),
            json!({"networkAddress": "224.0.0.0"}),
            json!({"networkAddress": "0.0.0.0", "cidrSize": 8}),
            json!({"networkAddress": "192.168.10.0", "startAddress": "192.168.11.2"}),
            json!({"networkAddress": "192.168.10.0", "endAddress": "192.168.10.255"}),
            json!({"networkAddress": "192.168.10.0", "gateway": "192.168.10.0"}),
            json!({"networkAddress": "192.168.10.0", "startAddress": "192.168.10.9", "endAddress": "192.168.10.8"}),
        ] {
            assert_eq!(code(fields.clone()), Some(InvalidOption), "{fields}");
        }
    }

    #[test]
    fn numbers_of_floating_addresses_are_none_of_instances() {
        assert_eq!(stored_id(shown_id(7)), Some(7));
        assert_eq!((stored_id(7), instance_of(7), instance_of(shown_id(7))), (None, Some(7), None));
    }

    proptest! {
        #[test]
        fn every_address_of_a_pool_lies_in_it(network: u32, prefix in 8_u8..=28) {
            let network = Ipv4Addr::from_bits(network & mask(prefix));
            if let Ok(found) = pool(json!({"networkAddress": network, "cidrSize": prefix})) {
                let (mut fields, mut count) = (Map::new(), 0);
                found.write(&mut fields);
                prop_assert_eq!(Pool::asked(&fields).unwrap(), found);
                for address in found.addresses().take(300) {
                    prop_assert!(overlap((address, 32), (network, prefix)) && address != found.gateway);
                    count += 1;
                }
                prop_assert!(count > 7);
            }
        }

        #[test]
        fn networks_overlap_both_ways(one: u32, other: u32, a in 8_u8..=32, b in 8_u8..=32) {
            let (one, other) = ((Ipv4Addr::from_bits(one & mask(a)), a), (Ipv4Addr::from_bits(other & mask(b)), b));
            prop_assert_eq!(overlap(one, other), overlap(other, one));
            prop_assert!(overlap(one, one));
        }
    }
}
