//! Where the [`super::cache::Cache`] has its rows from.

use super::cache::{Tag, Tagged};
use super::ordered::Ordered;
use crate::membership::lost::Lost;
use crate::membership::record::{Alive, Host};
use crate::resource::Resource;
use crate::resource::declaration::Derived;
use crate::store::Revision;
use crate::store::mirror::{Changes, Freshness, Mirror};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the rows of a base type come from.
#[derive(Clone, Debug)]
pub enum Source {
    Resources(Mirror<Resource>, Arc<Mutex<Ordered>>),
    /// A host's own record, and whether it lives.
    Hosts(Mirror<Host>, Mirror<Alive>, Mirror<Lost>),
    /// Parts of others.
    Parts(Vec<Source>, Derived),
}

impl Source {
    pub fn changes(&self) -> Vec<Changes> {
        match self {
            Self::Resources(mirror, _) => vec![mirror.changes()],
            Self::Hosts(hosts, alive, lost) => vec![hosts.changes(), alive.changes(), lost.changes()],
            Self::Parts(of, _) => of.iter().flat_map(Source::changes).collect(),
        }
    }

    pub fn listed(&self, limit: Duration) -> BoxFuture<'_, bool> {
        let listed = async move {
            match self {
                Self::Resources(mirror, _) => mirror.listed(limit).await,
                Self::Hosts(hosts, alive, lost) => {
                    hosts.listed(limit).await && alive.listed(limit).await && lost.listed(limit).await
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
            Self::Hosts(hosts, ..) => hosts.reached(revision, limit).await,
            // Each of its wholes waits for its own writes.
            Self::Parts(..) => true,
        }
    }

    pub fn freshness(&self) -> Freshness {
        match self {
            Self::Resources(mirror, _) => mirror.freshness(),
            Self::Parts(of, _) => worst(of.iter().map(Self::freshness)),
            Self::Hosts(hosts, alive, _) => worst([hosts.freshness(), alive.freshness()].into_iter()),
        }
    }

    pub fn rows(&self, keep: &mut dyn FnMut(&Resource) -> bool) -> Vec<Arc<Resource>> {
        match self {
            Self::Resources(mirror, _) => {
                mirror.view().values().map(|item| &item.value).filter(|row| keep(row)).cloned().collect()
            }
            Self::Hosts(hosts, alive, lost) => {
                let (alive, lost) = (alive.view(), lost.view());
                let living = |host: &Host| alive.get(&host.name).filter(|item| item.value.identity == host.identity);
                hosts
                    .view()
                    .values()
                    .map(|item| {
                        let (host, alive) = (&item.value, living(&item.value));
                        let mut row = host.resource(alive.map(|item| item.value.as_ref()));
                        if let (None, Some(lost)) = (alive, lost.get(&host.name)) {
                            lost.value.show(&mut row);
                        }
                        row
                    })
                    .filter(|row| keep(row))
                    .map(Arc::new)
                    .collect()
            }
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
            Self::Hosts(hosts, alive, lost) => {
                let row = self.rows(&mut |host| host.id == id).pop()?;
                let name = row.name.as_deref()?;
                let revision = hosts.get(name)?.mod_revision;
                let alive = alive.get(name).map_or(Revision(0), |item| item.mod_revision);
                let lost = lost.get(name).map_or(Revision(0), |item| item.mod_revision);
                let tag = Tag { text: format!("\"{revision}-{alive}-{lost}\""), revision };
                Some(Tagged { row, tag })
            }
            Self::Parts(of, derived) => {
                let part = |base, whole: &Resource| {
                    (derived.rows)(base, whole).into_iter().find(|part| part.id == id).map(Arc::new)
                };
                let (row, revision) = derived.from.iter().zip(of).find_map(|(base, of)| {
                    let wholes = of.rows(&mut |whole| part(base, whole).is_some());
                    let whole = of.row(wholes.first()?.id)?;
                    Some((part(base, &whole.row)?, whole.tag.revision))
                })?;
                let mut hasher = DefaultHasher::new();
                serde_json::to_string(&*row).ok()?.hash(&mut hasher);
                // What changes is the whole.
                Some(Tagged { row, tag: Tag { text: format!("\"{:x}\"", hasher.finish()), revision } })
            }
        }
    }
}

/// As good as the worst of several.
fn worst(all: impl Iterator<Item = Freshness>) -> Freshness {
    let join = |one: Freshness, other: Freshness| Freshness {
        revision: one.revision.min(other.revision),
        listed: one.listed && other.listed,
        stale_since: match (one.stale_since, other.stale_since) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        },
    };
    let nothing = Freshness { revision: Revision(0), listed: true, stale_since: None };
    all.reduce(join).unwrap_or(nothing)
}
