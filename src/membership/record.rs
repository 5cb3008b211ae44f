//! What hosts write of themselves: `host/<name>` for good, `alive/<name>` under the host's one lease.

use crate::environment::Timestamp;
use crate::resource::{Resource, State, Transitioning};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// `host/<name>`: who a host is and what it has. Written by that host alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// On the wire `1h<id>`.
    pub id: u64,
    /// The resource's uuid in the API.
    pub uuid: String,
    pub name: String,
    /// Random, made once, kept on the host's disk: tells two hosts of one name apart.
    pub identity: String,
    pub machine_id: String,
    pub created: Timestamp,
    /// The operator's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it takes new instances.
    #[serde(default)]
    pub cordoned: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    pub capacity: Capacity,
    /// What is installed: `stampede`, `docker`, `kernel`, `systemd`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
}

/// What a host can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Capability {
    Container,
    VirtualMachine,
    /// The managed network.
    Network,
}

/// What a host has in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Capacity {
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    pub memory_mb: u64,
    pub disk_mb: u64,
}

/// `alive/<name>`: there as long as the host's lease is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alive {
    pub identity: String,
    /// Counts the agent's leases since the host joined.
    pub incarnation: u64,
    pub boot_id: String,
    /// Where other agents reach this one: `198.18.0.1:9080`.
    pub address: String,
}

impl Host {
    /// As the API shows it. `alive` is its liveness record, if its lease lives.
    pub fn resource(&self, alive: Option<&Alive>) -> Resource {
        let state = match (alive, self.cordoned) {
            (None, _) => State::Disconnected,
            (Some(_), true) => State::Inactive,
            (Some(_), false) => State::Active,
        };
        let mut fields = Map::new();
        fields.insert("hostname".into(), json!(self.name));
        fields.insert("computeTotal".into(), json!(self.capacity.cpu_millis));
        fields.insert("memoryMb".into(), json!(self.capacity.memory_mb));
        fields.insert("labels".into(), json!(self.labels));
        fields.insert("capabilities".into(), json!(self.capabilities));
        fields.insert("versions".into(), json!(self.versions));
        fields.insert("agentAddress".into(), alive.map_or(Value::Null, |alive| json!(alive.address)));
        Resource {
            id: self.id,
            kind: "host".into(),
            uuid: self.uuid.clone(),
            name: Some(self.name.clone()),
            description: self.description.clone(),
            account_id: None,
            created: self.created,
            removed: None,
            remove_time: None,
            state,
            transitioning: Transitioning::No,
            transitioning_message: None,
            transitioning_progress: None,
            generation: 0,
            data: Map::new(),
            fields,
        }
    }
}
