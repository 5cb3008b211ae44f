//! What there is to tell an instance: of its place and its name from what its host was told to run, the rest from its row.

use crate::resource::assignment::Assignment;
use crate::resource::ssh_key::SshKey as Key;
use crate::resource::{Resource, dns_name, identifier, instance};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Where a host has no label `zone`.
pub const NO_ZONE: &str = "default";

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// `1i54`.
    pub id: String,
    pub uuid: String,
    pub hostname: String,
    pub place: Place,
    /// What the store alone knows; `None` while it cannot be asked.
    pub row: Option<Row>,
}

/// Where it is on the managed network.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub address: Ipv4Addr,
    pub network: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    pub mac: String,
    pub mtu: u32,
}

/// What its row says, and those that it refers to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    pub name: Option<String>,
    /// `container`, `virtualMachine`.
    pub kind: String,
    /// `1i7`, an image's id.
    pub image: Option<String>,
    /// `1a1`.
    pub account: Option<String>,
    pub keys: Vec<Key>,
    pub userdata: Option<Bytes>,
    pub zone: String,
    pub labels: BTreeMap<String, String>,
    /// The address at which it is known outside, where it has one.
    pub public: Option<Ipv4Addr>,
}

impl Facts {
    /// Without what the store knows; `None` of what is not on the managed network.
    pub fn of(assignment: &Assignment) -> Option<Self> {
        let network = assignment.network.as_ref()?;
        let by_address = || dns_name::of_address(network.address);
        Some(Self {
            id: assignment.id.clone(),
            uuid: assignment.uuid.clone(),
            hostname: assignment.workload.hostname().map_or_else(by_address, str::to_owned),
            place: Place {
                address: network.address,
                network: Ipv4Addr::from(u32::from(network.address) & u32::from(mask(network.prefix))),
                prefix: network.prefix,
                gateway: network.gateway,
                mac: network.mac.clone(),
                mtu: network.mtu,
            },
            row: None,
        })
    }

    /// About how much memory it takes.
    pub fn size(&self) -> usize {
        let Some(row) = &self.row else { return 1024 };
        let keys: usize = row.keys.iter().map(|key| key.name.len() + key.value.len()).sum();
        let labels: usize = row.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        1024 + keys + labels + row.userdata.as_ref().map_or(0, Bytes::len)
    }
}

impl Row {
    pub fn of(instance: &Resource, keys: Vec<Key>, zone: Option<String>) -> Self {
        let userdata = instance.get::<String>(instance::USERDATA).filter(|userdata| !userdata.is_empty());
        Self {
            name: instance.name.clone(),
            kind: instance.kind.clone(),
            image: instance.get(instance::IMAGE_ID).map(|id| identifier::format("image", id)),
            account: instance.account_id.map(|id| identifier::format("account", id)),
            keys,
            userdata: userdata.map(Bytes::from),
            zone: zone.filter(|zone| !zone.is_empty()).unwrap_or_else(|| NO_ZONE.to_owned()),
            labels: instance.get(crate::resource::constraint::LABELS).unwrap_or_default(),
            public: instance.get(instance::PUBLIC_ADDRESS),
        }
    }
}

/// `255.255.0.0` for 16.
pub fn mask(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0))
}
