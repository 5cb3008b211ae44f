//! What handlers say to events, and what becomes of rows whose handlers say nothing or are no longer there.

use super::gate::{Cause, Gate};
use super::hold::{self, Event, Hold};
use super::{BASE, Handler};
use crate::orchestration::ServiceError;
use crate::orchestration::lifecycle;
use crate::orchestration::orchestrator::{Orchestrator, invalid, unchanged, updated};
use crate::resource::trail;
use crate::resource::types;
use crate::resource::validation::{self, Invalid, Writer};
use crate::resource::{Resource, Transitioning};
use crate::store::{self, Revision, decode, key};
use serde_json::{Map, Value};

/// Tries of one answer against others who change the same row.
const TRIES: usize = 8;

/// What a handler says to an event.
#[derive(Clone, Debug, PartialEq)]
pub struct Publication {
    /// The event's id.
    pub event: String,
    /// Whether the handler goes on (`Yes`), could not do it (`Error`), or has done it.
    pub transitioning: Transitioning,
    pub message: Option<String>,
    pub progress: Option<u8>,
    /// Fields of the row; those whose names begin with `+` are merged into what is there.
    pub data: Map<String, Value>,
}

impl Orchestrator {
    /// Lets `next` pass, or has it wait for handlers; see [`super::gate`].
    pub(in crate::orchestration) async fn pass(
        &self,
        base: &str,
        current: Option<&Resource>,
        next: Resource,
        cause: Cause<'_>,
    ) -> Result<Resource, store::Error> {
        let handlers = self.handlers().active().await?;
        let next = self.with_gate(&handlers, |gate| gate.pass(base, current, next, cause))?;
        Ok(trail::stamped(base, current, next, self.now()))
    }

    fn with_gate<T>(&self, handlers: &[Handler], work: impl FnOnce(&Gate<'_>) -> T) -> T {
        let id = || self.environment().uuid().to_string();
        work(&Gate { handlers, now: self.now(), id: &id })
    }

    /// Takes what a handler says; whether a row had waited for it.
    pub(in crate::orchestration) async fn answered(&self, said: &Publication) -> Result<bool, ServiceError> {
        let Some(entry) = self.store().get(&key::event(&said.event)).await?.entry else { return Ok(false) };
        let Event { id, base, row, .. } = decode(&entry)?;
        self.go_on(&base, row, &id, |gate, current, hold| match said.transitioning {
            Transitioning::Yes => Ok(gate.progress(current, hold, said.message.clone(), said.progress)),
            Transitioning::Error => {
                let message = said.message.as_deref().unwrap_or("it gave no reason");
                let handler = hold.steps.first().map_or("a handler", |step| step.handler_name.as_str());
                let message = format!("{handler}: {message}");
                Ok(gate.failed(&base, current, hold, &message)?)
            }
            Transitioning::No => Ok(gate.done(&base, &changed(&base, current, &said.data)?, hold)?),
        })
        .await
    }

    /// A row whose handler's time is over.
    pub(in crate::orchestration) async fn overdue(&self, base: &str, id: u64) -> Result<(), ServiceError> {
        let (row, _) = self.read(base, id).await?;
        let Some(hold) = hold::of(&row) else { return Ok(()) };
        let now = self.now();
        self.go_on(base, id, &hold.event, |gate, current, hold| {
            // Somebody else was faster, or the handler has bought time.
            if hold.due > now { Ok(current.clone()) } else { Ok(gate.overdue(base, current, hold)?) }
        })
        .await
        .map(drop)
    }

    /// The handler is taken out: what waits for it, waits no longer. What fails here is found again in `todo/`.
    pub(in crate::orchestration) async fn taken_out(&self, handler: u64, revision: Revision) {
        self.handlers().reached(revision).await;
        let events = match self.store().range(&key::events()).await {
            Ok(snapshot) => snapshot.entries,
            Err(error) => {
                tracing::warn!(handler, %error, "what waits for it goes on when its time is over");
                return;
            }
        };
        for event in events.iter().filter_map(|entry| decode::<Event>(entry).ok()).filter(|it| it.handler == handler) {
            let skipped = self.go_on(&event.base, event.row, &event.id, |gate, current, hold| {
                Ok(gate.advance(&event.base, current, hold)?)
            });
            if let Err(error) = skipped.await {
                tracing::warn!(handler, kind = event.base, row = event.row, %error, "it goes on when its time is over");
            }
        }
    }

    /// Changes a row that waits for the answer to `event`; whether it did.
    async fn go_on(
        &self,
        base: &str,
        id: u64,
        event: &str,
        change: impl Fn(&Gate<'_>, &Resource, Hold) -> Result<Resource, ServiceError>,
    ) -> Result<bool, ServiceError> {
        for _ in 0..TRIES {
            let (current, entry) = match self.read(base, id).await {
                Ok(found) => found,
                Err(ServiceError::NotFound) => return Ok(false),
                Err(error) => return Err(error),
            };
            let Some(hold) = hold::of(&current).filter(|hold| hold.event == event) else { return Ok(false) };
            let handlers = self.handlers().active().await?;
            let next = self.with_gate(&handlers, |gate| change(gate, &current, hold))?;
            if next == current {
                return Ok(true);
            }
            let next = trail::stamped(base, Some(&current), next, self.now());
            if self.write(base, &current, &next, vec![unchanged(&entry)]).await?.succeeded {
                if !hold::is_held(&next) && lifecycle::due(&next, self.now()).is_some() {
                    self.drive_besides(base, id);
                }
                return Ok(true);
            }
        }
        Err(ServiceError::busy())
    }
}

/// Whether a change of a handler's row takes it out.
pub fn takes_out(base: &str, current: &Resource, next: &Resource) -> bool {
    base == BASE && Handler::of(current).is_some() && Handler::of(next).is_none()
}

/// The row with what a handler says of it: fields that can be changed over the API.
fn changed(base: &str, row: &Resource, data: &Map<String, Value>) -> Result<Resource, ServiceError> {
    let Some(declared) = types::find(base).filter(|_| !data.is_empty()) else { return Ok(row.clone()) };
    let declared = types::of(declared, row);
    let mut input = Map::new();
    for (name, value) in data {
        let Some(merged) = name.strip_prefix('+') else {
            input.insert(name.clone(), value.clone());
            continue;
        };
        let known = declared.field(merged).map(|field| validation::stored(row, field).into_owned());
        input.insert(merged.to_owned(), merge(known.unwrap_or_default(), value));
    }
    let changes = validation::change(declared, row, &input, Writer::Admin)
        .map_err(|Invalid { code, field, message }| invalid(code.name(), &field, message))?;
    Ok(updated(row, &changes))
}

/// Maps within maps are merged too; anything else is replaced.
fn merge(known: Value, said: &Value) -> Value {
    match (known, said) {
        (Value::Object(mut known), Value::Object(said)) => {
            for (name, value) in said {
                let before = known.remove(name).unwrap_or_default();
                known.insert(name.clone(), merge(before, value));
            }
            Value::Object(known)
        }
        (_, said) => said.clone(),
    }
}
