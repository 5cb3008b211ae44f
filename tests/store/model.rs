//! Random transactions against a model that is as simple as can be, and against both backends at once.

use crate::server::Server;
use crate::{environment, next};
use bytes::Bytes;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use stampede::store::embedded::Embedded;
use stampede::store::{
    Answer, Change, Compare, Entry, Error, Operation, Outcome, Revision, Store, Transaction, WatchEvent,
};
use std::collections::BTreeMap;

fn key() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a/1", "a/2", "a/20", "b/1", "b/2", "c"]).prop_map(str::to_owned)
}

fn prefix() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a/", "a/2", "b/", "c", "d"]).prop_map(str::to_owned)
}

fn revision() -> impl Strategy<Value = Revision> {
    (0_i64..12).prop_map(Revision)
}

fn compare() -> impl Strategy<Value = Compare> {
    prop_oneof![
        key().prop_map(|key| Compare::Absent { key }),
        key().prop_map(|key| Compare::Exists { key }),
        (key(), revision()).prop_map(|(key, revision)| Compare::CreateRevision { key, revision }),
        (key(), revision()).prop_map(|(key, revision)| Compare::ModRevision { key, revision }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (key(), 0..5_u8).prop_map(|(key, value)| Operation::put(key, Bytes::from(value.to_string()))),
        2 => key().prop_map(Operation::delete),
        1 => prefix().prop_map(|prefix| Operation::DeletePrefix { prefix }),
        1 => key().prop_map(Operation::get),
        1 => prefix().prop_map(|prefix| Operation::Range { prefix }),
    ]
}

fn of(operation: impl Strategy<Value = Operation> + Clone) -> impl Strategy<Value = Transaction> {
    let operations = prop::collection::vec(operation, 0..4);
    (prop::collection::vec(compare(), 0..3), operations.clone(), operations)
        .prop_map(|(compares, success, failure)| Transaction { compares, success, failure })
}

pub fn transaction() -> impl Strategy<Value = Transaction> {
    let inner = of(operation().boxed()).prop_map(Operation::Nested).boxed();
    of(prop_oneof![4 => operation(), 1 => inner].boxed())
}

/// A map, the revision, and for each key when it came and when it was written.
#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    revision: i64,
}

impl Model {
    fn holds(before: &BTreeMap<String, Entry>, compare: &Compare) -> bool {
        match compare {
            Compare::Absent { key } => !before.contains_key(key),
            Compare::Exists { key } => before.contains_key(key),
            Compare::CreateRevision { key, revision } => {
                before.get(key).is_some_and(|entry| entry.create_revision == *revision)
            }
            Compare::ModRevision { key, revision } => {
                before.get(key).is_some_and(|entry| entry.mod_revision == *revision)
            }
        }
    }

    fn commit(&mut self, transaction: &Transaction) -> (Outcome, Vec<Change>) {
        let before = self.entries.clone();
        let mut changes = Vec::new();
        let outcome = self.run(&before, transaction, &mut changes);
        self.revision += i64::from(!changes.is_empty());
        (stamped(outcome, Revision(self.revision)), changes)
    }

    fn run(
        &mut self,
        before: &BTreeMap<String, Entry>,
        transaction: &Transaction,
        changes: &mut Vec<Change>,
    ) -> Outcome {
        let succeeded = transaction.compares.iter().all(|compare| Self::holds(before, compare));
        let branch = if succeeded { &transaction.success } else { &transaction.failure };
        let at = Revision(self.revision + 1);
        let answers = branch.iter().map(|operation| match operation {
            Operation::Put { key, value, lease } => {
                let created = self.entries.get(key).map_or(at, |entry| entry.create_revision);
                let entry = Entry {
                    key: key.clone(),
                    value: value.clone(),
                    create_revision: created,
                    mod_revision: at,
                    lease: *lease,
                };
                self.entries.insert(key.clone(), entry.clone());
                changes.push(Change::Put(entry));
                Answer::Put
            }
            Operation::Delete { key } => self.delete(at, changes, |other| other == key),
            Operation::DeletePrefix { prefix } => self.delete(at, changes, |other| other.starts_with(prefix)),
            Operation::Get { key } => Answer::Entries(self.entries.get(key).cloned().into_iter().collect()),
            Operation::Range { prefix } => {
                Answer::Entries(self.entries.values().filter(|entry| entry.key.starts_with(prefix)).cloned().collect())
            }
            Operation::Nested(inner) => Answer::Nested(self.run(before, inner, changes)),
        });
        let answers = answers.collect();
        Outcome { succeeded, revision: Revision(0), answers }
    }

    fn delete(&mut self, at: Revision, changes: &mut Vec<Change>, which: impl Fn(&str) -> bool) -> Answer {
        let keys: Vec<String> = self.entries.keys().filter(|key| which(key)).cloned().collect();
        for key in &keys {
            self.entries.remove(key);
            changes.push(Change::Deleted { key: key.clone(), revision: at });
        }
        Answer::Deleted { count: keys.len() }
    }
}

fn stamped(mut outcome: Outcome, revision: Revision) -> Outcome {
    outcome.revision = revision;
    for answer in &mut outcome.answers {
        if let Answer::Nested(inner) = answer {
            *inner = stamped(inner.clone(), revision);
        }
    }
    outcome
}

async fn compare_with_model(transactions: Vec<Transaction>) {
    let store = Embedded::in_memory(&environment()).unwrap();
    let first = store.get("x").await.unwrap().revision;
    let mut watch = store.watch("", Revision(first.0 + 1)).await.unwrap();
    let mut model = Model { revision: first.0, ..Model::default() };
    let mut told = Vec::new();
    for transaction in transactions {
        match store.commit(transaction.clone()).await {
            Ok(outcome) => {
                let (expected, changes) = model.commit(&transaction);
                assert_eq!(outcome, expected, "{transaction:?}");
                if !changes.is_empty() {
                    told.push(WatchEvent::Changed { revision: expected.revision, changes });
                }
            }
            Err(Error::Refused { .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
        let stored = store.range("").await.unwrap();
        assert_eq!(stored.revision, Revision(model.revision));
        assert!(stored.entries.iter().eq(model.entries.values()));
    }
    for expected in told {
        assert_eq!(next(&mut watch).await.unwrap(), expected);
    }
}

proptest! {
    #[test]
    fn the_embedded_store_does_what_the_model_does(transactions in prop::collection::vec(transaction(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare_with_model(transactions));
    }
}

/// The same transactions, in the same order, come to the same in both, refusals and watches included.
#[tokio::test]
async fn both_backends_do_the_same() {
    let server = Server::start().await;
    let etcd = server.connect();
    let embedded = Embedded::in_memory(&environment()).unwrap();
    let first = etcd.get("x").await.unwrap().revision;
    assert_eq!(embedded.get("x").await.unwrap().revision, first, "both count from the same revision");
    let from = Revision(first.0 + 1);
    let (mut left, mut right) = (etcd.watch("a", from).await.unwrap(), embedded.watch("a", from).await.unwrap());
    let mut runner = TestRunner::default();
    let (mut refused, mut written) = (0, 0);
    for _ in 0..1500 {
        let transaction = transaction().new_tree(&mut runner).unwrap().current();
        match (etcd.commit(transaction.clone()).await, embedded.commit(transaction.clone()).await) {
            (Ok(left), Ok(right)) => assert_eq!(left, right, "{transaction:?}"),
            (Err(Error::Refused { .. }), Err(Error::Refused { .. })) => refused += 1,
            (left, right) => panic!("{transaction:?}: {left:?}, {right:?}"),
        }
    }
    let (all, same) = (etcd.range("").await.unwrap(), embedded.range("").await.unwrap());
    assert_eq!((all.revision, all.entries), (same.revision, same.entries));
    let last = Revision(all.revision.0 + 1);
    let end = || Transaction::new().then(Operation::put("a-end", "1".into()));
    etcd.commit(end()).await.unwrap();
    embedded.commit(end()).await.unwrap();
    loop {
        let (left, right) = (next(&mut left).await.unwrap(), next(&mut right).await.unwrap());
        assert_eq!(left, right);
        written += 1;
        if matches!(left, WatchEvent::Changed { revision, .. } if revision == last) {
            break;
        }
    }
    assert!(refused > 20 && written > 200, "{refused} refused, {written} written");
}
