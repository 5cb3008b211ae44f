//! Where the [`super::cache::Cache`] has its rows from.

use super::cache::{Tag, Tagged};
use super::ordered::Ordered;
use crate::environment::Environment;
use crate::membership::lost::Lost;
use crate::membership::record::{Alive, Host};
use crate::network::mesh::Outside;
use crate::resource::Resource;
use crate::resource::declaration::Derived;
use crate::store::mirror::{Changes, Freshness, Mirror};
use crate::store::{Revision, Store, key};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the rows of a base type come from.
#[derive(Clone, Debug)]
pub enum Source {
    Resources(Mirror<Resource>, Arc<Mutex<Ordered>>),
    Hosts(Hosts),
    /// Parts of others.
    Parts(Vec<Source>, Derived),
}

/// What a host is shown from: its own record, whether it lives, and how the other hosts reach it.
#[derive(Clone, Debug)]
pub struct Hosts {
    hosts: Mirror<Host>,
    alive: Mirror<Alive>,
    lost: Mirror<Lost>,
    mesh: Mirror<Reached>,
}

/// Of `mesh/<host>` what is shown with its host.
#[derive(Debug, Deserialize)]
struct Reached {
    underlay: Vec<IpAddr>,
    #[serde(flatten)]
    outside: Outside,
}

impl Hosts {
    pub fn start(store: &Arc<dyn Store>, environment: &Environment) -> Self {
        Self {
            hosts: Mirror::start(store.clone(), environment, key::hosts()),
            alive: Mirror::start(store.clone(), environment, key::all_alive()),
            lost: Mirror::start(store.clone(), environment, key::all_lost()),
            mesh: Mirror::start(store.clone(), environment, key::all_mesh()),
        }
    }

    fn rows(&self) -> Vec<Resource> {
        self.hosts.view().values().map(|item| self.row(&item.value)).collect()
    }

    /// A host's row, with what is known beside its record.
    fn row(&self, host: &Host) -> Resource {
        let alive = self.alive.get(&host.name).filter(|item| item.value.identity == host.identity);
        let mut row = host.resource(alive.as_ref().map(|item| item.value.as_ref()));
        if let (None, Some(lost)) = (&alive, self.lost.get(&host.name)) {
            lost.value.show(&mut row);
        }
        let reached = self.mesh.get(&host.name).map(|item| item.value);
        let shown = |address: Option<&IpAddr>| address.map(ToString::to_string);
        row.set("underlayAddress", shown(reached.as_ref().and_then(|reached| reached.underlay.first())));
        row.set("publicAddress", shown(reached.as_ref().and_then(|reached| reached.outside.public.as_ref())));
        row
    }

    /// One with that record at that revision; `None` where another has its name by now.
    pub fn shown(&self, host: &Host, revision: Revision, id: u64) -> Option<Tagged> {
        let row = Arc::new(self.row(host));
        (row.id == id).then(|| Tagged { tag: self.tag_at(&host.name, revision), row })
    }

    /// A host's tag names the revisions of all that it is shown from; only its own record can be changed.
    fn tag(&self, name: &str) -> Option<Tag> {
        Some(self.tag_at(name, self.hosts.get(name)?.mod_revision))
    }

    fn tag_at(&self, name: &str, revision: Revision) -> Tag {
        let alive = self.alive.get(name).map_or(Revision(0), |item| item.mod_revision);
        let lost = self.lost.get(name).map_or(Revision(0), |item| item.mod_revision);
        let mesh = self.mesh.get(name).map_or(Revision(0), |item| item.mod_revision);
        Tag { text: format!("\"{revision}-{alive}-{lost}-{mesh}\""), revision }
    }
}

/// One part of a whole.
pub fn part(derived: Derived, of: &'static str, whole: &Tagged, id: u64) -> Option<Tagged> {
    let row = (derived.rows)(of, &whole.row).into_iter().find(|part| part.id == id).map(Arc::new)?;
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(&*row).ok()?.hash(&mut hasher);
    // What changes is the whole.
    Some(Tagged { row, tag: Tag { text: format!("\"{:x}\"", hasher.finish()), revision: whole.tag.revision } })
}

impl Source {
    pub fn changes(&self) -> Vec<Changes> {
        match self {
            Self::Resources(mirror, _) => vec![mirror.changes()],
            Self::Hosts(Hosts { hosts, alive, lost, mesh }) => {
                vec![hosts.changes(), alive.changes(), lost.changes(), mesh.changes()]
            }
            Self::Parts(of, _) => of.iter().flat_map(Source::changes).collect(),
        }
    }

    pub fn listed(&self, limit: Duration) -> BoxFuture<'_, bool> {
        let listed = async move {
            match self {
                Self::Resources(mirror, _) => mirror.listed(limit).await,
                Self::Hosts(Hosts { hosts, alive, lost, mesh }) => {
                    hosts.listed(limit).await
                        && alive.listed(limit).await
                        && lost.listed(limit).await
                        && mesh.listed(limit).await
                }
                Self::Parts(of, _) => {
                    let all = futures::future::join_all(of.iter().map(|whole| whole.listed(limit)));
                    all.await.into_iter().all(|listed| listed)
                }
            }
        };
        listed.boxed()
    }

    pub async fn reached(&self, revision: Revision, limit: Duration) -> bool {
        match self {
            Self::Resources(mirror, _) => mirror.reached(revision, limit).await,
            Self::Hosts(all) => all.hosts.reached(revision, limit).await,
            // Each of its wholes waits for its own writes.
            Self::Parts(..) => true,
        }
    }

    /// Has all of it followed as soon as can be, and waits for that; false after `limit`.
    pub fn followed(&self, limit: Duration) -> BoxFuture<'_, bool> {
        let followed = async move {
            match self {
                Self::Resources(mirror, _) => {
                    mirror.hasten();
                    mirror.followed(limit).await
                }
                Self::Hosts(all) => {
                    all.hosts.hasten();
                    all.alive.hasten();
                    all.hosts.followed(limit).await && all.alive.followed(limit).await
                }
                Self::Parts(of, _) => {
                    let all = futures::future::join_all(of.iter().map(|whole| whole.followed(limit)));
                    all.await.into_iter().all(|followed| followed)
                }
            }
        };
        followed.boxed()
    }

    /// See [`Mirror::attended`].
    pub fn attended(&self, limit: Duration) -> BoxFuture<'_, bool> {
        let attended = async move {
            match self {
                Self::Resources(mirror, _) => mirror.attended(limit).await,
                Self::Hosts(all) => {
                    let both = futures::future::join(all.hosts.attended(limit), all.alive.attended(limit));
                    matches!(both.await, (true, true))
                }
                Self::Parts(of, _) => {
                    let all = futures::future::join_all(of.iter().map(|whole| whole.attended(limit)));
                    all.await.into_iter().all(|attended| attended)
                }
            }
        };
        attended.boxed()
    }

    pub fn freshness(&self) -> Freshness {
        match self {
            Self::Resources(mirror, _) => mirror.freshness(),
            Self::Parts(of, _) => {
                let nothing =
                    Freshness { revision: Revision(i64::MAX), listed: true, stale_since: None, heard: Duration::MAX };
                of.iter().map(Self::freshness).fold(nothing, Freshness::worse)
            }
            Self::Hosts(all) => all.hosts.freshness().worse(all.alive.freshness()),
        }
    }

    pub fn rows(&self, keep: &mut dyn FnMut(&Resource) -> bool) -> Vec<Arc<Resource>> {
        match self {
            Self::Resources(mirror, _) => {
                mirror.view().values().map(|item| &item.value).filter(|row| keep(row)).cloned().collect()
            }
            Self::Hosts(all) => all.rows().into_iter().filter(|row| keep(row)).map(Arc::new).collect(),
            Self::Parts(of, derived) => {
                // Wholes may have a part in common.
                let mut known = BTreeSet::new();
                let wholes = derived
                    .from
                    .iter()
                    .zip(of)
                    .flat_map(|(base, of)| of.rows(&mut |_| true).into_iter().map(move |whole| (*base, whole)));
                let parts = wholes.flat_map(|(base, whole)| (derived.rows)(base, &whole));
                parts.filter(|part| known.insert(part.id) && keep(part)).map(Arc::new).collect()
            }
        }
    }

    pub fn row(&self, id: u64) -> Option<Tagged> {
        match self {
            Self::Resources(mirror, _) => {
                let item = mirror.get(&id.to_string())?;
                Some(Tagged { row: item.value, tag: Tag::of(item.mod_revision) })
            }
            Self::Hosts(all) => {
                let row = self.rows(&mut |host| host.id == id).pop()?;
                let tag = all.tag(row.name.as_deref()?)?;
                Some(Tagged { row, tag })
            }
            Self::Parts(of, derived) => {
                let (base, whole) = self.whole_of(id)?;
                let of = derived.from.iter().zip(of).find_map(|(from, of)| (*from == base).then_some(of))?;
                part(*derived, base, &of.row(whole)?, id)
            }
        }
    }

    /// Whose part it is: its base type and number.
    pub fn whole_of(&self, id: u64) -> Option<(&'static str, u64)> {
        let Self::Parts(of, derived) = self else { return None };
        derived.from.iter().zip(of).find_map(|(base, of)| {
            let mut has = |whole: &Resource| (derived.rows)(base, whole).iter().any(|part| part.id == id);
            of.rows(&mut has).first().map(|whole| (*base, whole.id))
        })
    }
}
