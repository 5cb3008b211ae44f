//! Reads, asks the rules what follows, and writes it in one transaction; tried again where somebody else wrote meanwhile.

use super::handlers::{self, Cause, Handlers, Publication, hold};
use super::image::{Images, resource};
use super::record::Todo;
use super::{Draft, Service, ServiceError, Written, lifecycle, names, resize, volumes};
use crate::environment::{Environment, Timestamp};
use crate::membership::Counter;
use crate::placement::record::Claim;
use crate::placement::{Placer, Room};
use crate::resource::link::{self, Endpoint};
use crate::resource::validation::Invalid;
use crate::resource::{Resource, State, constraint, floating, identifier, instance, snapshot, volume};
use crate::store::{self, Compare, Entry, Operation, Outcome, Revision, Store, Transaction, decode, encode, key};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tries of one change against others who change the same.
const TRIES: usize = 8;
/// The types that are stored by number.
const COUNTED: &[&str] =
    &["account", "credential", "externalHandler", floating::BASE, "image", "instance", floating::POOL, "network"];

/// A credential's name: what is looked up at sign-in.
const PUBLIC_VALUE: &str = "publicValue";
/// The space of `name/…` in which it leads to the credential's number.
pub const KEY_NAMES: &str = "apiKey";

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Orchestrator(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    environment: Environment,
    counters: BTreeMap<&'static str, Counter>,
    images: Images,
    handlers: Handlers,
    placer: Placer,
}

pub(super) fn todo(base: &str, id: u64) -> String {
    key::todo(key::shard(base, id), base, id)
}

/// `transaction`, with the entry in `todo/` that `next` asks for, or without the one that `current` had; with the events of
/// external handlers and the names that come and go with it; and with the endpoint of an instance.
pub(super) fn with_todo(
    transaction: Transaction,
    base: &str,
    current: &Resource,
    next: &Resource,
    now: Timestamp,
) -> Result<Transaction, store::Error> {
    let todo = todo(base, next.id);
    let events = hold::operations(base, Some(current), next)?;
    let names = names::operations(base, current, next)?;
    let transaction = events.into_iter().chain(names).fold(transaction, Transaction::then);
    let transaction = match base {
        instance::BASE => with_endpoint(transaction, current, next)?,
        volume::BASE => volumes::with_wish(transaction, current, next)?,
        _ => transaction,
    };
    Ok(match (lifecycle::due(current, now), lifecycle::due(next, now)) {
        (_, Some(not_before)) => {
            let entry = Todo { not_before, room: base == instance::BASE && lifecycle::waits_for_room(next) };
            transaction.then(Operation::put(&todo, encode(&todo, &entry)?))
        }
        (Some(_), None) => transaction.then(Operation::delete(&todo)),
        (None, None) => transaction,
    })
}

/// `transaction`, with the endpoint that `next` has. Where the row was begun by a version that had no endpoints, it is not known
/// what its image exposes either; with that it gets one.
fn with_endpoint(transaction: Transaction, current: &Resource, next: &Resource) -> Result<Transaction, store::Error> {
    let endpoint = key::endpoint(&identifier::instance(next.id));
    let (before, now) = (Endpoint::of(current), Endpoint::of(next));
    Ok(match now {
        Some(now) if before.as_ref() != Some(&now) || !link::knows_image_ports(current) => {
            transaction.then(Operation::put(&endpoint, encode(&endpoint, &now)?))
        }
        None if before.is_some() => transaction.then(Operation::delete(&endpoint)),
        _ => transaction,
    })
}

/// `transaction`, with the claim at `entry` as it is but for `generation`: its host is woken, and what a newer version wrote in
/// it stays.
pub(super) fn woken(transaction: Transaction, entry: &Entry, generation: u64) -> Result<Transaction, store::Error> {
    let claim = Claim { generation, ..decode(entry)? };
    let put = Operation::put(&entry.key, encode(&entry.key, &claim)?);
    Ok(transaction.unchanged(&entry.key, entry.mod_revision).then(put))
}

/// That `entry` is what whoever asked went by.
pub(super) fn as_expected(entry: &Entry, expected: Option<Revision>) -> Result<(), ServiceError> {
    match expected {
        Some(expected) if expected != entry.mod_revision => Err(ServiceError::Changed),
        _ => Ok(()),
    }
}

pub(super) fn invalid(code: &'static str, field: &str, message: impl Into<String>) -> ServiceError {
    ServiceError::Invalid { code, field: Some(field.to_owned()), message: message.into() }
}

/// That nobody wrote it since it was read.
pub(super) fn unchanged(entry: &Entry) -> Compare {
    Compare::ModRevision { key: entry.key.clone(), revision: entry.mod_revision }
}

impl Orchestrator {
    pub fn new(store: Arc<dyn Store>, environment: Environment, placer: Placer) -> Self {
        let counter = |base: &&'static str| (*base, Counter::new(store.clone(), &environment, *base));
        let counters = COUNTED.iter().map(counter).collect();
        let images = Images::new(store.clone(), environment.clone());
        let handlers = Handlers::start(store.clone(), &environment);
        Self(Arc::new(Inner { store, environment, counters, images, handlers, placer }))
    }

    pub(super) async fn number(&self, base: &str) -> Result<u64, ServiceError> {
        match self.0.counters.get(base) {
            Some(counter) => Ok(counter.next().await?),
            None => Err(invalid("InvalidAction", "kind", "none of this type can be made")),
        }
    }

    pub(super) fn handlers(&self) -> &Handlers {
        &self.0.handlers
    }

    pub(super) fn images(&self) -> &Images {
        &self.0.images
    }

    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.0.environment
    }

    pub(super) fn placer(&self) -> &Placer {
        &self.0.placer
    }

    pub(super) fn room(&self) -> &Room {
        self.0.placer.room()
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.environment.clock.now()
    }

    pub(super) async fn read(&self, base: &str, id: u64) -> Result<(Resource, Entry), ServiceError> {
        let entry = self.0.store.get(&key::resource(base, id)).await?.entry.ok_or(ServiceError::NotFound)?;
        Ok((decode(&entry)?, entry))
    }

    /// Reads, changes and writes it; again where it changed meanwhile.
    pub(super) async fn change(
        &self,
        base: &str,
        id: u64,
        change: impl FnMut(&Resource) -> Result<Resource, ServiceError>,
    ) -> Result<Written, ServiceError> {
        self.change_if(base, id, None, Cause::Driven, change).await
    }

    /// The same, as long as it is what it was at `expected`.
    async fn change_if(
        &self,
        base: &str,
        id: u64,
        expected: Option<Revision>,
        cause: Cause<'_>,
        mut change: impl FnMut(&Resource) -> Result<Resource, ServiceError>,
    ) -> Result<Written, ServiceError> {
        for _ in 0..TRIES {
            let (current, entry) = self.read(base, id).await?;
            as_expected(&entry, expected)?;
            let next = change(&current)?;
            if next == current {
                return Ok(Written::one(current, entry.mod_revision));
            }
            let next = self.pass(base, Some(&current), next, cause).await?;
            let outcome = self.write(base, &current, &next, vec![unchanged(&entry)]).await?;
            if outcome.succeeded {
                if handlers::takes_out(base, &current, &next) {
                    self.taken_out(id, outcome.revision).await;
                } else if base == handlers::BASE {
                    self.handlers().reached(outcome.revision).await;
                }
                return Ok(Written::one(next, outcome.revision));
            }
        }
        Err(ServiceError::busy())
    }

    /// Changes it once, as long as `while_so` holds; nothing where `change` has nothing to change, or somebody was faster.
    pub(super) async fn change_while(
        &self,
        base: &str,
        id: u64,
        while_so: Compare,
        change: impl FnOnce(&Resource) -> Option<Resource>,
    ) -> Result<(), ServiceError> {
        let (current, entry) = self.read(base, id).await?;
        if let Some(next) = change(&current) {
            let next = self.pass(base, Some(&current), next, Cause::Driven).await?;
            self.write(base, &current, &next, vec![unchanged(&entry), while_so]).await?;
        }
        Ok(())
    }

    /// One transaction: the row; its claim, where it has one and something else is wanted; what is to follow.
    pub(super) async fn write(
        &self,
        base: &str,
        current: &Resource,
        next: &Resource,
        compares: Vec<Compare>,
    ) -> Result<Outcome, ServiceError> {
        let row = key::resource(base, next.id);
        let mut transaction = Transaction { compares, ..Transaction::new() };
        transaction = transaction.then(Operation::put(&row, encode(&row, next)?));
        transaction = with_todo(transaction, base, current, next, self.now())?;
        let wakes = base == instance::BASE && next.generation != current.generation;
        if let Some(host) = next.get::<String>(instance::HOST_NAME).filter(|_| wakes) {
            let on = key::on(&host, &identifier::instance(next.id));
            // It must be there already: a claim is made by placement alone.
            transaction = match self.0.store.get(&on).await?.entry {
                Some(entry) => woken(transaction, &entry, next.generation)?,
                None => transaction.when(Compare::Exists { key: on }),
            };
        }
        Ok(self.0.store.commit(transaction).await?)
    }

    /// [`Self::write`], of a row that waits for external handlers, or for whom it is linked to.
    async fn written_waiting(
        &self,
        base: &str,
        current: &Resource,
        waiting: Resource,
        unchanged: Compare,
    ) -> Result<Written, ServiceError> {
        let outcome = self.write(base, current, &waiting, vec![unchanged]).await?;
        if outcome.succeeded {
            Ok(Written::one(waiting, outcome.revision))
        } else {
            Err(ServiceError::Conflict("it was changed meanwhile; try again".into()))
        }
    }

    /// Does what time or an interrupted agent left to do for it, until there is nothing more.
    pub async fn drive(&self, base: &str, id: u64) -> Result<(), ServiceError> {
        if base == "host" {
            return self.drive_host(id).await;
        }
        for _ in 0..TRIES {
            let (current, entry) = match self.read(base, id).await {
                Ok(found) => found,
                Err(ServiceError::NotFound) => {
                    return self.forget_todo(base, id, Compare::Absent { key: key::resource(base, id) }).await;
                }
                Err(error) => return Err(error),
            };
            let over = base == instance::BASE && matches!(current.state, State::Purging | State::Purged);
            if over && (self.give_back(&current, &entry).await? || self.free_volumes(&current, &entry).await?) {
                continue;
            }
            if base == volume::BASE && self.give_up_lost(&current, &entry).await? {
                continue;
            }
            match lifecycle::drive(&current, self.now()) {
                lifecycle::Next::TakeBack => {
                    self.take_back_besides(id);
                    return Ok(());
                }
                lifecycle::Next::Write(next) if base == floating::BASE && next.state == State::Purged => {
                    return self.free_address(&current, &entry).await;
                }
                lifecycle::Next::Nothing => return self.forget_todo(base, id, unchanged(&entry)).await,
                lifecycle::Next::Wait(_) if hold::is_held(&current) || !lifecycle::waits_for_targets(&current) => {
                    return Ok(());
                }
                next @ (lifecycle::Next::Wait(_) | lifecycle::Next::Place) => {
                    let mut linked = current.clone();
                    let unknown = self.learn_ports(&mut linked).await?;
                    if next != lifecycle::Next::Place && !unknown.is_empty() {
                        return Ok(());
                    }
                    return self.place(&linked, Some(entry.mod_revision)).await.map(drop);
                }
                lifecycle::Next::Overdue => self.overdue(base, id).await?,
                lifecycle::Next::Write(next) => {
                    let next = self.pass(base, Some(&current), *next, Cause::Driven).await?;
                    self.write(base, &current, &next, vec![unchanged(&entry)]).await?;
                }
                lifecycle::Next::Forget => return self.forget(base, &current, &entry).await,
            }
        }
        Ok(())
    }

    /// The row goes, and the names that were its own.
    async fn forget(&self, base: &str, current: &Resource, entry: &Entry) -> Result<(), ServiceError> {
        let mut transaction = Transaction::new()
            .unchanged(&entry.key, entry.mod_revision)
            .then(Operation::delete(&entry.key))
            .then(Operation::delete(key::uuid(&current.uuid)))
            .then(Operation::delete(todo(base, current.id)));
        if let Some(public) = sign_in_name(current) {
            transaction = transaction.then(Operation::delete(key::name(KEY_NAMES, &public)));
        }
        self.0.store.commit(transaction).await?;
        Ok(())
    }

    /// Nothing waits any more, where things are as they were `read`: what was written since may wait for something again.
    pub(super) async fn forget_todo(&self, base: &str, id: u64, read: Compare) -> Result<(), ServiceError> {
        self.0.store.commit(Transaction::new().when(read).then(Operation::delete(todo(base, id)))).await?;
        Ok(())
    }

    /// [`Self::drive`], besides what was asked; what fails there is found again in `todo/`.
    pub(super) fn drive_besides(&self, base: &str, id: u64) {
        let (orchestrator, base) = (self.clone(), base.to_owned());
        tokio::spawn(async move {
            if let Err(error) = orchestrator.drive(&base, id).await {
                tracing::debug!(kind = base, id, %error, "left to the shard's owner");
            }
        });
    }

    /// What needs no host: there at once. A credential's public value is a name that only one may have.
    async fn create_plain(&self, draft: Draft) -> Result<Written, ServiceError> {
        let id = self.number(&draft.base).await?;
        self.create_plain_with(id, draft, Transaction::new()).await
    }

    /// The same under that number, in one transaction with something else.
    pub(super) async fn create_plain_with(
        &self,
        id: u64,
        draft: Draft,
        besides: Transaction,
    ) -> Result<Written, ServiceError> {
        let base = &draft.base.clone();
        let state = State::Active;
        let made = resource(id, draft, &self.0.environment, state, self.now());
        let asked = Cause::Asked("create");
        let made = self.pass(base, None, made, asked).await?;
        let row = key::resource(base, id);
        let uuid = key::uuid(&made.uuid);
        let mut transaction = besides
            .absent(&row)
            .absent(&uuid)
            .then(Operation::put(&uuid, encode(&uuid, &json!(format!("{base}/{id}")))?))
            .then(Operation::put(&row, encode(&row, &made)?));
        if let Some(public) = sign_in_name(&made) {
            let name = key::name(KEY_NAMES, &public);
            transaction = transaction.absent(&name).then(Operation::put(&name, encode(&name, &id)?));
        }
        if hold::is_held(&made) {
            transaction = with_todo(transaction, base, &hold::without(&made), &made, self.now())?;
        }
        let outcome = self.0.store.commit(transaction).await?;
        if !outcome.succeeded {
            return Err(self.duplicate(&made.uuid));
        }
        if base == handlers::BASE {
            self.handlers().reached(outcome.revision).await;
        }
        Ok(Written::one(made, outcome.revision))
    }
}

#[async_trait::async_trait]
impl Service for Orchestrator {
    async fn create(&self, draft: Draft) -> Result<Written, ServiceError> {
        match draft.base.as_str() {
            instance::BASE => self.create_instances(draft).await,
            "host" => Err(invalid("InvalidAction", "kind", "a host joins by itself: install the agent on it")),
            handlers::BASE => self.create_plain(handlers::sorted(draft)?).await,
            floating::POOL => self.create_pool(draft).await,
            volume::SHOWN => self.create_volume(draft).await,
            snapshot::BASE => self.create_snapshot(draft).await,
            _ => self.create_plain(draft).await,
        }
    }

    async fn update_if(
        &self,
        base: &str,
        id: u64,
        changes: Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        if base == "host" {
            return self.update_host(id, &changes, expected).await;
        }
        if base == "port" {
            return self.update_port(id, &changes, expected).await;
        }
        if base == link::BASE {
            return self.update_link(id, &changes, expected).await;
        }
        if base == floating::SHOWN {
            return self.update_address(id, &changes, expected).await;
        }
        if base == volume::SHOWN {
            return self.update_volume(id, &changes, expected).await;
        }
        if base == instance::BASE {
            constraint::check(&changes)
                .map_err(|Invalid { code, field, message }| invalid(code.name(), &field, message))?;
            if resize::asks(&changes) {
                return self.resize(id, &changes, expected).await;
            }
        }
        let written = self
            .change_if(base, id, expected, Cause::Asked("update"), |current| Ok(updated(current, &changes)))
            .await?;
        if written.resources.iter().any(|next| base == instance::BASE && lifecycle::waits_for_room(next)) {
            // With what it asks for now, there may be room.
            self.drive_besides(base, id);
        }
        Ok(written)
    }

    async fn act_if(
        &self,
        base: &str,
        id: u64,
        action: &str,
        input: Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        let now = self.now();
        if base == "host" {
            return self.act_on_host(id, action, &input, expected).await;
        }
        if base == floating::SHOWN {
            return self.act_on_address(id, action, &input, expected).await;
        }
        if base == volume::SHOWN {
            return self.act_on_volume(id, action, expected).await;
        }
        if base == snapshot::BASE {
            return self.act_on_snapshot(id, action).await;
        }
        if base == floating::POOL && action == "acquire" {
            return self.acquire(id, &input, expected).await;
        }
        if base == floating::POOL && action == "remove" {
            self.check_unused(id).await?;
        }
        if base != instance::BASE {
            return self
                .change_if(base, id, expected, Cause::Asked(action), |current| {
                    lifecycle::act_plain(base, current, action, now)
                })
                .await;
        }
        if action == "update" {
            return self.update_if(base, id, input, expected).await;
        }
        let (current, entry) = self.read(base, id).await?;
        as_expected(&entry, expected)?;
        // A start that first needs a host is one transaction with finding it.
        if action == "start" && !lifecycle::placed(&current) {
            let mut wanted = lifecycle::ask(&current, action, &input, now)?;
            let targets = self.await_targets(&mut wanted).await?;
            let wanted = self.pass(base, Some(&current), wanted, Cause::Asked(action)).await?;
            if hold::is_held(&wanted) || !targets.is_empty() {
                let waiting = self.written_waiting(base, &current, wanted, unchanged(&entry)).await?;
                self.follow_targets(id, targets);
                return Ok(waiting);
            }
            return self.place(&wanted, Some(entry.mod_revision)).await;
        }
        let asked = self
            .change_if(base, id, expected, Cause::Asked(action), |current| {
                volumes::check_stop(current, &input)?;
                lifecycle::ask(current, action, &input, now)
            })
            .await?;
        self.drive_besides(base, id);
        Ok(asked)
    }

    async fn publish(&self, publication: Publication) -> Result<bool, ServiceError> {
        self.answered(&publication).await
    }
}

/// Under which it is looked up when somebody signs in: an SSH key opens no API.
fn sign_in_name(credential: &Resource) -> Option<String> {
    credential.get(PUBLIC_VALUE).filter(|_| credential.kind != "sshKey")
}

/// Columns that may change, and fields.
pub(super) fn updated(current: &Resource, changes: &Map<String, Value>) -> Resource {
    let mut next = current.clone();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    for (field, value) in changes {
        match field.as_str() {
            "name" => next.name = text(value),
            "description" => next.description = text(value),
            "accountId" => next.account_id = value.as_u64(),
            "removeTime" => next.remove_time = value.as_i64().map(Timestamp),
            "data" => next.data = value.as_object().cloned().unwrap_or_default(),
            _ => next.set(field, value.clone()),
        }
    }
    // What its supervisor goes by: its host is to hear of it.
    if next.get::<Value>(instance::TRIGGERED_STOP) != current.get::<Value>(instance::TRIGGERED_STOP) {
        next.generation += 1;
    }
    next
}
