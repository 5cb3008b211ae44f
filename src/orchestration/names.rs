//! The names of instances in the store, `dns/<account>/<name>/<instance>`: they follow from its row, and each write of the row
//! brings along what of them it changes. So they are as true as the row is, and who watches a name hears nothing else.

use crate::environment::{Backoff, Environment};
use crate::resource::dns_name::{self, Named};
use crate::resource::{Resource, identifier, instance};
use crate::store::{self, Error, Operation, Store, Transaction, key};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often a host looks whether the names of its own are there.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Rows looked at side by side.
const SIDE_BY_SIDE: usize = 8;

/// The keys that an instance has now, and what each says.
fn keys(instance: &Resource) -> BTreeMap<String, Named> {
    let Some(account) = instance.account_id else { return BTreeMap::new() };
    let id = identifier::instance(instance.id);
    dns_name::of(instance).into_iter().map(|(name, named)| (key::dns(account, &name, &id), named)).collect()
}

/// What a write of `next` in the place of `current` does to names.
pub(super) fn operations(base: &str, current: &Resource, next: &Resource) -> Result<Vec<Operation>, Error> {
    if base != instance::BASE {
        return Ok(Vec::new());
    }
    let (before, after) = (keys(current), keys(next));
    let gone = before.keys().filter(|key| !after.contains_key(*key)).map(Operation::delete);
    let mut operations: Vec<Operation> = gone.collect();
    for (key, named) in after.iter().filter(|(key, named)| before.get(*key) != Some(named)) {
        operations.push(Operation::put(key, store::encode(key, named)?));
    }
    Ok(operations)
}

/// Writes the names of what runs on `host` where they are not there: it ran before there were names, or somebody removed them.
/// How many.
///
/// # Errors
/// What the store answers.
pub async fn audit(store: &dyn Store, host: &str) -> Result<usize, Error> {
    let prefix = key::all_on(host);
    let claims = store.range(&prefix).await?.entries;
    let ids = claims.iter().filter_map(|claim| identifier::parse(instance::BASE, key::last(&prefix, &claim.key)));
    let looks: Vec<_> = ids.map(|id| missing(store, key::resource(instance::BASE, id))).collect();
    let written: Vec<usize> = futures::stream::iter(looks).buffer_unordered(SIDE_BY_SIDE).try_collect().await?;
    Ok(written.into_iter().sum())
}

/// Those of one row, unless the row is written meanwhile: whoever does that writes them too.
async fn missing(store: &dyn Store, row: String) -> Result<usize, Error> {
    let Some(entry) = store.get(&row).await?.entry else { return Ok(0) };
    let mut transaction = Transaction::new().unchanged(&row, entry.mod_revision);
    for (key, named) in keys(&store::decode(&entry)?) {
        let there = store.get(&key).await?.entry;
        // What is there and cannot be read is a newer version's: left alone.
        if there.is_none_or(|there| store::decode::<Named>(&there).is_ok_and(|there| !says(&there, &named))) {
            transaction = transaction.then(Operation::put(&key, store::encode(&key, &named)?));
        }
    }
    let wanting = transaction.success.len();
    if wanting == 0 || !store.commit(transaction).await?.succeeded {
        return Ok(0);
    }
    Ok(wanting)
}

fn says(there: &Named, wanted: &Named) -> bool {
    (&there.address, &there.host, &there.name) == (&wanted.address, &wanted.host, &wanted.name)
}

/// Audits at once and then hourly, for ever.
pub async fn keep(store: Arc<dyn Store>, environment: Environment, host: String) {
    let mut backoff = Backoff::new(&environment, Duration::from_secs(1), Duration::from_secs(60));
    let mut told = false;
    loop {
        match audit(store.as_ref(), &host).await {
            Ok(written) => {
                if written > 0 {
                    tracing::info!(host, written, "names of instances were missing");
                }
                told = false;
                backoff.reset();
                tokio::time::sleep(environment.jitter(INTERVAL)).await;
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(host, %error, "cannot see to the names of instances; trying on");
                }
                backoff.wait().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::State;
    use crate::store::Compare;

    fn instance(state: State) -> Resource {
        let text = r#"{"id":5,"kind":"container","uuid":"u","created":5,"state":"running","accountId":7,"name":"web",
            "primaryIpAddress":"10.42.3.7","hostName":"h1"}"#;
        Resource { state, ..serde_json::from_str(text).unwrap() }
    }

    fn written(operations: &[Operation]) -> Vec<String> {
        let tell = |operation: &Operation| match operation {
            Operation::Put { key, .. } => format!("put {}", key::last(key::ROOT, key)),
            other => format!("{other:?}").replace(key::ROOT, "").replace('"', "").to_lowercase(),
        };
        operations.iter().map(tell).collect()
    }

    #[test]
    fn names_come_when_it_runs_and_go_when_it_stops() {
        let (starting, running) = (instance(State::Starting), instance(State::Running));
        let came = operations(instance::BASE, &starting, &running).unwrap();
        assert_eq!(written(&came), ["put dns/7/ip-10-42-3-7/1i5", "put dns/7/web/1i5"]);
        assert_eq!(operations(instance::BASE, &running, &running).unwrap(), []);
        let went = operations(instance::BASE, &running, &instance(State::Stopping)).unwrap();
        assert_eq!(went, [key::dns(7, "ip-10-42-3-7", "1i5"), key::dns(7, "web", "1i5")].map(Operation::delete));
        assert_eq!(operations("network", &starting, &running).unwrap(), []);
    }

    #[test]
    fn another_name_takes_the_place_of_the_old_one() {
        let running = instance(State::Running);
        let renamed = Resource { name: Some("front".into()), ..running.clone() };
        let changed = operations(instance::BASE, &running, &renamed).unwrap();
        assert_eq!(changed[0], Operation::delete(key::dns(7, "web", "1i5")));
        assert_eq!(written(&changed[1..]), ["put dns/7/front/1i5", "put dns/7/ip-10-42-3-7/1i5"]);
    }

    #[tokio::test]
    async fn what_ran_before_there_were_names_gets_them() {
        let directory = tempfile::tempdir().unwrap();
        let environment = Environment::system().unwrap();
        let store = crate::store::embedded::Embedded::open(&directory.path().join("store"), &environment).unwrap();
        let row = key::resource(instance::BASE, 5);
        let claim = key::on("h1", "1i5");
        let put = |key: &str, value: bytes::Bytes| Operation::put(key, value);
        let transaction = Transaction::new()
            .when(Compare::Absent { key: row.clone() })
            .then(put(&row, store::encode(&row, &instance(State::Running)).unwrap()))
            .then(put(
                &claim,
                store::encode(&claim, &serde_json::json!({"id": 5, "uuid": "u", "generation": 1})).unwrap(),
            ));
        assert!(store.commit(transaction).await.unwrap().succeeded);
        assert_eq!(audit(&store, "h2").await.unwrap(), 0, "it is another host's");
        assert_eq!(audit(&store, "h1").await.unwrap(), 2);
        assert_eq!(audit(&store, "h1").await.unwrap(), 0);
        let found = store.get(&key::dns(7, "web", "1i5")).await.unwrap().entry.unwrap();
        assert_eq!(store::decode::<Named>(&found).unwrap().address.to_string(), "10.42.3.7");
    }
}
