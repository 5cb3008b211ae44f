//! What transactions come to, worked out on top of what is written, without touching it.
//!
//! A transaction works as it does in etcd: all compares, those inside nested ones too, see what was before it; its reads see what it
//! did so far; what it writes has one revision.

use crate::store::{Answer, Change, Compare, Entry, Error, LeaseId, Operation, Outcome, Revision, Transaction};
use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

/// Everything that is stored.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) revision: Revision,
}

impl State {
    pub(super) fn range(&self, prefix: &str) -> impl Iterator<Item = &Entry> {
        from(&self.entries, prefix).take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry)
    }

    pub(super) fn take(&mut self, written: &Written) {
        for (key, entry) in &written.entries {
            match entry {
                Some(entry) => self.entries.insert(key.clone(), entry.clone()),
                None => self.entries.remove(key),
            };
        }
        self.revision = written.revision;
    }
}

fn from<'a, T>(map: &'a BTreeMap<String, T>, prefix: &str) -> Range<'a, String, T> {
    map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
}

/// What a draft came to: what is to be written at once.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) revision: Revision,
    /// How each key that was touched ends up; `None` is gone.
    pub(super) entries: BTreeMap<String, Option<Entry>>,
    /// What each revision did.
    pub(super) revisions: Vec<(Revision, Vec<Change>)>,
}

impl Written {
    pub(super) fn is_empty(&self) -> bool {
        self.revisions.is_empty()
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    base: &'a State,
    written: Written,
}

impl<'a> Draft<'a> {
    pub(super) fn of(base: &'a State) -> Self {
        let written = Written { revision: base.revision, entries: BTreeMap::new(), revisions: Vec::new() };
        Self { base, written }
    }

    pub(super) fn into_written(self) -> Written {
        self.written
    }

    /// Does `transaction`, which must have passed its check; on an error nothing of it.
    pub(super) fn apply(
        &mut self,
        transaction: &Transaction,
        lives: impl Fn(LeaseId) -> bool,
    ) -> Result<Outcome, Error> {
        let decided = self.decide(transaction);
        if let Some(gone) = decided.lease_that(&|lease| !lives(lease)) {
            return Err(Error::LeaseGone(gone));
        }
        let mut changes = Vec::new();
        let outcome = self.run(&decided, &mut changes);
        Ok(self.finish(outcome, changes))
    }

    /// Deletes all keys of `lease`.
    pub(super) fn end_lease(&mut self, lease: LeaseId) -> Outcome {
        self.delete_where(|entry| entry.lease == Some(lease))
    }

    /// Deletes one key, where it is there.
    pub(super) fn delete_key(&mut self, key: &str) {
        self.delete_where(|entry| entry.key == key);
    }

    /// Deletes the keys of every lease.
    pub(super) fn end_all_leases(&mut self) {
        self.delete_where(|entry| entry.lease.is_some());
    }

    fn delete_where(&mut self, which: impl Fn(&Entry) -> bool) -> Outcome {
        let keys: Vec<String> =
            self.range("").into_iter().filter(|entry| which(entry)).map(|entry| entry.key.clone()).collect();
        let mut changes = Vec::new();
        for key in keys {
            self.delete(key, &mut changes);
        }
        self.finish(Outcome { succeeded: true, revision: Revision(0), answers: Vec::new() }, changes)
    }

    fn finish(&mut self, mut outcome: Outcome, changes: Vec<Change>) -> Outcome {
        if !changes.is_empty() {
            self.written.revision = self.next();
            self.written.revisions.push((self.written.revision, changes));
        }
        settle(&mut outcome, self.written.revision);
        outcome
    }

    /// The revision of what is being written.
    fn next(&self) -> Revision {
        Revision(self.written.revision.0 + 1)
    }

    fn get(&self, key: &str) -> Option<&Entry> {
        match self.written.entries.get(key) {
            Some(entry) => entry.as_ref(),
            None => self.base.entries.get(key),
        }
    }

    fn range(&self, prefix: &str) -> Vec<&Entry> {
        let touched = from(&self.written.entries, prefix).take_while(|(key, _)| key.starts_with(prefix));
        let mut all: BTreeMap<&str, Option<&Entry>> =
            self.base.range(prefix).map(|entry| (entry.key.as_str(), Some(entry))).collect();
        all.extend(touched.map(|(key, entry)| (key.as_str(), entry.as_ref())));
        all.into_values().flatten().collect()
    }

    fn decide<'t>(&self, transaction: &'t Transaction) -> Decided<'t> {
        let holds = |compare: &Compare| match compare {
            Compare::Absent { key } => self.get(key).is_none(),
            Compare::Exists { key } => self.get(key).is_some(),
            Compare::CreateRevision { key, revision } => {
                self.get(key).is_some_and(|entry| entry.create_revision == *revision)
            }
            Compare::ModRevision { key, revision } => {
                self.get(key).is_some_and(|entry| entry.mod_revision == *revision)
            }
        };
        let succeeded = transaction.compares.iter().all(holds);
        let branch = if succeeded { &transaction.success } else { &transaction.failure };
        let steps = branch.iter().map(|operation| match operation {
            Operation::Nested(inner) => Step::Nested(self.decide(inner)),
            operation => Step::Simple(operation),
        });
        Decided { succeeded, steps: steps.collect() }
    }

    fn run(&mut self, decided: &Decided<'_>, changes: &mut Vec<Change>) -> Outcome {
        let answers = decided.steps.iter().map(|step| match step {
            Step::Nested(inner) => Answer::Nested(self.run(inner, changes)),
            Step::Simple(operation) => self.step(operation, changes),
        });
        Outcome { succeeded: decided.succeeded, revision: Revision(0), answers: answers.collect() }
    }

    fn step(&mut self, operation: &Operation, changes: &mut Vec<Change>) -> Answer {
        match operation {
            Operation::Put { key, value, lease } => {
                let mod_revision = self.next();
                let create_revision = self.get(key).map_or(mod_revision, |entry| entry.create_revision);
                let entry =
                    Entry { key: key.clone(), value: value.clone(), create_revision, mod_revision, lease: *lease };
                changes.push(Change::Put(entry.clone()));
                self.written.entries.insert(key.clone(), Some(entry));
                Answer::Put
            }
            Operation::Delete { key } => {
                let there = self.get(key).is_some();
                if there {
                    self.delete(key.clone(), changes);
                }
                Answer::Deleted { count: usize::from(there) }
            }
            Operation::DeletePrefix { prefix } => {
                let keys: Vec<String> = self.range(prefix).into_iter().map(|entry| entry.key.clone()).collect();
                let count = keys.len();
                keys.into_iter().for_each(|key| self.delete(key, changes));
                Answer::Deleted { count }
            }
            Operation::Get { key } => Answer::Entries(self.get(key).cloned().into_iter().collect()),
            Operation::Range { prefix } => Answer::Entries(self.range(prefix).into_iter().cloned().collect()),
            // Decided before, so it does not come here.
            Operation::Nested(inner) => {
                let inner = self.decide(inner);
                Answer::Nested(self.run(&inner, changes))
            }
        }
    }

    fn delete(&mut self, key: String, changes: &mut Vec<Change>) {
        changes.push(Change::Deleted { key: key.clone(), revision: self.next() });
        self.written.entries.insert(key, None);
    }
}

/// A transaction of which it is known what will be done.
struct Decided<'t> {
    succeeded: bool,
    steps: Vec<Step<'t>>,
}

enum Step<'t> {
    Simple(&'t Operation),
    Nested(Decided<'t>),
}

impl Decided<'_> {
    /// A lease that will be put under, and for which this holds.
    fn lease_that(&self, holds: &impl Fn(LeaseId) -> bool) -> Option<LeaseId> {
        self.steps.iter().find_map(|step| match step {
            Step::Simple(Operation::Put { lease: Some(lease), .. }) => Some(*lease).filter(|lease| holds(*lease)),
            Step::Simple(_) => None,
            Step::Nested(inner) => inner.lease_that(holds),
        })
    }
}

/// Everything in one outcome has the same revision.
fn settle(outcome: &mut Outcome, revision: Revision) {
    outcome.revision = revision;
    for answer in &mut outcome.answers {
        if let Answer::Nested(inner) = answer {
            settle(inner, revision);
        }
    }
}
