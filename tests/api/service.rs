//! The cluster's answers to the API, without a cluster: what is asked for has happened at once.

use serde_json::{Map, Value, json};
use stampede::environment::{Environment, Timestamp};
use stampede::orchestration::{Draft, Publication, Service, ServiceError, Written};
use stampede::resource::{Resource, State, Transitioning, transition};
use stampede::store::{Operation, Revision, Store, Transaction, decode, encode, key};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
pub struct AtOnce {
    store: Arc<dyn Store>,
    environment: Environment,
    next: AtomicU64,
}

impl AtOnce {
    pub fn new(store: Arc<dyn Store>, environment: &Environment) -> Self {
        Self { store, environment: environment.clone(), next: AtomicU64::new(100) }
    }

    async fn read(&self, base: &str, id: u64) -> Result<(Resource, Revision), ServiceError> {
        let lookup = self.store.get(&key::resource(base, id)).await?;
        let entry = lookup.entry.ok_or(ServiceError::NotFound)?;
        Ok((decode(&entry)?, entry.mod_revision))
    }

    async fn put(&self, base: &str, resource: Resource) -> Result<Written, ServiceError> {
        let key = key::resource(base, resource.id);
        let write = Transaction::new().then(Operation::put(&key, encode(&key, &resource)?));
        let outcome = self.store.commit(write).await?;
        Ok(Written::one(resource, outcome.revision))
    }
}

#[async_trait::async_trait]
impl Service for AtOnce {
    async fn create(&self, mut draft: Draft) -> Result<Written, ServiceError> {
        let count = draft.fields.remove("count").and_then(|count| count.as_u64()).unwrap_or(1);
        let mut written = Written { resources: Vec::new(), revision: Revision(0), bases: Vec::new() };
        for _ in 0..count {
            let instance = draft.base == "instance";
            let starts = draft.fields.get("startOnCreate") != Some(&Value::Bool(false));
            let resource = Resource {
                id: self.next.fetch_add(1, Ordering::Relaxed),
                kind: draft.kind.clone(),
                uuid: draft.uuid.clone().unwrap_or_else(|| self.environment.uuid().to_string()),
                name: draft.name.clone(),
                description: draft.description.clone(),
                account_id: draft.account_id,
                created: self.environment.clock.now(),
                removed: None,
                remove_time: None,
                state: match (instance, starts) {
                    (true, true) => State::Running,
                    (true, false) => State::Stopped,
                    (false, _) => State::Active,
                },
                transitioning: Transitioning::No,
                transitioning_message: None,
                transitioning_progress: None,
                generation: 1,
                data: draft.data.clone(),
                fields: draft.fields.clone(),
            };
            let uuid = key::uuid(&resource.uuid);
            let row = key::resource(&draft.base, resource.id);
            let mut write = Transaction::new()
                .absent(&uuid)
                .then(Operation::put(&uuid, encode(&uuid, &json!(format!("{}/{}", draft.base, resource.id)))?))
                .then(Operation::put(&row, encode(&row, &resource)?));
            if let Some(public) = resource.get::<String>("publicValue") {
                let name = key::name("apiKey", &public);
                write = write.then(Operation::put(&name, encode(&name, &resource.id)?));
            }
            let outcome = self.store.commit(write).await?;
            if !outcome.succeeded {
                return Err(ServiceError::Conflict(format!("the uuid {} is taken", resource.uuid)));
            }
            written.revision = outcome.revision;
            written.resources.push(resource);
        }
        Ok(written)
    }

    async fn update_if(
        &self,
        base: &str,
        id: u64,
        changes: Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        let (mut resource, revision) = self.read(base, id).await?;
        if expected.is_some_and(|expected| expected != revision) {
            return Err(ServiceError::Changed);
        }
        for (field, value) in changes {
            match field.as_str() {
                "name" => resource.name = value.as_str().map(str::to_owned),
                "description" => resource.description = value.as_str().map(str::to_owned),
                "accountId" => resource.account_id = value.as_u64(),
                "removeTime" => resource.remove_time = value.as_i64().map(Timestamp),
                "data" => resource.data = value.as_object().cloned().unwrap_or_default(),
                field => resource.set(field, value),
            }
        }
        self.put(base, resource).await
    }

    async fn act_if(
        &self,
        base: &str,
        id: u64,
        action: &str,
        input: Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        let (mut resource, revision) = self.read(base, id).await?;
        if expected.is_some_and(|expected| expected != revision) {
            return Err(ServiceError::Changed);
        }
        let unavailable = ServiceError::ActionNotAvailable { action: action.to_owned(), state: resource.state };
        if action == "remove" && matches!(resource.state, State::Running | State::Active) {
            resource.enter(if base == "instance" { State::Stopping } else { State::Deactivating });
        } else {
            let through = transition::allowed(base, action, resource.state).ok_or(unavailable)?;
            resource.enter(transition::end(base, through).ok_or(ServiceError::NotFound)?);
        }
        if resource.state == State::Removed {
            resource.removed = Some(self.environment.clock.now());
        }
        resource.set("input", Value::Object(input));
        self.put(base, resource).await
    }

    async fn publish(&self, publication: Publication) -> Result<bool, ServiceError> {
        Ok(self.store.get(&key::event(&publication.event)).await?.entry.is_some())
    }
}
