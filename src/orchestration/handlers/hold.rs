//! What is stored of a row that waits for external handlers: in the row itself the `hold`, and for each event that waits
//! for its answer `event/<id>`, which comes and goes with it.

use crate::environment::Timestamp;
use crate::orchestration::lifecycle;
use crate::resource::process::Phase;
use crate::resource::{Resource, State, instance};
use crate::store::{self, Operation, encode, key};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The row's field that it lies in. No type declares it, so that it is never shown.
const HOLD: &str = "hold";
/// What says how far the row is, and waits with it while the rest is written at once.
const COLUMNS: &[&str] =
    &["state", "transitioning", "transitioningMessage", "transitioningProgress", "removed", "removeTime"];

/// One handler's part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// As the handler named it: `pre.instance.start`.
    pub name: String,
    pub phase: Phase,
    pub action: String,
    pub handler: u64,
    pub handler_name: String,
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// Where the row was before; nowhere if it is new.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<State>,
    /// What is left to be done; the answer of the first is waited for.
    pub steps: Vec<Step>,
    /// What becomes of the row after: its fields as they are to be, null for those that go.
    pub patch: Map<String, Value>,
    /// Whether a handler did what we would have done.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
    /// What went wrong where all went on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub complaint: Option<String>,
    pub event: String,
    /// How often it was told.
    pub told: u32,
    /// When it is to be told again, or given up.
    pub due: Timestamp,
}

/// `event/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub id: String,
    /// The process, as the handler named it.
    pub name: String,
    pub handler: u64,
    pub handler_name: String,
    /// The base type of the row, and its number.
    pub base: String,
    pub row: u64,
    pub told: u32,
}

/// What a row waits for, if it does.
pub fn of(row: &Resource) -> Option<Hold> {
    row.get(HOLD)
}

pub fn is_held(row: &Resource) -> bool {
    row.fields.contains_key(HOLD)
}

/// The row as it is, waiting for nothing.
pub fn without(row: &Resource) -> Resource {
    let mut free = row.clone();
    free.set(HOLD, Value::Null);
    free
}

/// The row, waiting for that.
pub fn with(mut row: Resource, hold: &Hold) -> Resource {
    row.set(HOLD, json!(hold));
    if let Some(step) = hold.steps.first() {
        row.transitioning_message =
            Some(format!("waits for the external handler {} ({})", step.handler_name, step.name));
    }
    row
}

/// The row as it would be if no handler had been asked: for who has to decide about it now.
pub fn let_go(row: &Resource, now: Timestamp) -> Result<Resource, store::Error> {
    match of(row) {
        Some(hold) => released(row, &Hold { replaced: false, complaint: None, ..hold }, now),
        None => Ok(without(row)),
    }
}

/// What is other in `to` than in `from`, but for what says how far it is.
pub fn change(from: &Resource, to: &Resource) -> Result<Map<String, Value>, store::Error> {
    let (from, to) = (map(from)?, map(to)?);
    let gone: Vec<_> =
        from.keys().filter(|name| !to.contains_key(*name)).map(|name| (name.clone(), Value::Null)).collect();
    let changed = to.into_iter().filter(|(name, value)| from.get(name) != Some(value));
    Ok(changed.chain(gone).filter(|(name, _)| name != HOLD && !COLUMNS.contains(&name.as_str())).collect())
}

/// What says how far `row` is.
pub fn columns(row: &Resource) -> Result<Map<String, Value>, store::Error> {
    let fields = map(row)?;
    let column = |name: &&str| ((*name).to_owned(), fields.get(*name).cloned().unwrap_or_default());
    Ok(COLUMNS.iter().map(column).collect())
}

/// `row` with a patch. What is wanted of it grows by one, wherever it was when the patch was made.
pub fn patched(row: &Resource, patch: &Map<String, Value>) -> Result<Resource, store::Error> {
    let mut fields = map(row)?;
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(name);
        } else {
            fields.insert(name.clone(), value.clone());
        }
    }
    if patch.contains_key("generation") {
        fields.insert("generation".into(), json!(row.generation + 1));
    }
    serde_json::from_value(Value::Object(fields)).map_err(|error| unreadable(row, &error))
}

fn map(row: &Resource) -> Result<Map<String, Value>, store::Error> {
    match serde_json::to_value(row) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(unreadable(row, &error)),
    }
}

fn unreadable(row: &Resource, error: &serde_json::Error) -> store::Error {
    store::Error::Unreadable { key: format!("{} {}", row.kind, row.id), message: error.to_string() }
}

/// The row when nothing is waited for any more: what was held back happens, or what a handler has done in its place.
pub fn released(row: &Resource, hold: &Hold, now: Timestamp) -> Result<Resource, store::Error> {
    let free = without(row);
    let mut next = patched(&free, &hold.patch)?;
    // What leaves its host has to end there, whatever a handler did.
    if hold.replaced && !lifecycle::to_deallocate(&next) {
        for field in [instance::DESIRED, instance::RESTARTS] {
            next.set(field, free.fields.get(field).cloned().unwrap_or_default());
        }
        next.generation = free.generation;
        lifecycle::arrived(&mut next, now);
    }
    if let Some(complaint) = &hold.complaint {
        next.fail(next.state, complaint);
    }
    Ok(next)
}

/// The events that come, are told again and go when `current` becomes `next`.
pub fn operations(base: &str, current: Option<&Resource>, next: &Resource) -> Result<Vec<Operation>, store::Error> {
    if !is_held(next) && !current.is_some_and(is_held) {
        return Ok(Vec::new());
    }
    let (old, new) = (current.and_then(of), of(next));
    let mut operations = Vec::new();
    if let Some(old) = &old
        && new.as_ref().is_none_or(|new| new.event != old.event)
    {
        operations.push(Operation::delete(key::event(&old.event)));
    }
    if let Some(new) = &new
        && let Some(step) = new.steps.first()
        && old.is_none_or(|old| old.event != new.event || old.told != new.told)
    {
        let event = Event {
            id: new.event.clone(),
            name: step.name.clone(),
            handler: step.handler,
            handler_name: step.handler_name.clone(),
            base: base.to_owned(),
            row: next.id,
            told: new.told,
        };
        let key = key::event(&new.event);
        operations.push(Operation::put(&key, encode(&key, &event)?));
    }
    Ok(operations)
}
