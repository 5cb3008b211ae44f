//! What one account sees: rows, links, and how fresh all of it is.

use super::authentication::Principal;
use super::cache::{Cache, Known, Tagged};
use super::error::ApiError;
use super::ordered::Cut;
use super::view::Included;
use crate::resource::declaration::{Link, LinkPath, Type};
use crate::resource::validation::stored;
use crate::resource::{Resource, types};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// See the module's text. Made for each request.
#[derive(Debug)]
pub struct Reader<'a> {
    cache: &'a Cache,
    principal: &'a Principal,
    /// Milliseconds, of the stalest that was read; 0 where all was fresh.
    stale: AtomicU64,
}

impl<'a> Reader<'a> {
    pub fn new(cache: &'a Cache, principal: &'a Principal) -> Self {
        Self { cache, principal, stale: AtomicU64::new(0) }
    }

    /// Since when what was read is all that is known; `None` where it is as the cluster has it.
    pub fn stale(&self) -> Option<Duration> {
        match self.stale.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Duration::from_millis(millis)),
        }
    }

    fn unwrap<T>(&self, known: Known<T>) -> T {
        if let Some(stale) = known.stale {
            let millis = u64::try_from(stale.as_millis()).unwrap_or(u64::MAX).max(1);
            self.stale.fetch_max(millis, Ordering::Relaxed);
        }
        known.value
    }

    /// Whether a row is of `declared`: of the type itself, or of any where it is the base.
    fn is(declared: &Type, row: &Resource) -> bool {
        !declared.is_subtype() || row.kind == declared.name
    }

    /// One row, if there is one and this account sees it.
    pub async fn one(&self, declared: &'static Type, id: u64) -> Result<Option<Arc<Resource>>, ApiError> {
        Ok(self.tagged(declared, id).await?.map(|tagged| tagged.row))
    }

    /// The same, with its version.
    pub async fn tagged(&self, declared: &'static Type, id: u64) -> Result<Option<Tagged>, ApiError> {
        let known = self.unwrap(self.cache.get(declared.base, id).await?);
        Ok(known.filter(|it| Self::is(declared, &it.row) && self.principal.sees(declared.base, &it.row)))
    }

    /// One row to be shown and not changed, with its version.
    pub async fn recalled(&self, declared: &'static Type, id: u64) -> Result<Option<Tagged>, ApiError> {
        let known = self.unwrap(self.cache.recall(declared.base, id).await?);
        Ok(known.filter(|it| Self::is(declared, &it.row) && self.principal.sees(declared.base, &it.row)))
    }

    /// The rows that this account sees and `keep` lets through.
    pub async fn all(
        &self,
        declared: &'static Type,
        keep: impl FnMut(&Resource) -> bool + Send,
    ) -> Result<Vec<Arc<Resource>>, ApiError> {
        self.part(declared, None, keep).await
    }

    /// Of these, those of a part of the list, with one on either side of it; or all, where the part cannot be told.
    pub async fn part(
        &self,
        declared: &'static Type,
        cut: Option<Cut>,
        mut keep: impl FnMut(&Resource) -> bool + Send,
    ) -> Result<Vec<Arc<Resource>>, ApiError> {
        let principal = self.principal;
        let keep = |row: &Resource| Self::is(declared, row) && principal.sees(declared.base, row) && keep(row);
        Ok(self.unwrap(self.cache.part(declared.base, cut, keep).await?))
    }

    /// Where a link leads from some rows, each row's by its number.
    pub async fn follow(
        &self,
        declared: &'static Type,
        link: &Link,
        from: &[Arc<Resource>],
    ) -> Result<Option<Included>, ApiError> {
        let Some(target) = types::find(link.target) else { return Ok(None) };
        let mut rows: HashMap<u64, Vec<Arc<Resource>>> = HashMap::new();
        match link.path {
            LinkPath::One(field) | LinkPath::OneAsMany(field) => {
                let Some(field) = declared.field(field) else { return Ok(None) };
                let refers = |row: &Resource| stored(row, field).as_u64();
                let wanted: HashSet<u64> = from.iter().filter_map(|row| refers(row)).collect();
                let found = match wanted.iter().next() {
                    // One is read as itself; for more, the type's mirror is worth its while.
                    Some(&id) if wanted.len() == 1 => self.one(target, id).await?.into_iter().collect(),
                    Some(_) => self.all(target, |row| wanted.contains(&row.id)).await?,
                    None => Vec::new(),
                };
                let found: HashMap<u64, Arc<Resource>> = found.into_iter().map(|row| (row.id, row)).collect();
                for row in from {
                    if let Some(target) = refers(row).and_then(|id| found.get(&id)) {
                        rows.entry(row.id).or_default().push(target.clone());
                    }
                }
            }
            LinkPath::Many(field) => {
                let Some(field) = target.field(field) else { return Ok(None) };
                let owners: HashSet<u64> = from.iter().map(|row| row.id).collect();
                let refers = |row: &Resource| stored(row, field).as_u64().filter(|id| owners.contains(id));
                let found = self.all(target, |row| refers(row).is_some()).await?;
                for row in found {
                    if let Some(owner) = refers(&row) {
                        rows.entry(owner).or_default().push(row);
                    }
                }
                rows.values_mut().for_each(|rows| rows.sort_by_key(|row| row.id));
            }
        }
        Ok(Some(Included { name: link.name, one: matches!(link.path, LinkPath::One(_)), target, rows }))
    }
}
