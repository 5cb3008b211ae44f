//! A cluster's state to a file and back, from one kind of store to the other too.
//!
//! What is read in is a new generation of the same cluster: claims made before count no more, and all counters are lifted, so
//! that nothing that was given out after the backup is given out again. Keys under a lease are left out: who is alive
//! says so itself.
//!
//! ```text
//! verified ─► `importing` put, `cluster` away ─► what was there away ─► the keys, in order ─► `cluster` put, `importing` away
//! ```
//! `cluster` comes last, and no agent makes one while `importing` is there; so no agent works with half a backup. One
//! that broke off is begun anew by the next.

mod file;

pub use file::{Header, Item, read};

use super::patience::Passing;
use crate::environment::{Backoff, Environment};
use crate::store::{self, Compare, Entry, Operation, Outcome, Revision, Store, Transaction, key};
use bytes::Bytes;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// By how much counters are lifted: more than any cluster gives out between a backup and its return.
pub const LIFT: u64 = 100_000;
/// Keys and bytes that one transaction takes at the most; the store's own limits are higher.
const KEYS: usize = 100;
const BYTES: usize = 512 << 10;
/// How often a step is tried where the store cannot be reached.
const TRIES: usize = 10;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is no backup made by `stampede store export`")]
    NoBackup,
    #[error(
        "it is a backup of version {version}, made by a newer Stampede; this one reads up to version {known}: use the newer one"
    )]
    Newer { version: u64, known: u64 },
    #[error("it is cut: its last line, which tells that it is whole, is missing; use another backup")]
    Cut,
    #[error("it was altered or damaged: its checksum is another; use another backup")]
    Altered,
    #[error("its line {number} is none that Stampede writes; use another backup")]
    Line { number: usize },
    #[error("it cannot be written as JSON")]
    Encoding { source: serde_json::Error },
    #[error("{store} holds no cluster: nothing can be exported")]
    Empty { store: String },
    #[error("in {store} a backup was read in half; run `stampede store import` again first")]
    Half { store: String },
    #[error(
        "{store} holds a cluster already (id {id}): take an empty store, or --force to put the backup in its place; all that \
         is there is lost then"
    )]
    Occupied { store: String, id: String },
    #[error(
        "agents are alive on {store}: {}; stop the agents on all hosts (systemctl stop stampede) and try again when their \
         leases have ended", hosts.join(", ")
    )]
    Alive { store: String, hosts: Vec<String> },
    #[error("another one came between on {store}; one at a time, and try again")]
    Overtaken { store: String },
    #[error("a value in the backup is not what it should be")]
    Content(#[source] store::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// The whole state as a file's text, of one moment; agents may be at work.
///
/// # Errors
/// Where there is no cluster, and what the store answers.
pub async fn export(store: &dyn Store, environment: &Environment) -> Result<(Header, String), Error> {
    let mut snapshot = store.range(key::ROOT).await?;
    if find(&snapshot.entries, &key::importing()).is_some() {
        return Err(Error::Half { store: store.describe() });
    }
    let Some(cluster) = find(&snapshot.entries, &key::cluster()) else {
        return Err(Error::Empty { store: store.describe() });
    };
    let cluster = Record::of(&cluster.key, &cluster.value)?;
    snapshot.entries.retain(|entry| entry.lease.is_none());
    snapshot.entries.sort_by(|one, other| (one.create_revision, &one.key).cmp(&(other.create_revision, &other.key)));
    let items: Vec<Item> = snapshot.entries.into_iter().map(Item::from).collect();
    let (id, generation) = (cluster.id(), cluster.generation()?);
    let header = Header::new(id, generation, snapshot.revision.0, environment.clock.now(), items.len());
    let text = file::write(&header, &items)?;
    Ok((header, text))
}

/// Puts what [`read`] brought into `store`; the new generation. With `force` in the place of a cluster that is there.
///
/// # Errors
/// Where the store holds something, agents are alive on it, and what it answers. Run again, it begins anew.
pub async fn import(store: &dyn Store, environment: &Environment, items: Vec<Item>, force: bool) -> Result<u64, Error> {
    let snapshot = store.range(key::ROOT).await?;
    let broken_off = find(&snapshot.entries, &key::importing()).is_some();
    let cluster = find(&snapshot.entries, &key::cluster());
    if !snapshot.entries.is_empty() && !broken_off && !force {
        let id = cluster.and_then(|entry| Record::of(&entry.key, &entry.value).ok()).map(|record| record.id());
        return Err(Error::Occupied { store: store.describe(), id: id.unwrap_or_else(|| "unknown".into()) });
    }
    nobody_alive(store, &snapshot.entries)?;
    let (last, items) = next_generation(items, &snapshot.entries)?;
    let work = Work { store, environment, marker: Bytes::from(format!("\"{}\"", environment.uuid())) };
    let begun = work.begin(&snapshot.entries).await?;
    work.clear(&begun, &snapshot.entries).await?;
    for batch in batches(items) {
        let operations = batch.into_iter().map(|item| Operation::put(item.key, item.value));
        work.step(&begun, operations.collect()).await?;
    }
    work.end(&begun, &last).await?;
    last.generation()
}

/// Tells the cluster that its store went back in time by other means (`etcdctl snapshot restore`): a new generation and
/// lifted counters, in one transaction; what is there else stays. The new generation.
///
/// # Errors
/// Where agents are alive, and what the store answers. Done twice it is one generation more, and does no harm.
pub async fn restored(store: &dyn Store, environment: &Environment) -> Result<u64, Error> {
    let snapshot = store.range(key::ROOT).await?;
    if find(&snapshot.entries, &key::importing()).is_some() {
        return Err(Error::Half { store: store.describe() });
    }
    nobody_alive(store, &snapshot.entries)?;
    let mut transaction = Transaction::new();
    let mut items = Vec::new();
    for entry in snapshot.entries {
        if entry.key == key::cluster() || entry.key.starts_with(&key::counters()) {
            transaction = transaction.unchanged(&entry.key, entry.mod_revision);
            items.push(Item::from(entry));
        }
    }
    let (record, items) = match next_generation(items, &[]) {
        Err(Error::NoBackup) => return Err(Error::Empty { store: store.describe() }),
        result => result?,
    };
    let key = key::cluster();
    transaction = transaction.then(Operation::put(&key, store::encode(&key, &record.0)?));
    for item in items {
        transaction = transaction.then(Operation::put(item.key, item.value));
    }
    let work = Work { store, environment, marker: Bytes::new() };
    if work.commit(transaction).await?.succeeded {
        return record.generation();
    }
    // Perhaps it was our own earlier try whose answer was lost.
    let there = work.get(&key).await?.map(|entry| Record::of(&entry.key, &entry.value)).transpose()?;
    if there.as_ref() == Some(&record) { record.generation() } else { Err(work.overtaken()) }
}

fn nobody_alive(store: &dyn Store, there: &[Entry]) -> Result<(), Error> {
    let prefix = key::all_alive();
    let alive = there.iter().filter(|entry| entry.key.starts_with(&prefix));
    let hosts: Vec<String> = alive.map(|entry| key::last(&prefix, &entry.key).to_owned()).collect();
    if hosts.is_empty() { Ok(()) } else { Err(Error::Alive { store: store.describe(), hosts }) }
}

fn find<'a>(entries: &'a [Entry], key: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.key == key)
}

/// The record at `cluster`, with all that it holds and whoever wrote it.
#[derive(Clone, Debug, PartialEq)]
struct Record(Value);

impl Record {
    fn of(key: &str, value: &[u8]) -> Result<Self, Error> {
        let unreadable = |message: String| Error::Content(store::Error::Unreadable { key: key.to_owned(), message });
        let record = Self(serde_json::from_slice(value).map_err(|error| unreadable(error.to_string()))?);
        record.generation().map(|_| record)
    }

    fn id(&self) -> String {
        self.0.get("id").and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    fn generation(&self) -> Result<u64, Error> {
        self.0.get("generation").and_then(Value::as_u64).ok_or_else(|| {
            Error::Content(store::Error::Unreadable { key: key::cluster(), message: "it has no generation".into() })
        })
    }
}

/// The backup as it is to be: `cluster` apart, with a generation that neither had, and counters above both.
fn next_generation(items: Vec<Item>, there: &[Entry]) -> Result<(Record, Vec<Item>), Error> {
    let mut record = None;
    let mut counters: BTreeMap<String, u64> = BTreeMap::new();
    let mut rest = Vec::with_capacity(items.len());
    for item in items {
        if item.key == key::cluster() {
            record = Some(Record::of(&item.key, &item.value)?);
        } else if item.key.starts_with(&key::counters()) {
            let floor = number(&item.key, &item.value)?;
            counters.insert(item.key, floor);
        } else {
            rest.push(item);
        }
    }
    let mut record = record.ok_or(Error::NoBackup)?;
    let mut generation = record.generation()?;
    for entry in there {
        if entry.key == key::cluster() {
            // One that cannot be read gave nothing out for long.
            generation =
                generation.max(Record::of(&entry.key, &entry.value).and_then(|it| it.generation()).unwrap_or(0));
        } else if entry.key.starts_with(&key::counters())
            && let Ok(floor) = number(&entry.key, &entry.value)
        {
            let counter = counters.entry(entry.key.clone()).or_default();
            *counter = floor.max(*counter);
        }
    }
    if let Some(fields) = record.0.as_object_mut() {
        fields.insert("generation".into(), generation.saturating_add(1).into());
    }
    for (key, floor) in counters {
        let value = store::encode(&key, &floor.saturating_add(LIFT))?;
        rest.push(Item { key, value });
    }
    Ok((record, rest))
}

fn number(key: &str, value: &[u8]) -> Result<u64, Error> {
    serde_json::from_slice(value)
        .map_err(|error| Error::Content(store::Error::Unreadable { key: key.to_owned(), message: error.to_string() }))
}

/// As many keys a transaction as it takes. A block has one for itself: the order in which a host's came into being counts.
fn batches(items: Vec<Item>) -> Vec<Vec<Item>> {
    let blocks = key::all_blocks();
    let mut batches: Vec<Vec<Item>> = Vec::new();
    let (mut bytes, mut full) = (0, true);
    for item in items {
        let size = item.key.len() + item.value.len();
        let alone = item.key.starts_with(&blocks);
        match batches.last_mut() {
            Some(batch) if !full && !alone && batch.len() < KEYS && bytes + size <= BYTES => {
                bytes += size;
                batch.push(item);
            }
            _ => {
                (bytes, full) = (size, alone);
                batches.push(vec![item]);
            }
        }
    }
    batches
}

/// One import at work.
struct Work<'a> {
    store: &'a dyn Store,
    environment: &'a Environment,
    /// The value of `importing`.
    marker: Bytes,
}

/// Holds as long as no other import came between.
struct Begun(Revision);

impl Begun {
    fn holds(&self) -> Compare {
        Compare::ModRevision { key: key::importing(), revision: self.0 }
    }
}

impl Work<'_> {
    /// Marks the store as ours, if `cluster` and marker are still as they were seen.
    async fn begin(&self, there: &[Entry]) -> Result<Begun, Error> {
        let mut transaction = Transaction::new()
            .then(Operation::put(key::importing(), self.marker.clone()))
            .then(Operation::delete(key::cluster()));
        for key in [key::importing(), key::cluster()] {
            transaction = match find(there, &key) {
                Some(entry) => transaction.unchanged(key, entry.mod_revision),
                None => transaction.absent(key),
            };
        }
        // Done by an earlier try whose answer was lost, it holds our own marker: hence the look.
        self.commit(transaction).await?;
        match self.get(&key::importing()).await? {
            Some(entry) if entry.value == self.marker => Ok(Begun(entry.mod_revision)),
            _ => Err(self.overtaken()),
        }
    }

    async fn clear(&self, begun: &Begun, there: &[Entry]) -> Result<(), Error> {
        let parts: BTreeSet<String> = there
            .iter()
            .filter_map(|entry| key::last(key::ROOT, &entry.key).split_once('/'))
            .map(|(part, _)| format!("{}{part}/", key::ROOT))
            .collect();
        let single = there.iter().filter(|entry| {
            !key::last(key::ROOT, &entry.key).contains('/') && ![key::cluster(), key::importing()].contains(&entry.key)
        });
        let operations = parts.into_iter().map(|prefix| Operation::DeletePrefix { prefix });
        let operations: Vec<_> = operations.chain(single.map(|entry| Operation::delete(&entry.key))).collect();
        for batch in operations.chunks(KEYS) {
            self.step(begun, batch.to_vec()).await?;
        }
        Ok(())
    }

    /// Each may be done twice.
    async fn step(&self, begun: &Begun, operations: Vec<Operation>) -> Result<(), Error> {
        let transaction = Transaction { compares: vec![begun.holds()], success: operations, failure: Vec::new() };
        if self.commit(transaction).await?.succeeded { Ok(()) } else { Err(self.overtaken()) }
    }

    async fn end(&self, begun: &Begun, record: &Record) -> Result<(), Error> {
        let key = key::cluster();
        let value = store::encode(&key, &record.0)?;
        let transaction = Transaction::new()
            .when(begun.holds())
            .absent(&key)
            .then(Operation::put(&key, value))
            .then(Operation::delete(key::importing()));
        if self.commit(transaction).await?.succeeded {
            return Ok(());
        }
        // Perhaps it was our own earlier try whose answer was lost.
        let there = self.get(&key).await?.map(|entry| Record::of(&entry.key, &entry.value)).transpose()?;
        if there.as_ref() == Some(record) { Ok(()) } else { Err(self.overtaken()) }
    }

    fn overtaken(&self) -> Error {
        Error::Overtaken { store: self.store.describe() }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, Error> {
        let mut tries = Tries::new(self.environment);
        loop {
            if let Some(result) = tries.settle(self.store.get(key).await).await {
                return Ok(result?.entry);
            }
        }
    }

    /// Tried again where no answer came: for steps that may be done twice.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        let mut tries = Tries::new(self.environment);
        loop {
            if let Some(result) = tries.settle(self.store.commit(transaction.clone()).await).await {
                return Ok(result?);
            }
        }
    }
}

/// Waits through errors that pass, not for ever: somebody sits before it.
struct Tries {
    left: usize,
    backoff: Backoff,
}

impl Tries {
    fn new(environment: &Environment) -> Self {
        Self { left: TRIES, backoff: Backoff::new(environment, Duration::from_millis(100), Duration::from_secs(2)) }
    }

    async fn settle<T>(&mut self, result: Result<T, store::Error>) -> Option<Result<T, store::Error>> {
        match result {
            Err(error) if error.passes() && self.left > 0 => {
                self.left -= 1;
                self.backoff.wait().await;
                None
            }
            result => Some(result),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_order_and_blocks_are_alone() {
        let item = |key: String, size: usize| Item { key, value: vec![b'1'; size].into() };
        let mut items: Vec<Item> = (0..250).map(|number| item(format!("/stampede/v1/resource/{number}"), 1)).collect();
        items.insert(50, item("/stampede/v1/block/10.42.0.0/10.42.0.64".into(), 1));
        items.extend((0..4).map(|number| item(format!("/stampede/v1/big/{number}"), 300 << 10)));
        let batches = batches(items.clone());
        assert_eq!(batches.concat(), items);
        for batch in &batches {
            assert!(batch.len() <= KEYS, "{}", batch.len());
            assert!(batch.len() == 1 || !batch.iter().any(|item| item.key.contains("/block/")));
        }
        assert_eq!(batches.iter().filter(|batch| batch[0].key.contains("/big/")).count(), 4);
    }
}
