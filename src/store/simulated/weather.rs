//! How well the store and the ways to it are: what is drawn for each call and each message of a watch.

use crate::environment::Environment;
use std::time::Duration;

/// Chances are in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// How long a message takes at the most, one way.
    pub latency: Duration,
    /// So many messages take much longer, up to `slow_for`.
    pub slow: u32,
    pub slow_for: Duration,
    /// Calls refused before anything was done.
    pub refused: u32,
    /// Calls that are lost on their way there: nothing is done.
    pub lost: u32,
    /// Calls whose answer is lost: it is done.
    pub unanswered: u32,
    /// Writes that are done a while after their caller gave up.
    pub late: u32,
    pub late_for: Duration,
    /// How far a watch lags behind at the most; a slow message of a watch lags by `slow_for`.
    pub lag: Duration,
    /// Messages of a watch at which it breaks off.
    pub broken: u32,
}

/// What becomes of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    Refused,
    Lost,
    Unanswered,
    /// Done this long after it was sent, and never answered.
    Late(Duration),
}

/// One call's way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Course {
    pub there: Duration,
    pub back: Duration,
    pub fate: Fate,
}

impl Weather {
    /// No wind at all.
    pub fn still() -> Self {
        Self::default()
    }

    fn is_still(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn course(&self, environment: &Environment, writes: bool) -> Course {
        if self.is_still() {
            return Course { there: Duration::ZERO, back: Duration::ZERO, fate: Fate::Done };
        }
        let there = self.span(environment, self.latency);
        let back = self.span(environment, self.latency);
        let mut dice = u32::try_from(environment.below(1000)).unwrap_or(0);
        let mut falls = |chance: u32| {
            let hit = dice < chance;
            dice = dice.saturating_sub(chance);
            hit
        };
        let fate = if falls(self.refused) {
            Fate::Refused
        } else if falls(self.lost) {
            Fate::Lost
        } else if falls(self.unanswered) {
            Fate::Unanswered
        } else if falls(self.late) && writes {
            Fate::Late(part(environment, self.late_for))
        } else {
            Fate::Done
        };
        Course { there, back, fate }
    }

    /// How late a watch tells a change; `None` where it breaks off instead.
    pub(super) fn telling(&self, environment: &Environment) -> Option<Duration> {
        if self.is_still() {
            return Some(Duration::ZERO);
        }
        let breaks = environment.below(1000) < self.broken as usize;
        (!breaks).then(|| self.span(environment, self.lag))
    }

    fn span(&self, environment: &Environment, usual: Duration) -> Duration {
        let slow = self.slow > 0 && environment.below(1000) < self.slow as usize;
        part(environment, if slow { self.slow_for } else { usual })
    }
}

/// Some part of `most`, in whole milliseconds: the clock's own steps.
fn part(environment: &Environment, most: Duration) -> Duration {
    let most = usize::try_from(most.as_millis()).unwrap_or(0);
    Duration::from_millis(environment.below(most + 1) as u64)
}
