//! Waiting for a store that cannot be reached: it is said once, and tried until it answers.

use crate::environment::{Backoff, Environment};
use crate::store::Error;
use std::time::Duration;

/// Whether trying again helps.
pub trait Passing: std::fmt::Display {
    fn passes(&self) -> bool;
}

impl Passing for Error {
    fn passes(&self) -> bool {
        // `step` looks at what is before it writes, so an unknown outcome is found out by doing it again.
        matches!(self, Self::Unavailable { .. } | Self::OutcomeUnknown { .. })
    }
}

/// Waits through errors that pass. There is no limit: a host without its store has nothing else to do than to wait; drop
/// the future to give up.
///
/// ```text
/// loop { if let Some(result) = patience.settle(step().await).await { break result } }
/// ```
/// The step must be one that can run again.
#[derive(Debug)]
pub struct Patience {
    what: &'static str,
    backoff: Backoff,
    told: bool,
}

impl Patience {
    pub fn new(environment: &Environment, what: &'static str) -> Self {
        let backoff = Backoff::new(environment, Duration::from_millis(200), Duration::from_secs(5));
        Self { what, backoff, told: false }
    }

    /// The result if it is final; else `None`, after a while.
    pub async fn settle<T, E: Passing>(&mut self, result: Result<T, E>) -> Option<Result<T, E>> {
        match result {
            Err(error) if error.passes() => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(what = self.what, %error, "waiting for the store");
                }
                self.backoff.wait().await;
                None
            }
            result => {
                if self.told && result.is_ok() {
                    tracing::info!(what = self.what, "the store answers again");
                }
                Some(result)
            }
        }
    }
}
