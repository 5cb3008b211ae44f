//! `lost/<host>`: that a host was seen gone. Put by who takes over from it, where `alive/` is absent; deleted with the host's next
//! `alive/`, in that same transaction. So there is never both, and a takeover that compares the record's create_revision
//! knows that the host was gone without a break since.

use crate::environment::Timestamp;
use crate::resource::{Resource, State};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// Hosts that go within this are one event.
const AT_ONCE: Duration = Duration::from_secs(60);
/// So many at least are a reason to doubt.
const MANY: usize = 3;

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lost {
    /// When it was seen; for limits of minutes and for people.
    pub since: Timestamp,
    /// Where its agent was last heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What the operator said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub word: Option<Word>,
    /// Why what it ran is not moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An operator's word about a host that is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Word {
    /// Move what moves, now.
    Move,
    /// It never comes back.
    Remove,
}

impl Lost {
    pub fn new(since: Timestamp, address: Option<String>) -> Self {
        Self { since, address, word: None, message: None, rest: Map::new() }
    }

    /// Adds to a host's row what is known.
    pub fn show(&self, row: &mut Resource) {
        if self.word == Some(Word::Remove) {
            row.enter(State::Removing);
        }
        row.transitioning_message.clone_from(&self.message);
    }
}

/// Whether so many hosts went at once that moving waits for them or for the operator: more than a third, and three at
/// least, within a minute. `since` has one for each host that is gone. Returns how many.
pub fn too_many(mut since: Vec<Timestamp>, alive: usize) -> Option<usize> {
    since.sort_unstable();
    let within = |first: usize| since[first..].iter().take_while(|time| **time <= since[first].after(AT_ONCE)).count();
    let most = (0..since.len()).map(within).max()?;
    (most >= MANY && most * 3 > alive + most).then_some(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: &[i64]) -> Vec<Timestamp> {
        seconds.iter().map(|second| Timestamp(second * 1000)).collect()
    }

    #[test]
    fn a_third_and_three_within_a_minute() {
        assert_eq!(too_many(at(&[]), 3), None);
        assert_eq!(too_many(at(&[1, 2]), 1), None, "two of three are no three");
        assert_eq!(too_many(at(&[1, 2, 60]), 2), Some(3));
        assert_eq!(too_many(at(&[1, 2, 60]), 6), None, "a third is not more than a third");
        assert_eq!(too_many(at(&[1, 2, 60]), 5), Some(3));
        assert_eq!(too_many(at(&[1, 40, 80]), 2), None, "not at once");
        assert_eq!(too_many(at(&[0, 400, 410, 420, 430]), 2), Some(4), "an older loss does not hide a newer");
    }

    #[test]
    fn as_it_is_stored() {
        let lost = Lost { word: Some(Word::Remove), ..Lost::new(Timestamp(5), None) };
        assert_eq!(serde_json::to_string(&lost).unwrap(), r#"{"since":5,"word":"remove"}"#);
        let newer = r#"{"since":5,"later":1}"#;
        assert_eq!(serde_json::to_string(&serde_json::from_str::<Lost>(newer).unwrap()).unwrap(), newer);
    }
}
