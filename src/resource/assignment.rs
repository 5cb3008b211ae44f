//! What a host is to run: the part of an instance that its host needs, complete, so that it can be run with nobody to
//! ask. It lies in the host's ledger, is read by the instance's supervisor and by the network driver, and is written by
//! the agent alone.

use super::link;
use super::port::Protocol;
use super::ssh_key::SshKey;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// Who may run an instance: the claim that was won. Compared for equality; which of two that one host wrote down is the later is
/// asked only where there is no store to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// The cluster's generation.
    pub generation: u64,
    /// The create_revision of `on/<host>/<instance>`.
    pub revision: i64,
}

/// What an instance should be doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Desired {
    Running,
    Stopped,
    /// Nothing of it is left on any host.
    Purged,
}

/// What follows when an instance ends by itself (`instanceTriggeredStop`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnEnd {
    #[default]
    Stop,
    Restart,
    Remove,
}

/// What is to become of an instance whose host is gone (`onHostLoss`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnHostLoss {
    /// It waits for its host.
    #[default]
    Stay,
    /// It is started on another host, and ends here before that: it is exclusive.
    Move,
}

/// That an instance must never run twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exclusive {
    /// The life of the host (the create_revision of its `alive/`) in which it may run; 0 where it was never allowed to.
    pub life: i64,
}

/// One ledger file: `/var/lib/stampede/instance/<id>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// As on the wire: `1i54`.
    pub id: String,
    pub uuid: String,
    pub token: Token,
    /// The resource's generation that this was made from.
    pub generation: u64,
    /// Grows when it is to be stopped and started again.
    #[serde(default)]
    pub restarts: u64,
    pub desired: Desired,
    #[serde(default)]
    pub on_end: OnEnd,
    /// Docker's id of a container that somebody made with Docker alone ([`super::native`]): no supervisor stands by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native: Option<String>,
    /// It runs no longer than this host's lease is known to live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclusive: Option<Exclusive>,
    pub workload: Workload,
    /// Whose it is: what it may ask of its host. `None` in ledgers of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<u64>,
    /// Its place on the managed network; `None` on Docker's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<ManagedAddress>,
    /// What of it is published on its host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublicPort>,
    /// Which addresses of other networks lead to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floating: Vec<AssignedFloating>,
    /// Whom it reaches by a name of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<AssignedLink>,
}

impl Assignment {
    /// A container's variables: of its links, and as it was asked for, which outdoes them.
    pub fn environment(&self, container: &Container) -> BTreeMap<String, String> {
        let gateway = self.network.as_ref().map(|network| network.gateway);
        let mut variables = BTreeMap::new();
        for (link, address) in self.links.iter().filter_map(|link| Some((link, gateway?))) {
            let ports = link.ports.iter().map(|port| (port.protocol, port.public, port.private));
            variables.extend(link::environment(&link.name, address, ports));
        }
        variables.extend(container.environment.clone());
        variables
    }

    /// On the managed network.
    pub fn address(&self) -> Option<Ipv4Addr> {
        self.network.as_ref().map(|network| network.address)
    }
}

#[cfg(test)]
impl Assignment {
    /// A container that is to run, on Docker's own network.
    pub fn example(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            uuid: "u".to_owned(),
            token: Token { generation: 1, revision: 10 },
            generation: 1,
            restarts: 0,
            desired: Desired::Running,
            on_end: OnEnd::Stop,
            native: None,
            exclusive: None,
            workload: Workload::Container(Container { image: "busybox".into(), ..Container::default() }),
            account: None,
            network: None,
            ports: Vec::new(),
            floating: Vec::new(),
            links: Vec::new(),
        }
    }
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Workload {
    Container(Container),
    VirtualMachine(Machine),
}

impl Workload {
    /// What it is called within; `None` where that follows from its address.
    pub fn hostname(&self) -> Option<&str> {
        match self {
            Self::Container(container) => container.hostname.as_deref(),
            Self::VirtualMachine(machine) => machine.hostname.as_deref(),
        }
    }

    pub const fn is_machine(&self) -> bool {
        matches!(self, Self::VirtualMachine(_))
    }
}

/// A virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// The instance's name, if it has one; the domain is called `<name>-<id>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// What its disk is a clone of.
    pub image: MachineImage,
    /// Processors.
    pub vcpu: u32,
    /// Mebibytes.
    pub memory_mb: u64,
    /// Its disk in mebibytes, where that is to be larger than its image.
    #[serde(skip_serializing_if = "is_zero")]
    pub disk_mb: u64,
    /// The layers of its disk, from what is written to down to the first; none where it is the first alone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<u32>,
    /// Its data volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<MachineVolume>,
    /// What else it is told by its config drive.
    pub told: GuestData,
}

/// A data volume of a virtual machine, which is on its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineVolume {
    /// `1v55`: its file is called after it, and so is the disk for the guest.
    pub name: String,
    /// Its place, from 1 on: `/dev/vdc`, as a rule.
    pub slot: u8,
    /// As [`Machine::layers`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<u32>,
}

/// What a virtual machine's disk is made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineImage {
    /// The number of its row.
    pub id: u64,
    /// Where it is fetched from: `http:` or `https:`.
    pub url: String,
    /// Of what is fetched, before it is unpacked: `sha256:…`, or the digits alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
}

/// What a config drive says beside an instance's place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GuestData {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userdata: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<SshKey>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Its host's label `zone`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// A Docker container. Empty and `None` mean: as the image says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// The instance's name, if it has one; the container is called `<name>-<id>`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A reference as Docker takes it: `busybox`, `nginx:1.27`, `host/path@sha256:…`.
    pub image: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// As `docker run -v` takes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Mebibytes; 0 is no limit.
    #[serde(skip_serializing_if = "is_zero")]
    pub memory_mb: u64,
    /// Of a simulated one: the events that fail.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub faults: BTreeSet<String>,
}

/// An address on the managed network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManagedAddress {
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix in bits (16).
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    /// `02:00:01:00:xx:yy`.
    pub mac: String,
    /// The overlay's MTU in bytes.
    pub mtu: u32,
}

/// A port of an instance that its host opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublicPort {
    pub protocol: Protocol,
    pub public: u16,
    pub private: u16,
}

/// A floating address of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedFloating {
    /// The number of its row.
    pub id: u64,
    pub address: Ipv4Addr,
}

/// A link of an instance, as its host has to know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AssignedLink {
    pub name: String,
    /// The instance that it leads to: `1i54`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The target's ports; the public ones are found at the network's gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublicPort>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}
