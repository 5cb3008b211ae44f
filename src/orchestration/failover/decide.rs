//! What becomes of one instance whose host is gone. Pure.

use crate::environment::Timestamp;
use crate::membership::lost::{Lost, Word};
use crate::orchestration::lifecycle;
use crate::resource::{Resource, instance};
use std::time::Duration;

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// It waits for its host.
    Stay,
    /// Not before then.
    Later(Timestamp),
    /// It would move, were there not too many hosts gone at once.
    Paused,
    /// Its claim is given up; this is its row then.
    Off(Box<Resource>),
}

/// `ended`: nothing of it runs there any more, for certain.
pub fn decide(row: &Resource, host: &str, lost: &Lost, ended: bool, paused: bool, now: Timestamp) -> Fate {
    if !instance::is_exclusive(row) {
        return match lost.word {
            Some(Word::Remove) => Fate::Off(Box::new(lifecycle::host_removed(row, host, now))),
            _ => Fate::Stay,
        };
    }
    if !ended {
        return Fate::Stay;
    }
    if lost.word.is_none() {
        if paused {
            return Fate::Paused;
        }
        let grace = Duration::from_secs(row.get(instance::HOST_LOSS_GRACE).unwrap_or(0));
        let due = lost.since.after(grace);
        if due > now {
            return Fate::Later(due);
        }
    }
    Fate::Off(Box::new(lifecycle::moved(row, host, now)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::assignment::Desired;
    use crate::resource::{State, Transitioning};
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(100_000);

    fn row(state: State, desired: Desired, on_host_loss: &str, grace: u64) -> Resource {
        serde_json::from_value(json!({
            "id": 7, "kind": "container", "uuid": "u", "created": 1000, "state": state, "generation": 3, "hostName": "h2",
            "hostId": 2, "desired": desired, "primaryIpAddress": "10.42.0.9", "requestedHostId": 2,
            "onHostLoss": on_host_loss, "hostLossGraceSeconds": grace,
        }))
        .unwrap()
    }

    fn lost(word: Option<Word>) -> Lost {
        Lost { word, ..Lost::new(Timestamp(90_000), None) }
    }

    fn off(fate: Fate) -> Resource {
        match fate {
            Fate::Off(row) => *row,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_moves_is_to_be_placed_again() {
        let running = row(State::Running, Desired::Running, "move", 0);
        let next = off(decide(&running, "h2", &lost(None), true, false, NOW));
        assert!(!lifecycle::placed(&next) && next.generation > running.generation);
        assert_eq!(lifecycle::drive(&next, NOW), lifecycle::Next::Place);
        assert_eq!(next.get::<u64>(instance::REQUESTED_HOST), None);
        // What was on its way down has arrived.
        let stopping = row(State::Stopping, Desired::Stopped, "move", 0);
        let next = off(decide(&stopping, "h2", &lost(None), true, false, NOW));
        assert_eq!((next.state, lifecycle::placed(&next)), (State::Stopped, false));
        let purging = row(State::Purging, Desired::Purged, "move", 0);
        assert_eq!(off(decide(&purging, "h2", &lost(None), true, false, NOW)).state, State::Purged);
    }

    #[test]
    fn grace_and_pause_hold_it_back_and_the_operator_does_not_wait() {
        let running = row(State::Running, Desired::Running, "move", 30);
        assert_eq!(decide(&running, "h2", &lost(None), true, false, NOW), Fate::Later(Timestamp(120_000)));
        assert_eq!(decide(&running, "h2", &lost(None), true, true, NOW), Fate::Paused);
        for word in [Word::Move, Word::Remove] {
            off(decide(&running, "h2", &lost(Some(word)), true, true, NOW));
        }
    }

    #[test]
    fn what_stays_goes_only_with_its_host() {
        let running = row(State::Running, Desired::Running, "stay", 0);
        assert_eq!(decide(&running, "h2", &lost(Some(Word::Move)), true, false, NOW), Fate::Stay);
        let next = off(decide(&running, "h2", &lost(Some(Word::Remove)), true, false, NOW));
        assert_eq!((next.state, next.transitioning), (State::Stopped, Transitioning::Error));
        assert_eq!((instance::desired(&next), lifecycle::placed(&next)), (Desired::Stopped, false));
        assert_eq!(lifecycle::drive(&next, NOW), lifecycle::Next::Nothing);
    }

    #[test]
    fn what_a_drain_stopped_says_that_it_is_down_for_good() {
        let running = row(State::Running, Desired::Running, "stay", 0);
        let down = lifecycle::stop_for_drain(&running).unwrap();
        let next = off(decide(&down, "h2", &lost(Some(Word::Remove)), true, false, NOW));
        assert_eq!((next.state, next.transitioning), (State::Stopped, Transitioning::Error));
        assert!(!lifecycle::stopped_by_drain(&next));
        let stopped = row(State::Stopping, Desired::Stopped, "stay", 0);
        let next = off(decide(&stopped, "h2", &lost(Some(Word::Remove)), true, false, NOW));
        assert_eq!((next.state, next.transitioning), (State::Stopped, Transitioning::No), "somebody wanted it so");
    }

    proptest! {
        #[test]
        fn nothing_exclusive_moves_before_it_has_ended(
            state in prop::sample::select(State::ALL), word in prop::sample::select(vec![None, Some(Word::Move), Some(Word::Remove)]),
            paused: bool, grace in 0..100_u64,
        ) {
            let row = row(state, Desired::Running, "move", grace);
            prop_assert_eq!(decide(&row, "h2", &lost(word), false, paused, NOW), Fate::Stay);
        }
    }
}
