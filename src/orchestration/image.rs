//! Images: one row for each that was ever named, found by its uuid (`docker:busybox`).

use super::{Draft, ServiceError};
use crate::environment::{Environment, Timestamp};
use crate::membership::Counter;
use crate::resource::{Resource, State, Transitioning};
use crate::store::{Answer, Operation, Store, Transaction, decode, encode, key};
use serde_json::{Map, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Finds and makes image rows. What it found once it remembers: an image's id and uuid never change.
#[derive(Debug)]
pub struct Images {
    store: Arc<dyn Store>,
    environment: Environment,
    counter: Counter,
    known: Mutex<HashMap<String, u64>>,
}

impl Images {
    pub fn new(store: Arc<dyn Store>, environment: Environment) -> Self {
        let counter = Counter::new(store.clone(), &environment, "image");
        Self { store, environment, counter, known: Mutex::default() }
    }

    /// The number of the image `uuid`, which is made where nobody has named it yet.
    pub async fn ensure(&self, uuid: &str) -> Result<u64, ServiceError> {
        if let Some(id) = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(uuid) {
            return Ok(*id);
        }
        let id = match self.find(uuid).await? {
            Some(id) => id,
            None => self.make(uuid).await?,
        };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid.to_owned(), id);
        Ok(id)
    }

    /// The uuid of the image `id`.
    pub async fn uuid(&self, id: u64) -> Result<Option<String>, ServiceError> {
        let entry = self.store.get(&key::resource("image", id)).await?.entry;
        Ok(entry.map(|entry| decode::<Resource>(&entry)).transpose()?.map(|image| image.uuid))
    }

    /// The number of the image `uuid`, where there is one.
    pub async fn find(&self, uuid: &str) -> Result<Option<u64>, ServiceError> {
        let entry = self.store.get(&key::uuid(uuid)).await?.entry;
        Ok(entry.and_then(|entry| owner_id(&entry.value)))
    }

    async fn make(&self, uuid: &str) -> Result<u64, ServiceError> {
        let id = self.counter.next().await?;
        let draft = Draft {
            kind: "image".into(),
            uuid: Some(uuid.to_owned()),
            name: Some(uuid.to_owned()),
            ..Draft::default()
        };
        let mut image = resource(id, draft, &self.environment, State::Active, self.environment.clock.now());
        image.set("instanceKind", "container");
        image.set("format", if uuid.starts_with("sim:") { "sim" } else { "docker" });
        image.set("isPublic", true);
        let row = key::resource("image", id);
        let name = key::uuid(uuid);
        let transaction = Transaction::new()
            .absent(&name)
            .then(Operation::put(&name, encode(&name, &json!(format!("image/{id}")))?))
            .then(Operation::put(&row, encode(&row, &image)?))
            .or_else(Operation::get(&name));
        let outcome = self.store.commit(transaction).await?;
        if outcome.succeeded {
            return Ok(id);
        }
        // Another agent was first: its id is the one.
        let theirs = match outcome.answers.first() {
            Some(Answer::Entries(entries)) => entries.first().and_then(|entry| owner_id(&entry.value)),
            _ => None,
        };
        theirs.ok_or_else(|| ServiceError::Conflict(format!("the uuid {uuid} belongs to something that is no image")))
    }
}

/// The number in what `uuid/<uuid>` holds: `"image/7"`.
fn owner_id(value: &[u8]) -> Option<u64> {
    serde_json::from_slice::<String>(value).ok()?.strip_prefix("image/")?.parse().ok()
}

/// A new row of `draft`.
pub fn resource(id: u64, draft: Draft, environment: &Environment, state: State, now: Timestamp) -> Resource {
    let mut resource = Resource {
        id,
        kind: draft.kind,
        uuid: draft.uuid.unwrap_or_else(|| environment.uuid().to_string()),
        name: draft.name,
        description: draft.description,
        account_id: draft.account_id,
        created: now,
        removed: None,
        remove_time: None,
        state,
        transitioning: Transitioning::No,
        transitioning_message: None,
        transitioning_progress: None,
        generation: 1,
        data: draft.data,
        fields: Map::new(),
    };
    for (field, value) in draft.fields {
        resource.set(&field, value);
    }
    resource.enter(state);
    resource
}
