//! What a virtual machine is told by its config drive, as far as other rows say it: SSH keys, and where its host is.

use crate::membership::record::Host;
use crate::resource::assignment::GuestData;
use crate::resource::ssh_key::SshKey;
use crate::resource::{Resource, constraint, instance};
use crate::store::{self, Store, decode, key};
use futures::future::try_join_all;

/// The label of a host that says where it is.
const ZONE: &str = "zone";

/// Nothing of what is no virtual machine: containers ask for all of it when they want to know.
pub async fn told(store: &dyn Store, host: &str, instance: &Resource) -> Result<GuestData, store::Error> {
    if !instance::is_machine(instance) {
        return Ok(GuestData::default());
    }
    let ids: Vec<u64> = instance.get(instance::CREDENTIALS).unwrap_or_default();
    let credential = async |id: u64| store.get(&key::resource("credential", id)).await;
    let own = key::host(host);
    let (credentials, host) = futures::try_join!(
        try_join_all(ids.into_iter().take(instance::MOST_CREDENTIALS).map(credential)),
        store.get(&own),
    )?;
    // One that cannot be read keeps the others from nobody.
    let keys = credentials.iter().filter_map(|found| decode::<Resource>(found.entry.as_ref()?).ok());
    let zone = host.entry.and_then(|entry| decode::<Host>(&entry).ok()).and_then(|host| host.labels().remove(ZONE));
    Ok(GuestData {
        userdata: instance.get::<String>(instance::USERDATA).filter(|userdata| !userdata.is_empty()),
        keys: keys.filter_map(|credential| SshKey::of(&credential, instance.account_id)).collect(),
        labels: instance.get(constraint::LABELS).unwrap_or_default(),
        zone: zone.filter(|zone| !zone.is_empty()),
    })
}
