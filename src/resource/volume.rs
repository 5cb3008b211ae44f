//! Data volumes: disks of virtual machines that are there by themselves, and stay on the host that they were made on.
//!
//! ```text
//! create ──► inactive ──instanceId: 1i54──► activating ──its host has made it, and the guest has it──► active
//!               ▲                                                                                        │
//!               └──── the guest has let go of it ──── deactivating ◄───────────instanceId: null──────────┘
//! inactive ──remove──► removed ──60 s──► purging ──its host──► purged
//! ```
//! Both rows say what is attached: the volume's ([`INSTANCE`]) and the instance's ([`ATTACHED`]). A disk is one instance's from the
//! moment it is asked for until its guest has let go of it.

use super::Resource;
use super::{identifier, instance};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// They are stored under it, with numbers of the instances' counter: no two volumes have one number, be they an instance's own or not.
pub const BASE: &str = "dataVolume";
/// The type that they are shown as.
pub const SHOWN: &str = "volume";
/// Of an instance's row: what is attached to it.
pub const ATTACHED: &str = "dataVolumes";
/// The number of the instance that it is attached to.
pub const INSTANCE: &str = "instanceId";
pub const SIZE_MB: &str = "virtualSizeMb";
/// Its place at its instance, from 1 on.
pub const SLOT: &str = "deviceNumber";
pub const ATTACHED_STATE: &str = "attachedState";
pub const ALLOCATION_STATE: &str = "allocationState";
pub const FORMAT: &str = "format";
/// Most of one instance: as many places are kept free for them.
pub const MOST: u8 = 8;
/// The largest, in mebibytes.
pub const LARGEST_MB: i64 = 64 << 20;

/// What a volume is called on its host and by its guest: as on the wire, `1v55`.
pub fn name(id: u64) -> String {
    identifier::format(SHOWN, id)
}

/// A volume that an instance has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attached {
    /// The volume's number.
    pub id: u64,
    pub slot: u8,
    /// It is made, and the guest is to have it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ready: bool,
    /// From what is written to down to the first, where it is not the first alone ([`super::snapshot`]).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<u32>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Those of an instance; what cannot be read was written by something newer, and is passed over.
pub fn of(instance: &Resource) -> Vec<Attached> {
    let list = instance.fields.get(ATTACHED).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|one| Attached::deserialize(one).ok()).collect()
}

pub fn set(instance: &mut Resource, all: &[Attached]) {
    instance.set(ATTACHED, if all.is_empty() { Value::Null } else { json!(all) });
}

/// The first place that nothing is at; `None` where all are taken.
pub fn free_slot(all: &[Attached]) -> Option<u8> {
    (1..=MOST).find(|slot| all.iter().all(|one| one.slot != *slot))
}

/// The number of the instance that a volume is attached to.
pub fn instance_of(volume: &Resource) -> Option<u64> {
    volume.get(INSTANCE)
}

/// The host that it is on; `None` where it is on none yet.
pub fn host(volume: &Resource) -> Option<String> {
    volume.get(instance::HOST_NAME)
}

/// Whether a row that is shown is a data volume; an instance's own disk is changed with that.
pub fn is_data(shown: &Resource) -> bool {
    shown.get::<u64>(SLOT) != Some(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_given_once() {
        let at = |slot| Attached { id: u64::from(slot), slot, ready: true, layers: Vec::new(), rest: Map::new() };
        assert_eq!(free_slot(&[]), Some(1));
        assert_eq!(free_slot(&[at(1), at(3)]), Some(2));
        assert_eq!(free_slot(&(1..=MOST).map(at).collect::<Vec<_>>()), None);
        assert_eq!(name(55), "1v55");
    }
}
