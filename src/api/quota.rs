//! What an account may have at most: its fields `quotaInstances`, `quotaMemoryMb` and `quotaAddresses`, which an
//! administrator sets.
//!
//! What is asked for is written down first, in `quota/<account>`, by compare-and-swap; then what the account has is added up,
//! of rows at least as new, with what others have written down before. So of two who ask at once, on whichever hosts, the
//! later sees the earlier one's note or the rows that it became, and never is more made than is allowed. A note that nobody
//! takes back (its agent was killed) ends by itself.

use super::authentication::Role;
use super::cache::Known;
use super::error::ApiError;
use super::exchange::Exchange;
use crate::environment::{Environment, Timestamp};
use crate::orchestration::{ServiceError, seed};
use crate::placement::record::memory_mb;
use crate::resource::{Resource, identifier, instance};
use crate::store::{self, Operation, Revision, Store, Transaction, decode, encode, key};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than any create takes.
const NOTED: Duration = Duration::from_secs(120);
/// Who is refused while others are about to make something asks again: theirs may be counted twice for a moment.
const TRIES: usize = 8;
const SOON: Duration = Duration::from_millis(100);

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Usage {
    instances: u64,
    memory_mb: u64,
    /// On the managed network.
    addresses: u64,
}

/// `quota/<account>`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Notes {
    notes: BTreeMap<String, Note>,
    /// Fields of later versions.
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    usage: Usage,
    until: Timestamp,
}

/// A note to be taken back when the rows are there, or will not be.
#[derive(Debug)]
pub struct Reserved {
    account: u64,
    note: String,
}

impl Usage {
    /// Of `count` instances of that kind that are to have these fields; the memory that containers have by default is not what they
    /// reserve.
    pub fn asked(kind: &str, fields: &Map<String, Value>, count: u64) -> Self {
        Self::counted(fields, count, |field| kind == instance::MACHINE || field != instance::MEMORY_MB)
    }

    /// What one that there is has more with these changes.
    pub fn grown(row: &Resource, changes: &Map<String, Value>) -> Self {
        let mut fields = row.fields.clone();
        fields.extend(changes.clone());
        let after = Self::counted(&fields, 1, |_| true);
        Self { memory_mb: after.memory_mb.saturating_sub(Self::of(row).memory_mb), ..Self::default() }
    }

    /// Of one that there is.
    pub fn of(row: &Resource) -> Self {
        Self::counted(&row.fields, 1, |_| true)
    }

    fn counted(fields: &Map<String, Value>, count: u64, counts: impl Fn(&str) -> bool) -> Self {
        let networks = fields.get(instance::NETWORK_IDS).and_then(Value::as_array);
        let unmanaged = networks.is_some_and(|ids| matches!(&ids[..], [id] if id.as_u64() == Some(seed::UNMANAGED)));
        let memory = memory_mb(|field| fields.get(field).filter(|_| counts(field)).and_then(Value::as_u64));
        Self { instances: count, memory_mb: memory.saturating_mul(count), addresses: if unmanaged { 0 } else { count } }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            instances: self.instances.saturating_add(other.instances),
            memory_mb: self.memory_mb.saturating_add(other.memory_mb),
            addresses: self.addresses.saturating_add(other.addresses),
        }
    }
}

/// `None`: as much as there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Quota {
    instances: Option<u64>,
    memory_mb: Option<u64>,
    addresses: Option<u64>,
}

impl Quota {
    fn of(account: &Resource) -> Self {
        Self {
            instances: account.get("quotaInstances"),
            memory_mb: account.get("quotaMemoryMb"),
            addresses: account.get("quotaAddresses"),
        }
    }

    /// The first that does not suffice.
    fn refuses(&self, account: u64, has: Usage, wants: Usage) -> Option<ApiError> {
        let after = has.plus(wants);
        let those = [
            ("quotaInstances", "instances", self.instances, has.instances, wants.instances, after.instances),
            ("quotaMemoryMb", "MB of memory", self.memory_mb, has.memory_mb, wants.memory_mb, after.memory_mb),
            ("quotaAddresses", "addresses", self.addresses, has.addresses, wants.addresses, after.addresses),
        ];
        let found = those
            .into_iter()
            .find(|(_, _, most, _, wants, after)| *wants > 0 && most.is_some_and(|most| *after > most));
        let (field, what, most, has, wants, _) = found?;
        let message = format!(
            "account {} may have {} {what}, has {has}, and {wants} more are asked for: remove what is not needed, or have \
             an administrator raise {field}",
            identifier::format("account", account),
            most.unwrap_or_default(),
        );
        let refused = ApiError::with_code(StatusCode::FORBIDDEN, "QuotaExceeded", message);
        Some(ApiError { field: Some(field.into()), ..refused })
    }
}

impl Exchange<'_> {
    /// Runs `make` where `account` may have `wants` more.
    ///
    /// # Errors
    /// 403 `QuotaExceeded` where it may not; what `make` answers.
    pub async fn within_quota<T>(
        &self,
        account: u64,
        wants: Usage,
        make: impl Future<Output = Result<T, ServiceError>> + Send,
    ) -> Result<Result<T, ServiceError>, ApiError> {
        let reserved = self.reserve(account, wants).await?;
        let made = make.await;
        if let Some(reserved) = reserved {
            // What may have come to be after all stays noted until it is certain to be seen.
            if !matches!(made, Err(ServiceError::Store(store::Error::OutcomeUnknown { .. }))) {
                self.take_back(&reserved).await;
            }
        }
        Ok(made)
    }

    async fn reserve(&self, account: u64, wants: Usage) -> Result<Option<Reserved>, ApiError> {
        let principal = &self.request.principal;
        if principal.role == Role::Admin && principal.account == account {
            return Ok(None);
        }
        self.context.cache.keep("account");
        let Known { value, .. } = self.context.cache.recall("account", account).await?;
        let quota = value.map(|account| Quota::of(&account.row)).unwrap_or_default();
        if quota == Quota::default() {
            return Ok(None);
        }
        let (environment, store) = (&self.context.environment, self.context.store.as_ref());
        let reserved = Reserved { account, note: environment.uuid().to_string() };
        let mut last = None;
        for _ in 0..TRIES {
            let others = note(store, environment, &reserved, wants).await?;
            let mine = |row: &Resource| row.account_id == Some(account) && row.removed.is_none();
            let rows = self.context.cache.latest(instance::BASE, mine).await?;
            let has = rows.iter().fold(others, |sum, row| sum.plus(Usage::of(row)));
            match quota.refuses(account, has, wants) {
                None => return Ok(Some(reserved)),
                Some(refused) => last = Some(refused),
            }
            self.take_back(&reserved).await;
            if others == Usage::default() {
                break;
            }
            tokio::time::sleep(environment.jitter(SOON * 2)).await;
        }
        Err(last.unwrap_or_else(ApiError::internal))
    }

    async fn take_back(&self, reserved: &Reserved) {
        let (environment, store) = (&self.context.environment, self.context.store.as_ref());
        let taken = change(store, environment, reserved.account, |notes| {
            notes.remove(&reserved.note);
        });
        if let Err(error) = taken.await {
            tracing::warn!(account = reserved.account, %error, "a note for a quota stays for two minutes");
        }
    }
}

/// Writes the note; what others have written down and not yet taken back.
async fn note(
    store: &dyn Store,
    environment: &Environment,
    reserved: &Reserved,
    usage: Usage,
) -> Result<Usage, store::Error> {
    let until = environment.clock.now().after(NOTED);
    let notes = change(store, environment, reserved.account, |notes| {
        notes.insert(reserved.note.clone(), Note { usage, until });
    });
    let others = notes.await?.into_iter().filter(|(name, _)| *name != reserved.note);
    Ok(others.fold(Usage::default(), |sum, (_, note)| sum.plus(note.usage)))
}

/// Changes an account's notes; what they are then.
async fn change(
    store: &dyn Store,
    environment: &Environment,
    account: u64,
    with: impl Fn(&mut BTreeMap<String, Note>),
) -> Result<BTreeMap<String, Note>, store::Error> {
    let place = key::quota(account);
    for _ in 0..TRIES * 4 {
        let entry = store.get(&place).await?.entry;
        let known = entry.as_ref().map_or(Revision(0), |entry| entry.mod_revision);
        let mut all: Notes = entry.as_ref().map(decode).transpose()?.unwrap_or_default();
        let now = environment.clock.now();
        all.notes.retain(|_, note| note.until > now);
        with(&mut all.notes);
        let gone = all.notes.is_empty() && all.rest.is_empty();
        let write = if gone { Operation::delete(&place) } else { Operation::put(&place, encode(&place, &all)?) };
        let unchanged = match entry {
            Some(_) => Transaction::new().unchanged(&place, known),
            None => Transaction::new().absent(&place),
        };
        if store.commit(unchanged.then(write)).await?.succeeded {
            return Ok(all.notes);
        }
        tokio::time::sleep(environment.jitter(SOON / 4)).await;
    }
    Err(store::Error::Unavailable { message: "an account's quota is asked for by too many at once; try again".into() })
}
