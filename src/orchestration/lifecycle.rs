//! The life of an instance, as pure functions from what is stored to what is to be stored.
//!
//! ```text
//!            place               host                      ask(stop)            host
//! creating ─────────► starting ────────► running ───────────────────► stopping ─────► stopped ──ask(start)──► starting
//!    │                   │ failed           │ ended by itself                             │
//!    │ no host: error,   ▼                  ▼ stop, remove (restart: its supervisor)      │ ask(remove)
//!    └─ tried again    stopped, error    stopped or removing                              ▼
//!                              removing ──drive──► removed ──60 s──► purging ──host──► purged ──300 s──► gone
//!                                                     └─ask(restore)─► restoring ──drive──► stopped
//! ```
//! Three things move it: what is asked over the API ([`ask`]), what its host saw ([`observe`]) and time ([`drive`]).

use super::ServiceError;
use super::handlers::hold;
use super::native;
use crate::environment::Timestamp;
use crate::resource::assignment::{Desired, OnEnd};
use crate::resource::native::Native;
use crate::resource::{Resource, State, instance, port, transition};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// From removed to purging by itself.
pub const PURGE_AFTER: Duration = Duration::from_secs(60);
/// From purged to gone: as long as removed rows stay in lists.
pub const FORGET_AFTER: Duration = Duration::from_secs(300);
/// An agent that began something and died is followed by the shard's owner after this.
pub const GRACE: Duration = Duration::from_secs(1);

/// What follows once it has stopped: stored until then.
const AFTER_STOP: &str = "afterStop";
const AFTER_STOP_REMOVE: &str = "remove";
const AFTER_STOP_DEALLOCATE: &str = "deallocate";
const AFTER_STOP_MOVE: &str = "move";
/// That it was stopped because its host was drained, and is to be started when that is over.
const STOPPED_BY_DRAIN: &str = "stoppedByDrain";
/// Until when it waits for those that it is linked to, whose ports are not known yet.
const WAITS_FOR_TARGETS: &str = "waitsForTargets";
/// That no host had room for it: it is tried again when there may be some.
const WAITS_FOR_ROOM: &str = "waitsForRoom";

/// What the instance's host saw.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// Its supervisor is at work.
    Starting {
        message: Option<String>,
    },
    Running {
        external_id: String,
        started_at: i64,
    },
    /// It is down, as was wanted.
    Stopped,
    /// It ended by itself.
    Ended {
        exit_code: Option<i64>,
        message: Option<String>,
    },
    /// Somebody stopped its unit.
    StoppedByAdministrator,
    /// It could not be started, in the driver's own words.
    Failed {
        message: String,
    },
    /// Nothing of it is left on the host.
    Purged,
    /// A native container as Docker has it; `None` where Docker has it no more.
    Native(Option<Box<Native>>),
}

/// What there is to do next for a resource that waits.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Nothing, or it is up to its host.
    Nothing,
    /// Not before that moment.
    Wait(Timestamp),
    /// A host is to be found.
    Place,
    /// Write this.
    Write(Box<Resource>),
    /// An external handler did not answer in time.
    Overdue,
    /// A floating address is to come back from its host, be that there or not.
    TakeBack,
    /// The row goes.
    Forget,
}

pub(super) fn want(instance: &mut Resource, desired: Desired) {
    instance.set(instance::DESIRED, json!(desired));
    instance.generation += 1;
}

pub fn placed(instance: &Resource) -> bool {
    instance.get::<String>(instance::HOST_NAME).is_some()
}

/// What the API asks for. The action is already known to be one of the type.
pub fn ask(
    instance: &Resource,
    action: &str,
    input: &Map<String, Value>,
    now: Timestamp,
) -> Result<Resource, ServiceError> {
    let refused = || ServiceError::ActionNotAvailable { action: action.to_owned(), state: instance.state };
    // What runs is stopped first and then removed: the contract's DELETE.
    let removable = action == "remove" && matches!(instance.state, State::Running | State::Restarting);
    if !removable && transition::allowed(instance::BASE, action, instance.state).is_none() {
        return Err(refused());
    }
    native::check(instance, action, input)?;
    let mut asked = instance.clone();
    match action {
        "start" => {
            asked.enter(State::Starting);
            want(&mut asked, Desired::Running);
            asked.set(AFTER_STOP, Value::Null);
            asked.set(STOPPED_BY_DRAIN, Value::Null);
            asked.set(WAITS_FOR_ROOM, Value::Null);
            asked.set(WAITS_FOR_TARGETS, Value::Null);
        }
        "stop" => {
            asked.enter(State::Stopping);
            want(&mut asked, Desired::Stopped);
            let flag = |name: &str| input.get(name).and_then(Value::as_bool).unwrap_or(false);
            let after = match (flag("remove"), flag("deallocateFromHost")) {
                (true, _) => json!(AFTER_STOP_REMOVE),
                (_, true) => json!(AFTER_STOP_DEALLOCATE),
                _ => Value::Null,
            };
            asked.set(AFTER_STOP, after);
        }
        "restart" => {
            asked.enter(State::Restarting);
            want(&mut asked, Desired::Running);
            let restarts = instance.get::<u64>(instance::RESTARTS).unwrap_or(0);
            asked.set(instance::RESTARTS, restarts + 1);
        }
        "remove" => remove(&mut asked),
        "restore" => {
            asked.enter(State::Restoring);
            asked.removed = None;
            asked.remove_time = None;
        }
        "purge" => purge(&mut asked, now),
        _ => return Err(refused()),
    }
    Ok(asked)
}

/// Away from its host, to another one: down, given up, and up again wherever there is room. `None` where it is not up.
pub fn move_away(instance: &Resource) -> Option<Resource> {
    down_for_a_while(instance, |next| next.set(AFTER_STOP, AFTER_STOP_MOVE))
}

/// Down, until its host is no longer drained. `None` where it is not up.
pub fn stop_for_drain(instance: &Resource) -> Option<Resource> {
    down_for_a_while(instance, |next| next.set(STOPPED_BY_DRAIN, true))
}

fn down_for_a_while(instance: &Resource, mark: impl FnOnce(&mut Resource)) -> Option<Resource> {
    // What waits for an external handler is on its way somewhere: looked at again when it is there.
    let up = placed(instance) && instance::desired(instance) == Desired::Running && !hold::is_held(instance);
    up.then(|| {
        let mut next = instance.clone();
        next.enter(State::Stopping);
        want(&mut next, Desired::Stopped);
        mark(&mut next);
        next
    })
}

/// Whether it is on its way off its host.
pub fn moving_away(instance: &Resource) -> bool {
    instance.get::<String>(AFTER_STOP).as_deref() == Some(AFTER_STOP_MOVE)
}

/// Whether it is down only because its host is drained.
pub fn stopped_by_drain(instance: &Resource) -> bool {
    instance.get(STOPPED_BY_DRAIN).unwrap_or(false)
}

/// The same, and nobody wanted anything else of it since.
fn waits_for_drain(instance: &Resource) -> bool {
    let down = matches!(instance.state, State::Stopping | State::Stopped);
    stopped_by_drain(instance) && down && instance.get::<String>(AFTER_STOP).is_none()
}

/// It could not be begun: it is to stay down.
pub fn not_to_run(instance: &mut Resource) {
    if instance::desired(instance) == Desired::Running {
        want(instance, Desired::Stopped);
    }
}

/// What was to be done by its host was done by somebody else: it is where that leads.
pub fn arrived(instance: &mut Resource, now: Timestamp) {
    match instance.state {
        State::Stopping => settle(instance, now),
        State::Creating => instance.enter(State::Running),
        state => instance.enter(transition::end(instance::BASE, state).unwrap_or(state)),
    }
}

/// Down first, where it may be up.
fn remove(instance: &mut Resource) {
    let down = matches!(instance.state, State::Stopped | State::Removing) || !placed(instance);
    want(instance, Desired::Stopped);
    if down {
        instance.enter(State::Removing);
    } else {
        instance.enter(State::Stopping);
        instance.set(AFTER_STOP, AFTER_STOP_REMOVE);
    }
}

fn purge(instance: &mut Resource, now: Timestamp) {
    instance.enter(State::Purging);
    instance.removed.get_or_insert(now);
    // What needs no host has nothing that a host would have to take away.
    if instance.fields.contains_key(instance::DESIRED) {
        want(instance, Desired::Purged);
    }
}

/// What time, or an agent that comes after another, makes of it.
pub fn drive(instance: &Resource, now: Timestamp) -> Next {
    if let Some(hold) = hold::of(instance) {
        return if hold.due > now { Next::Wait(hold.due) } else { Next::Overdue };
    }
    let mut next = instance.clone();
    match instance.state {
        State::Creating | State::Starting if !placed(instance) && instance::desired(instance) == Desired::Running => {
            return match instance.get::<i64>(WAITS_FOR_TARGETS).map(Timestamp) {
                Some(until) if until > now => Next::Wait(until),
                _ => Next::Place,
            };
        }
        State::Stopping if !placed(instance) => settle(&mut next, now),
        State::Removing => {
            next.enter(State::Removed);
            next.removed = Some(now);
            next.remove_time = Some(now.after(PURGE_AFTER));
        }
        State::Restoring => next.enter(State::Stopped),
        State::Disassociating => return Next::TakeBack,
        State::Removed => match instance.remove_time {
            Some(time) if time > now => return Next::Wait(time),
            _ => purge(&mut next, now),
        },
        State::Purging if !placed(instance) => next.enter(State::Purged),
        State::Purged => {
            let time = instance.removed.unwrap_or(instance.created).after(PURGE_AFTER + FORGET_AFTER);
            return if time > now { Next::Wait(time) } else { Next::Forget };
        }
        _ => return Next::Nothing,
    }
    Next::Write(Box::new(next))
}

/// What needs no host goes at once where it is asked to.
pub fn act_plain(base: &str, current: &Resource, action: &str, now: Timestamp) -> Result<Resource, ServiceError> {
    let removable = action == "remove" && current.state == State::Active;
    if !removable && transition::allowed(base, action, current.state).is_none() {
        return Err(ServiceError::ActionNotAvailable { action: action.to_owned(), state: current.state });
    }
    let mut next = current.clone();
    match action {
        "activate" => next.enter(State::Active),
        "deactivate" | "restore" => {
            next.enter(State::Inactive);
            next.removed = None;
            next.remove_time = None;
        }
        "remove" => {
            next.enter(State::Removed);
            next.removed = Some(now);
            next.remove_time = Some(now.after(PURGE_AFTER));
        }
        "purge" => next.enter(State::Purged),
        _ => {}
    }
    Ok(next)
}

/// When [`drive`] is to be asked again; `None` where it is not.
pub fn due(instance: &Resource, now: Timestamp) -> Option<Timestamp> {
    match drive(instance, now) {
        Next::Nothing => None,
        Next::Wait(time) => Some(time),
        Next::Place | Next::Write(_) | Next::Overdue | Next::TakeBack | Next::Forget => Some(now.after(GRACE)),
    }
}

/// No host would have it: said on the instance, and tried again; when there may be room where `full` says that there was none. Whom
/// it is linked to was waited for by then.
pub fn not_placed(instance: &Resource, message: &str, full: bool) -> Resource {
    let mut failed = instance.clone();
    failed.fail(instance.state, message);
    failed.set(WAITS_FOR_TARGETS, Value::Null);
    failed.set(WAITS_FOR_ROOM, if full { Value::Bool(true) } else { Value::Null });
    failed
}

/// Whether it waits for room on some host.
pub fn waits_for_room(instance: &Resource) -> bool {
    instance.get(WAITS_FOR_ROOM).unwrap_or(false) && drive(instance, instance.created) == Next::Place
}

/// A host was found: earlier failures to find one are over.
pub fn chosen(instance: &Resource) -> Resource {
    let mut next = instance.clone();
    next.enter(instance.state);
    next.set(WAITS_FOR_ROOM, Value::Null);
    next.set(WAITS_FOR_TARGETS, Value::Null);
    next
}

/// It is not placed before `until`, unless the ports of those that it is linked to are known earlier.
pub fn wait_for_targets(instance: &mut Resource, until: Timestamp, message: String) {
    instance.set(WAITS_FOR_TARGETS, until.0);
    instance.transitioning_message = Some(message);
}

/// Whether it waits for whom it is linked to.
pub fn waits_for_targets(instance: &Resource) -> bool {
    let begins = matches!(instance.state, State::Creating | State::Starting) && !placed(instance);
    begins && instance.fields.contains_key(WAITS_FOR_TARGETS)
}

/// It is gone from where it was, whatever was wanted of it.
pub(super) fn vanish(instance: &mut Resource, now: Timestamp) {
    want(instance, Desired::Stopped);
    instance.set(AFTER_STOP, AFTER_STOP_REMOVE);
    settle(instance, now);
}

/// It has come to rest: stopped, and on to what was to follow.
pub(super) fn settle(instance: &mut Resource, now: Timestamp) {
    instance.enter(State::Stopped);
    if instance.get::<String>(AFTER_STOP).as_deref() == Some(AFTER_STOP_REMOVE) {
        instance.set(AFTER_STOP, Value::Null);
        if let Next::Write(removed) = drive(&Resource { state: State::Removing, ..instance.clone() }, now) {
            *instance = *removed;
        }
    }
}

/// Whether the claim is to be given up now that it is down.
pub fn to_deallocate(instance: &Resource) -> bool {
    instance.get::<String>(AFTER_STOP).as_deref() == Some(AFTER_STOP_DEALLOCATE) || moving_away(instance)
}

/// Given up: another host may have it at its next start, which is at once where it is moving.
pub fn deallocated(instance: &Resource) -> Resource {
    let mut free = instance.clone();
    if moving_away(instance) && instance.state == State::Stopped {
        free.enter(State::Starting);
        want(&mut free, Desired::Running);
    }
    for field in [AFTER_STOP, instance::HOST, instance::HOST_NAME, instance::ADDRESS, instance::EXTERNAL_ID] {
        free.set(field, Value::Null);
    }
    port::forget_chosen(&mut free);
    free
}

/// Its host is gone and it has ended there for certain: free to be placed, or at rest where that was wanted.
pub fn moved(instance: &Resource, host: &str, now: Timestamp) -> Resource {
    let mut next = deallocated(instance);
    match (instance::desired(instance), instance.state) {
        (Desired::Running, _) => {
            next.enter(State::Starting);
            next.transitioning_message = Some(format!("its host {host} is gone: on its way to another"));
            want(&mut next, Desired::Running);
            // It was a wish for the beginning; now any of its valid hosts will do.
            next.set(instance::REQUESTED_HOST, Value::Null);
        }
        (Desired::Stopped, _) => return at_rest(instance, now),
        (Desired::Purged, _) => next.enter(State::Purged),
    }
    next
}

/// Its host was taken out of the cluster by force. It may have data there, so it is not started elsewhere by itself.
pub fn host_removed(instance: &Resource, host: &str, now: Timestamp) -> Resource {
    let mut next = deallocated(instance);
    next.set(instance::REQUESTED_HOST, Value::Null);
    match instance::desired(instance) {
        // It was its host's Docker's, and nobody else can begin it anew.
        desired if instance::is_native(instance) && desired != Desired::Purged => vanish(&mut next, now),
        desired if desired == Desired::Running || waits_for_drain(instance) => {
            next.set(STOPPED_BY_DRAIN, Value::Null);
            want(&mut next, Desired::Stopped);
            let message = format!(
                "its host {host} was removed by force, with what it kept there: start it, and it begins anew on another host"
            );
            next.fail(State::Stopped, message);
        }
        Desired::Purged => next.enter(State::Purged),
        _ => return at_rest(instance, now),
    }
    next
}

/// What was on its way down has arrived.
fn at_rest(instance: &Resource, now: Timestamp) -> Resource {
    let mut down = instance.clone();
    if instance.state == State::Stopping {
        settle(&mut down, now);
    }
    down.set(instance::REQUESTED_HOST, Value::Null);
    Resource { generation: instance.generation + 1, ..deallocated(&down) }
}

/// What its host saw, for the generation it acted on. `None` where that changes nothing, or is overtaken.
pub fn observe(instance: &Resource, generation: u64, seen: &Observation, now: Timestamp) -> Option<Resource> {
    // The host acted on what is no longer wanted; it is about to see the newer wish and say something better.
    if generation != instance.generation {
        return None;
    }
    let mut next = instance.clone();
    match (instance::desired(instance), seen) {
        (_, Observation::Native(found)) => next = native::observe(instance, found.as_deref(), now),
        (Desired::Running, Observation::Starting { message }) => {
            match instance.state {
                State::Creating | State::Stopped => next.enter(State::Starting),
                // It ran, and its host has to start it anew: after a reboot, say.
                State::Running => next.enter(State::Restarting),
                _ => {}
            }
            next.transitioning_message.clone_from(message);
        }
        (Desired::Running, Observation::Running { external_id, started_at }) => {
            let same = instance.get::<String>(instance::EXTERNAL_ID).as_ref() == Some(external_id)
                && instance.get(instance::STARTED_AT) == Some(*started_at);
            if same && instance.state == State::Running {
                // No news: what failed meanwhile, like a stop, is still to be read.
                return None;
            }
            next.enter(State::Running);
            next.set(instance::EXTERNAL_ID, external_id.as_str());
            next.set(instance::STARTED_AT, *started_at);
            if instance.get::<i64>(instance::FIRST_RUNNING).is_none() {
                next.set(instance::FIRST_RUNNING, now.0);
            }
        }
        (Desired::Running, Observation::Ended { exit_code, message }) => {
            next.set("exitCode", *exit_code);
            match instance::on_end(instance) {
                OnEnd::Stop => {
                    want(&mut next, Desired::Stopped);
                    next.enter(State::Stopped);
                    next.transitioning_message.clone_from(message);
                }
                OnEnd::Remove => {
                    want(&mut next, Desired::Stopped);
                    next.set(AFTER_STOP, AFTER_STOP_REMOVE);
                    settle(&mut next, now);
                }
                // Its supervisor starts it again; this is what there is to say until then.
                OnEnd::Restart => next.enter(State::Restarting),
            }
        }
        (Desired::Running, Observation::StoppedByAdministrator) => {
            want(&mut next, Desired::Stopped);
            next.enter(State::Stopped);
        }
        (Desired::Running, Observation::Failed { message }) => {
            want(&mut next, Desired::Stopped);
            next.fail(State::Stopped, message.as_str());
        }
        (
            Desired::Stopped,
            Observation::Stopped
            | Observation::Ended { .. }
            | Observation::StoppedByAdministrator
            | Observation::Failed { .. },
        ) if matches!(instance.state, State::Stopping) => {
            if let Observation::Ended { exit_code: Some(exit_code), .. } = seen {
                next.set("exitCode", *exit_code);
            }
            settle(&mut next, now);
        }
        (Desired::Purged, Observation::Purged) => {
            next = deallocated(instance);
            next.enter(State::Purged);
        }
        _ => return None,
    }
    (next != *instance).then_some(next)
}

#[cfg(test)]
mod tests;
