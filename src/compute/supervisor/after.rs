//! After a supervisor has ended, in whatever way: nobody holds the timer of its instance any more.

use super::journal::Journal;
use super::{Options, allowed};
use crate::membership::fence::DeadlineFile;
use crate::store::ledger::{EndReason, Error, Phase};
use std::time::Duration;

/// Between two looks at what is being killed.
const KILLING: Duration = Duration::from_millis(20);

/// Ends `id` where it must not run twice and is past its deadline.
///
/// # Errors
/// Where the ledger cannot be read.
pub async fn end_if_past(id: &str, options: &Options) -> Result<(), Error> {
    let Some(assignment) = options.ledger.assignment(id)? else { return Ok(()) };
    let Some(exclusive) = assignment.exclusive else { return Ok(()) };
    let file = DeadlineFile::new(&options.runtime, &options.environment.identity.boot_id);
    if allowed(exclusive, &file, &options.environment).is_some() {
        return Ok(());
    }
    let report = options.ledger.report(id)?;
    let external_id = match report.as_ref().map(|report| &report.phase) {
        Some(Phase::Running { external_id, .. }) => Some(external_id.clone()),
        _ => None,
    };
    while options.fencing.killer.end(id, external_id.as_deref()).running {
        tokio::time::sleep(KILLING).await;
    }
    if external_id.is_some() {
        let message = Some("its supervisor had ended, and the cluster could not be reached in time".to_owned());
        let ended = Phase::Ended { reason: EndReason::Fenced, exit_code: None, message };
        Journal::open(options, &assignment).report(ended);
    }
    Ok(())
}
