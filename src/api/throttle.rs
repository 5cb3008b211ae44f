//! Slows down who guesses: after each failure, the next try under the same key waits twice as long.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(250);
/// A try that would wait longer is turned away.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
const FORGOTTEN: Duration = Duration::from_secs(900);
/// So many are remembered; past it, the oldest go.
const MOST: usize = 10_000;

/// See the module's text.
#[derive(Debug)]
pub struct Throttle<K>(Mutex<HashMap<K, Failures>>);

#[derive(Clone, Copy, Debug)]
struct Failures {
    count: u32,
    next_try: Instant,
}

impl<K> Default for Throttle<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash> Throttle<K> {
    /// Waits as long as earlier failures ask for; false where that is too long to wait.
    pub async fn take_turn(&self, key: &K) -> bool {
        let until = {
            let mut failures = self.lock();
            let Some(entry) = failures.get_mut(key) else { return true };
            let now = Instant::now();
            let until = entry.next_try.max(now);
            if until - now > LONGEST_WAIT {
                return false;
            }
            // Tries at one time queue up behind each other.
            entry.next_try = until + delay(entry.count);
            until
        };
        tokio::time::sleep_until(until).await;
        true
    }

    /// The number of failures where it is one to be said: the 1st, 2nd, 4th, 8th, enough to see it and too little to fill a
    /// disk.
    pub fn failed(&self, key: K) -> Option<u32> {
        let now = Instant::now();
        let mut failures = self.lock();
        if failures.len() >= MOST {
            failures.retain(|_, entry| entry.next_try + FORGOTTEN > now);
        }
        if failures.len() >= MOST {
            failures.clear();
        }
        let entry = failures.entry(key).or_insert(Failures { count: 0, next_try: now });
        entry.count = if entry.next_try + FORGOTTEN < now { 1 } else { entry.count.saturating_add(1) };
        entry.next_try = entry.next_try.max(now + delay(entry.count));
        entry.count.is_power_of_two().then_some(entry.count)
    }

    pub fn succeeded(&self, key: &K) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Failures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait after so many failures: 250 ms, doubled each time, up to 32 s.
fn delay(failures: u32) -> Duration {
    FIRST_DELAY * (1 << failures.saturating_sub(1).min(7))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_waits_longer_up_to_a_limit() {
        assert_eq!(delay(1), FIRST_DELAY);
        assert!((1..40).all(|count| delay(count) <= delay(count + 1)));
        assert_eq!(delay(u32::MAX), Duration::from_secs(32));
    }

    #[tokio::test(start_paused = true)]
    async fn who_fails_waits_and_who_does_not_is_not_held_up() {
        let throttle = Throttle::default();
        let begun = Instant::now();
        for _ in 0..4 {
            assert!(throttle.take_turn(&"a").await);
            throttle.failed("a");
        }
        assert!(begun.elapsed() >= Duration::from_millis(1750), "{:?}", begun.elapsed());
        assert!(throttle.take_turn(&"b").await);
        for _ in 0..4 {
            throttle.failed("a");
        }
        assert!(!throttle.take_turn(&"a").await);
        throttle.succeeded(&"a");
        assert!(throttle.take_turn(&"a").await);
    }
}
