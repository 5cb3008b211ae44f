//! External handlers: programs outside that have a part in transitions, with nothing but HTTP.
//!
//! ```text
//! a row is to change ──► gate (pure) ──no handler is concerned──► written, as ever
//!                          │ held: the row in its transitional state, `hold` {steps, patch, due}, and event/<id>
//!                          ▼   in one transaction
//!                     subscribe ──► the handler ──► publish ──► next step, or what was held back: one transaction
//!                          ▲                            │ error: the step fails, and says why
//!                          └── todo/: not answered in time: told again; tries used up: fails the same
//! ```
//! While a row is held, what is wanted of it stays as it was, so its host is not woken. [`gate`] decides, [`hold`] says what
//! is stored, [`answer`] takes what handlers say. Who the handlers are is in memory ([`Handlers`]): where there are none,
//! nothing is read or written more than without all this.

mod answer;
mod gate;
pub mod hold;

pub use answer::{Publication, takes_out};
pub use gate::{Cause, Gate};

use super::orchestrator::invalid;
use super::{Draft, ServiceError};
use crate::environment::Environment;
use crate::resource::process::{self, Name, Phase};
use crate::resource::types::external_handler as names;
use crate::resource::validation::Invalid;
use crate::resource::{Resource, State};
use crate::store::mirror::Mirror;
use crate::store::{Error, Revision, Store, key};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The base type of handlers.
pub const BASE: &str = "externalHandler";
/// How long an answer may take, and how often an event is told again, unless the handler says otherwise.
const TIMEOUT: i64 = 15_000;
const RETRIES: i64 = 3;
/// To list the handlers for the first time.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// To see this node's own last write.
const OWN_WRITE: Duration = Duration::from_secs(2);

/// One handler, as far as transitions go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handler {
    pub id: u64,
    pub name: String,
    /// The lowest comes first.
    pub priority: i64,
    pub retries: u32,
    pub timeout: Duration,
    pub processes: Vec<String>,
}

impl Handler {
    /// `None` where it is not active.
    pub fn of(row: &Resource) -> Option<Self> {
        let number = |field: &str| row.get::<i64>(field);
        let by_name = match row.get::<String>(names::PRIORITY_NAME).as_deref() {
            Some("pre") => 1000,
            Some("default_override") => 3000,
            _ => 2000,
        };
        (row.state == State::Active).then(|| Self {
            id: row.id,
            name: row.name.clone().unwrap_or_else(|| row.uuid.clone()),
            priority: number(names::PRIORITY).unwrap_or(by_name),
            retries: u32::try_from(number(names::RETRIES).unwrap_or(RETRIES)).unwrap_or(u32::MAX),
            timeout: Duration::from_millis(number(names::TIMEOUT).unwrap_or(TIMEOUT).unsigned_abs()),
            processes: row.get(names::PROCESS_NAMES).unwrap_or_default(),
        })
    }

    /// Whether it has that part of a process of all of that base type.
    pub fn has_part(&self, base: &str, action: &str, phase: Phase) -> bool {
        self.concerned(base, base, action, phase).is_some()
    }

    /// The name under which it asked for that part of a process.
    fn concerned(&self, base: &str, kind: &str, action: &str, phase: Phase) -> Option<&str> {
        let asked = |text: &&String| {
            Name::parse(text).is_some_and(|name| name.phase == phase && name.concerns(base, kind, action))
        };
        self.processes.iter().find(asked).map(String::as_str)
    }
}

/// Those that are active, as this node knows them.
#[derive(Debug)]
pub struct Handlers(Mirror<Resource>);

impl Handlers {
    pub fn start(store: Arc<dyn Store>, environment: &Environment) -> Self {
        Self(Mirror::start(store, environment, key::resources(BASE)))
    }

    /// All that are active. Waits only until they were listed once.
    ///
    /// # Errors
    /// Where they cannot be listed: nothing is to pass that they may have a part in.
    pub async fn active(&self) -> Result<Vec<Handler>, Error> {
        if !self.0.freshness().listed && !self.0.listed(FIRST_LIST).await {
            return Err(Error::Unavailable { message: "it is not known yet which external handlers there are".into() });
        }
        Ok(self.0.view().values().filter_map(|item| Handler::of(&item.value)).collect())
    }

    /// Waits until what was written at `revision` is known here.
    pub async fn reached(&self, revision: Revision) {
        self.0.reached(revision, OWN_WRITE).await;
    }
}

/// A handler that is to be made, with its processes one by one.
///
/// # Errors
/// Where one of them is none.
pub fn sorted(mut draft: Draft) -> Result<Draft, ServiceError> {
    let given = draft.fields.get(names::PROCESS_NAMES).and_then(Value::as_array).into_iter().flatten();
    let sorted = process::names(given.filter_map(Value::as_str))
        .map_err(|Invalid { code, field, message }| invalid(code.name(), &field, message))?;
    draft.fields.insert(names::PROCESS_NAMES.into(), Value::from(sorted));
    Ok(draft)
}
