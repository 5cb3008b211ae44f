//! Where the cluster's state lives.
//!
//! One trait, [`Store`], over a map of keys to small JSON values in which every change has a revision: etcd
//! ([`etcd`]), one file for a single host ([`embedded`]), and for tests a simulated one with faults. Everything that
//! decides is a [`Transaction`] that compares revisions; a [`mirror::Mirror`] keeps a prefix in memory and survives
//! lost connections and compaction; [`ledger`] is a host's own copy of what it was told to run, for the time when nobody
//! can be asked.
//!
//! ```text
//! range (a snapshot at revision r) → watch from r + 1 → changes … → cut off or compacted → range again, compared
//! ```

pub mod embedded;
pub mod etcd;
pub mod key;
pub mod ledger;
pub mod mirror;
pub mod simulated;
mod draft;
mod transaction;

pub use transaction::{Answer, Compare, Operation, Outcome, Transaction};

use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Debug};
use std::time::Duration;

/// The number of a change to the whole store; grows by one with each transaction that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which store it is: an etcd cluster's ID (`cluster_id` in etcd's `ResponseHeader`), the same for all its members and for life. A
/// cluster that is made anew from a snapshot gets another where it is given another `--initial-cluster-token`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreId(pub u64);

impl fmt::Display for StoreId {
    /// As `etcdctl endpoint status` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A lease's number. Keys put under it go when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

/// One key as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Bytes,
    /// The revision at which the key last came into being.
    pub create_revision: Revision,
    /// The revision at which it was last written.
    pub mod_revision: Revision,
    pub lease: Option<LeaseId>,
}

/// The answer to a look at one key.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The store's revision when it was asked.
    pub revision: Revision,
    pub entry: Option<Entry>,
}

/// All keys of a prefix at one revision, in the order of the keys.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub revision: Revision,
    pub entries: Vec<Entry>,
}

/// What changed in a prefix, and how many keys it has now: enough to tell whether a copy is whole.
#[derive(Clone, Debug)]
pub struct Difference {
    pub revision: Revision,
    /// Keys written after the revision that was asked about. Deleted ones are not among them.
    pub written: Vec<Entry>,
    /// The number of keys there are.
    pub count: usize,
}

/// One key's change, as a watch tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(Entry),
    Deleted { key: String, revision: Revision },
}

impl Change {
    pub fn key(&self) -> &str {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Deleted { key, .. } => key,
        }
    }
}

/// What a watch yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// All changes of one revision (never split over two events).
    Changed { revision: Revision, changes: Vec<Change> },
    /// Nothing of interest up to this revision.
    Progress { revision: Revision },
}

/// Changes to a prefix, in order, without gaps. It ends after an error, or when the store cannot go on; then list again.
pub type Watch = BoxStream<'static, Result<WatchEvent, Error>>;

/// What can go wrong in a store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The store did not answer, or refused before it did anything: nothing was changed.
    #[error("the store cannot be reached: {message}")]
    Unavailable { message: String },
    /// A write was sent and no answer came: it may have happened or not. Look before you try again.
    #[error("no answer to a write, which may have been done or not: {message}")]
    OutcomeUnknown { message: String },
    /// The history from that revision on is gone; list again.
    #[error("the store's history was compacted up to revision {revision}")]
    Compacted { revision: Revision },
    /// The lease has ended or never was.
    #[error("lease {} is gone", .0.0)]
    LeaseGone(LeaseId),
    /// No space for a write; nothing was changed.
    #[error("the store is full: {message}")]
    Full { message: String },
    /// Larger than the store takes: 128 operations a transaction, 1 MiB in all.
    #[error("the transaction is too large: {message}")]
    TooLarge { message: String },
    /// The transaction is none the store takes (a key written twice); nothing was changed.
    #[error("the store refuses: {message}")]
    Refused { message: String },
    /// The store knows us not, or does not let us.
    #[error("the store denies access: {message}")]
    Denied { message: String },
    /// What is stored cannot be read as what it should be.
    #[error("{key} holds something unreadable: {message}")]
    Unreadable { key: String, message: String },
    /// Opening a store failed for good; the message says what to do.
    #[error("{0}")]
    Unusable(String),
}

/// A cluster's state. See the module's text; every call has a limit of its own (5 s unless its backend is told another).
#[async_trait::async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// One key, linearizable.
    async fn get(&self, key: &str) -> Result<Lookup, Error>;
    /// All keys that start with `prefix`, linearizable.
    async fn range(&self, prefix: &str) -> Result<Snapshot, Error>;
    /// What was written in `prefix` after `after`, and how many keys it has.
    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error>;
    /// All of it or nothing. A transaction whose compares fail is no error: see [`Outcome::succeeded`].
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error>;
    /// Every change to `prefix` from revision `from` on.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error>;
    /// Where a watch of this store may have fallen silent without an end, looks, within a second or so; the silent ones have ended
    /// when this returns. What wraps a store passes it on.
    async fn attend(&self) {}
    /// A new lease of `ttl` (whole seconds, at least 1).
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error>;
    /// Puts the lease's end off by its time to live again, which is returned; [`Error::LeaseGone`] where it is too late.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error>;
    /// How long the lease still lives; `None` where it is gone.
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error>;
    /// Ends the lease; its keys go at once.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error>;
    /// Lets the history up to and with `revision` go; what is there stays, and so does all that came after. Done again, or
    /// for less than was let go already, it is no error. A store whose history ends by itself need do nothing.
    async fn compact(&self, _revision: Revision) -> Result<(), Error> {
        Ok(())
    }
    /// Which store gave the last answer, where it says so. It may be of a later answer than one asks about, never of an
    /// earlier one.
    fn identity(&self) -> Option<StoreId> {
        None
    }
    /// Whether only this host can ever see it (the embedded store).
    fn single_host(&self) -> bool;
    /// For messages: `etcd at http://…` or `the file /…`.
    fn describe(&self) -> String;
}

/// A value as it is stored.
///
/// # Errors
/// [`Error::Unreadable`] where it cannot be written as JSON (a map with keys that are no strings).
pub fn encode<T: Serialize>(key: &str, value: &T) -> Result<Bytes, Error> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| Error::Unreadable { key: key.to_owned(), message: error.to_string() })
}

/// A stored value as what it should be.
///
/// # Errors
/// [`Error::Unreadable`] where it is something else.
pub fn decode<T: serde::de::DeserializeOwned>(entry: &Entry) -> Result<T, Error> {
    serde_json::from_slice(&entry.value)
        .map_err(|error| Error::Unreadable { key: entry.key.clone(), message: error.to_string() })
}
