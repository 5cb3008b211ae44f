//! What placement writes: the claim `on/<host>/<instance>` and the sums `alloc/<host>`.

use crate::resource::assignment::Token;
use crate::resource::constraint::{self, Constraint};
use crate::resource::{Resource, instance, port};
use crate::store::Revision;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// What a container counts for where it says nothing of memory; a promise, no limit.
const MEMORY_MB: u64 = 64;

/// `on/<host>/<instance>`: this host, and no other, runs the instance. Its create_revision is part of the token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Number of the instance.
    pub id: u64,
    pub uuid: String,
    /// The resource's generation that the host is to bring about; written whenever that grows, which wakes the host.
    pub generation: u64,
    /// Its host was not chosen: somebody made it there with Docker alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub native: bool,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The token of a claim.
pub fn token(cluster_generation: u64, create_revision: Revision) -> Token {
    Token { generation: cluster_generation, revision: create_revision.0 }
}

/// Amounts that one instance takes of its host, or several in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Share {
    pub memory_mb: u64,
    /// Thousandths of a processor.
    pub cpu_millis: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub disk_mb: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Share {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            memory_mb: self.memory_mb.saturating_add(other.memory_mb),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            disk_mb: self.disk_mb.saturating_add(other.disk_mb),
        }
    }
}

/// All that is promised to one instance, and what others that come to its host must know of it: whoever places there compares
/// `alloc/<host>`, so that nothing is decided on what changed meanwhile.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Promise {
    #[serde(flatten)]
    pub share: Share,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Whom it will not have beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub avoids: Vec<Constraint>,
    /// Public ports of the host that are its own: `80/tcp`.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub ports: BTreeSet<String>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl From<Share> for Promise {
    fn from(share: Share) -> Self {
        Self { share, ..Self::default() }
    }
}

/// What an instance with these fields takes of a host's memory: what it reserves, else its limit.
pub fn memory_mb(field: impl Fn(&str) -> Option<u64>) -> u64 {
    let told = [instance::MEMORY_RESERVATION_MB, instance::MEMORY_LIMIT_MB, instance::MEMORY_MB];
    told.into_iter().find_map(field).unwrap_or(MEMORY_MB)
}

impl Promise {
    /// What `instance` asks for.
    pub fn of(instance: &Resource) -> Self {
        let number = |field: &str| instance.get::<u64>(field);
        // Nobody was asked whether there is room for what Docker started by itself: only its limits count.
        let native = instance::is_native(instance);
        let memory_mb = if native { number(instance::MEMORY_LIMIT_MB).unwrap_or(0) } else { memory_mb(number) };
        Self {
            share: Share {
                memory_mb,
                cpu_millis: number(instance::COMPUTE).or_else(|| Some(number(instance::VCPU)? * 1000)).unwrap_or(0),
                disk_mb: number(instance::DISK_MB).unwrap_or(0),
            },
            name: instance.name.clone(),
            labels: instance.get(constraint::LABELS).unwrap_or_default(),
            avoids: constraints(instance, constraint::ANTI_AFFINITY).into_iter().filter(|one| !one.soft).collect(),
            ports: port::promised(instance),
            rest: Map::new(),
        }
    }

    /// What it is one of many of: its labels, or its name where it has none.
    pub fn group(&self) -> Option<String> {
        if self.labels.is_empty() {
            return self.name.clone();
        }
        let pairs: Vec<String> = self.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        Some(pairs.join(","))
    }
}

/// What an instance's field asks; what cannot be read was written by something newer and is passed over.
pub fn constraints(instance: &Resource, field: &str) -> Vec<Constraint> {
    let texts: Vec<String> = instance.get(field).unwrap_or_default();
    texts.iter().filter_map(|text| Constraint::parse(text).ok()).collect()
}

/// `alloc/<host>`: what is promised, by instance (`1i54`).
///
/// A copy shares the promises of what it is a copy of.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Allocation {
    pub instances: BTreeMap<String, Arc<Promise>>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Allocation {
    /// The sum of all shares.
    pub fn sum(&self) -> Share {
        self.instances.values().fold(Share::default(), |sum, promise| sum.and(promise.share))
    }

    /// Another number where other public ports are promised.
    pub fn ports_digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.instances.values().flat_map(|promise| &promise.ports).for_each(|port| port.hash(&mut hasher));
        hasher.finish()
    }
}

// Read by hand: what serde makes of `flatten` keeps every value twice on its way, and whoever places reads these records all
// the time.

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum PromiseField {
    MemoryMb,
    CpuMillis,
    DiskMb,
    Name,
    Labels,
    Avoids,
    Ports,
    Other(String),
}

impl<'de> Deserialize<'de> for Promise {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Promise;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("what is promised to an instance")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Promise, A::Error> {
                let mut promise = Promise::default();
                while let Some(field) = map.next_key()? {
                    match field {
                        PromiseField::MemoryMb => promise.share.memory_mb = map.next_value()?,
                        PromiseField::CpuMillis => promise.share.cpu_millis = map.next_value()?,
                        PromiseField::DiskMb => promise.share.disk_mb = map.next_value()?,
                        PromiseField::Name => promise.name = map.next_value()?,
                        PromiseField::Labels => promise.labels = map.next_value()?,
                        PromiseField::Avoids => promise.avoids = map.next_value()?,
                        PromiseField::Ports => promise.ports = map.next_value()?,
                        PromiseField::Other(field) => drop(promise.rest.insert(field, map.next_value()?)),
                    }
                }
                Ok(promise)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum AllocationField {
    Instances,
    Other(String),
}

impl<'de> Deserialize<'de> for Allocation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Allocation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("what is promised of a host")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Allocation, A::Error> {
                let mut allocation = Allocation::default();
                while let Some(field) = map.next_key()? {
                    match field {
                        AllocationField::Instances => allocation.instances = map.next_value()?,
                        AllocationField::Other(field) => drop(allocation.rest.insert(field, map.next_value()?)),
                    }
                }
                Ok(allocation)
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_version_wrote_is_read_and_what_a_newer_one_wrote_stays() {
        let old = r#"{"instances":{"1i5":{"memoryMb":64,"cpuMillis":0}}}"#;
        let allocation: Allocation = serde_json::from_str(old).unwrap();
        assert_eq!(allocation.sum().memory_mb, 64);
        assert_eq!(serde_json::to_string(&allocation).unwrap(), old);
        let new = r#"{"instances":{"1i5":{"memoryMb":64,"cpuMillis":0,"ports":["80/tcp"],"gpus":1}},"later":2}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Allocation>(new).unwrap()).unwrap(), new);
    }

    #[test]
    fn what_is_counted() {
        let instance = |fields: Value| -> Resource {
            let mut row =
                serde_json::json!({"id": 7, "kind": "container", "uuid": "u", "created": 1, "state": "creating"});
            row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            serde_json::from_value(row).unwrap()
        };
        let memory = |fields| Promise::of(&instance(fields)).share.memory_mb;
        assert_eq!(memory(serde_json::json!({})), 64);
        assert_eq!(memory(serde_json::json!({"memoryLimitMb": 512})), 512);
        assert_eq!(memory(serde_json::json!({"memoryLimitMb": 512, "memoryReservationMb": 100})), 100);
        let promise = Promise::of(&instance(serde_json::json!({
            "name": "web", "labels": {"b": "2", "a": "1"}, "antiAffinity": ["app=db", "app~=web", "?"]})));
        assert_eq!(promise.avoids.len(), 1);
        assert_eq!(promise.group().as_deref(), Some("a=1,b=2"));
    }
}
