//! What this agent knows of the cluster's resources, for reads.
//!
//! The first list of a type starts a mirror of it, which is dropped after ten idle minutes; so do many reads of single ones.
//! One resource by its id comes from the mirror where one runs, else through the store. What is to be changed is always read
//! through the store; where that does not answer, the mirror says what it last knew. A read waits until the mirror has what this
//! node itself wrote last. What is not fresh is marked so. Nothing is decided here: decisions compare revisions in the store.

use super::ordered::{Cut, Ordered};
use super::source::{self, Hosts, Source};
use crate::environment::Environment;
use crate::resource::declaration::Derived;
use crate::resource::{Resource, State, types};
use crate::store::mirror::{Changes, Freshness, Mirror};
use crate::store::{self, Lookup, Revision, Store, decode, key};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// An unused mirror is kept this long.
const IDLE: Duration = Duration::from_secs(600);
/// To list a type for the first time.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// To see this node's own last write.
const OWN_WRITE: Duration = Duration::from_secs(2);
/// As many reads of single ones in [`BUSY`] are worth a mirror.
const OFTEN: u32 = 50;
const BUSY: Duration = Duration::from_secs(10);
/// For one from the store while its mirror does not hear.
const BRIEFLY: Duration = Duration::from_secs(1);
/// A store that did not answer is not asked for what is known, this long.
const SILENT: Duration = Duration::from_secs(2);
/// To learn whether what a mirror follows is still there, and to list it again from another member of etcd where it is not.
const ATTENDED: Duration = Duration::from_millis(1500);
/// Listing again after a hiccup is not worth a word.
const HARDLY_STALE: Duration = Duration::from_secs(1);

/// What was found, and since when nothing newer could be known (`None`: it is as the cluster has it).
#[derive(Debug)]
pub struct Known<T> {
    pub value: T,
    pub stale: Option<Duration>,
}

/// Which version of a row it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// As an ETag. A host is shown from several records, and its tag names all their revisions.
    pub text: String,
    /// Of the record that can be changed.
    pub revision: Revision,
}

impl Tag {
    pub fn of(revision: Revision) -> Self {
        Self { text: format!("\"{revision}\""), revision }
    }
}

/// A row and its version.
#[derive(Clone, Debug)]
pub struct Tagged {
    pub row: Arc<Resource>,
    pub tag: Tag,
}

/// See the module's text.
#[derive(Debug)]
pub struct Cache {
    environment: Environment,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    mirrors: Mutex<HashMap<&'static str, Kept>>,
    /// Reads of single ones of each base type, since when.
    asked: Mutex<HashMap<&'static str, (Instant, u32)>>,
    /// This node's last write to each base type.
    written: Mutex<HashMap<&'static str, Revision>>,
    /// When the store last did not answer, if it has not answered since.
    silent: Mutex<Option<Instant>>,
}

impl Shared {
    fn is_silent(&self) -> bool {
        lock(&self.silent).is_some_and(|since| since.elapsed() < SILENT)
    }
}

#[derive(Debug)]
struct Kept {
    source: Source,
    used: Instant,
}

/// What the rows of that type are parts of.
fn derived(base: &str) -> Option<Derived> {
    types::find(base)?.derived
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    pub fn new(store: Arc<dyn Store>, environment: &Environment) -> Self {
        Self { environment: environment.clone(), store, shared: Arc::default() }
    }

    /// This node wrote records of these base types at `revision`; reads here wait for it. Of others a mirror hears nothing.
    pub fn wrote(&self, bases: &[&'static str], revision: Revision) {
        let mut written = lock(&self.shared.written);
        for base in bases {
            let last = written.entry(base).or_default();
            *last = revision.max(*last);
        }
    }

    /// Starts the mirror of a type, or keeps it from being dropped.
    pub fn keep(&self, base: &'static str) {
        self.source(base);
    }

    /// The rows of a base type that `keep` lets through.
    pub async fn select(
        &self,
        base: &'static str,
        keep: impl FnMut(&Resource) -> bool + Send,
    ) -> Result<Known<Vec<Arc<Resource>>>, store::Error> {
        self.part(base, None, keep).await
    }

    /// The same of a part of the list; of types that are made of others, all of it.
    pub async fn part(
        &self,
        base: &'static str,
        cut: Option<Cut>,
        mut keep: impl FnMut(&Resource) -> bool + Send,
    ) -> Result<Known<Vec<Arc<Resource>>>, store::Error> {
        let source = self.source(base);
        if !source.listed(FIRST_LIST).await {
            return Err(store::Error::Unavailable { message: format!("{base}: nothing is known yet") });
        }
        let heard = self.heard(&source).await;
        self.own_write(base, &source).await;
        let value = match (&source, cut) {
            (Source::Resources(mirror, ordered), Some(cut)) => {
                let mut ordered = lock(ordered);
                ordered.refresh(mirror);
                ordered.cut(cut, &mut keep)
            }
            _ => source.rows(&mut keep),
        };
        Ok(Known { value, stale: self.stale(&source.freshness()).or(heard.err().filter(|span| *span >= HARDLY_STALE)) })
    }

    /// The rows that `keep` lets through, none of them older than this call; one that is gone since a moment may be among them.
    pub async fn latest(
        &self,
        base: &'static str,
        mut keep: impl FnMut(&Resource) -> bool + Send,
    ) -> Result<Vec<Arc<Resource>>, store::Error> {
        let source = self.source(base);
        if !source.listed(FIRST_LIST).await {
            return Err(store::Error::Unavailable { message: format!("{base}: nothing is known yet") });
        }
        // Before the rows: what is written in between is read twice, and not left out.
        let known = source.freshness().revision;
        let rows = source.rows(&mut keep).into_iter().map(|row| (row.id, row));
        let mut rows: HashMap<u64, Arc<Resource>> = rows.collect();
        for entry in self.store.changed_since(&key::resources(base), known).await?.written {
            let row: Resource = decode(&entry)?;
            rows.remove(&row.id);
            if keep(&row) {
                rows.insert(row.id, Arc::new(row));
            }
        }
        Ok(rows.into_values().collect())
    }

    /// One row to be shown: from memory where it is there and hears, with what this node wrote last.
    pub async fn recall(&self, base: &'static str, id: u64) -> Result<Known<Option<Tagged>>, store::Error> {
        let known = match self.running(base) {
            Some(source) if source.freshness().listed && source.attended(ATTENDED).await => Some(source),
            _ => None,
        };
        let Some(source) = known else {
            if self.is_busy(base) {
                self.keep(base);
            }
            return self.get(base, id).await;
        };
        self.own_write(base, &source).await;
        match source.row(id) {
            Some(row) => Ok(Known { value: Some(row), stale: None }),
            // Made at another host a moment ago, or not there: only the store can tell.
            None => self.get(base, id).await,
        }
    }

    /// Counts a read; whether there were many of late.
    fn is_busy(&self, base: &'static str) -> bool {
        let now = Instant::now();
        let mut asked = lock(&self.shared.asked);
        let (since, times) = asked.entry(base).or_insert((now, 0));
        if now.duration_since(*since) > BUSY {
            (*since, *times) = (now, 0);
        }
        *times += 1;
        *times >= OFTEN
    }

    /// One row, as the store has it now, or as it was last known.
    pub async fn get(&self, base: &'static str, id: u64) -> Result<Known<Option<Tagged>>, store::Error> {
        if let Some(derived) = derived(base) {
            return self.get_part(base, derived, id).await;
        }
        if base == "host" {
            return self.get_host(id).await;
        }
        let known = self.running(base).filter(|source| source.freshness().listed);
        let stale = known.as_ref().and_then(|source| self.stale(&source.freshness()));
        let remembered = known.as_ref().and_then(|source| source.row(id)).map(|row| {
            let since = stale.unwrap_or_default();
            Known { value: Some(row), stale: Some(since) }
        });
        if stale.is_some()
            && self.shared.is_silent()
            && let Some(remembered) = remembered
        {
            return Ok(remembered);
        }
        let deaf = known.is_some_and(|source| source.freshness().stale_since.is_some());
        let briefly = stale.is_some() || (deaf && remembered.is_some());
        let entry = match self.ask(&key::resource(base, id), briefly).await {
            Ok(lookup) => lookup.entry,
            // Whether there is one that is not known is not known either.
            Err(error) => return remembered.ok_or(error),
        };
        let row = entry.map(|entry| {
            let row = Arc::new(decode::<Resource>(&entry)?);
            Ok::<_, store::Error>(Tagged { row, tag: Tag::of(entry.mod_revision) })
        });
        Ok(Known { value: row.transpose()?, stale: None })
    }

    /// A part of another, from that as the store has it now. Whose part it is, is told from memory: that never changes.
    async fn get_part(
        &self,
        base: &'static str,
        derived: Derived,
        id: u64,
    ) -> Result<Known<Option<Tagged>>, store::Error> {
        let Known { stale, .. } = self.select(base, |_| false).await?;
        let Some((of, whole)) = self.source(base).whole_of(id) else { return Ok(Known { value: None, stale }) };
        let Known { value, stale } = Box::pin(self.get(of, whole)).await?;
        Ok(Known { value: value.and_then(|whole| source::part(derived, of, &whole, id)), stale })
    }

    /// A host, its record as the store has it now.
    async fn get_host(&self, id: u64) -> Result<Known<Option<Tagged>>, store::Error> {
        let Known { stale, .. } = self.select("host", |_| false).await?;
        let source = self.source("host");
        let remembered = source.row(id);
        let name = remembered.as_ref().and_then(|known| known.row.name.clone());
        let (Source::Hosts(hosts), Some(name)) = (source, name) else { return Ok(Known { value: None, stale }) };
        match self.ask(&key::host(&name), stale.is_some()).await {
            Ok(Lookup { entry: Some(entry), .. }) => {
                Ok(Known { value: hosts.shown(&decode(&entry)?, entry.mod_revision, id), stale: None })
            }
            Ok(_) => Ok(Known { value: None, stale: None }),
            Err(_) => Ok(Known { value: remembered, stale: stale.or(Some(Duration::ZERO)) }),
        }
    }

    /// One key from the store; `briefly` where there is a mirror that does not hear: a member of etcd that went takes its watches
    /// along, and another one answers at once, or none does.
    async fn ask(&self, key: &str, briefly: bool) -> Result<Lookup, store::Error> {
        let asking = self.store.get(key);
        let answer = if briefly {
            tokio::time::timeout(BRIEFLY, asking)
                .await
                .unwrap_or_else(|_| Err(store::Error::Unavailable { message: format!("no answer within {BRIEFLY:?}") }))
        } else {
            asking.await
        };
        *lock(&self.shared.silent) = answer.is_err().then(Instant::now);
        answer
    }

    /// Follows a type's rows; what this node wrote last is in.
    pub async fn follow(&self, base: &'static str) -> Result<Followed, store::Error> {
        let source = self.source(base);
        let changes = source.changes();
        if !source.listed(FIRST_LIST).await {
            return Err(store::Error::Unavailable { message: format!("{base}: nothing is known yet") });
        }
        self.own_write(base, &source).await;
        Ok(Followed { source, changes })
    }

    /// The last change to a row that the mirror knows: `None` where no mirror runs, or it is not certain.
    pub fn glance(&self, base: &'static str, id: u64) -> Option<Glance> {
        match self.running(base)? {
            Source::Resources(mirror, _) if mirror.freshness().listed && mirror.freshness().stale_since.is_none() => {
                let upto = mirror.freshness().revision;
                Some(match mirror.get(&id.to_string()) {
                    Some(item) => Glance::At(item.mod_revision),
                    None => Glance::Absent { upto },
                })
            }
            _ => None,
        }
    }

    /// The hosts, as they come, change and go from now on.
    pub async fn follow_hosts(&self) -> HostChanges {
        let source = self.source("host");
        let (environment, known) = (self.environment.clone(), HashMap::new());
        let mut hosts = HostChanges { environment, changes: source.changes(), source, known };
        if hosts.source.listed(FIRST_LIST).await {
            // Those that are there already are no news.
            hosts.changes.iter_mut().for_each(|changes| drop(changes.take()));
            hosts.known = hosts.rows();
        }
        hosts
    }

    fn stale(&self, freshness: &Freshness) -> Option<Duration> {
        let since = freshness.stale_since?;
        Some(self.environment.clock.boottime().saturating_sub(since)).filter(|span| *span >= HARDLY_STALE)
    }

    /// Waits until what is shown is followed, if only just again; else for how long nothing is known.
    async fn heard(&self, source: &Source) -> Result<(), Duration> {
        if source.attended(ATTENDED).await {
            return Ok(());
        }
        let Freshness { heard, stale_since, .. } = source.freshness();
        let silent = self.environment.clock.boottime().saturating_sub(stale_since.unwrap_or(heard));
        // It is listed again at another member within a moment, or not so soon.
        let again = stale_since.is_some() && source.followed(ATTENDED.saturating_sub(silent)).await;
        if again { Ok(()) } else { Err(silent) }
    }

    async fn own_write(&self, base: &'static str, source: &Source) {
        if let (Some(derived), Source::Parts(of, _)) = (derived(base), source) {
            for (base, of) in derived.from.iter().zip(of) {
                self.own_write_of(base, of).await;
            }
        } else {
            self.own_write_of(base, source).await;
        }
    }

    async fn own_write_of(&self, base: &'static str, source: &Source) {
        let wanted = lock(&self.shared.written).get(base).copied();
        let Some(wanted) = wanted else { return };
        if !source.reached(wanted, OWN_WRITE).await {
            tracing::warn!(base, revision = %wanted, "what this node wrote has not come back to it; showing what is known");
            // One wait is enough: who asks next need not wait again.
            lock(&self.shared.written).remove(base);
        }
    }

    fn running(&self, base: &'static str) -> Option<Source> {
        if let Some(derived) = derived(base) {
            let of: Option<Vec<Source>> = derived.from.iter().map(|from| self.running(from)).collect();
            return Some(Source::Parts(of?, derived));
        }
        let mut mirrors = lock(&self.shared.mirrors);
        let kept = mirrors.get_mut(base)?;
        kept.used = Instant::now();
        Some(kept.source.clone())
    }

    fn source(&self, base: &'static str) -> Source {
        if let Some(derived) = derived(base) {
            return Source::Parts(derived.from.iter().map(|from| self.source(from)).collect(), derived);
        }
        let mut mirrors = lock(&self.shared.mirrors);
        let kept = mirrors.entry(base).or_insert_with(|| {
            self.forget_when_idle(base);
            let (store, environment) = (&self.store, &self.environment);
            let source = if base == "host" {
                Source::Hosts(Hosts::start(store, environment))
            } else {
                let mirror = Mirror::start(store.clone(), environment, key::resources(base));
                let ordered = Ordered::of(&mirror);
                Source::Resources(mirror, Arc::new(Mutex::new(ordered)))
            };
            Kept { source, used: Instant::now() }
        });
        kept.used = Instant::now();
        kept.source.clone()
    }

    fn forget_when_idle(&self, base: &'static str) {
        let shared = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            let mut wait = IDLE;
            loop {
                tokio::time::sleep(wait).await;
                let Some(shared) = shared.upgrade() else { return };
                let mut mirrors = lock(&shared.mirrors);
                let Some(kept) = mirrors.get(base) else { return };
                wait = IDLE.saturating_sub(kept.used.elapsed());
                if wait.is_zero() {
                    mirrors.remove(base);
                    return;
                }
            }
        });
    }
}

/// What a mirror knows of a row's last change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glance {
    At(Revision),
    Absent { upto: Revision },
}

/// The keys of whichever changes first.
async fn any(changes: &mut [Changes]) -> BTreeSet<String> {
    futures::future::select_all(changes.iter_mut().map(|changes| Box::pin(changes.next()))).await.0
}

/// See [`Cache::follow`].
#[derive(Debug)]
pub struct Followed {
    source: Source,
    changes: Vec<Changes>,
}

impl Followed {
    pub fn row(&self, id: u64) -> Option<Tagged> {
        self.source.row(id)
    }

    /// Waits until any of the rows changed.
    pub async fn changed(&mut self) {
        any(&mut self.changes).await;
    }
}

/// See [`Cache::follow_hosts`].
#[derive(Debug)]
pub struct HostChanges {
    environment: Environment,
    source: Source,
    changes: Vec<Changes>,
    /// As they were told last.
    known: HashMap<String, Arc<Resource>>,
}

impl HostChanges {
    /// Waits until some changed; as they are then. One that is no host any more is removed.
    pub async fn next(&mut self) -> Vec<Arc<Resource>> {
        let names = any(&mut self.changes).await;
        let mut rows = self.rows();
        names
            .into_iter()
            .filter_map(|name| match rows.remove(&name) {
                Some(row) => {
                    self.known.insert(name, row.clone());
                    Some(row)
                }
                None => {
                    let mut gone = self.known.remove(&name)?.as_ref().clone();
                    gone.enter(State::Removed);
                    gone.removed = Some(self.environment.clock.now());
                    Some(Arc::new(gone))
                }
            })
            .collect()
    }

    fn rows(&self) -> HashMap<String, Arc<Resource>> {
        let rows = self.source.rows(&mut |_| true).into_iter();
        rows.filter_map(|row| Some((row.name.clone()?, row))).collect()
    }
}
