//! The one gate that every change of a row passes: whether it happens, or waits for external handlers. Pure.

use super::hold::{self, Hold, Step};
use super::{BASE, Handler};
use crate::environment::Timestamp;
use crate::orchestration::lifecycle;
use crate::resource::process::Phase;
use crate::resource::{Resource, State, instance, transition};
use crate::store::Error;

/// Why a row is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause<'a> {
    /// Somebody asked for this action.
    Asked(&'a str),
    /// Time, or another rule of ours.
    Driven,
    /// Its host saw something.
    Seen,
}

/// What of a process is passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Begin(&'static str),
    End(&'static str),
}

/// The fields that say what was seen of an instance; written also while it waits.
const SEEN: &[&str] = &[instance::EXTERNAL_ID, instance::FIRST_RUNNING, "startedAt", "exitCode"];

/// See the module's text.
#[derive(Clone, Copy)]
pub struct Gate<'a> {
    pub handlers: &'a [Handler],
    pub now: Timestamp,
    /// Ids for events.
    pub id: &'a dyn Fn() -> String,
}

impl std::fmt::Debug for Gate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gate").field("handlers", &self.handlers).finish_non_exhaustive()
    }
}

impl Gate<'_> {
    /// What is to be written when `current` is to become `next`.
    pub fn pass(
        &self,
        base: &str,
        current: Option<&Resource>,
        next: Resource,
        cause: Cause<'_>,
    ) -> Result<Resource, Error> {
        let held = current.is_some_and(hold::is_held);
        if !held && (self.handlers.is_empty() || matches!(base, BASE | "host")) {
            return Ok(next);
        }
        if let Some(current) = current
            && let Some(hold) = hold::of(current)
            && let Some(stays) = meanwhile(current, hold, &next, cause)?
        {
            return Ok(stays);
        }
        let (current, next) = (current.map(hold::without), hold::without(&next));
        let parts = passed(base, current.as_ref(), &next, cause);
        self.hold(base, current.as_ref(), next, &parts)
    }

    fn hold(&self, base: &str, current: Option<&Resource>, next: Resource, parts: &[Part]) -> Result<Resource, Error> {
        let steps: Vec<Step> = parts.iter().flat_map(|part| self.steps(base, &next.kind, *part)).collect();
        let Some(first) = steps.first().cloned() else { return Ok(next) };
        let from = current.map(|current| current.state);
        let through = match (parts.first(), current) {
            (Some(Part::End(_)), Some(current)) => current.state,
            // An update leads through another state from each.
            (Some(Part::Begin(action @ "update")), Some(current)) => {
                transition::allowed(base, action, current.state).unwrap_or(current.state)
            }
            (Some(Part::Begin(action)), _) if !next.state.in_transition() => {
                transition::through(base, action).unwrap_or(next.state)
            }
            _ => next.state,
        };
        let change = match current {
            Some(current) => hold::change(current, &next)?,
            None => serde_json::Map::new(),
        };
        // What its host would act on waits too; all else is written now, and only says later how far it is.
        let wakes = current.is_some_and(|current| {
            base == instance::BASE && lifecycle::placed(&next) && current.generation != next.generation
        });
        let waits = wakes || parts.contains(&Part::Begin("update"));
        let (mut later, now) = if waits { (change, serde_json::Map::new()) } else { (serde_json::Map::new(), change) };
        later.extend(hold::columns(&next)?);
        let mut row = match current {
            Some(current) => hold::patched(current, &now)?,
            None => Resource { removed: None, remove_time: None, ..next },
        };
        row.enter(through);
        let hold = Hold {
            from,
            steps,
            patch: later,
            replaced: false,
            complaint: None,
            event: (self.id)(),
            told: 1,
            due: self.due(&first),
        };
        Ok(hold::with(row, &hold))
    }

    fn steps(&self, base: &str, kind: &str, part: Part) -> Vec<Step> {
        let (action, phases): (&str, &[Phase]) = match part {
            Part::Begin(action) => (action, &[Phase::Pre, Phase::Instead]),
            Part::End(action) => (action, &[Phase::Post]),
        };
        let mut handlers: Vec<&Handler> = self.handlers.iter().collect();
        handlers.sort_by_key(|handler| (handler.priority, handler.id));
        let mut steps = Vec::new();
        for phase in phases {
            for handler in &handlers {
                if let Some(name) = handler.concerned(base, kind, action, *phase) {
                    steps.push(Step {
                        name: name.to_owned(),
                        phase: *phase,
                        action: action.to_owned(),
                        handler: handler.id,
                        handler_name: handler.name.clone(),
                    });
                }
            }
        }
        steps
    }

    fn handler(&self, id: u64) -> Option<&Handler> {
        self.handlers.iter().find(|handler| handler.id == id)
    }

    fn due(&self, step: &Step) -> Timestamp {
        self.now.after(self.handler(step.handler).map_or(std::time::Duration::ZERO, |handler| handler.timeout))
    }

    /// The first step is over: on to the next whose handler is still active, or to what was held back.
    pub fn advance(&self, base: &str, row: &Resource, mut hold: Hold) -> Result<Resource, Error> {
        hold.steps = hold.steps.into_iter().skip(1).filter(|step| self.handler(step.handler).is_some()).collect();
        match hold.steps.first() {
            Some(step) => {
                hold.due = self.due(step);
                (hold.event, hold.told) = ((self.id)(), 1);
                let mut row = hold::without(row);
                row.transitioning_progress = None;
                Ok(hold::with(row, &hold))
            }
            None => self.release(base, row, &hold),
        }
    }

    fn release(&self, base: &str, row: &Resource, hold: &Hold) -> Result<Resource, Error> {
        let next = hold::released(row, hold, self.now)?;
        if !hold.replaced {
            return Ok(next);
        }
        // What a handler did in our place has an end too.
        let through = Resource { state: hold::let_go(row, self.now)?.state, ..hold::without(row) };
        let parts = passed(base, Some(&through), &next, Cause::Driven);
        self.hold(base, Some(&through), next, &parts)
    }

    /// The handler did it.
    pub fn done(&self, base: &str, row: &Resource, mut hold: Hold) -> Result<Resource, Error> {
        let native = base == instance::BASE;
        hold.replaced |= hold.steps.first().is_some_and(|step| {
            native && step.phase == Phase::Instead && matches!(step.action.as_str(), "start" | "stop" | "restart")
        });
        self.advance(base, row, hold)
    }

    /// The handler needs more time.
    pub fn progress(&self, row: &Resource, mut hold: Hold, message: Option<String>, progress: Option<u8>) -> Resource {
        hold.due = hold.steps.first().map_or(self.now, |step| self.due(step));
        let mut row = hold::with(row.clone(), &hold);
        row.transitioning_progress = progress.or(row.transitioning_progress);
        if let Some(message) = message {
            row.transitioning_message = Some(message);
        }
        row
    }

    /// The time for an answer is over.
    pub fn overdue(&self, base: &str, row: &Resource, mut hold: Hold) -> Result<Resource, Error> {
        let Some(step) = hold.steps.first().cloned() else { return self.release(base, row, &hold) };
        let Some(handler) = self.handler(step.handler) else { return self.advance(base, row, hold) };
        if hold.told > handler.retries {
            let message = format!(
                "the external handler {} did not answer {}: told {} times, {} ms each",
                handler.name,
                step.name,
                hold.told,
                handler.timeout.as_millis()
            );
            return self.failed(base, row, hold, &message);
        }
        hold.told += 1;
        hold.due = self.due(&step);
        Ok(hold::with(row.clone(), &hold))
    }

    /// The step fails, and what it was a part of; what is done already stays done.
    pub fn failed(&self, base: &str, row: &Resource, mut hold: Hold, message: &str) -> Result<Resource, Error> {
        let Some(step) = hold.steps.first() else { return self.release(base, row, &hold) };
        if step.phase == Phase::Post {
            hold.complaint = Some(message.to_owned());
            return self.advance(base, row, hold);
        }
        let mut back = hold::without(row);
        match (step.action.as_str(), hold.from) {
            ("create", _) | ("activate", None) => {
                back.fail(State::Removed, message);
                back.removed = Some(self.now);
                back.remove_time = Some(self.now.after(lifecycle::PURGE_AFTER));
            }
            ("start", _) => {
                lifecycle::not_to_run(&mut back);
                back.fail(State::Stopped, message);
            }
            (action, from) => {
                back.fail(from.unwrap_or(State::Stopped), message);
                if action == "purge" {
                    // It has to go in the end: asked again in a while.
                    back.remove_time = Some(self.now.after(lifecycle::PURGE_AFTER));
                }
            }
        }
        Ok(back)
    }
}

/// What becomes of a row that waits when something else is to be written; `None` where it waits no longer.
fn meanwhile(current: &Resource, mut hold: Hold, next: &Resource, cause: Cause<'_>) -> Result<Option<Resource>, Error> {
    let same_state = next.state == current.state;
    match cause {
        // What its host did by itself, like ending, overtakes what was to come.
        Cause::Seen if next.generation != current.generation => Ok(None),
        Cause::Seen => {
            let mut row = current.clone();
            for field in SEEN {
                row.set(field, next.fields.get(*field).cloned().unwrap_or_default());
            }
            Ok(Some(row))
        }
        // Fields that somebody changes meanwhile.
        Cause::Asked("update") => Ok(Some(next.clone())),
        // It is on its way there already.
        Cause::Asked("start") if current.state == State::Creating => Ok(Some(current.clone())),
        // The same again, or more of it: what follows is what was asked last.
        _ if same_state => {
            hold.patch.extend(hold::change(&hold::without(current), &hold::without(next))?);
            Ok(Some(hold::with(current.clone(), &hold)))
        }
        _ => Ok(None),
    }
}

/// The parts of processes that lie between the two, in order.
fn passed(base: &str, current: Option<&Resource>, next: &Resource, cause: Cause<'_>) -> Vec<Part> {
    use Part::{Begin, End};
    let both = |action| [Begin(action), End(action)];
    let Some(current) = current else {
        return match next.state {
            State::Creating => vec![Begin("create"), End("create"), Begin("start")],
            State::Active => [both("create"), both("activate")].concat(),
            _ => both("create").to_vec(),
        };
    };
    let (from, to) = (current.state, next.state);
    if from == to {
        return if cause == Cause::Asked("update") && transition::allowed(base, "update", from).is_some() {
            both("update").to_vec()
        } else {
            Vec::new()
        };
    }
    if base == instance::BASE { of_instance(from, to, lifecycle::placed(next), cause) } else { of_plain(from, to) }
}

fn of_instance(from: State, to: State, placed: bool, cause: Cause<'_>) -> Vec<Part> {
    use Part::{Begin, End};
    let ended = match (from, to) {
        (State::Creating | State::Starting, State::Running) => Some("start"),
        (State::Stopping, State::Stopped | State::Removed | State::Starting) => Some("stop"),
        (State::Restarting, State::Running) => Some("restart"),
        (State::Removing, State::Removed) => Some("remove"),
        (State::Purging, State::Purged) => Some("purge"),
        (State::Restoring, State::Stopped) => Some("restore"),
        _ => None,
    };
    let begun = match (from, to) {
        (State::Creating, State::Starting) => None,
        // What its host starts anew by itself is not asked for.
        (_, State::Starting) if cause != Cause::Seen || !placed => Some("start"),
        (_, State::Restarting) if cause != Cause::Seen => Some("restart"),
        (_, State::Stopping) => Some("stop"),
        (_, State::Removing) => Some("remove"),
        (_, State::Purging) => Some("purge"),
        (_, State::Restoring) => Some("restore"),
        _ => None,
    };
    let mut parts: Vec<Part> = ended.map(End).into_iter().chain(begun.map(Begin)).collect();
    if (from, to) == (State::Stopping, State::Removed) {
        parts.extend([Begin("remove"), End("remove")]);
    }
    parts
}

fn of_plain(from: State, to: State) -> Vec<Part> {
    use Part::{Begin, End};
    let action = match (from, to) {
        (State::Removed, State::Purging) => return vec![Begin("purge")],
        (State::Purging, State::Purged) => return vec![End("purge")],
        (State::Removed, State::Inactive) => "restore",
        (_, State::Active) => "activate",
        (_, State::Inactive) => "deactivate",
        (_, State::Removed) => "remove",
        (_, State::Purged) => "purge",
        _ => return Vec::new(),
    };
    vec![Begin(action), End(action)]
}

#[cfg(test)]
mod tests;
