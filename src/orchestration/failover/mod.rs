//! What becomes of what a lost host ran.
//!
//! ```text
//! alive/h2 goes ─► lost/h2 is put ─► h2's agent is asked, F is waited ─► each instance: decide (pure)
//!                     ▲                                                    │ one transaction: its claim goes, its row changes
//!        h2's next alive/ deletes it: all that began under it fails        └─► placed anew, as if it were new
//! ```
//! Two live hosts look after each lost one, chosen as for `todo/`: the first at once, the second a little later. What they
//! do is decided by transactions that compare `alive/` (absent), `lost/` (the very one under which the waiting began) and
//! the claim's token; so both may act, and a host that comes back in the middle keeps what it has.
//!
//! F is waited on this agent's own clock since it saw, with a linearizable read, that the host was gone ([`fence`]
//! says why that is enough).

mod decide;
mod takeover;
mod word;

use super::Orchestrator;
use super::todo::rank;
use crate::environment::Environment;
use crate::membership::Hosts;
#[cfg(doc)]
use crate::membership::fence;
use crate::membership::lost::Lost;
use crate::membership::peers::Peers;
use crate::store::mirror::Mirror;
use crate::store::{Store, key};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use takeover::Takeover;
use tokio_util::task::AbortOnDropHandle;

/// How long a look at the hosts may take.
const LISTING: Duration = Duration::from_secs(5);
/// After a look that failed.
const AGAIN: Duration = Duration::from_secs(1);

/// With what an agent looks after lost hosts.
#[derive(Clone, Debug)]
pub struct Settings {
    pub orchestrator: Orchestrator,
    pub store: Arc<dyn Store>,
    pub environment: Environment,
    /// This host.
    pub host: String,
    pub hosts: Hosts,
    pub peers: Arc<dyn Peers>,
    /// This host's own, for one that does not tell how long it is to be waited for.
    pub ttl: Duration,
}

/// Looks after lost hosts; ends when dropped.
#[derive(Debug)]
pub struct Failover {
    _task: AbortOnDropHandle<()>,
}

impl Failover {
    pub fn start(settings: Settings) -> Self {
        let lost = Mirror::start(settings.store.clone(), &settings.environment, key::all_lost());
        let controller =
            Controller { settings: Arc::new(settings), lost, takeovers: BTreeMap::new(), addresses: BTreeMap::new() };
        Self { _task: AbortOnDropHandle::new(tokio::spawn(controller.run())) }
    }
}

struct Controller {
    settings: Arc<Settings>,
    lost: Mirror<Lost>,
    takeovers: BTreeMap<String, AbortOnDropHandle<()>>,
    /// Where agents were last heard of.
    addresses: BTreeMap<String, String>,
}

impl Controller {
    async fn run(mut self) {
        let alive = self.settings.hosts.alive().clone();
        let mut changes = alive.changes();
        // At first all are looked at: one may have gone while nobody was there to see it.
        let mut look = true;
        loop {
            if look && !self.look().await {
                tokio::time::sleep(self.settings.environment.jitter(AGAIN)).await;
                continue;
            }
            let changed = changes.next().await;
            let view = alive.view();
            for (name, item) in changed.iter().filter_map(|name| view.get(name).map(|item| (name, item))) {
                self.addresses.insert(name.clone(), item.value.address.clone());
                // Here again.
                self.takeovers.remove(name);
            }
            look = changed.iter().any(|name| !view.contains_key(name));
        }
    }

    /// Sees which hosts are gone, and begins to look after those that are ours; false where that cannot be told.
    async fn look(&mut self) -> bool {
        let Some(all) = self.settings.hosts.list(LISTING).await else { return false };
        let living: Vec<String> = self.settings.hosts.alive().view().keys().cloned().collect();
        self.takeovers.retain(|name, _| all.iter().any(|view| view.host.name == *name));
        for view in all.into_iter().filter(|view| view.alive.is_none()) {
            let name = view.host.name.clone();
            let shard = key::shard("host", view.host.id);
            let place = rank(&self.settings.host, shard, living.iter().map(String::as_str)).filter(|rank| *rank < 2);
            match place {
                None => drop(self.takeovers.remove(&name)),
                Some(_) if self.takeovers.contains_key(&name) => {}
                Some(rank) => {
                    let address = self.addresses.get(&name).cloned();
                    let takeover = Takeover::new(self.settings.clone(), view.host, self.lost.clone(), address);
                    let task = tokio::spawn(takeover.run(u32::try_from(rank).unwrap_or(0)));
                    self.takeovers.insert(name, AbortOnDropHandle::new(task));
                }
            }
        }
        true
    }
}
