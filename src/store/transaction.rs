//! What a store does in one step: compare, then put, delete and read, all or nothing.

use super::{Entry, Error, LeaseId, Revision};
use bytes::Bytes;
use std::collections::HashSet;

/// What etcd takes in one transaction unless told otherwise.
const OPERATIONS: usize = 128;
/// Below etcd's 1.5 MiB, so that what is wrapped around keys and values fits too.
const BYTES: usize = 1 << 20;

/// What must hold for a transaction's first branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    Absent {
        key: String,
    },
    Exists {
        key: String,
    },
    /// The key exists and came into being at just this revision.
    CreateRevision {
        key: String,
        revision: Revision,
    },
    /// The key exists and was last written at just this revision.
    ModRevision {
        key: String,
        revision: Revision,
    },
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    Put {
        key: String,
        value: Bytes,
        lease: Option<LeaseId>,
    },
    Delete {
        key: String,
    },
    DeletePrefix {
        prefix: String,
    },
    Get {
        key: String,
    },
    Range {
        prefix: String,
    },
    /// A transaction inside, decided by its own compares: one that conflicts fails alone.
    Nested(Transaction),
}

impl Operation {
    pub fn put(key: impl Into<String>, value: Bytes) -> Self {
        Self::Put { key: key.into(), value, lease: None }
    }

    pub fn delete(key: impl Into<String>) -> Self {
        Self::Delete { key: key.into() }
    }

    pub fn get(key: impl Into<String>) -> Self {
        Self::Get { key: key.into() }
    }
}

/// If all compares hold, `success`, else `failure`. No key is written twice in one branch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    pub compares: Vec<Compare>,
    pub success: Vec<Operation>,
    pub failure: Vec<Operation>,
}

impl Transaction {
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    #[must_use]
    pub fn absent(self, key: impl Into<String>) -> Self {
        self.when(Compare::Absent { key: key.into() })
    }

    #[must_use]
    pub fn unchanged(self, key: impl Into<String>, revision: Revision) -> Self {
        self.when(Compare::ModRevision { key: key.into(), revision })
    }

    #[must_use]
    pub fn then(mut self, operation: Operation) -> Self {
        self.success.push(operation);
        self
    }

    #[must_use]
    pub fn or_else(mut self, operation: Operation) -> Self {
        self.failure.push(operation);
        self
    }
}

impl Transaction {
    /// Whether any branch may change something.
    pub fn writes(&self) -> bool {
        self.success.iter().chain(&self.failure).any(|operation| match operation {
            Operation::Put { .. } | Operation::Delete { .. } | Operation::DeletePrefix { .. } => true,
            Operation::Get { .. } | Operation::Range { .. } => false,
            Operation::Nested(inner) => inner.writes(),
        })
    }

    /// A lease that a put names, in whichever branch.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        self.success.iter().chain(&self.failure).find_map(|operation| match operation {
            Operation::Put { lease, .. } => *lease,
            Operation::Nested(inner) => inner.lease(),
            _ => None,
        })
    }

    /// etcd's own limits and rules, held for every backend alike, so that none takes what another refuses.
    ///
    /// # Errors
    /// [`Error::TooLarge`], and [`Error::Refused`] where a key is written twice.
    pub(super) fn check(&self) -> Result<(), Error> {
        let bytes = self.bytes();
        if bytes > BYTES {
            return Err(Error::TooLarge { message: format!("{bytes} bytes; {BYTES} are the most") });
        }
        self.check_count(OPERATIONS)?;
        written(&self.success)?;
        written(&self.failure).map(drop)
    }

    fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|compare| match compare {
            Compare::Absent { key }
            | Compare::Exists { key }
            | Compare::CreateRevision { key, .. }
            | Compare::ModRevision { key, .. } => key.len(),
        });
        let operations = self.success.iter().chain(&self.failure).map(|operation| match operation {
            Operation::Put { key, value, .. } => key.len() + value.len(),
            Operation::Delete { key } | Operation::Get { key } => key.len(),
            Operation::DeletePrefix { prefix } | Operation::Range { prefix } => 2 * prefix.len(),
            Operation::Nested(inner) => inner.bytes(),
        });
        // About what etcd's own message adds to each.
        compares.chain(operations).map(|bytes| bytes + 16).sum()
    }

    /// A level's longest list counts, and what it leaves is what each transaction inside may have.
    fn check_count(&self, most: usize) -> Result<(), Error> {
        let count = self.compares.len().max(self.success.len()).max(self.failure.len());
        let Some(left) = most.checked_sub(count) else {
            return Err(Error::TooLarge { message: format!("more than {OPERATIONS} compares or operations") });
        };
        self.success.iter().chain(&self.failure).try_for_each(|operation| match operation {
            Operation::Nested(inner) => inner.check_count(left),
            _ => Ok(()),
        })
    }
}

/// What a branch puts and what it deletes.
#[derive(Default)]
struct Written<'a> {
    puts: HashSet<&'a str>,
    deletes: Vec<Span<'a>>,
}

#[derive(Clone, Copy)]
enum Span<'a> {
    Key(&'a str),
    Prefix(&'a str),
}

impl<'a> Written<'a> {
    fn put(&mut self, key: &'a str) -> Result<(), Error> {
        let deleted = self.deletes.iter().any(|span| match span {
            Span::Key(deleted) => *deleted == key,
            Span::Prefix(prefix) => key.starts_with(prefix),
        });
        if deleted || !self.puts.insert(key) {
            return Err(Error::Refused { message: format!("{key} is written twice in one transaction") });
        }
        Ok(())
    }
}

/// The keys a branch writes; an error where one is put twice, or put and deleted.
fn written(branch: &[Operation]) -> Result<Written<'_>, Error> {
    let mut all = Written::default();
    all.deletes.extend(branch.iter().filter_map(|operation| match operation {
        Operation::Delete { key } => Some(Span::Key(key)),
        Operation::DeletePrefix { prefix } => Some(Span::Prefix(prefix)),
        _ => None,
    }));
    for operation in branch {
        if let Operation::Nested(inner) = operation {
            let (success, failure) = (written(&inner.success)?, written(&inner.failure)?);
            // Only one of the two branches is done, so they may write the same keys.
            let only_failure: Vec<&str> = failure.puts.difference(&success.puts).copied().collect();
            success.puts.into_iter().chain(only_failure).try_for_each(|key| all.put(key))?;
            all.deletes.extend(success.deletes.into_iter().chain(failure.deletes));
        }
    }
    for operation in branch {
        if let Operation::Put { key, .. } = operation {
            all.put(key)?;
        }
    }
    Ok(all)
}

/// What one operation answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Put,
    Deleted { count: usize },
    Entries(Vec<Entry>),
    Nested(Outcome),
}

/// What a transaction came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the compares held and `success` was done; else `failure` was.
    pub succeeded: bool,
    /// The store's revision after it; the revision of its writes where it wrote.
    pub revision: Revision,
    /// One for each operation of the branch that was done, in order.
    pub answers: Vec<Answer>,
}
