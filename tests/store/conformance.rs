//! The contract: each test here runs over each backend.

use crate::backend::Backend;
use crate::{next, until, within};
use bytes::Bytes;
use futures::StreamExt;
use stampede::store::mirror::Mirror;
use stampede::store::{
    Answer, Change, Compare, Entry, Error, LeaseId, Operation, Outcome, Revision, Store, Transaction, WatchEvent,
};
use std::sync::Arc;
use std::time::Duration;

/// Makes a test of every function here for the backend that `$open` opens.
macro_rules! conformance {
    ($backend:ident, $open:expr, [$($name:ident),* $(,)?]) => {
        mod $backend {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(&$open.await).await;
                }
            )*
        }
    };
    ($backend:ident, $open:expr) => {
        conformance!($backend, $open, [
            a_key_is_absent_then_there_then_gone,
            compares_hold_and_fail,
            a_branch_that_only_reads_changes_no_revision,
            deleting_nothing_is_no_change,
            nested_transactions_fail_alone,
            compares_see_what_was_before_and_reads_what_is_done,
            prefixes_are_read_counted_and_deleted,
            what_changed_since,
            larger_than_allowed_is_refused,
            a_key_written_twice_is_refused,
            a_large_range_comes_whole,
            a_watch_tells_the_past_from_its_revision,
            a_watch_tells_each_revision_once_and_whole,
            a_watch_misses_nothing_under_concurrent_writers,
            a_compacted_past_is_said_to_be,
            compaction_lets_go_what_is_asked_and_no_more,
            a_mirror_survives_compaction,
            an_expired_lease_takes_its_keys,
            a_lease_kept_alive_stays,
            a_revoked_lease_is_gone,
            a_key_can_leave_its_lease,
            two_of_the_same_claim_one_wins,
        ]);
    };
}

conformance!(etcd, crate::backend::Etcd::start());
conformance!(file, crate::backend::File::on_disk());
conformance!(memory, crate::backend::File::in_memory());
conformance!(simulated, crate::backend::Fair::start());

pub async fn put(store: &dyn Store, key: &str, value: &str) -> Revision {
    store.commit(Transaction::new().then(operation(key, value))).await.unwrap().revision
}

fn operation(key: &str, value: &str) -> Operation {
    Operation::put(key, Bytes::copy_from_slice(value.as_bytes()))
}

fn leased(key: &str, lease: LeaseId) -> Transaction {
    Transaction::new().then(Operation::Put { key: key.into(), value: "v".into(), lease: Some(lease) })
}

async fn commit(store: &dyn Store, transaction: Transaction) -> Outcome {
    store.commit(transaction).await.unwrap()
}

async fn entry(store: &dyn Store, key: &str) -> Option<Entry> {
    store.get(key).await.unwrap().entry
}

async fn a_key_is_absent_then_there_then_gone(backend: &impl Backend) {
    let store = &*backend.store();
    let before = store.get("a").await.unwrap();
    assert_eq!(before.entry, None);
    let first = put(store, "a", "1").await;
    assert_eq!(first, Revision(before.revision.0 + 1));
    let second = put(store, "a", "2").await;
    let found = store.get("a").await.unwrap();
    let expected =
        Entry { key: "a".into(), value: "2".into(), create_revision: first, mod_revision: second, lease: None };
    assert_eq!((found.revision, found.entry), (second, Some(expected)));
    let outcome = commit(store, Transaction::new().then(Operation::delete("a"))).await;
    assert_eq!(outcome.answers, [Answer::Deleted { count: 1 }]);
    let gone = store.get("a").await.unwrap();
    assert_eq!((gone.revision, gone.entry), (Revision(second.0 + 1), None));
    // A key that comes again has a new beginning.
    let again = put(store, "a", "3").await;
    assert_eq!(entry(store, "a").await.unwrap().create_revision, again);
}

async fn compares_hold_and_fail(backend: &impl Backend) {
    let store = &*backend.store();
    let created = put(store, "there", "1").await;
    let modified = put(store, "there", "2").await;
    let key = || "there".to_owned();
    let absent = || "not there".to_owned();
    for (compare, holds) in [
        (Compare::Exists { key: key() }, true),
        (Compare::Exists { key: absent() }, false),
        (Compare::Absent { key: key() }, false),
        (Compare::Absent { key: absent() }, true),
        (Compare::ModRevision { key: key(), revision: modified }, true),
        (Compare::ModRevision { key: key(), revision: created }, false),
        (Compare::ModRevision { key: absent(), revision: Revision(0) }, false),
        (Compare::CreateRevision { key: key(), revision: created }, true),
        (Compare::CreateRevision { key: key(), revision: modified }, false),
        (Compare::CreateRevision { key: absent(), revision: Revision(0) }, false),
    ] {
        let transaction = Transaction::new().when(compare.clone()).then(Operation::get("there"));
        assert_eq!(commit(store, transaction).await.succeeded, holds, "{compare:?}");
    }
    // All of them must hold.
    let both = Transaction::new().absent("not there").absent("there").or_else(operation("failed", "1"));
    let outcome = commit(store, both).await;
    assert_eq!((outcome.succeeded, outcome.answers), (false, vec![Answer::Put]));
    assert!(entry(store, "failed").await.is_some());
}

async fn a_branch_that_only_reads_changes_no_revision(backend: &impl Backend) {
    let store = &*backend.store();
    let revision = put(store, "a/1", "1").await;
    let transaction = Transaction::new()
        .absent("a/1")
        .then(operation("never", "1"))
        .or_else(Operation::get("a/1"))
        .or_else(Operation::Range { prefix: "a/".into() });
    let outcome = commit(store, transaction).await;
    assert!(!outcome.succeeded);
    assert_eq!(outcome.revision, revision);
    let there = entry(store, "a/1").await.unwrap();
    assert_eq!(outcome.answers, [Answer::Entries(vec![there.clone()]), Answer::Entries(vec![there])]);
    assert_eq!(store.get("never").await.unwrap().revision, revision);
}

async fn deleting_nothing_is_no_change(backend: &impl Backend) {
    let store = &*backend.store();
    let revision = put(store, "a", "1").await;
    let outcome = commit(
        store,
        Transaction::new()
            .then(Operation::delete("b"))
            .then(Operation::DeletePrefix { prefix: "c/".into() })
            .then(Operation::get("b")),
    )
    .await;
    assert_eq!(
        outcome.answers,
        [Answer::Deleted { count: 0 }, Answer::Deleted { count: 0 }, Answer::Entries(Vec::new())]
    );
    assert_eq!(outcome.revision, revision);
}

async fn nested_transactions_fail_alone(backend: &impl Backend) {
    let store = &*backend.store();
    let revision = put(store, "taken", "1").await;
    let claim = |key: &str| {
        let claim = Transaction::new().absent(key).then(operation(key, "mine")).or_else(Operation::get(key));
        Operation::Nested(claim)
    };
    let outcome =
        commit(store, Transaction::new().then(claim("free")).then(claim("taken")).then(operation("log", "1"))).await;
    assert!(outcome.succeeded);
    let revision = Revision(revision.0 + 1);
    assert_eq!(outcome.revision, revision);
    let taken = entry(store, "taken").await.unwrap();
    assert_eq!(
        outcome.answers,
        [
            Answer::Nested(Outcome { succeeded: true, revision, answers: vec![Answer::Put] }),
            Answer::Nested(Outcome { succeeded: false, revision, answers: vec![Answer::Entries(vec![taken.clone()])] }),
            Answer::Put,
        ]
    );
    assert_eq!(taken.value, "1");
    assert_eq!(entry(store, "free").await.unwrap().mod_revision, revision);
}

async fn compares_see_what_was_before_and_reads_what_is_done(backend: &impl Backend) {
    let store = &*backend.store();
    put(store, "old", "1").await;
    let inner = Transaction::new().absent("new").then(Operation::get("new"));
    let outcome = commit(
        store,
        Transaction::new()
            .then(operation("new", "2"))
            .then(Operation::delete("old"))
            .then(Operation::Nested(inner))
            .then(Operation::get("old")),
    )
    .await;
    let [Answer::Put, Answer::Deleted { count: 1 }, Answer::Nested(inner), Answer::Entries(old)] = &outcome.answers[..]
    else {
        panic!("{outcome:?}")
    };
    assert!(inner.succeeded, "all compares are made before anything is done");
    let [Answer::Entries(new)] = &inner.answers[..] else { panic!("{inner:?}") };
    assert_eq!((new.len(), new[0].mod_revision), (1, outcome.revision));
    assert_eq!(old, &[]);
}

async fn prefixes_are_read_counted_and_deleted(backend: &impl Backend) {
    let store = &*backend.store();
    for key in ["h/10", "h/2", "h/1", "h0", "g/9", "h"] {
        put(store, key, key).await;
    }
    let keys = |entries: &[Entry]| entries.iter().map(|entry| entry.key.clone()).collect::<Vec<_>>();
    let snapshot = store.range("h/").await.unwrap();
    assert_eq!(keys(&snapshot.entries), ["h/1", "h/10", "h/2"]);
    assert_eq!(snapshot.revision, store.get("g/9").await.unwrap().revision);
    assert_eq!(store.range("h/3").await.unwrap().entries, []);
    let outcome = commit(store, Transaction::new().then(Operation::DeletePrefix { prefix: "h/".into() })).await;
    assert_eq!(outcome.answers, [Answer::Deleted { count: 3 }]);
    assert_eq!(outcome.revision, Revision(snapshot.revision.0 + 1));
    assert_eq!(keys(&store.range("h").await.unwrap().entries), ["h", "h0"]);
}

async fn what_changed_since(backend: &impl Backend) {
    let store = &*backend.store();
    put(store, "a/1", "1").await;
    let first = put(store, "a/2", "1").await;
    put(store, "a/3", "1").await;
    put(store, "b/4", "1").await;
    let last = commit(store, Transaction::new().then(Operation::delete("a/1"))).await.revision;
    let difference = store.changed_since("a/", first).await.unwrap();
    let written: Vec<_> = difference.written.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!((written, difference.count, difference.revision), (vec!["a/3"], 2, last));
    let nothing = store.changed_since("a/", last).await.unwrap();
    assert_eq!((nothing.written.len(), nothing.count), (0, 2));
}

async fn larger_than_allowed_is_refused(backend: &impl Backend) {
    let store = &*backend.store();
    let many = |count: usize| (0..count).fold(Transaction::new(), |all, i| all.then(operation(&format!("k{i}"), "1")));
    assert!(store.commit(many(128)).await.unwrap().succeeded);
    assert!(matches!(store.commit(many(129)).await, Err(Error::TooLarge { .. })));
    let nested = Transaction::new().then(Operation::Nested(many(127)));
    assert!(store.commit(nested).await.unwrap().succeeded);
    let nested = Transaction::new().then(Operation::Nested(many(128)));
    assert!(matches!(store.commit(nested).await, Err(Error::TooLarge { .. })));
    let compares = (0..129).fold(Transaction::new(), |all, i| all.absent(format!("k{i}")));
    assert!(matches!(store.commit(compares).await, Err(Error::TooLarge { .. })));

    let revision = store.get("k0").await.unwrap().revision;
    let large = "x".repeat((1 << 20) - 64);
    assert!(store.commit(Transaction::new().then(operation("large", &large))).await.unwrap().succeeded);
    let larger = Transaction::new().then(operation("large", &large)).then(operation("more", &"x".repeat(64)));
    assert!(matches!(store.commit(larger).await, Err(Error::TooLarge { .. })));
    assert_eq!(store.get("large").await.unwrap().revision, Revision(revision.0 + 1));
}

async fn a_key_written_twice_is_refused(backend: &impl Backend) {
    let store = &*backend.store();
    let put = || operation("a/1", "1");
    let nested = || Operation::Nested(Transaction::new().then(put()));
    let revision = store.get("a/1").await.unwrap().revision;
    for twice in [
        [put(), put()],
        [put(), Operation::delete("a/1")],
        [Operation::DeletePrefix { prefix: "a/".into() }, put()],
        [put(), nested()],
        [nested(), nested()],
    ] {
        let transaction = twice.into_iter().fold(Transaction::new(), Transaction::then);
        let outcome = store.commit(transaction.clone()).await;
        assert!(matches!(outcome, Err(Error::Refused { .. })), "{transaction:?} came to {outcome:?}");
    }
    // Of two branches only one is done.
    let either = Transaction::new().then(Operation::Nested(Transaction::new().then(put()).or_else(put())));
    assert_eq!(commit(store, either).await.revision, Revision(revision.0 + 1));
}

/// More than gRPC takes in one message unless told to.
async fn a_large_range_comes_whole(backend: &impl Backend) {
    let store = &*backend.store();
    let value = "x".repeat(900_000);
    for i in 0..8 {
        put(store, &format!("large/{i}"), &value).await;
    }
    let snapshot = store.range("large/").await.unwrap();
    assert_eq!(snapshot.entries.len(), 8);
    assert!(snapshot.entries.iter().all(|entry| entry.value.len() == value.len()));
}

async fn a_watch_tells_the_past_from_its_revision(backend: &impl Backend) {
    let store = &*backend.store();
    put(store, "w/1", "before").await;
    let from = put(store, "w/1", "first").await;
    put(store, "v/1", "of no interest").await;
    let deleted = commit(store, Transaction::new().then(Operation::delete("w/1"))).await.revision;
    let mut watch = store.watch("w/", from).await.unwrap();
    let WatchEvent::Changed { revision, changes } = next(&mut watch).await.unwrap() else { panic!() };
    assert_eq!(revision, from);
    assert!(matches!(&changes[..], [Change::Put(entry)] if entry.value == "first" && entry.mod_revision == from));
    let expected = WatchEvent::Changed {
        revision: deleted,
        changes: vec![Change::Deleted { key: "w/1".into(), revision: deleted }],
    };
    assert_eq!(next(&mut watch).await.unwrap(), expected);
    // And what comes after, from a revision of the future as well.
    let mut later = store.watch("w/", Revision(deleted.0 + 2)).await.unwrap();
    let skipped = put(store, "w/2", "1").await;
    let told = put(store, "w/2", "2").await;
    assert!(matches!(next(&mut watch).await.unwrap(), WatchEvent::Changed { revision, .. } if revision == skipped));
    assert!(matches!(next(&mut later).await.unwrap(), WatchEvent::Changed { revision, .. } if revision == told));
}

async fn a_watch_tells_each_revision_once_and_whole(backend: &impl Backend) {
    let store = &*backend.store();
    let from = Revision(put(store, "x", "1").await.0 + 1);
    for round in 0..50 {
        let transaction =
            (0..20).fold(Transaction::new(), |all, i| all.then(operation(&format!("w/{i}"), &round.to_string())));
        commit(store, transaction.then(operation("elsewhere", "1"))).await;
    }
    let mut watch = store.watch("w/", from).await.unwrap();
    for round in 0..50 {
        let WatchEvent::Changed { revision, changes } = next(&mut watch).await.unwrap() else { panic!() };
        assert_eq!((revision, changes.len()), (Revision(from.0 + round), 20));
    }
}

async fn a_watch_misses_nothing_under_concurrent_writers(backend: &impl Backend) {
    let store = backend.store();
    let from = Revision(put(&*store, "x", "1").await.0 + 1);
    let mut early = store.watch("w/", from).await.unwrap();
    let writers = (0..8).map(|writer| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            for i in 0..100 {
                mine.push(put(&*store, &format!("w/{writer}"), &i.to_string()).await);
            }
            mine
        })
    });
    let writers: Vec<_> = writers.collect();
    // A second one that begins in the middle.
    until("half", async || store.get("x").await.unwrap().revision.0 > from.0 + 400).await;
    let mut late = store.watch("w/", from).await.unwrap();
    let mut written: Vec<Revision> = Vec::new();
    for writer in writers {
        written.extend(within("a writer", writer).await.unwrap());
    }
    written.sort();
    for watch in [&mut early, &mut late] {
        for expected in &written {
            match next(watch).await.unwrap() {
                WatchEvent::Changed { revision, changes } => assert_eq!((revision, changes.len()), (*expected, 1)),
                WatchEvent::Progress { .. } => unreachable!(),
            }
        }
    }
}

async fn a_compacted_past_is_said_to_be(backend: &impl Backend) {
    let store = &*backend.store();
    let old = put(store, "w/1", "1").await;
    put(store, "w/1", "2").await;
    let newest = put(store, "w/1", "3").await;
    store.compact(newest).await.unwrap();
    let error = match store.watch("w/", old).await {
        Ok(mut watch) => {
            let error = next(&mut watch).await.unwrap_err();
            assert!(within("the end", watch.next()).await.is_none(), "nothing comes after the error");
            error
        }
        Err(error) => error,
    };
    assert!(matches!(error, Error::Compacted { revision } if revision > old), "{error:?}");
    // What is there is not touched.
    assert_eq!(entry(store, "w/1").await.unwrap().value, "3");
}

async fn compaction_lets_go_what_is_asked_and_no_more(backend: &impl Backend) {
    let store = &*backend.store();
    let old = put(store, "w/1", "1").await;
    let middle = put(store, "w/1", "2").await;
    let newest = put(store, "w/1", "3").await;
    let mut following = store.watch("w/", old).await.unwrap();
    for revision in [old, middle, newest] {
        assert!(
            matches!(next(&mut following).await, Ok(WatchEvent::Changed { revision: told, .. }) if told == revision)
        );
    }
    store.compact(middle).await.unwrap();
    // Again, and less than that: somebody else was first.
    store.compact(middle).await.unwrap();
    store.compact(old).await.unwrap();
    let mut watch = store.watch("w/", newest).await.unwrap();
    assert!(matches!(next(&mut watch).await, Ok(WatchEvent::Changed { revision, .. }) if revision == newest));
    let refused = store.compact(Revision(newest.0 + 1000)).await;
    assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    // Who followed goes on, and nothing is a write.
    assert_eq!(store.get("w/1").await.unwrap().revision, newest);
    let last = put(store, "w/1", "4").await;
    for watch in [&mut following, &mut watch] {
        assert!(matches!(next(watch).await, Ok(WatchEvent::Changed { revision, .. }) if revision == last));
    }
}

async fn a_mirror_survives_compaction(backend: &impl Backend) {
    let store = backend.store();
    put(&*store, "m/a", "1").await;
    let mirror: Mirror<u64> = Mirror::start(store.clone(), &crate::environment(), "m/");
    assert!(mirror.listed(crate::LIMIT).await);
    for round in 0..5 {
        let revision = put(&*store, "m/a", &round.to_string()).await;
        store.compact(revision).await.unwrap();
        let revision = put(&*store, "m/b", &round.to_string()).await;
        assert!(mirror.reached(revision, crate::LIMIT).await);
        assert_eq!(mirror.get("b").map(|item| *item.value), Some(round));
    }
    // The last compaction may break its watch off after all has been told.
    let fresh = async {
        while mirror.freshness().stale_since.is_some() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(crate::LIMIT, fresh).await.is_ok(), "it is stale for good");
}

async fn an_expired_lease_takes_its_keys(backend: &impl Backend) {
    let store = &*backend.store();
    let lease = store.grant_lease(Duration::from_secs(2)).await.unwrap();
    commit(store, leased("alive/1", lease)).await;
    let last = commit(store, leased("alive/2", lease).then(operation("other", "1"))).await.revision;
    assert_eq!(entry(store, "alive/1").await.unwrap().lease, Some(lease));
    assert!(store.time_to_live(lease).await.unwrap().is_some());
    let mut watch = store.watch("alive/", Revision(last.0 + 1)).await.unwrap();
    let mut gone = Vec::new();
    while gone.len() < 2 {
        let WatchEvent::Changed { changes, .. } = next(&mut watch).await.unwrap() else { panic!() };
        for change in changes {
            assert!(matches!(change, Change::Deleted { .. }), "{change:?}");
            gone.push(change.key().to_owned());
        }
    }
    gone.sort();
    assert_eq!(gone, ["alive/1", "alive/2"]);
    assert_eq!(store.range("alive/").await.unwrap().entries, []);
    assert!(entry(store, "other").await.is_some());
    assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseGone(gone)) if gone == lease));
    assert_eq!(store.time_to_live(lease).await.unwrap(), None);
    assert!(matches!(store.commit(leased("alive/3", lease)).await, Err(Error::LeaseGone(gone)) if gone == lease));
}

async fn a_lease_kept_alive_stays(backend: &impl Backend) {
    let store = &*backend.store();
    let lease = store.grant_lease(Duration::from_secs(2)).await.unwrap();
    commit(store, leased("alive", lease)).await;
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert_eq!(store.keep_alive(lease).await.unwrap(), Duration::from_secs(2));
        assert!(store.time_to_live(lease).await.unwrap().is_some_and(|left| left <= Duration::from_secs(2)));
    }
    assert!(entry(store, "alive").await.is_some());
}

async fn a_revoked_lease_is_gone(backend: &impl Backend) {
    let store = &*backend.store();
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    commit(store, leased("alive", lease)).await;
    store.keep_alive(lease).await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(entry(store, "alive").await, None);
    for _ in 0..2 {
        assert!(matches!(store.keep_alive(lease).await, Err(Error::LeaseGone(gone)) if gone == lease));
        assert!(matches!(store.revoke_lease(lease).await, Err(Error::LeaseGone(gone)) if gone == lease));
    }
    assert_eq!(store.time_to_live(lease).await.unwrap(), None);
}

async fn a_key_can_leave_its_lease(backend: &impl Backend) {
    let store = &*backend.store();
    let lease = store.grant_lease(Duration::from_secs(60)).await.unwrap();
    commit(store, leased("a", lease)).await;
    put(store, "a", "without").await;
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(entry(store, "a").await.unwrap().value, "without");
}

async fn two_of_the_same_claim_one_wins(backend: &impl Backend) {
    let store: Arc<dyn Store> = backend.store();
    let claims = (0..16).map(|i| {
        let store = store.clone();
        tokio::spawn(async move {
            let claim = Transaction::new().absent("claim").then(operation("claim", &i.to_string()));
            (i, commit(&*store, claim).await)
        })
    });
    let mut winners = Vec::new();
    for claim in claims.collect::<Vec<_>>() {
        let (i, outcome) = claim.await.unwrap();
        if outcome.succeeded {
            winners.push((i.to_string(), outcome.revision));
        }
    }
    let stored = entry(&*store, "claim").await.unwrap();
    assert_eq!(winners, [(String::from_utf8(stored.value.to_vec()).unwrap(), stored.mod_revision)]);
}
