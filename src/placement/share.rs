//! How an instance that has a host comes to more of it, or gives some back.

use super::Writes;
use super::filter::{Refusal, room};
use super::record::{Allocation, Promise};
use crate::membership::record::Host;
use crate::resource::{Resource, identifier};
use crate::store::{self, Compare, Entry, Operation, key};
use std::sync::Arc;

/// Why an instance cannot have as much of its host.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    #[error("{0}")]
    Refused(Refusal),
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What makes `host`'s promise to `instance` be what that asks for, as long as nothing is promised meanwhile; `entry` is what was found of
/// the host's promises.
///
/// # Errors
/// [`ShareError::Refused`] where more is asked for than there is.
pub fn hold(host: &Host, entry: Option<Entry>, instance: &Resource) -> Result<Writes, ShareError> {
    let (id, alloc) = (identifier::instance(instance.id), key::alloc(&host.name));
    let mut allocation: Allocation = entry.as_ref().map(store::decode).transpose()?.unwrap_or_default();
    let known = allocation.instances.remove(&id).map(Arc::unwrap_or_clone).unwrap_or_default();
    let (before, share) = (known.share, Promise::of(instance).share);
    let more =
        share.memory_mb > before.memory_mb || share.cpu_millis > before.cpu_millis || share.disk_mb > before.disk_mb;
    if more {
        let capacity = host.capacity.promisable(host.overcommit);
        room(capacity, allocation.sum(), share).map_err(ShareError::Refused)?;
    }
    // All else that is promised to it stays.
    let promise = if known == Promise::default() { Promise::of(instance) } else { Promise { share, ..known } };
    allocation.instances.insert(id, Arc::new(promise));
    let unchanged = match entry {
        Some(entry) => Compare::ModRevision { key: alloc.clone(), revision: entry.mod_revision },
        None => Compare::Absent { key: alloc.clone() },
    };
    let put = Operation::put(&alloc, store::encode(&alloc, &allocation)?);
    Ok(Writes { compares: vec![unchanged], operations: vec![put] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Revision;
    use serde_json::json;

    fn held(memory: u64, promised: u64) -> Result<Writes, ShareError> {
        let host = json!({"id": 7, "uuid": "u", "name": "h1", "identity": "i", "machineId": "m", "created": 5,
            "capacity": {"cpuMillis": 4000, "memoryMb": 1000, "diskMb": 100}});
        let row = json!({"id": 5, "kind": "virtualMachine", "uuid": "u", "created": 1, "state": "stopped", "vcpu": 1, "memoryMb": memory});
        let alloc = json!({"instances": {"1i4": {"memoryMb": 400, "cpuMillis": 0}, "1i5": {"memoryMb": promised, "cpuMillis": 1000, "name": "web"}}});
        let entry = Entry {
            key: key::alloc("h1"),
            value: serde_json::to_vec(&alloc).unwrap().into(),
            create_revision: Revision(1),
            mod_revision: Revision(2),
            lease: None,
        };
        hold(&serde_json::from_value(host).unwrap(), Some(entry), &serde_json::from_value(row).unwrap())
    }

    #[test]
    fn no_more_than_there_is_is_promised() {
        let written = |writes: Writes| match &writes.operations[..] {
            [Operation::Put { value, .. }] => serde_json::from_slice::<Allocation>(value).unwrap(),
            other => panic!("{other:?}"),
        };
        let allocation = written(held(600, 200).unwrap());
        assert_eq!(allocation.sum().memory_mb, 1000);
        assert_eq!(allocation.instances["1i5"].name.as_deref(), Some("web"), "all else stays");
        assert!(matches!(held(601, 200), Err(ShareError::Refused(_))));
        // Less is taken also where too much was promised before.
        assert!(held(700, 800).is_ok());
    }
}
