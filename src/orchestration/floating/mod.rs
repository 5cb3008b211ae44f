//! Floating addresses: acquired from pools, associated with instances, and given back.
//!
//! ```text
//! acquire ──► active ──associate──► associating ──the host has it──► associated ──disassociate──► disassociating ──► active
//!               │                                                                     the host has given it back ─┘
//!               └──remove──► removed ──60 s, purge──► purged: its address is free again
//! ```
//! The address's row and the instance's are changed in one transaction, with the claim that wakes the instance's host. Which host
//! has it is decided by [`holding`].

mod holding;
mod pool;

pub use holding::Hold;

use super::orchestrator::{Orchestrator, as_expected, invalid, unchanged, updated, with_todo, woken};
use super::ports::is_gone;
use super::{ServiceError, Written};
use crate::placement::Writes;
use crate::placement::record::Claim;
use crate::resource::assignment::Desired;
use crate::resource::floating::{self, Associated};
use crate::resource::types;
use crate::resource::{Resource, State, identifier, instance, transition};
use crate::store::{self, Compare, Entry, Operation, Revision, Transaction, decode, encode, key};
use serde_json::{Map, Value, json};

/// Tries of one change against others who change the same.
const TRIES: usize = 20;

/// As clients are shown it.
fn shown(address: &Resource, revision: Revision) -> Written {
    let row = types::ip_addresses(floating::BASE, address).into_iter().next();
    Written { resources: row.into_iter().collect(), revision, bases: vec![floating::BASE] }
}

/// The number of an address that floats; others are their instances' own.
fn number(id: u64) -> Result<u64, ServiceError> {
    floating::stored_id(id).ok_or_else(|| {
        let message =
            "this is the private address of an instance, and goes with it; associate one that was acquired from a pool";
        invalid("InvalidAction", floating::PRIVATE, message)
    })
}

/// Only what is on the managed network has floating addresses.
pub(super) fn check(wanted: &Resource, managed: bool) -> Result<(), ServiceError> {
    if managed || floating::of(wanted).is_empty() {
        return Ok(());
    }
    let message = "floating addresses lead into the managed network: leave networkIds out, or leave this out";
    Err(invalid("InvalidOption", floating::ON_CREATE, message))
}

/// What a new instance brings along: the rows of the addresses that are acquired with it.
pub(super) fn born_with(instance: &Resource) -> Result<Writes, store::Error> {
    let mut writes = Writes::default();
    for associated in floating::of(instance).iter().filter(|one| one.own) {
        let row = floating::born_with(instance, associated);
        pool::take(&mut writes, &row)?;
    }
    Ok(writes)
}

/// Where nothing of an instance runs, there is nothing to wait for.
fn on_its_way(instance: &Resource) -> State {
    if instance::desired(instance) == Desired::Running { State::Associating } else { State::Associated }
}

impl Orchestrator {
    /// Changes what an address is called.
    pub(super) async fn update_address(
        &self,
        id: u64,
        changes: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        if let Some(other) =
            changes.keys().find(|field| !["name", "description", "data", "accountId"].contains(&field.as_str()))
        {
            return Err(invalid(
                "InvalidOption",
                other,
                "an address has this from its pool; associate it, or acquire another",
            ));
        }
        self.change_address(id, expected, |current| Ok(updated(current, changes))).await
    }

    pub(super) async fn act_on_address(
        &self,
        id: u64,
        action: &str,
        input: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        let now = self.now();
        let possible = |current: &Resource| match transition::allowed(floating::BASE, action, current.state) {
            Some(_) => Ok(()),
            None => Err(ServiceError::ActionNotAvailable { action: action.to_owned(), state: current.state }),
        };
        match action {
            "associate" => self.associate(id, input, expected).await,
            "disassociate" => self.disassociate(id, expected).await,
            _ => {
                let changed = self.change_address(id, expected, |current| {
                    possible(current)?;
                    let mut next = current.clone();
                    match action {
                        "remove" => {
                            next.enter(State::Removed);
                            next.removed = Some(now);
                            next.remove_time = Some(now.after(super::lifecycle::PURGE_AFTER));
                        }
                        "restore" => {
                            next.enter(State::Active);
                            (next.removed, next.remove_time) = (None, None);
                        }
                        "purge" => next.enter(State::Purging),
                        _ => return Err(invalid("InvalidAction", "action", "an address has no such action")),
                    }
                    Ok(next)
                });
                let written = changed.await?;
                self.drive_besides(floating::BASE, number(id)?);
                Ok(written)
            }
        }
    }

    async fn change_address(
        &self,
        id: u64,
        expected: Option<Revision>,
        mut change: impl FnMut(&Resource) -> Result<Resource, ServiceError>,
    ) -> Result<Written, ServiceError> {
        let id = number(id)?;
        for _ in 0..TRIES {
            let (current, entry) = self.read(floating::BASE, id).await?;
            as_expected(&entry, expected)?;
            let next = change(&current)?;
            if next == current {
                return Ok(shown(&current, entry.mod_revision));
            }
            let outcome = self.write(floating::BASE, &current, &next, vec![unchanged(&entry)]).await?;
            if outcome.succeeded {
                return Ok(shown(&next, outcome.revision));
            }
        }
        Err(ServiceError::busy())
    }

    /// Has an address lead to another instance, or to its first.
    async fn associate(
        &self,
        id: u64,
        input: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        let id = number(id)?;
        let asked = input.get(floating::PRIVATE).and_then(Value::as_u64);
        let asked = asked.ok_or_else(|| {
            invalid("MissingRequired", floating::PRIVATE, "say which instance: the id of its private ipAddress")
        })?;
        let target = floating::instance_of(asked).ok_or_else(|| {
            invalid(
                "InvalidReference",
                floating::PRIVATE,
                "that one floats itself: name the private address of an instance",
            )
        })?;
        for _ in 0..TRIES {
            let (current, entry) = self.read(floating::BASE, id).await?;
            as_expected(&entry, expected)?;
            if transition::allowed(floating::BASE, "associate", current.state).is_none() {
                return Err(ServiceError::ActionNotAvailable { action: "associate".into(), state: current.state });
            }
            if floating::target(&current) == Some(target) {
                return Ok(shown(&current, entry.mod_revision));
            }
            let (instance, instance_entry) = self.target_of(target, current.account_id).await?;
            let mut next = current.clone();
            next.set(floating::INSTANCE, target);
            next.enter(on_its_way(&instance));
            let address = Associated {
                id,
                address: current.get(floating::ADDRESS).ok_or(ServiceError::NotFound)?,
                pool: current.get(floating::POOL_ID).unwrap_or_default(),
                own: false,
                rest: Map::new(),
            };
            let mut all = floating::of(&instance);
            if all.len() >= floating::MOST {
                let message =
                    format!("{} has {} floating addresses; more cannot be", identifier::instance(target), all.len());
                return Err(invalid("MaxLimitExceeded", floating::PRIVATE, message));
            }
            all.retain(|known| known.id != id);
            all.push(address);
            let mut with = instance.clone();
            floating::set(&mut with, &all);
            let mut transaction =
                self.changed_instance(Transaction::new(), (&instance, &instance_entry), &with).await?;
            if let Some(before) = floating::target(&current) {
                transaction = self.without(transaction, before, id).await?;
            }
            if let Some(done) = self.write_address(transaction, (&current, &entry), next).await? {
                return Ok(done);
            }
        }
        Err(ServiceError::busy())
    }

    /// Has an address lead nowhere.
    async fn disassociate(&self, id: u64, expected: Option<Revision>) -> Result<Written, ServiceError> {
        let id = number(id)?;
        for _ in 0..TRIES {
            let (current, entry) = self.read(floating::BASE, id).await?;
            as_expected(&entry, expected)?;
            if transition::allowed(floating::BASE, "disassociate", current.state).is_none() {
                return Err(ServiceError::ActionNotAvailable { action: "disassociate".into(), state: current.state });
            }
            let mut transaction = Transaction::new();
            if let Some(before) = floating::target(&current) {
                transaction = self.without(transaction, before, id).await?;
            }
            let (transaction, next) = self.given_back(transaction, &current).await?;
            if let Some(done) = self.write_address(transaction, (&current, &entry), next).await? {
                return Ok(done);
            }
        }
        Err(ServiceError::busy())
    }

    /// An address as it is without its instance: on its way back where a host has it.
    async fn given_back(
        &self,
        transaction: Transaction,
        current: &Resource,
    ) -> Result<(Transaction, Resource), ServiceError> {
        let holder = key::holder(current.id);
        let mut next = current.clone();
        next.set(floating::INSTANCE, Value::Null);
        let transaction = match self.store().get(&holder).await?.entry {
            Some(held) => {
                next.enter(State::Disassociating);
                transaction.unchanged(&held.key, held.mod_revision)
            }
            None => {
                next.enter(State::Active);
                transaction.absent(&holder)
            }
        };
        Ok((transaction, next))
    }

    async fn write_address(
        &self,
        transaction: Transaction,
        (current, entry): (&Resource, &Entry),
        next: Resource,
    ) -> Result<Option<Written>, ServiceError> {
        let transaction =
            transaction.when(unchanged(entry)).then(Operation::put(&entry.key, encode(&entry.key, &next)?));
        let transaction = with_todo(transaction, floating::BASE, current, &next, self.now())?;
        let outcome = self.store().commit(transaction).await?;
        let mut done = shown(&next, outcome.revision);
        // The instance's row goes with it.
        done.bases.push(instance::BASE);
        Ok(outcome.succeeded.then_some(done))
    }

    /// The instance that an address of `account` is to lead to.
    async fn target_of(&self, id: u64, account: Option<u64>) -> Result<(Resource, Entry), ServiceError> {
        let wrong = |message: String| Err(invalid("InvalidReference", floating::PRIVATE, message));
        let name = identifier::instance(id);
        match self.read(instance::BASE, id).await {
            Ok((found, _)) if found.account_id != account => {
                wrong(format!("there is no instance {name} of this account"))
            }
            Ok((found, _)) if is_gone(&found) => wrong(format!("{name} is {}; name one that is there", found.state)),
            Ok((found, _)) if !self.is_managed(&found).await? => {
                wrong(format!("{name} is not on the managed network, into which floating addresses lead"))
            }
            Ok(found) => Ok(found),
            Err(ServiceError::NotFound) => wrong(format!("there is no instance {name}")),
            Err(error) => Err(error),
        }
    }

    /// `transaction`, with an instance's row without that address.
    async fn without(
        &self,
        transaction: Transaction,
        instance: u64,
        address: u64,
    ) -> Result<Transaction, ServiceError> {
        let (current, entry) = match self.read(instance::BASE, instance).await {
            Ok(found) => found,
            Err(ServiceError::NotFound) => return Ok(transaction.absent(key::resource(instance::BASE, instance))),
            Err(error) => return Err(error),
        };
        let mut all = floating::of(&current);
        all.retain(|known| known.id != address);
        let mut next = current.clone();
        floating::set(&mut next, &all);
        self.changed_instance(transaction, (&current, &entry), &next).await
    }

    /// `transaction`, with an instance's row as `next`, and its claim so that its host hears of it.
    pub(super) async fn changed_instance(
        &self,
        transaction: Transaction,
        (current, entry): (&Resource, &Entry),
        next: &Resource,
    ) -> Result<Transaction, ServiceError> {
        let mut transaction = transaction.when(unchanged(entry));
        if let Some(host) = next.get::<String>(instance::HOST_NAME) {
            let on = key::on(&host, &identifier::instance(next.id));
            transaction = match self.store().get(&on).await?.entry {
                Some(claim) => woken(transaction, &claim, decode::<Claim>(&claim)?.generation)?,
                None => transaction.when(Compare::Exists { key: on }),
            };
        }
        transaction = transaction.then(Operation::put(&entry.key, encode(&entry.key, next)?));
        Ok(with_todo(transaction, instance::BASE, current, next, self.now())?)
    }

    /// What an instance had that is purged is given back: its own for ever, the others to be associated anew. Whether there was
    /// anything.
    pub(super) async fn give_back(&self, current: &Resource, entry: &Entry) -> Result<bool, ServiceError> {
        let all = floating::of(current);
        let Some(one) = all.first() else { return Ok(false) };
        let mut without = current.clone();
        floating::set(&mut without, &all[1..]);
        let mut transaction = self.changed_instance(Transaction::new(), (current, entry), &without).await?;
        match self.read(floating::BASE, one.id).await {
            Ok((address, address_entry)) if floating::target(&address) == Some(current.id) => {
                let (with, mut next) = self.given_back(transaction, &address).await?;
                if floating::is_freed_with_instance(&address) {
                    let now = self.now();
                    next.enter(State::Removed);
                    (next.removed, next.remove_time) = (Some(now), Some(now));
                }
                return self.write_address(with, (&address, &address_entry), next).await.map(|_| true);
            }
            Ok((_, address_entry)) => transaction = transaction.when(unchanged(&address_entry)),
            Err(ServiceError::NotFound) => transaction = transaction.absent(key::resource(floating::BASE, one.id)),
            Err(error) => return Err(error),
        }
        self.store().commit(transaction).await?;
        Ok(true)
    }

    /// The address is free for others; not while a host has it.
    pub(super) async fn free_address(&self, current: &Resource, entry: &Entry) -> Result<(), ServiceError> {
        let mut next = current.clone();
        next.enter(State::Purged);
        let mut transaction = Transaction::new()
            .when(unchanged(entry))
            .absent(key::holder(current.id))
            .then(Operation::put(&entry.key, encode(&entry.key, &next)?));
        if let (Some(pool), Some(address)) = (current.get(floating::POOL_ID), current.get(floating::ADDRESS)) {
            transaction = transaction.then(Operation::delete(key::floating(pool, address)));
        }
        let transaction = with_todo(transaction, floating::BASE, current, &next, self.now())?;
        if !self.store().commit(transaction).await?.succeeded {
            self.take_back_besides(current.id);
        }
        Ok(())
    }

    /// For an instance that asks for one of a pool's addresses: which.
    pub(super) async fn acquire_for(
        &self,
        fields: &mut Map<String, Value>,
        account: Option<u64>,
    ) -> Result<Option<Associated>, ServiceError> {
        let Some(pool) = fields.get(floating::ON_CREATE).and_then(Value::as_u64) else { return Ok(None) };
        let associated = self.choose(pool, account, floating::ON_CREATE).await?;
        fields.insert(floating::ASSOCIATED.into(), json!([associated]));
        fields.insert(floating::FIRST.into(), json!(associated.address));
        Ok(Some(associated))
    }

    /// Whether somebody has it by now.
    pub(super) async fn is_taken(&self, associated: &Associated) -> Result<bool, ServiceError> {
        Ok(self.store().get(&key::floating(associated.pool, associated.address)).await?.entry.is_some())
    }

    /// The action of a pool.
    pub(super) async fn acquire(
        &self,
        pool: u64,
        input: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        let account = input.get("accountId").and_then(Value::as_u64);
        for _ in 0..TRIES {
            let (_, entry) = self.read(floating::POOL, pool).await?;
            as_expected(&entry, expected)?;
            let chosen = self.choose(pool, account, "id").await?;
            let row = pool::acquired(self.environment(), &chosen, account);
            let mut writes = Writes::default();
            pool::take(&mut writes, &row)?;
            let transaction =
                Transaction { compares: writes.compares, success: writes.operations, ..Transaction::new() };
            let outcome = self.store().commit(transaction.when(unchanged(&entry))).await?;
            if outcome.succeeded {
                return Ok(shown(&row, outcome.revision));
            }
        }
        Err(ServiceError::busy())
    }
}
