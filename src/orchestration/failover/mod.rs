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
use crate::membership::record::{Alive, Host};
use crate::store::mirror::Mirror;
use crate::store::{self, Entry, Store, key};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use takeover::Takeover;
use tokio_util::task::AbortOnDropHandle;

/// How long a look at the hosts may take.
const LISTING: Duration = Duration::from_secs(5);
/// All hosts are looked at this often.
const ALL: Duration = Duration::from_secs(3600);
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
        let controller = Controller {
            settings: Arc::new(settings),
            lost,
            gone: BTreeMap::new(),
            takeovers: BTreeMap::new(),
            addresses: BTreeMap::new(),
        };
        Self { _task: AbortOnDropHandle::new(tokio::spawn(controller.run())) }
    }
}

struct Controller {
    settings: Arc<Settings>,
    lost: Mirror<Lost>,
    /// Hosts that are gone. The records of the others are not held: where all live, that is all that is known of them.
    gone: BTreeMap<String, Arc<Host>>,
    takeovers: BTreeMap<String, AbortOnDropHandle<()>>,
    /// Where agents were last heard of.
    addresses: BTreeMap<String, String>,
}

impl Controller {
    async fn run(mut self) {
        let alive = self.settings.hosts.alive().clone();
        let mut changes = alive.changes();
        loop {
            while let Err(error) = self.look_at_all(&alive).await {
                tracing::debug!(%error, "cannot tell which hosts are gone");
                tokio::time::sleep(self.settings.environment.jitter(AGAIN)).await;
            }
            let all = tokio::time::sleep(self.settings.environment.jitter(ALL));
            tokio::pin!(all);
            loop {
                let changed = tokio::select! {
                    changed = changes.next() => changed,
                    () = &mut all => break,
                };
                if let Err(error) = self.look_at(&alive, changed).await {
                    tracing::debug!(%error, "cannot tell which hosts are gone");
                    break;
                }
            }
        }
    }

    /// Sees which hosts are gone: at first, and now and then, for one may have gone while nobody was there to see it.
    async fn look_at_all(&mut self, alive: &Mirror<Alive>) -> Result<(), store::Error> {
        if !alive.listed(LISTING).await {
            return Err(store::Error::Unavailable { message: "the hosts that live could not be listed yet".into() });
        }
        let prefix = key::hosts();
        let records = self.settings.store.range(&prefix).await?;
        self.gone.clear();
        for entry in &records.entries {
            let name = key::last(&prefix, &entry.key);
            let living = alive.get(name).is_some_and(|living| is_of(entry, &living.value));
            if !living && let Some(host) = read(entry) {
                self.gone.insert(name.to_owned(), host);
            }
        }
        self.look_after(alive, true);
        Ok(())
    }

    /// Some came or went.
    async fn look_at(&mut self, alive: &Mirror<Alive>, changed: BTreeSet<String>) -> Result<(), store::Error> {
        let mut went = false;
        for name in changed {
            if let Some(item) = alive.get(&name) {
                self.addresses.insert(name.clone(), item.value.address.clone());
                // Here again.
                self.gone.remove(&name);
                self.takeovers.remove(&name);
                continue;
            }
            went = true;
            match self.settings.store.get(&key::host(&name)).await?.entry.as_ref().and_then(read) {
                Some(host) => drop(self.gone.insert(name, host)),
                None => drop(self.gone.remove(&name)),
            }
        }
        // Who came may be one of the two for a host that went long before, this one itself above all.
        self.look_after(alive, went);
        Ok(())
    }

    /// Begins to look after those gone that are ours. What is not ours any more ends where others went, who may be those that
    /// had waited for it; not because one came, who has yet to wait from the beginning.
    fn look_after(&mut self, alive: &Mirror<Alive>, went: bool) {
        let living: Vec<String> = alive.view().keys().cloned().collect();
        self.takeovers.retain(|name, _| self.gone.contains_key(name));
        for (name, host) in &self.gone {
            let shard = key::shard("host", host.id);
            let place = rank(&self.settings.host, shard, living.iter().map(String::as_str)).filter(|rank| *rank < 2);
            match place {
                None if went => drop(self.takeovers.remove(name)),
                None => {}
                Some(_) if self.takeovers.contains_key(name) => {}
                Some(rank) => {
                    let address = self.addresses.get(name).cloned();
                    let takeover = Takeover::new(self.settings.clone(), host.clone(), self.lost.clone(), address);
                    let task = tokio::spawn(takeover.run(u32::try_from(rank).unwrap_or(0)));
                    self.takeovers.insert(name.clone(), AbortOnDropHandle::new(task));
                }
            }
        }
    }
}

/// Whether the host of this record is the one that lives: a name may have been given again.
fn is_of(record: &Entry, alive: &Alive) -> bool {
    #[derive(Deserialize)]
    struct Identity {
        identity: String,
    }
    store::decode::<Identity>(record).is_ok_and(|it| it.identity == alive.identity)
}

fn read(record: &Entry) -> Option<Arc<Host>> {
    store::decode(record).map(Arc::new).inspect_err(|error| tracing::error!(%error, "a host that cannot be read")).ok()
}
