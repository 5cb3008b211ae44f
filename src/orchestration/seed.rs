//! What every cluster has from the start: the accounts and the two networks.

use super::image::resource;
use super::{Draft, ServiceError};
use crate::environment::Environment;
use crate::resource::State;
use crate::store::{Operation, Store, Transaction, encode, key};
use serde_json::{Map, Value, json};

/// The account that may do everything.
pub const ADMIN: u64 = 1;
/// The account that owns what is everybody's.
pub const SYSTEM: u64 = 2;
/// Docker's own network, or for virtual machines libvirt's.
pub const UNMANAGED: u64 = 1;
/// The private network over all hosts.
pub const MANAGED: u64 = 2;

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
    for (base, id, draft) in [
        ("account", ADMIN, account("admin", "admin")),
        ("account", SYSTEM, account("system", "system")),
        ("network", UNMANAGED, network("network", "unmanaged", "Unmanaged Network")),
        ("network", MANAGED, network("hostOnlyNetwork", "managed-docker0", "Managed Network on docker0")),
    ] {
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
