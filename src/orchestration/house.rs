//! Keeping house: once an hour the store's history is let go, and tombstones that have stood for a week are swept.
//!
//! The first in line by rendezvous hashing does it, so one agent of all; two who both think that they are do no harm, as
//! both may be done twice. What is let go is what was an hour ago: a watch that was cut off for less goes on where it was.
//! Where nothing happened for an hour, nothing is done.

use super::record::Tombstone;
use super::todo::rank;
use crate::environment::Environment;
use crate::membership::record::Alive;
use crate::store::mirror::Mirror;
use crate::store::{Error, Operation, Revision, Store, Transaction, decode, key};
use std::sync::Arc;
use std::time::Duration;

/// How often.
pub const INTERVAL: Duration = Duration::from_secs(3600);
/// How long a tombstone stands. A host that was away for longer finds what was purged meanwhile, and keeps it: it is
/// shown as what nobody knows, and an operator's word takes it away.
pub const TOMBSTONES: Duration = Duration::from_secs(7 * 24 * 3600);
/// The line in which agents stand for it; shards of `todo/` have the numbers below.
const LINE: u32 = key::SHARDS;
/// Keys that one transaction deletes.
const BATCH: usize = 100;

/// Keeps house for ever, when it is this host's turn.
pub async fn keep(store: Arc<dyn Store>, environment: Environment, host: String, alive: Mirror<Alive>) {
    let mut since: Option<Revision> = None;
    loop {
        let ours = rank(&host, LINE, alive.view().keys().map(String::as_str)) == Some(0);
        match hour(store.as_ref(), &environment, since.filter(|_| ours), ours).await {
            Ok(now) => since = Some(now),
            // An hour more or less of history is all that it costs.
            Err(error) => tracing::warn!(%error, "cannot keep house; trying again in an hour"),
        }
        // Not all at one moment, and none sooner than an hour: the history of the last hour is for those who were cut off.
        tokio::time::sleep(INTERVAL + environment.jitter(INTERVAL / 60)).await;
    }
}

/// One turn; the store's revision at its beginning.
async fn hour(
    store: &dyn Store,
    environment: &Environment,
    since: Option<Revision>,
    ours: bool,
) -> Result<Revision, Error> {
    let now = store.get(&key::cluster()).await?.revision;
    if ours {
        let swept = sweep(store, environment).await?;
        if swept > 0 {
            tracing::info!(swept, "old tombstones are swept");
        }
    }
    if let Some(since) = since.filter(|since| *since < now) {
        store.compact(since).await?;
        tracing::info!(revision = since.0, "the store's history up to an hour ago is let go");
    }
    Ok(now)
}

/// Takes tombstones away that have stood long enough; how many.
///
/// # Errors
/// What the store answers.
pub async fn sweep(store: &dyn Store, environment: &Environment) -> Result<usize, Error> {
    let now = environment.clock.now();
    let old = |tombstone: &Tombstone| tombstone.purged.after(TOMBSTONES) <= now;
    let mut swept = Vec::new();
    for entry in store.range(&key::all_gone()).await?.entries {
        match decode::<Tombstone>(&entry) {
            Ok(tombstone) if old(&tombstone) => swept.push(Operation::delete(entry.key)),
            Ok(_) => {}
            Err(error) => tracing::warn!(key = entry.key, %error, "a tombstone that cannot be read stays"),
        }
    }
    // Nobody writes one a second time, so there is nothing to compare.
    for batch in swept.chunks(BATCH) {
        let transaction = Transaction { success: batch.to_vec(), ..Transaction::default() };
        store.commit(transaction).await?;
    }
    Ok(swept.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Timestamp;
    use crate::store::embedded::Embedded;
    use crate::store::encode;

    async fn put(store: &dyn Store, key: &str, value: bytes::Bytes) -> Revision {
        store.commit(Transaction::new().then(Operation::put(key, value))).await.unwrap().revision
    }

    async fn tombstone(store: &dyn Store, uuid: &str, purged: Timestamp) {
        let tombstone = Tombstone { id: 7, kind: "container".into(), purged };
        put(store, &key::gone(uuid), encode("", &tombstone).unwrap()).await;
    }

    fn store() -> (Arc<dyn Store>, Environment) {
        let environment = Environment::system().unwrap();
        (Arc::new(Embedded::in_memory(&environment).unwrap()), environment)
    }

    async fn standing(store: &dyn Store) -> Vec<String> {
        let entries = store.range(&key::all_gone()).await.unwrap().entries;
        entries.iter().map(|entry| key::last(&key::all_gone(), &entry.key).to_owned()).collect()
    }

    #[tokio::test]
    async fn tombstones_stand_a_week() {
        let (store, environment) = store();
        let ago = |span: Duration| Timestamp(environment.clock.now().0 - i64::try_from(span.as_millis()).unwrap());
        for number in 0..250 {
            tombstone(&*store, &format!("old-{number}"), ago(TOMBSTONES)).await;
        }
        tombstone(&*store, "young", ago(TOMBSTONES - Duration::from_secs(60))).await;
        put(&*store, &key::gone("strange"), "[]".into()).await;
        assert_eq!(sweep(&*store, &environment).await.unwrap(), 250);
        assert_eq!(standing(&*store).await, ["strange", "young"]);
        let before = store.get("x").await.unwrap().revision;
        assert_eq!(sweep(&*store, &environment).await.unwrap(), 0);
        assert_eq!(store.get("x").await.unwrap().revision, before, "nothing to do is no write");
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_agents_lets_the_history_go_an_hour_late() {
        let (store, environment) = store();
        for host in ["h1", "h2"] {
            let alive = Alive { identity: "i".into(), incarnation: 1, boot_id: "b".into(), address: "a".into() };
            put(&*store, &key::alive(host), encode("", &alive).unwrap()).await;
        }
        let alive: Mirror<Alive> = Mirror::start(store.clone(), &environment, key::all_alive());
        assert!(alive.listed(Duration::from_secs(5)).await);
        let first = if rank("h1", LINE, ["h1", "h2"].into_iter()) == Some(0) { "h1" } else { "h2" };
        let second = if first == "h1" { "h2" } else { "h1" };
        let at_start = put(&*store, "w/a", "1".into()).await;
        let kept = |host: &str| tokio::spawn(keep(store.clone(), environment.clone(), host.into(), alive.clone()));
        let not_ours = kept(second);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let later = put(&*store, "w/a", "2".into()).await;
        tokio::time::sleep(INTERVAL * 3).await;
        assert!(store.watch("w/", at_start).await.is_ok(), "the second in line leaves it alone");
        not_ours.abort();

        let ours = kept(first);
        tokio::time::sleep(INTERVAL / 2).await;
        let within = put(&*store, "w/a", "3".into()).await;
        tokio::time::sleep(INTERVAL).await;
        assert!(matches!(store.watch("w/", later).await, Err(Error::Compacted { .. })));
        assert!(store.watch("w/", within).await.is_ok(), "what is not an hour old stays");
        let before = store.get("x").await.unwrap().revision;
        tokio::time::sleep(INTERVAL * 5).await;
        assert_eq!(store.get("x").await.unwrap().revision, before, "keeping house is no write");
        ours.abort();
    }
}
