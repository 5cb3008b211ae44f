//! What every cluster has from the start: the accounts, the two networks, and the managed one's subnet.

use super::image::resource;
use super::{Draft, ServiceError};
use crate::environment::Environment;
use crate::membership::Cluster;
use crate::resource::{State, instance};
use crate::store::{Operation, Store, Transaction, decode, encode, key};
use serde_json::{Map, Value, json};
use std::net::Ipv4Addr;

/// The account that may do everything.
pub const ADMIN: u64 = 1;
/// The account that owns what is everybody's.
pub const SYSTEM: u64 = 2;
/// Docker's own network, or for virtual machines libvirt's.
pub const UNMANAGED: u64 = 1;
/// The private network over all hosts.
pub const MANAGED: u64 = instance::MANAGED_NETWORK;

/// Makes them where they are not there yet; counters start behind them.
pub async fn seed(store: &dyn Store, environment: &Environment) -> Result<(), ServiceError> {
    let account = |kind: &str, uuid: &str| Draft {
        kind: kind.into(),
        uuid: Some(uuid.into()),
        name: Some(uuid.into()),
        ..Draft::default()
    };
    let network = |kind: &str, uuid: &str, name: &str| {
        let fields = Map::from_iter([("isPublic".to_owned(), Value::Bool(true))]);
        Draft {
            kind: kind.into(),
            uuid: Some(uuid.into()),
            name: Some(name.into()),
            account_id: Some(SYSTEM),
            fields,
            ..Draft::default()
        }
    };
    let mut seeds = vec![
        ("account", ADMIN, account("admin", "admin")),
        ("account", SYSTEM, account("system", "system")),
        ("network", UNMANAGED, network("network", "unmanaged", "Unmanaged Network")),
        ("network", MANAGED, network("hostOnlyNetwork", "managed-docker0", "Managed Network on docker0")),
    ];
    if let Some(cluster) = store.get(&key::cluster()).await?.entry {
        let addresses = decode::<Cluster>(&cluster)?.subnet;
        let first = u32::from(addresses.address);
        let size = 1_u32.checked_shl(32 - u32::from(addresses.prefix)).unwrap_or(u32::MAX);
        let at = |offset: u32| Value::from(Ipv4Addr::from(first.saturating_add(offset)).to_string());
        let fields = [
            ("isPublic", Value::Bool(true)),
            ("networkId", Value::from(MANAGED)),
            ("networkAddress", Value::from(addresses.address.to_string())),
            ("cidrSize", Value::from(addresses.prefix)),
            ("gateway", at(1)),
            ("startAddress", at(2)),
            ("endAddress", at(size.saturating_sub(2))),
        ];
        let draft = Draft {
            kind: "subnet".into(),
            uuid: Some("managed-docker0-subnet".into()),
            account_id: Some(SYSTEM),
            fields: fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(),
            ..Draft::default()
        };
        seeds.push(("subnet", instance::MANAGED_SUBNET, draft));
    }
    for (base, id, draft) in seeds {
        let row = key::resource(base, id);
        let name = key::uuid(draft.uuid.as_deref().unwrap_or_default());
        let resource = resource(id, draft, environment, State::Active, environment.clock.now());
        let transaction = Transaction::new()
            .absent(&row)
            .absent(&name)
            .then(Operation::put(&row, encode(&row, &resource)?))
            .then(Operation::put(&name, encode(&name, &json!(format!("{base}/{id}")))?));
        store.commit(transaction).await?;
    }
    // The first free numbers; a counter that is there already is further on.
    for counter in ["account", "network"] {
        let counter = key::counter(counter);
        let transaction = Transaction::new().absent(&counter).then(Operation::put(&counter, encode(&counter, &3)?));
        store.commit(transaction).await?;
    }
    Ok(())
}
