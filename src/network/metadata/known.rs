//! What is known of the instances that ask: read when asked for, kept for a moment, and for longer while the store cannot be reached.
//!
//! ```text
//!  asked ──► read within two seconds? ── yes ──► from memory
//!               │ no
//!               ▼
//!            ledger: what its host was told ── nothing ──► nobody
//!            store: its row, its keys, its host's labels
//!               ├─ there ──► kept
//!               ├─ none, or another's ──► nobody
//!               └─ no answer ──► what was read last; else what the ledger has, and "not known now" for the rest
//! ```
//! An instance that starts asks for some thirty things at once, which is one read.

use super::facts::{Facts, Row};
use crate::environment::Environment;
use crate::membership::record::Host;
use crate::network::subnet::SubnetSpec;
use crate::resource::ssh_key::SshKey;
use crate::resource::{Resource, identifier, instance};
use crate::store::ledger::Ledger;
use crate::store::{self, Store, decode, key};
use futures::future::try_join_all;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long what was read is not read again.
const FRESH: Duration = Duration::from_secs(2);
/// How long it is kept after the last question.
const IDLE: Duration = Duration::from_secs(600);
/// All that is kept, bytes.
const MEMORY: usize = 8 << 20;
/// Reads side by side, how long one may wait for its turn, and how long for the store.
const READS: usize = 16;
const TURN: Duration = Duration::from_secs(1);
const READING: Duration = Duration::from_secs(2);
/// After the store did not answer: how long it is not asked.
const REST: Duration = Duration::from_secs(1);
/// The label of a host that names its zone.
const ZONE: &str = "zone";

/// See the module's text.
#[derive(Debug)]
pub struct Known {
    pub subnet: SubnetSpec,
    /// This host's name.
    host: String,
    ledger: Ledger,
    store: Arc<dyn Store>,
    environment: Environment,
    kept: Mutex<Kept>,
    reads: Semaphore,
}

#[derive(Debug, Default)]
struct Kept {
    by: HashMap<String, One>,
    size: usize,
    /// Until when the store is not asked, since boot.
    resting: Duration,
}

#[derive(Debug)]
struct One {
    facts: Arc<Facts>,
    size: usize,
    /// Since boot.
    read: Duration,
    asked: Duration,
}

impl Kept {
    fn put(&mut self, facts: &Arc<Facts>, now: Duration) {
        self.forget(&facts.id);
        let size = facts.size();
        self.by.insert(facts.id.clone(), One { facts: facts.clone(), size, read: now, asked: now });
        self.size += size;
        let idle: Vec<String> =
            self.by.iter().filter(|(_, one)| one.asked + IDLE < now).map(|(id, _)| id.clone()).collect();
        idle.iter().for_each(|id| self.forget(id));
        while self.size > MEMORY {
            let oldest = self.by.iter().min_by_key(|(_, one)| one.asked).map(|(id, _)| id.clone());
            let Some(oldest) = oldest else { return };
            self.forget(&oldest);
        }
    }

    fn forget(&mut self, id: &str) {
        if let Some(one) = self.by.remove(id) {
            self.size -= one.size;
        }
    }
}

impl Known {
    pub fn new(
        subnet: SubnetSpec,
        host: String,
        ledger: Ledger,
        store: Arc<dyn Store>,
        environment: &Environment,
    ) -> Self {
        let (environment, reads) = (environment.clone(), Semaphore::new(READS));
        Self { subnet, host, ledger, store, environment, kept: Mutex::default(), reads }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.environment.clock.boottime()
    }

    fn fresh(&self, id: &str) -> Option<Arc<Facts>> {
        let now = self.now();
        let mut kept = self.kept();
        let one = kept.by.get_mut(id)?;
        one.asked = now;
        (now < one.read + FRESH).then(|| one.facts.clone())
    }

    /// All that is known of an instance of this host; `None` where it is none.
    pub async fn of(&self, id: &str) -> Option<Arc<Facts>> {
        if let Some(facts) = self.fresh(id) {
            return Some(facts);
        }
        let turn = timeout(TURN, self.reads.acquire()).await;
        // Others asked for it too, and one of them was first.
        if let Some(facts) = self.fresh(id) {
            return Some(facts);
        }
        let assignment = match self.ledger.assignment(id) {
            Ok(assignment) => assignment?,
            Err(error) => {
                tracing::warn!(instance = id, %error, "what it is cannot be read from the ledger");
                return None;
            }
        };
        let facts = Facts::of(&assignment)?;
        let row = match turn {
            Ok(Ok(_turn)) if self.kept().resting <= self.now() => self.read(&facts).await,
            _ => Err(Trouble::Silent),
        };
        match row {
            Ok(row) => {
                let facts = Arc::new(Facts { row: Some(row?), ..facts });
                self.kept().put(&facts, self.now());
                Some(facts)
            }
            Err(trouble) => {
                tracing::debug!(instance = id, %trouble, "what it may know is not known now");
                let known = self.kept().by.get(id).map(|one| one.facts.clone());
                Some(known.filter(|known| known.uuid == facts.uuid).unwrap_or_else(|| Arc::new(facts)))
            }
        }
    }

    /// Its row and what that refers to; `None` where there is none of that instance.
    async fn read(&self, facts: &Facts) -> Result<Option<Row>, Trouble> {
        let answer = timeout(READING, self.ask(facts)).await;
        let row = answer.map_err(|_| Trouble::Silent).and_then(|answer| answer.map_err(Trouble::Store));
        if let Err(Trouble::Silent | Trouble::Store(store::Error::Unavailable { .. })) = &row {
            self.kept().resting = self.now() + REST;
        }
        row
    }

    async fn ask(&self, facts: &Facts) -> Result<Option<Row>, store::Error> {
        let Some(number) = identifier::parse(instance::BASE, &facts.id) else { return Ok(None) };
        let (row, host) = (key::resource(instance::BASE, number), key::host(&self.host));
        let (row, host) = futures::try_join!(self.store.get(&row), self.store.get(&host))?;
        let Some(row) = row.entry else { return Ok(None) };
        let instance: Resource = decode(&row)?;
        if instance.uuid != facts.uuid {
            return Ok(None);
        }
        let ids: Vec<u64> = instance.get(instance::CREDENTIALS).unwrap_or_default();
        let credential = async |id: u64| self.store.get(&key::resource("credential", id)).await;
        let found = try_join_all(ids.into_iter().take(instance::MOST_CREDENTIALS).map(credential)).await?;
        // One that cannot be read keeps the others from nobody.
        let keys = found.iter().filter_map(|found| decode::<Resource>(found.entry.as_ref()?).ok());
        let keys = keys.filter_map(|credential| SshKey::of(&credential, instance.account_id)).collect();
        let host = host.entry.and_then(|entry| decode::<Host>(&entry).ok());
        let zone = host.and_then(|host| host.labels().remove(ZONE));
        Ok(Some(Row::of(&instance, keys, zone)))
    }
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error("the store does not answer")]
    Silent,
    #[error(transparent)]
    Store(store::Error),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::{Clock, Timestamp};
    use crate::resource::assignment::Assignment;
    use crate::store::simulated::{Link, Simulated, Way};
    use crate::store::{Operation, Transaction};
    use bytes::Bytes;
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;
    use tokio::time::Instant;

    /// tokio's own.
    #[derive(Debug)]
    struct Paused(Instant);

    impl Clock for Paused {
        fn now(&self) -> Timestamp {
            Timestamp(0)
        }

        fn boottime(&self) -> Duration {
            self.0.elapsed()
        }
    }

    struct World {
        known: Known,
        other: Arc<dyn Store>,
        way: Link,
        ledger: Ledger,
        _directory: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let environment = Environment { clock: Arc::new(Paused(Instant::now())), ..Environment::system().unwrap() };
            let server = Simulated::new(&environment);
            let client = server.client("h1");
            let (way, other) = (client.link().clone(), Arc::new(server.client("h2")));
            let directory = tempfile::tempdir().unwrap();
            let ledger = Ledger::open(directory.path()).unwrap();
            let subnet = SubnetSpec::default();
            let known = Known::new(subnet, "h1".into(), ledger.clone(), Arc::new(client), &environment);
            Self { known, other, way, ledger, _directory: directory }
        }

        fn assigned(&self, number: u64, uuid: &str) {
            let network = SubnetSpec::default().managed(Ipv4Addr::new(10, 42, 7, 9), 1380);
            let id = format!("1i{number}");
            let assignment = Assignment { network: Some(network), uuid: uuid.into(), ..Assignment::example(&id) };
            self.ledger.put_assignment(&assignment).unwrap();
        }

        async fn put(&self, key: &str, value: &Value) {
            let put = Operation::put(key, value.to_string().into());
            assert!(self.other.commit(Transaction::new().then(put)).await.unwrap().succeeded);
        }

        async fn row(&self, number: u64, userdata: &str, keys: &[u64]) {
            let row = json!({
                "id": number, "kind": "container", "uuid": "u", "created": 5, "state": "running", "accountId": 5,
                "imageId": 7, "userdata": userdata, "credentialIds": keys,
            });
            self.put(&key::resource(instance::BASE, number), &row).await;
        }

        async fn userdata(&self, id: &str) -> Option<String> {
            let facts = self.known.of(id).await?;
            let userdata = facts.row.as_ref()?.userdata.clone().unwrap_or_default();
            Some(String::from_utf8(userdata.to_vec()).unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_is_told_soon_and_what_is_read_is_kept_for_a_moment() {
        let world = World::new();
        assert_eq!(world.known.of("1i1").await, None, "it is on no ledger");
        world.assigned(1, "u");
        assert_eq!(world.known.of("1i1").await, None, "it has no row");
        world.row(1, "one", &[]).await;
        assert_eq!(world.userdata("1i1").await.as_deref(), Some("one"));
        world.row(1, "two", &[]).await;
        assert_eq!(world.userdata("1i1").await.as_deref(), Some("one"));
        tokio::time::sleep(FRESH).await;
        assert_eq!(world.userdata("1i1").await.as_deref(), Some("two"));
        world.assigned(1, "another");
        tokio::time::sleep(FRESH).await;
        assert_eq!(world.known.of("1i1").await, None, "another's row");
    }

    #[tokio::test(start_paused = true)]
    async fn cut_off_it_says_what_it_knows_and_admits_the_rest() {
        let world = World::new();
        world.assigned(1, "u");
        world.assigned(2, "u");
        world.row(1, "one", &[]).await;
        world.row(2, "two", &[]).await;
        assert_eq!(world.userdata("1i1").await.as_deref(), Some("one"));
        world.way.set(Way::Cut);
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(30)).await;
            let asked = Instant::now();
            assert_eq!(world.userdata("1i1").await.as_deref(), Some("one"));
            let other = world.known.of("1i2").await.unwrap();
            assert_eq!((other.row.as_ref(), other.hostname.as_str()), (None, "ip-10-42-7-9"));
            assert!(asked.elapsed() <= READING, "the second does not wait for what the first waited for");
        }
        world.way.set(Way::Open);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(world.userdata("1i2").await.as_deref(), Some("two"));
    }

    #[tokio::test(start_paused = true)]
    async fn keys_are_told_as_they_are_now_and_secrets_never() {
        let world = World::new();
        world.assigned(1, "u");
        world.row(1, "", &[1, 2, 3, 4, 5, 6]).await;
        let credential = |kind: &str, account: u64, state: &str, name: &str| {
            json!({"id": 1, "kind": kind, "uuid": "c", "created": 5, "state": state, "accountId": account, "name": name,
                "publicValue": "ssh-ed25519 AAAA\n", "secretValue": "s"})
        };
        for (id, credential) in [
            (1, credential("sshKey", 5, "active", "mine/x=\n")),
            (2, credential("apiKey", 5, "active", "secret")),
            (3, credential("sshKey", 6, "active", "another's")),
            (4, credential("sshKey", 5, "removed", "removed")),
            (5, json!({"id": "unreadable"})),
        ] {
            world.put(&key::resource("credential", id), &credential).await;
        }
        let facts = world.known.of("1i1").await.unwrap();
        let row = facts.row.as_ref().unwrap();
        assert_eq!(row.keys, [SshKey { name: "mine_x_".into(), value: "ssh-ed25519 AAAA".into() }]);
        assert_eq!((row.userdata.as_ref(), row.zone.as_str()), (None, "default"));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let world = World::new();
        let row = Row { userdata: Some(Bytes::from(vec![0; 65_535])), ..Row::default() };
        world.assigned(1, "u");
        world.row(1, "one", &[]).await;
        let facts = Facts { row: Some(row), ..(*world.known.of("1i1").await.unwrap()).clone() };
        for number in 0..500 {
            let facts = Arc::new(Facts { id: format!("1i{number}"), ..facts.clone() });
            world.known.kept().put(&facts, Duration::from_secs(number));
        }
        let kept = world.known.kept();
        let size: usize = kept.by.values().map(|one| one.size).sum();
        assert!(kept.size <= MEMORY && kept.size == size && kept.by.contains_key("1i499"), "{}", kept.size);
        drop(kept);
        world.known.kept().put(&Arc::new(facts), Duration::from_secs(5000));
        assert_eq!(world.known.kept().by.len(), 1, "nobody asks for the others");
    }
}
