//! The product's guards, and hosts on which one of them is taken away: each must be missed.
//!
//! The product knows nothing of this. What it sends to the store is changed on its way, what it hears or writes down is
//! replaced, or its supervisors get a clock that stands still. (What it asks of its kernel is changed in [`crate::esp`] and [`crate::datapath`].) Here too: the moment in which a lease is lost that hurts most.

use bytes::Bytes;
use futures::StreamExt;
use serde_json::Value;
use stampede::environment::Environment;
use stampede::membership::fence::{self, DeadlineFile, Fence};
use stampede::store::simulated::{Link, Simulated, Way};
use stampede::store::{
    Answer, Change, Compare, Difference, Entry, Error, LeaseId, Lookup, Operation, Outcome, Revision, Snapshot, Store,
    StoreId, Transaction, Watch, WatchEvent, key,
};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

macro_rules! guards {
    ($($guard:ident $name:literal $seed:literal $what:literal,)*) => {
        /// One of them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Guard { $(#[doc = $what] $guard,)* }

        impl Guard {
            pub const ALL: &[Self] = &[$(Self::$guard,)*];

            pub fn name(self) -> &'static str {
                match self { $(Self::$guard => $name,)* }
            }

            /// A seed that found it missing once. A change of the code changes what a seed does; it is the first to be tried.
            pub fn seed(self) -> u64 {
                match self { $(Self::$guard => $seed,)* }
            }

            pub fn what(self) -> &'static str {
                match self { $(Self::$guard => $what,)* }
            }
        }
    };
}

guards! {
    Timer "timer" 1 "the supervisor's timer on the deadline",
    Wait "wait" 1 "waiting F before a takeover",
    Lead "lead" 70 "killing a tenth of F early",
    Sent "sent" 158 "the deadline counted from when the keepalive was sent, not from its answer",
    Lost "lost" 447 "the takeover compares `lost/` (and `alive/`, absent, which says the same)",
    Clearance "clearance" 486 "claim and life are read from the store before exclusive work starts",
    Token "token" 1 "a status compares the claim's token and the row",
    Alloc "alloc" 1 "a placement compares `alloc/`",
    Address "address" 1 "an address is taken only if absent",
    Uuid "uuid" 1 "a uuid is taken only if absent",
    Row "row" 1 "a change of an instance compares its row",
    Closed "closed" 1 "a placement compares the host's record",
    Budget "budget" 1 "no more leave a drained host at once than may",
    Undone "undone" 1 "what is told to leave a drained host compares the host's record",
    History "history" 1 "a store that went back is left alone until somebody says that it is to be so",
    Identity "identity" 123 "a store that was made from a snapshot is another, however far it has come",
    Lift "lift" 10 "counters are lifted where the store went back",
    Unknown "unknown" 10 "what the cluster does not know is left alone unless it was purged",
    Block "block" 1 "what no policy lets leave to the overlay's port is dropped",
    Once "once" 1 "an association that is gone is not put back under its key",
    Inward "inward" 2 "ways in are there before a half is published",
    Old "old" 1 "what was made of old halves is taken away",
    Lifetime "lifetime" 3 "the kernel drops a floating address by itself when its host's deadline is over",
    Asks "asks" 3 "rules ask whether the host (still) has a floating address",
    Gone "gone" 1 "a floating address is given back when the kernel has it no more",
    Takeover "takeover" 8 "a floating address is taken from a host whose life has ended F + 2 s after that",
    Holder "holder" 1 "a floating address is taken only if nobody has it",
    Port "port" 5 "a change of a public port compares `alloc/`",
    Pool "pool" 2 "an address of a pool is acquired only if absent",
}

impl Guard {
    /// It guards ports, links or floating addresses.
    pub fn is_of_network(self) -> bool {
        use Guard::{Asks, Gone, Holder, Lifetime, Pool, Port, Takeover};
        matches!(self, Lifetime | Asks | Gone | Takeover | Holder | Port | Pool)
    }
}

/// What an agent last heard of keys, for where it believes that instead of asking.
#[derive(Debug, Default)]
struct Memory(BTreeMap<String, Entry>);

/// An agent's way into the store, on which a guard may be lost.
#[derive(Debug)]
pub struct Doctored {
    inner: Arc<dyn Store>,
    link: Link,
    guard: Option<Guard>,
    host: String,
    memory: Arc<Mutex<Memory>>,
    ambush: Ambush,
    deadline: DeadlineFile,
    environment: Environment,
}

/// What the ways of one agent share.
#[derive(Clone, Debug, Default)]
pub struct Hearsay(Arc<Mutex<Memory>>);

/// Lies in wait for a host's next keepalive: its lease ends right after it was put off, the answer takes its time, and it is
/// the last one for a while.
#[derive(Clone, Debug)]
pub struct Ambush {
    store: Simulated,
    set: Arc<Mutex<Option<(Duration, Duration)>>>,
}

impl Ambush {
    pub fn new(store: &Simulated) -> Self {
        Self { store: store.clone(), set: Arc::default() }
    }

    pub fn set(&self, answer_after: Duration, silent_for: Duration) {
        *self.set.lock().unwrap() = Some((answer_after, silent_for));
    }

    async fn strike(&self, lease: LeaseId, link: &Link) {
        let set = self.set.lock().unwrap().take();
        if let Some((answer_after, silent_for)) = set {
            // It is there: it was put off a moment ago.
            let _ = self.store.end_lease(lease);
            tokio::time::sleep(answer_after).await;
            link.set(Way::Cut);
            let link = link.clone();
            tokio::spawn(async move {
                tokio::time::sleep(silent_for).await;
                link.set(Way::Open);
            });
        }
    }
}

impl Doctored {
    pub fn new(
        (inner, link): (Arc<dyn Store>, Link),
        guard: Option<Guard>,
        host: &str,
        run: &Path,
        environment: &Environment,
        (hearsay, ambush): (&Hearsay, &Ambush),
    ) -> Self {
        Self {
            inner,
            link,
            guard,
            host: host.to_owned(),
            memory: hearsay.0.clone(),
            ambush: ambush.clone(),
            deadline: DeadlineFile::new(run, &environment.identity.boot_id),
            environment: environment.clone(),
        }
    }

    fn bend(&self, transaction: &mut Transaction) {
        let Some(guard) = self.guard else { return };
        let takes_over = transaction.compares.iter().any(|compare| is_created(compare, &key::all_lost()));
        let status = transaction.compares.iter().any(|compare| is_created(compare, &on()));
        let puts = |prefix: &str| transaction.success.iter().any(|it| is_put(it, prefix));
        let places = transaction.compares.iter().any(|compare| is_absent(compare, &on()));
        let takes = puts(&key::holders());
        let changes_claimed = !places && puts(&on());
        let (of_host, restored) = (puts(&key::hosts()), puts(&key::cluster()));
        transaction.compares.retain(|compare| !match guard {
            Guard::Lost => {
                takes_over && (is_created(compare, &key::all_lost()) || is_absent(compare, &key::all_alive()))
            }
            Guard::Token => status && (is_created(compare, &on()) || is_modified(compare, &rows())),
            Guard::Alloc => is_modified(compare, &key::allocs()) || is_absent(compare, &key::allocs()),
            Guard::Address => is_absent(compare, &format!("{}address/", key::ROOT)),
            Guard::Uuid => is_absent(compare, &key::uuid("")),
            Guard::Row => is_modified(compare, &rows()),
            Guard::Closed => places && is_modified(compare, &key::hosts()),
            Guard::Undone => !places && !of_host && is_modified(compare, &key::hosts()),
            Guard::Port => changes_claimed && is_modified(compare, &key::allocs()),
            Guard::Pool => is_absent(compare, &format!("{}floating/", key::ROOT)),
            Guard::Holder | Guard::Takeover => takes && is_absent(compare, &key::holders()),
            _ => false,
        });
        if guard == Guard::Lift && restored {
            transaction.success.retain(|operation| !is_put(operation, &key::counters()));
        }
        for operation in transaction.success.iter_mut().chain(&mut transaction.failure) {
            match operation {
                Operation::Nested(inner) => self.bend(inner),
                Operation::Put { key, value, .. } if guard == Guard::Wait && key.starts_with(&key::fence("")) => {
                    *value = r#"{"waitMillis":0}"#.into();
                }
                Operation::Put { key, value, .. } if guard == Guard::Budget && key.starts_with(&key::hosts()) => {
                    *value = boundless(value);
                }
                _ => {}
            }
        }
    }

    /// A takeover that is done late, when its host may be back, or the word to leave a drained host, when that may be undone;
    /// and never answered.
    async fn late(&self, transaction: Transaction) -> Result<Outcome, Error> {
        // Without the guard, as late as most hosts that come back at all.
        let most = if self.guard == Some(Guard::Lost) { 30_000 } else { 7_000 };
        let (inner, delay) = (self.inner.clone(), Duration::from_millis(1000 + self.environment.below(most) as u64));
        let (store, end) = (self.ambush.store.clone(), tokio::time::Instant::now() + delay);
        tokio::spawn(async move {
            let mut seen = store.revision();
            while tokio::time::Instant::now() < end {
                tokio::time::sleep(Duration::from_millis(100)).await;
                let now = store.revision();
                if now < seen {
                    // The store went back: what was on its way is lost.
                    return;
                }
                seen = now;
            }
            let _ = inner.commit(transaction).await;
        });
        tokio::time::sleep(Duration::from_secs(5)).await;
        Err(Error::OutcomeUnknown { message: "no answer to what is done late".into() })
    }

    /// Who has a floating address, where that is not overlooked: whoever has it, or who is not alive.
    async fn without_holder(&self, held: Option<Entry>) -> Result<Option<Entry>, Error> {
        let Some(entry) = held else { return Ok(None) };
        let holder: Value = serde_json::from_slice(&entry.value).unwrap();
        let host = holder["host"].as_str().unwrap();
        let overlooked = host != self.host
            && match self.guard {
                Some(Guard::Holder) => true,
                Some(Guard::Takeover) => self.inner.get(&key::alive(host)).await?.entry.is_none(),
                _ => false,
            };
        Ok(Some(entry).filter(|_| !overlooked))
    }

    fn remember(&self, entry: &Entry) {
        if self.guard == Some(Guard::Clearance) {
            self.memory.lock().unwrap().0.insert(entry.key.clone(), entry.clone());
        }
    }

    /// The answer to a clearance from what was heard, if this is one.
    fn hearsay(&self, transaction: &Transaction) -> Option<Outcome> {
        let [Operation::Get { key: alive }, Operation::Get { key: claim }] = transaction.success.as_slice() else {
            return None;
        };
        if self.guard != Some(Guard::Clearance) || *alive != key::alive(&self.host) || !transaction.compares.is_empty()
        {
            return None;
        }
        let memory = self.memory.lock().unwrap();
        let known = |key: &String| Answer::Entries(memory.0.get(key).cloned().into_iter().collect());
        // One of now, so that nothing else is found wrong with it.
        let revision = self.ambush.store.revision();
        Some(Outcome { succeeded: true, revision, answers: vec![known(alive), known(claim)] })
    }

    /// The deadline that was just written down is put off.
    fn put_off(&self, by: Duration) {
        let file = self.deadline.clone();
        tokio::spawn(async move {
            // After the keeper has written it.
            tokio::time::sleep(Duration::from_millis(1)).await;
            if let Some(fence) = file.read() {
                let _ = file.write(Fence { deadline: fence.deadline + by, ..fence });
            }
        });
    }

    fn confirmed(&self, sent: Duration) {
        match self.guard {
            Some(Guard::Sent) => self.put_off(self.environment.clock.boottime().saturating_sub(sent)),
            Some(Guard::Lead) => self.put_off(fence::lead(crate::machine::TTL)),
            _ => {}
        }
    }
}

/// A host's record that lets all leave at once.
fn boundless(record: &[u8]) -> Bytes {
    let mut record: Value = serde_json::from_slice(record).unwrap();
    if let Some(drain) = record.get_mut("drain") {
        drain["atOnce"] = 1000.into();
    }
    serde_json::to_vec(&record).unwrap().into()
}

fn is_put(operation: &Operation, prefix: &str) -> bool {
    matches!(operation, Operation::Put { key, .. } if key.starts_with(prefix))
}

fn on() -> String {
    format!("{}on/", key::ROOT)
}

fn rows() -> String {
    key::resources("instance")
}

fn is_created(compare: &Compare, prefix: &str) -> bool {
    matches!(compare, Compare::CreateRevision { key, .. } if key.starts_with(prefix))
}

fn is_modified(compare: &Compare, prefix: &str) -> bool {
    matches!(compare, Compare::ModRevision { key, .. } if key.starts_with(prefix))
}

fn is_absent(compare: &Compare, prefix: &str) -> bool {
    matches!(compare, Compare::Absent { key } if key.starts_with(prefix))
}

#[async_trait::async_trait]
impl Store for Doctored {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        let sent = self.environment.clock.boottime();
        let mut found = self.inner.get(key).await?;
        if self.guard == Some(Guard::Unknown) && key.starts_with(&key::all_gone()) {
            let revision = found.revision;
            let tombstone = Entry {
                key: key.to_owned(),
                value: "{}".into(),
                create_revision: revision,
                mod_revision: revision,
                lease: None,
            };
            found.entry.get_or_insert(tombstone);
        }
        if key.starts_with(&key::holders()) {
            found.entry = self.without_holder(found.entry).await?;
        }
        found.entry.iter().for_each(|entry| self.remember(entry));
        if key == key::alive(&self.host) {
            self.confirmed(sent);
        }
        Ok(found)
    }
    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        let found = self.inner.range(prefix).await?;
        found.entries.iter().for_each(|entry| self.remember(entry));
        Ok(found)
    }
    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        self.inner.changed_since(prefix, after).await
    }
    async fn commit(&self, mut transaction: Transaction) -> Result<Outcome, Error> {
        if let Some(outcome) = self.hearsay(&transaction) {
            // A host that is slow about it: meanwhile what was heard becomes untrue. Where it asks, it asks then.
            tokio::time::sleep(Duration::from_millis(self.environment.below(3000) as u64)).await;
            return Ok(outcome);
        }
        let compares = |which: fn(&Compare, &str) -> bool, prefix: &str| {
            transaction.compares.iter().any(|compare| which(compare, prefix))
        };
        let takes_over = compares(is_created, &key::all_lost());
        let places = compares(is_absent, &on());
        let tells = !places && compares(is_modified, &key::hosts()) && compares(is_modified, &rows());
        self.bend(&mut transaction);
        let guarded = (takes_over && self.guard == Some(Guard::Lost)) || (tells && self.guard == Some(Guard::Undone));
        if guarded || ((takes_over || tells) && self.environment.below(3) == 0) {
            return self.late(transaction).await;
        }
        let own = key::alive(&self.host);
        let puts = transaction.success.iter().any(|it| matches!(it, Operation::Put { key, .. } if *key == own));
        let outcome = self.inner.commit(transaction).await?;
        if puts && outcome.succeeded {
            let revision = outcome.revision;
            self.remember(&Entry {
                key: own,
                value: "{}".into(),
                create_revision: revision,
                mod_revision: revision,
                lease: None,
            });
        }
        Ok(outcome)
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        let watch = self.inner.watch(prefix, from).await?;
        if self.guard != Some(Guard::Clearance) || !prefix.starts_with(&on()) {
            return Ok(watch);
        }
        let memory = self.memory.clone();
        let heard = watch.inspect(move |message| {
            let Ok(WatchEvent::Changed { changes, .. }) = message else { return };
            let mut memory = memory.lock().unwrap();
            // One that is gone is believed all the same: nobody asks for it.
            memory.0.extend(changes.iter().filter_map(|change| match change {
                Change::Put(entry) => Some((entry.key.clone(), entry.clone())),
                Change::Deleted { .. } => None,
            }));
        });
        Ok(heard.boxed())
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant_lease(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        let sent = self.environment.clock.boottime();
        let ttl = self.inner.keep_alive(lease).await?;
        self.ambush.strike(lease, &self.link).await;
        self.confirmed(sent);
        Ok(ttl)
    }
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        self.inner.time_to_live(lease).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke_lease(lease).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.inner.compact(revision).await
    }
    fn identity(&self) -> Option<StoreId> {
        self.inner.identity().filter(|_| self.guard != Some(Guard::Identity))
    }
    fn single_host(&self) -> bool {
        self.inner.single_host()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}
