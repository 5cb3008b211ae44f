//! What an account's names lead to, as the store has it.
//!
//! ```text
//!  asked ──► watched? ── yes ─────────────► from memory; cut off: what is known, and it tries again at once
//!               │ no
//!               ▼
//!            read once ── nothing there ──► no such name, for a second
//!               │ there
//!               ▼
//!            watched from now on, until nobody asked for ten minutes, or others are asked for more
//! ```
//! So names that nobody has cost a read each and no watch, however many are asked for.

use crate::environment::Environment;
use crate::resource::dns_name::Named;
use crate::store::{Store, decode, key, mirror::Mirror};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// The most names that are watched.
const WATCHED: usize = 512;
/// How long a name is watched that nobody asks for.
const IDLE: Duration = Duration::from_secs(600);
/// How often it is looked for those.
const SWEEP: Duration = Duration::from_secs(60);
/// How long it is remembered that nobody has a name, and of how many.
const ABSENT: (Duration, usize) = (Duration::from_secs(1), 4096);
/// Reads side by side, how long one may wait for its turn, and how long for the store.
const READS: usize = 16;
const TURN: Duration = Duration::from_secs(1);
const READING: Duration = Duration::from_secs(2);
/// While the store is cut off: how long a question waits for it, and how often one does.
const PATIENCE: Duration = Duration::from_millis(300);
const RETRY: Duration = Duration::from_millis(500);

/// What became of a look.
#[derive(Clone, Debug, PartialEq)]
pub enum Found {
    /// All that have the name; none where nobody has.
    Names(Vec<Named>),
    /// The store could not be asked, and nothing is known of it.
    Unknown,
}

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Names(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    environment: Environment,
    known: Mutex<Known>,
    reads: Semaphore,
}

/// A name as it is looked for: an account, and what it calls it.
type Key = (u64, String);

#[derive(Debug, Default)]
struct Known {
    watched: HashMap<Key, Watched>,
    absent: HashMap<Key, Instant>,
    sweeping: bool,
}

#[derive(Debug)]
struct Watched {
    mirror: Mirror<Named>,
    /// As it was read before the watch: what is known until that stands.
    first: Vec<Named>,
    asked: Instant,
    /// When a question last waited for the store, or the watch was asked for.
    hastened: Instant,
}

impl Watched {
    fn names(&self) -> Vec<Named> {
        if !self.mirror.freshness().listed {
            return self.first.clone();
        }
        self.mirror.view().values().map(|item| (*item.value).clone()).collect()
    }

    /// Whether a question that comes now waits for the store.
    fn to_hasten(&self) -> bool {
        self.mirror.freshness().stale_since.is_some() && self.hastened.elapsed() > RETRY
    }
}

impl Names {
    pub fn new(store: Arc<dyn Store>, environment: &Environment) -> Self {
        let environment = environment.clone();
        Self(Arc::new(Inner { store, environment, known: Mutex::default(), reads: Semaphore::new(READS) }))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What can be said without waiting; `None` where something is to be waited for.
    pub fn at_once(&self, account: u64, name: &str) -> Option<Found> {
        let key = (account, name.to_owned());
        let mut known = self.known();
        if let Some(watched) = known.watched.get_mut(&key) {
            watched.asked = Instant::now();
            return (!watched.to_hasten()).then(|| Found::Names(watched.names()));
        }
        let absent = known.absent.get(&key).is_some_and(|since| since.elapsed() < ABSENT.0);
        absent.then(|| Found::Names(Vec::new()))
    }

    /// All that have the name.
    pub async fn find(&self, account: u64, name: &str) -> Found {
        if let Some(found) = self.at_once(account, name) {
            return found;
        }
        let key = (account, name.to_owned());
        if let Some(mirror) = self.hasten(&key) {
            mirror.hasten();
            mirror.followed(PATIENCE).await;
            if let Some(watched) = self.known().watched.get(&key) {
                return Found::Names(watched.names());
            }
        }
        self.read(key).await
    }

    /// The mirror of a watched name, and that somebody waits for it from now on.
    fn hasten(&self, key: &Key) -> Option<Mirror<Named>> {
        let mut known = self.known();
        let watched = known.watched.get_mut(key)?;
        watched.hastened = Instant::now();
        Some(watched.mirror.clone())
    }

    async fn read(&self, key: Key) -> Found {
        let Ok(Ok(_turn)) = timeout(TURN, self.0.reads.acquire()).await else { return Found::Unknown };
        // Others asked for it too, and one of them was first.
        if let Some(found) = self.at_once(key.0, &key.1) {
            return found;
        }
        let prefix = key::dns_name(key.0, &key.1);
        let entries = match timeout(READING, self.0.store.range(&prefix)).await {
            Ok(Ok(snapshot)) => snapshot.entries,
            Ok(Err(error)) => {
                tracing::debug!(account = key.0, name = key.1, %error, "a name cannot be looked up");
                return Found::Unknown;
            }
            Err(_) => return Found::Unknown,
        };
        let readable = |entry| decode::<Named>(entry).inspect_err(|error| tracing::warn!(%error, "a name is left out"));
        let found: Vec<Named> = entries.iter().filter_map(|entry| readable(entry).ok()).collect();
        if entries.is_empty() {
            self.known().remember_absent(key);
        } else {
            self.watch(key, prefix, found.clone());
        }
        Found::Names(found)
    }

    fn watch(&self, key: Key, prefix: String, first: Vec<Named>) {
        let mut known = self.known();
        if known.watched.contains_key(&key) {
            return;
        }
        if known.watched.len() >= WATCHED {
            known.forget_oldest();
        }
        let mirror = Mirror::one_of_many(self.0.store.clone(), &self.0.environment, prefix);
        known.absent.remove(&key);
        known.watched.insert(key, Watched { mirror, first, asked: Instant::now(), hastened: Instant::now() });
        if !std::mem::replace(&mut known.sweeping, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.0)));
        }
    }

    /// How many names are watched.
    #[cfg(test)]
    pub fn watched(&self) -> usize {
        self.known().watched.len()
    }
}

impl Known {
    fn remember_absent(&mut self, key: Key) {
        if self.absent.len() >= ABSENT.1 {
            self.absent.retain(|_, since| since.elapsed() < ABSENT.0);
        }
        if self.absent.len() < ABSENT.1 {
            self.absent.insert(key, Instant::now());
        }
    }

    fn forget_oldest(&mut self) {
        let oldest = self.watched.iter().min_by_key(|(_, watched)| watched.asked).map(|(key, _)| key.clone());
        oldest.and_then(|key| self.watched.remove(&key));
    }
}

/// Drops what nobody asks for, until nothing is left.
async fn sweep(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut known = inner.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.watched.retain(|_, watched| watched.asked.elapsed() < IDLE);
        known.absent.retain(|_, since| since.elapsed() < ABSENT.0);
        if known.watched.is_empty() {
            known.sweeping = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::simulated::{Simulated, Way};
    use crate::store::{Operation, Transaction, encode};
    use serde_json::Map;
    use std::net::Ipv4Addr;

    const ACCOUNT: u64 = 5;

    struct World {
        server: Simulated,
        /// What writes, whatever becomes of the way of who asks.
        other: Arc<dyn Store>,
        way: crate::store::simulated::Link,
        names: Names,
    }

    impl World {
        fn new() -> Self {
            let environment = Environment::system().unwrap();
            let server = Simulated::new(&environment);
            let client = server.client("h1");
            let (way, other) = (client.link().clone(), Arc::new(server.client("h2")));
            Self { server, other, way, names: Names::new(Arc::new(client), &environment) }
        }

        async fn put(&self, name: &str, instance: &str, last: u8) {
            let key = key::dns(ACCOUNT, name, instance);
            let address = Ipv4Addr::new(10, 42, 7, last);
            let named = Named { address, host: "h2".into(), name: name.into(), rest: Map::new() };
            let put = Operation::put(&key, encode(&key, &named).unwrap());
            assert!(self.other.commit(Transaction::new().then(put)).await.unwrap().succeeded);
        }

        async fn delete(&self, name: &str, instance: &str) {
            let delete = Operation::delete(key::dns(ACCOUNT, name, instance));
            self.other.commit(Transaction::new().then(delete)).await.unwrap();
        }

        /// The last parts of the addresses; `None` where it is unknown.
        async fn find(&self, name: &str) -> Option<Vec<u8>> {
            match self.names.find(ACCOUNT, name).await {
                Found::Names(named) => Some(named.iter().map(|one| one.address.octets()[3]).collect()),
                Found::Unknown => None,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_known_without_another_look() {
        let world = World::new();
        world.put("web", "1i1", 9).await;
        world.put("webs", "1i3", 8).await;
        assert_eq!(world.names.at_once(ACCOUNT, "web"), None);
        assert_eq!(world.find("web").await, Some(vec![9]), "not what only begins alike");
        assert_eq!(world.names.find(6, "web").await, Found::Names(Vec::new()), "another account's");
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.put("web", "1i2", 10).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(matches!(world.names.at_once(ACCOUNT, "web"), Some(Found::Names(named)) if named.len() == 2));
        world.delete("web", "1i1").await;
        world.delete("web", "1i2").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(world.names.at_once(ACCOUNT, "web"), Some(Found::Names(Vec::new())));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_has_costs_no_watch_and_is_looked_for_again() {
        let world = World::new();
        for number in 0..4_500 {
            assert_eq!(world.find(&format!("nobody-{number}")).await, Some(Vec::new()));
        }
        assert_eq!(world.names.watched(), 0);
        assert!(world.names.known().absent.len() <= ABSENT.1);
        assert_eq!(world.find("late").await, Some(Vec::new()));
        world.put("late", "1i1", 9).await;
        tokio::time::sleep(ABSENT.0).await;
        assert_eq!(world.find("late").await, Some(vec![9]));
    }

    #[tokio::test(start_paused = true)]
    async fn watches_are_bounded_and_end_when_nobody_asks() {
        let world = World::new();
        for number in 0..WATCHED + 10 {
            world.put(&format!("web-{number}"), "1i1", 9).await;
            assert_eq!(world.find(&format!("web-{number}")).await, Some(vec![9]));
            assert_eq!(world.find("web-0").await, Some(vec![9]));
        }
        assert_eq!(world.names.watched(), WATCHED);
        assert!(world.names.known().watched.contains_key(&(ACCOUNT, "web-0".into())), "it is asked for all the time");
        for _ in 0..12 {
            tokio::time::sleep(SWEEP).await;
            assert_eq!(world.find("web-0").await, Some(vec![9]));
        }
        assert_eq!(world.names.watched(), 1);
        tokio::time::sleep(IDLE + SWEEP * 2).await;
        assert_eq!(world.names.watched(), 0);
        assert!(!world.names.known().sweeping);
    }

    #[tokio::test(start_paused = true)]
    async fn cut_off_it_says_what_it_knows_and_is_right_at_once_when_it_is_back() {
        let world = World::new();
        world.put("web", "1i1", 9).await;
        assert_eq!(world.find("web").await, Some(vec![9]));
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.way.set(Way::Cut);
        world.put("web", "1i2", 10).await;
        world.delete("web", "1i1").await;
        world.put("unseen", "1i3", 11).await;
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let asked = Instant::now();
            assert_eq!(world.find("web").await, Some(vec![9]), "what is known");
            assert!(asked.elapsed() <= PATIENCE, "{:?}", asked.elapsed());
        }
        assert_eq!(world.find("unseen").await, None, "unknown, which is not that there is none");
        world.way.set(Way::Open);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let back = Instant::now();
        while world.find("web").await != Some(vec![10]) {
            assert!(back.elapsed() < Duration::from_secs(6), "still wrong");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(world.find("unseen").await, Some(vec![11]));
        assert!(world.server.revision().0 > 0);
    }
}
