//! What changes in the cluster, told once to this node and from here to all its subscribers.
//!
//! ```text
//! resource/…  ── watch ──┐
//!                        ├─► broadcast, bounded ──► subscribers, each at its own pace
//! host/ alive/ lost/ ────┤
//! event/ ────────────────┘  of external handlers: as they are, not as they came to be
//! ```
//! The watch goes on where it was after the store was away, so that nothing is left out; where it cannot (the history is
//! compacted, a backup was restored), all subscribers are told and sent away. A feed lives as long as somebody
//! subscribes.

use crate::api::cache::Cache;
use crate::environment::{Backoff, Environment};
use crate::orchestration::handlers::hold::Event;
use crate::resource::declaration::Type;
use crate::resource::{Resource, floating, types, volume};
use crate::store::mirror::Mirror;
use crate::store::{self, Change, Entry, Error, Revision, Store, Watch, WatchEvent, decode, key};
use futures::StreamExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;

/// A subscriber that is this many changes behind is sent away.
const BEHIND: usize = 1024;
/// To list what waits for an answer.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// The delays after failures of the watch.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// A row that changed, with the base type that it is stored under.
pub type Row = (&'static Type, Arc<Resource>);

/// What subscribers hear.
#[derive(Debug)]
pub enum News {
    /// What one revision changed, or that nothing did up to it.
    Changed { revision: Revision, rows: Vec<Row> },
    /// Hosts as they are now.
    Hosts(Vec<Arc<Resource>>),
    /// What external handlers are told, for the first time or again.
    Events(Vec<Arc<Event>>),
    /// Something may have been missed: all have to begin anew, for this reason.
    Broken(&'static str),
}

/// Where subscribers find the feed.
#[derive(Debug)]
pub struct Hub {
    store: Arc<dyn Store>,
    environment: Environment,
    cache: Arc<Cache>,
    running: tokio::sync::Mutex<Weak<Feed>>,
}

/// See the module's text. Ends with its last holder.
#[derive(Debug)]
pub struct Feed {
    outlet: Arc<Outlet>,
    events: Mirror<Event>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

#[derive(Debug)]
struct Outlet {
    sender: broadcast::Sender<Arc<News>>,
    /// Everything up to it was sent. Held while sending.
    told: Mutex<Revision>,
    broken: AtomicBool,
}

impl Outlet {
    fn told(&self) -> MutexGuard<'_, Revision> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, revision: Revision, rows: Vec<Row>) {
        let mut told = self.told();
        *told = revision.max(*told);
        self.send(News::Changed { revision, rows });
    }

    /// Whether anybody heard it does not matter.
    fn send(&self, news: News) {
        let _ = self.sender.send(Arc::new(news));
    }
}

/// A subscriber's place at the feed.
#[derive(Debug)]
pub struct Place {
    /// Keeps it alive.
    feed: Arc<Feed>,
    pub news: broadcast::Receiver<Arc<News>>,
    /// What comes is newer than this.
    pub after: Revision,
}

impl Place {
    /// Events that wait for an answer now.
    pub async fn waiting(&self) -> Vec<Arc<Event>> {
        self.feed.events.listed(FIRST_LIST).await;
        self.feed.events.view().values().map(|item| item.value.clone()).collect()
    }
}

impl Hub {
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>, environment: &Environment) -> Self {
        Self { store, environment: environment.clone(), cache, running: tokio::sync::Mutex::default() }
    }

    /// A place at the feed, which begins where nobody has one yet.
    pub async fn join(&self) -> Result<Place, Error> {
        let mut running = self.running.lock().await;
        let there = running.upgrade().filter(|feed| !feed.outlet.broken.load(Ordering::Acquire));
        let feed = match there {
            Some(feed) => feed,
            None => {
                let feed = Arc::new(self.start().await?);
                *running = Arc::downgrade(&feed);
                feed
            }
        };
        let told = feed.outlet.told();
        let (news, after) = (feed.outlet.sender.subscribe(), *told);
        drop(told);
        Ok(Place { feed, news, after })
    }

    async fn start(&self) -> Result<Feed, Error> {
        let revision = self.store.get(&key::cluster()).await?.revision;
        let watch = self.store.watch(&key::all_resources(), next(revision)).await?;
        let outlet = Arc::new(Outlet {
            sender: broadcast::Sender::new(BEHIND),
            told: Mutex::new(revision),
            broken: AtomicBool::new(false),
        });
        let follower = Follower {
            store: self.store.clone(),
            environment: self.environment.clone(),
            outlet: outlet.clone(),
            upto: revision,
        };
        let hosts = tokio::spawn(follow_hosts(self.cache.clone(), outlet.clone()));
        let events = Mirror::start(self.store.clone(), &self.environment, key::events());
        let handlers = tokio::spawn(follow_events(events.clone(), outlet.clone()));
        Ok(Feed { outlet, events, tasks: vec![tokio::spawn(follower.run(watch)), hosts, handlers] })
    }
}

fn next(revision: Revision) -> Revision {
    Revision(revision.0 + 1)
}

async fn follow_hosts(cache: Arc<Cache>, outlet: Arc<Outlet>) {
    let mut hosts = cache.follow_hosts().await;
    loop {
        let rows = hosts.next().await;
        outlet.send(News::Hosts(rows));
    }
}

async fn follow_events(events: Mirror<Event>, outlet: Arc<Outlet>) {
    let mut changes = events.changes();
    loop {
        let keys = changes.next().await;
        let there: Vec<Arc<Event>> = keys.iter().filter_map(|key| Some(events.get(key)?.value)).collect();
        if !there.is_empty() {
            outlet.send(News::Events(there));
        }
    }
}

struct Follower {
    store: Arc<dyn Store>,
    environment: Environment,
    outlet: Arc<Outlet>,
    upto: Revision,
}

impl Follower {
    async fn run(mut self, mut watch: Watch) {
        let mut backoff = Backoff::new(&self.environment, BACKOFF.0, BACKOFF.1);
        let why = loop {
            if let Some(why) = broken(&self.follow(&mut watch, &mut backoff).await) {
                break why;
            }
            backoff.wait().await;
            watch = match self.again().await {
                Ok(Some(watch)) => watch,
                Ok(None) => break "the cluster's store went back to an earlier state",
                Err(error) => match broken(&error) {
                    Some(why) => break why,
                    None => futures::stream::empty().boxed(),
                },
            };
        };
        self.outlet.broken.store(true, Ordering::Release);
        self.outlet.send(News::Broken(why));
    }

    async fn follow(&mut self, watch: &mut Watch, backoff: &mut Backoff) -> Error {
        loop {
            match watch.next().await {
                Some(Ok(event)) => {
                    backoff.reset();
                    let (revision, rows) = rows(event);
                    self.upto = revision.max(self.upto);
                    self.outlet.changed(revision, rows);
                }
                Some(Err(error)) => return error,
                None => return Error::Unavailable { message: "the watch ended".into() },
            }
        }
    }

    /// A new watch from where the last one was; `None` where the store is not that far any more.
    async fn again(&self) -> Result<Option<Watch>, Error> {
        if self.store.get(&key::cluster()).await?.revision < self.upto {
            return Ok(None);
        }
        self.store.watch(&key::all_resources(), next(self.upto)).await.map(Some)
    }
}

/// Why nothing can go on after that error; `None` where it can be tried again.
fn broken(error: &Error) -> Option<&'static str> {
    matches!(error, Error::Compacted { .. }).then_some("the store's history no longer reaches back to the last event")
}

/// What a watch of all resources tells. Rows that go were purged long before: nothing is said of them.
pub fn rows(event: WatchEvent) -> (Revision, Vec<Row>) {
    match event {
        WatchEvent::Progress { revision } => (revision, Vec::new()),
        WatchEvent::Changed { revision, changes } => {
            let rows = changes.iter().filter_map(|change| match change {
                Change::Put(entry) => row(entry),
                Change::Deleted { .. } => None,
            });
            (revision, rows.collect())
        }
    }
}

/// A row of a type that this agent knows.
fn row(entry: &Entry) -> Option<Row> {
    let (stored, _) = key::last(&key::all_resources(), &entry.key).split_once('/')?;
    // What floats is stored under a name of its own, and shown among the other addresses.
    let shown = match stored {
        floating::BASE => floating::SHOWN,
        volume::BASE => volume::SHOWN,
        stored => stored,
    };
    let base = types::find(shown).filter(|declared| declared.listable)?;
    match decode::<Resource>(entry) {
        Ok(row) if shown != stored => {
            let derived = base.derived?;
            let from = derived.from.iter().find(|from| **from == stored)?;
            (derived.rows)(from, &row).pop().map(|row| (base, Arc::new(row)))
        }
        Ok(row) => Some((base, Arc::new(row))),
        Err(error) => {
            tracing::error!(key = entry.key, %error, "a row cannot be read; nobody is told of its change");
            None
        }
    }
}

/// What was written since a revision, from the store's own history.
pub struct Backlog {
    watch: Watch,
    /// Where the feed takes over.
    upto: Revision,
    /// The last change there is, but for rows that are gone.
    last: Option<Revision>,
    seen: Revision,
}

impl std::fmt::Debug for Backlog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Backlog").field("upto", &self.upto).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Backlog {
    /// How long nothing more may come before it is taken for all.
    const QUIET: Duration = Duration::from_secs(1);
    /// How long what must come may take.
    const PATIENCE: Duration = Duration::from_secs(20);

    pub async fn open(store: &dyn Store, since: Revision, upto: Revision) -> Result<Self, store::Error> {
        let watch = store.watch(&key::all_resources(), next(since)).await?;
        let difference = store.changed_since(&key::all_resources(), since).await?;
        let last = difference.written.iter().map(|entry| entry.mod_revision).max();
        Ok(Self { watch, upto, last, seen: since })
    }

    /// The next revision's rows; `None` when the feed has all that follows.
    pub async fn next(&mut self) -> Result<Option<(Revision, Vec<Row>)>, store::Error> {
        if self.seen >= self.upto {
            return Ok(None);
        }
        // A watch says nothing where there is nothing. All rows as they are now have come when the last one has; behind it
        // can only be the end of rows that were purged since, which comes at once if at all.
        let patience = if self.last.is_some() { Self::PATIENCE } else { Self::QUIET };
        let event = match (tokio::time::timeout(patience, self.watch.next()).await, self.last) {
            (Ok(Some(event)), _) => event?,
            (Err(_), None) => return Ok(None),
            (Ok(None), _) => return Err(Error::Unavailable { message: "the watch ended".into() }),
            (Err(_), Some(_)) => return Err(Error::Unavailable { message: "the history does not come".into() }),
        };
        let (revision, rows) = rows(event);
        self.seen = revision.max(self.seen);
        if self.last.is_some_and(|last| last <= revision) {
            self.last = None;
        }
        Ok((revision <= self.upto).then_some((revision, rows)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::encode;
    use serde_json::json;

    #[test]
    fn a_floating_address_is_told_of_as_it_is_shown() {
        let put = |base: &str| {
            let key = key::resource(base, 7);
            let row = json!({"id": 7, "kind": base, "uuid": "u", "created": 1, "state": "associated", "accountId": 3,
                "address": "198.18.9.2", "instanceId": 54});
            let value = encode(&key, &row).unwrap();
            Change::Put(Entry { key, value, create_revision: Revision(5), mod_revision: Revision(9), lease: None })
        };
        let changes = vec![put(floating::BASE), put("nothingOfThatKind")];
        let (revision, told) = rows(WatchEvent::Changed { revision: Revision(9), changes });
        assert_eq!((revision, told.len()), (Revision(9), 1));
        let (declared, row) = &told[0];
        assert_eq!((declared.name, row.kind.as_str(), row.id), ("ipAddress", "ipAddress", floating::shown_id(7)));
        assert_eq!((row.account_id, row.get::<String>("address").as_deref()), (Some(3), Some("198.18.9.2")));
        assert_eq!(row.get::<u64>("instanceId"), None, "it is not shown");
    }
}
