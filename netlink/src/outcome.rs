//! What became of a plan.

use crate::Error;

/// The changes a reconcile made and those that failed. One that fails stops none of the others; the next
/// run tries it again, because the dump still differs.
#[derive(Debug)]
#[must_use = "changes may have failed"]
pub struct Outcome<C> {
    /// Changes that were made, in order.
    pub made: Vec<C>,
    /// Changes that failed, each with why.
    pub failed: Vec<(C, Error)>,
}

impl<C> Outcome<C> {
    pub(crate) fn new() -> Self {
        Self { made: Vec::new(), failed: Vec::new() }
    }

    pub(crate) fn record(&mut self, change: C, result: Result<(), Error>) {
        match result {
            Ok(()) => self.made.push(change),
            Err(error) => self.failed.push((change, error)),
        }
    }

    /// Nothing had to be done: it was as it should be.
    pub fn is_unchanged(&self) -> bool {
        self.made.is_empty() && self.failed.is_empty()
    }

    /// How many changes were planned.
    pub fn planned(&self) -> usize {
        self.made.len() + self.failed.len()
    }

    /// The changes made, or the first failure, for callers that need all or an error.
    pub fn into_result(mut self) -> Result<Vec<C>, Error> {
        if self.failed.is_empty() { Ok(self.made) } else { Err(self.failed.swap_remove(0).1) }
    }
}
