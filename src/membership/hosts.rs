//! All hosts, and which of them live.

use super::demand::OnDemand;
use super::record::{Alive, Host};
use crate::environment::Environment;
use crate::resource::Resource;
use crate::store::mirror::{Freshness, Item, Mirror};
use crate::store::{Revision, Store, key};
use std::sync::Arc;
use std::time::Duration;

/// `host/` is in memory while somebody looks at it, and this long after.
pub const IDLE: Duration = Duration::from_secs(600);

/// One host as it is known.
#[derive(Clone, Debug)]
pub struct HostView {
    pub host: Arc<Host>,
    /// When its record was last written: what a placement compares, so that a host that was closed takes nothing more.
    pub revision: Revision,
    /// Its liveness record, if its lease lives.
    pub alive: Option<Arc<Alive>>,
    /// When that came into being: what a placement compares.
    pub alive_created: Option<Revision>,
}

impl HostView {
    /// As the API shows it.
    pub fn resource(&self) -> Resource {
        self.host.resource(self.alive.as_deref())
    }
}

/// The hosts of the cluster. `alive/` is always followed, `host/` on demand. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Hosts {
    alive: Mirror<Alive>,
    hosts: OnDemand<Mirror<Host>>,
}

impl Hosts {
    pub fn start(store: Arc<dyn Store>, environment: &Environment) -> Self {
        let alive = Mirror::start(store.clone(), environment, key::all_alive());
        let environment = environment.clone();
        let hosts = OnDemand::new(IDLE, move || Mirror::start(store.clone(), &environment, key::hosts()));
        Self { alive, hosts }
    }

    /// All of them, by name. Where `host/` was not listed within `limit`, `None`: nothing is known of any.
    pub async fn list(&self, limit: Duration) -> Option<Vec<HostView>> {
        let hosts = self.hosts.get();
        if !hosts.listed(limit).await || !self.alive.listed(limit).await {
            return None;
        }
        let known: Vec<(String, Item<Host>)> =
            hosts.view().iter().map(|(name, item)| (name.clone(), item.clone())).collect();
        Some(known.into_iter().map(|(name, item)| self.combine(&name, item)).collect())
    }

    /// One of them by name.
    pub async fn get(&self, name: &str, limit: Duration) -> Option<HostView> {
        let hosts = self.hosts.get();
        if !hosts.listed(limit).await || !self.alive.listed(limit).await {
            return None;
        }
        hosts.get(name).map(|item| self.combine(name, item))
    }

    /// One of them as `records` (which [`Self::records`] gave) has it, without waiting.
    pub fn known(&self, name: &str, records: &Mirror<Host>) -> Option<HostView> {
        records.get(name).map(|item| self.combine(name, item))
    }

    fn combine(&self, name: &str, item: Item<Host>) -> HostView {
        // A record of another identity would be of a host that was removed and whose name was given again.
        let alive = self.alive.get(name).filter(|alive| alive.value.identity == item.value.identity);
        HostView {
            host: item.value,
            revision: item.mod_revision,
            alive_created: alive.as_ref().map(|alive| alive.create_revision),
            alive: alive.map(|alive| alive.value),
        }
    }

    /// The liveness records: who follows which host is up or down wakes on its changes.
    pub fn alive(&self) -> &Mirror<Alive> {
        &self.alive
    }

    /// The hosts' own records.
    pub fn records(&self) -> Mirror<Host> {
        self.hosts.get()
    }

    /// How good the older of both is.
    pub fn freshness(&self) -> Freshness {
        self.alive.freshness().worse(self.hosts.get().freshness())
    }
}
