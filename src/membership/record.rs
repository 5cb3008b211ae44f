//! What hosts write of themselves: `host/<name>` for good, `alive/<name>` under the host's one lease.

use crate::environment::Timestamp;
use crate::resource::{Resource, State, Transitioning, derived};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// `host/<name>`: who a host is and what it has. Written by that host alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
    /// That it is being emptied, or was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// As its configuration has them; what counts is [`Host::labels`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The operator's, laid over those.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels_set: BTreeMap<String, String>,
    /// Those of the configuration that the operator took away.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub labels_hidden: BTreeSet<String>,
    #[serde(default)]
    pub capabilities: BTreeSet<Capability>,
    pub capacity: Capacity,
    #[serde(default)]
    pub overcommit: Overcommit,
    /// What is installed: `stampede`, `docker`, `kernel`, `systemd`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versions: BTreeMap<String, String>,
    /// What of it is not as it should be, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Which cluster secrets it has ([`super::trust::keyring`]); `None` where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<SecretNames>,
    /// What its agent speaks ([`super::protocol`]); 0 of one before there were numbers.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub protocol: u32,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The cluster secrets of a host, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretNames {
    pub used: String,
    /// The one that is to follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// The one before, which is good for a while yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
}

/// By reference, as serde hands it over.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a host can run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Capability {
    Container,
    VirtualMachine,
    /// The managed network.
    Network,
    /// Instances that are only said to run (`sim:` images).
    Simulated,
    /// What a newer version offers.
    #[serde(untagged)]
    Other(String),
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

/// That what may move is to leave a host, and how far that is. It takes nothing new meanwhile and after.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Drain {
    pub since: Timestamp,
    /// As many instances may be on their way at once.
    pub at_once: usize,
    /// Those that stay are stopped, and started again when the host is activated.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stop_staying: bool,
    /// For the end of this boot: with the next one it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Whether it took nothing new before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub was_cordoned: bool,
    /// Instances on their way: told to leave, and not yet running elsewhere.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub moving: BTreeSet<u64>,
    pub moved: usize,
    pub left: usize,
    pub message: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
    /// What is left has no place to go to, for now.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stuck: bool,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Drain {
    /// In percent.
    fn progress(&self) -> u8 {
        let all = self.moved + self.left + self.moving.len();
        (self.moved * 100).checked_div(all).and_then(|part| u8::try_from(part).ok()).unwrap_or(0)
    }
}

/// How much of a host may be promised, in hundredths of what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Overcommit {
    pub cpu: u32,
    pub memory: u32,
    pub disk: u32,
}

impl Default for Overcommit {
    /// Processors are promised many times over, since they are shared by weight; memory and disk once.
    fn default() -> Self {
        Self { cpu: 1600, memory: 100, disk: 100 }
    }
}

impl Capacity {
    /// What may be promised of it.
    #[must_use]
    pub fn promisable(self, overcommit: Overcommit) -> Self {
        let part = |has: u64, hundredths: u32| has.saturating_mul(u64::from(hundredths)) / 100;
        Self {
            cpu_millis: part(self.cpu_millis, overcommit.cpu),
            memory_mb: part(self.memory_mb, overcommit.memory),
            disk_mb: part(self.disk_mb, overcommit.disk),
        }
    }
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
    /// Its labels: the configuration's, with what the operator laid over them.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.labels.clone();
        labels.retain(|key, _| !self.labels_hidden.contains(key));
        labels.extend(self.labels_set.clone());
        labels
    }

    /// Lays `wanted` over what the configuration says: these labels and no others.
    pub fn relabel(&mut self, wanted: &BTreeMap<String, String>) {
        self.labels_set = wanted.clone();
        self.labels_set.retain(|key, value| self.labels.get(key) != Some(value));
        self.labels_hidden = self.labels.keys().filter(|key| !wanted.contains_key(*key)).cloned().collect();
    }

    /// As the API shows it. `alive` is its liveness record, if its lease lives.
    pub fn resource(&self, alive: Option<&Alive>) -> Resource {
        let state = match (alive, self.cordoned, &self.drain) {
            (None, ..) => State::Disconnected,
            (Some(_), _, Some(drain)) if !drain.done => State::Draining,
            (Some(_), true, _) => State::Inactive,
            (Some(_), false, _) => State::Active,
        };
        let draining = self.drain.as_ref().filter(|_| state == State::Draining);
        let mut fields = Map::new();
        fields.insert("hostname".into(), json!(self.name));
        // Each host is one machine with one agent.
        fields.insert("agentId".into(), json!(self.id));
        fields.insert("physicalHostId".into(), json!(self.id));
        if let Some(zone) = self.labels().get("zone") {
            fields.insert("zoneId".into(), json!(derived::number(zone)));
        }
        fields.insert("computeTotal".into(), json!(self.capacity.cpu_millis));
        fields.insert("memoryMb".into(), json!(self.capacity.memory_mb));
        fields.insert("labels".into(), json!(self.labels()));
        fields.insert("capabilities".into(), json!(self.capabilities));
        fields.insert("versions".into(), json!(self.versions));
        fields.insert("warnings".into(), json!(self.warnings));
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
            transitioning: if draining.is_some() { Transitioning::Yes } else { Transitioning::No },
            transitioning_message: self.drain.as_ref().map(|drain| drain.message.clone()),
            transitioning_progress: draining.map(Drain::progress),
            generation: 0,
            data: Map::new(),
            fields,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_s_labels_lie_over_the_configuration_s() {
        let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let mut host = Host { labels: labels(&[("zone", "a"), ("disk", "ssd")]), ..Host::default() };
        host.relabel(&labels(&[("zone", "b"), ("rack", "7")]));
        assert_eq!(host.labels(), labels(&[("zone", "b"), ("rack", "7")]));
        // A new key in the configuration shows; one that was taken away stays so.
        host.labels = labels(&[("zone", "c"), ("disk", "nvme"), ("gpu", "true")]);
        assert_eq!(host.labels(), labels(&[("zone", "b"), ("rack", "7"), ("gpu", "true")]));
        host.relabel(&host.labels.clone());
        assert!(host.labels_set.is_empty() && host.labels_hidden.is_empty());
    }

    #[test]
    fn what_a_newer_version_wrote_stays() {
        let text = json!({
            "id": 1, "uuid": "u", "name": "h1", "identity": "i", "machineId": "m", "created": 5, "cordoned": false,
            "drain": {"since": 5, "atOnce": 4, "moved": 0, "left": 0, "message": "", "pace": {"perMinute": 3}},
            "capabilities": ["container", "quantumComputer"],
            "capacity": {"cpuMillis": 1, "memoryMb": 2, "diskMb": 3},
            "overcommit": {"cpu": 1600, "memory": 100, "disk": 100},
            "protocol": 9, "rack": {"unit": 7},
        });
        let host: Host = serde_json::from_value(text.clone()).unwrap();
        assert!(host.capabilities.contains(&Capability::Container));
        assert_eq!(serde_json::to_value(&host).unwrap(), text);
    }

    #[test]
    fn what_may_be_promised() {
        let has = Capacity { cpu_millis: 2000, memory_mb: 1000, disk_mb: 10 };
        let most = has.promisable(Overcommit { cpu: 400, memory: 90, disk: 100 });
        assert_eq!(most, Capacity { cpu_millis: 8000, memory_mb: 900, disk_mb: 10 });
    }
}
