//! Which transitions a resource went through last, when, and how they ended: kept in the row itself, and written with it,
//! so that it costs no write of its own. Shown as `processInstance` and `processExecution`.

use super::{Resource, State, Transitioning, instance, transition};
use crate::environment::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The row's field that it lies in. No type declares it.
const TRAIL: &str = "trail";
/// So many are kept of each row.
const KEPT: usize = 4;

/// How a transition ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Done,
    Failed,
    /// Something else came before its end: it was asked to stop while it started, or ended by itself.
    Overtaken,
}

/// One transition. Short names: every row has some.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passage {
    /// Counts up within the row.
    #[serde(rename = "n")]
    pub number: u64,
    #[serde(rename = "p")]
    pub action: String,
    #[serde(rename = "b")]
    pub began: Timestamp,
    #[serde(rename = "e", skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    #[serde(rename = "o", skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    #[serde(rename = "m", skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The last ones, the oldest first.
pub fn of(row: &Resource) -> Vec<Passage> {
    row.get(TRAIL).unwrap_or_default()
}

/// `next`, with what it passes by becoming that.
pub fn stamped(base: &str, current: Option<&Resource>, mut next: Resource, now: Timestamp) -> Resource {
    let from = current.map(|current| current.state);
    if from == Some(next.state) {
        return next;
    }
    let mut trail = current.map(of).unwrap_or_default();
    let action = transition::leading_through(base, next.state);
    let on_its_way = action.is_some() && next.state.in_transition();
    if let Some(open) = trail.last_mut().filter(|last| last.ended.is_none()) {
        open.ended = Some(now);
        let failed = next.transitioning == Transitioning::Error;
        let arrived = arrived(base, &open.action, from, next.state);
        open.outcome = Some(if arrived && !failed {
            Outcome::Done
        } else if failed {
            Outcome::Failed
        } else {
            Outcome::Overtaken
        });
        open.message = next.transitioning_message.clone().filter(|_| failed);
    }
    let number = trail.last().map_or(1, |last| last.number + 1);
    let passage = |action: &str, ended: bool| Passage {
        number,
        action: action.to_owned(),
        began: now,
        ended: ended.then_some(now),
        outcome: ended.then_some(Outcome::Done),
        message: None,
    };
    match (from, action) {
        (_, Some(action)) if on_its_way => trail.push(passage(action, false)),
        (None, _) => trail.push(passage("create", true)),
        // What needs no time is over when it begins. An instance that ends was not asked to.
        (Some(from), _) if !from.in_transition() && base != instance::BASE => {
            if let Some(action) = transition::between(base, from, next.state) {
                trail.push(passage(action, true));
            }
        }
        _ => {}
    }
    let forgotten = trail.len().saturating_sub(KEPT);
    trail.drain(..forgotten);
    next.set(TRAIL, if trail.is_empty() { Value::Null } else { json!(trail) });
    next
}

/// Whether what was on its way is where it was to go, or goes on from there.
fn arrived(base: &str, action: &str, from: Option<State>, to: State) -> bool {
    let end = from.and_then(|from| transition::end(base, from));
    let goes_on = matches!(
        (action, to),
        ("create", State::Starting | State::Running)
            | ("create", State::Active)
            | ("stop", State::Starting | State::Removing | State::Removed)
    );
    end == Some(to) || goes_on
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(state: State) -> Resource {
        serde_json::from_value(json!({"id": 7, "kind": "container", "uuid": "u", "created": 5, "state": state}))
            .unwrap()
    }

    /// What becomes of a row that is in one state after another, a second apart.
    fn trail(states: &[State]) -> Vec<(String, i64, Option<Outcome>)> {
        let mut current: Option<Resource> = None;
        for (second, state) in (0..).zip(states) {
            let mut next = current.clone().unwrap_or_else(|| row(*state));
            next.enter(*state);
            current = Some(stamped("instance", current.as_ref(), next, Timestamp(second * 1000)));
        }
        let took = |it: Passage| (it.action, it.ended.map_or(-1, |end| end.0 - it.began.0), it.outcome);
        current.iter().flat_map(of).map(took).collect()
    }

    #[test]
    fn what_ran_how_long_and_what_came_of_it() {
        use State::*;
        let done = Some(Outcome::Done);
        let passed = trail(&[Creating, Starting, Running, Stopping, Stopped, Removing]);
        let expected: [(String, i64, _); 4] = [
            ("create".into(), 1000, done),
            ("start".into(), 1000, done),
            ("stop".into(), 1000, done),
            ("remove".into(), -1, None),
        ];
        assert_eq!(passed, expected);
        let overtaken = trail(&[Creating, Starting, Stopping, Stopped]);
        assert_eq!(overtaken[1], ("start".into(), 1000, Some(Outcome::Overtaken)));
        assert_eq!(trail(&[Stopped]), [("create".into(), 0, done)]);
        assert_eq!(trail(&[Creating, Starting, Running, Stopped]).len(), 2, "it ended by itself: nobody asked");
    }

    #[test]
    fn what_failed_says_why_and_only_the_last_are_kept() {
        let starting = stamped("instance", Some(&row(State::Stopped)), row(State::Starting), Timestamp(1));
        let mut failed = starting.clone();
        failed.fail(State::Stopped, "no such image");
        let last = of(&stamped("instance", Some(&starting), failed, Timestamp(5))).pop().unwrap();
        assert_eq!((last.outcome, last.message.as_deref()), (Some(Outcome::Failed), Some("no such image")));
        let many = trail(&[State::Stopped, State::Starting, State::Running].repeat(9));
        assert_eq!(many.len(), KEPT);
    }
}
