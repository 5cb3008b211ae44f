//! What there is to tell an instance: of its place and its name from what its host was told to run, the rest from its row.

use crate::network::subnet::SubnetSpec;
use crate::resource::assignment::{Assignment, Workload};
use crate::resource::{Resource, State, dns_name, identifier, instance};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Where a host has no label `zone`.
pub const NO_ZONE: &str = "default";
/// The kind of credential that is told: of other kinds there is a secret.
const SSH_KEY: &str = "sshKey";
/// The public half.
const PUBLIC: &str = "publicValue";

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

/// The public half of an SSH key.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    pub name: String,
    pub value: String,
}

impl Facts {
    /// Without what the store knows; `None` of what is not on the managed network.
    pub fn of(assignment: &Assignment, subnet: &SubnetSpec) -> Option<Self> {
        let network = assignment.network.as_ref()?;
        let Workload::Container(container) = &assignment.workload;
        let by_address = || dns_name::of_address(network.address);
        Some(Self {
            id: assignment.id.clone(),
            uuid: assignment.uuid.clone(),
            hostname: container.hostname.clone().unwrap_or_else(by_address),
            place: Place {
                address: network.address,
                network: subnet.network,
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

impl Key {
    /// A credential as it is told to an instance of `account`; `None` where it is not to be.
    pub fn of(credential: &Resource, account: Option<u64>) -> Option<Self> {
        let told = credential.kind == SSH_KEY && credential.state == State::Active && credential.account_id == account;
        let value = credential.get::<String>(PUBLIC).filter(|_| told)?;
        let name = credential.name.as_deref().map(one_word).filter(|name| !name.is_empty());
        let by_id = || format!("key-{}", credential.id);
        Some(Self { name: name.unwrap_or_else(by_id), value: value.trim().to_owned() })
    }
}

/// A name that is one line, and one part of a path.
fn one_word(name: &str) -> String {
    name.trim().chars().map(|letter| if letter.is_control() || "/=".contains(letter) { '_' } else { letter }).collect()
}
