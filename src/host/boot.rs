//! After a reboot with nobody to ask: what this host was running runs again, from its own ledger.

use super::chain;
use crate::resource::assignment::{Assignment, Desired};
use crate::store::ledger::{EndReason, Ledger, Phase};
use crate::systemd::Supervision;
use std::time::Duration;

/// How long one start is waited for.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Starts what the ledger says was to run and whose supervisor is not there. What ended by itself, or was stopped by an
/// administrator before the cluster heard of it, stays down; and so does what may run on another host by now.
pub async fn start_known(ledger: &Ledger, supervision: &dyn Supervision) {
    let assignments = match ledger.assignments() {
        Ok((found, _)) => found,
        Err(error) => {
            tracing::error!(error = chain(&error), "the ledger cannot be read");
            return;
        }
    };
    let wanted = assignments.into_iter().filter(|known| known.desired == Desired::Running && known.exclusive.is_none());
    let starts = wanted.map(|known| async move {
        match supervision.state(&known.id).await {
            Ok(state) if state.alive() => {}
            // After the state: what ended a moment ago has said so before its unit went down.
            Ok(_) if has_ended(ledger, &known) => {}
            Ok(_) => match supervision.start(&known.id, START_LIMIT).await {
                Ok(state) => tracing::info!(instance = known.id, ?state, "started from the ledger"),
                Err(error) => {
                    tracing::warn!(instance = known.id, error = chain(&error), "cannot be started from the ledger");
                }
            },
            Err(error) => tracing::warn!(instance = known.id, error = chain(&error), "its unit cannot be seen"),
        }
    });
    futures::future::join_all(starts).await;
}

/// Whether it ended by itself, was stopped, or could not be started, since this was wanted of it.
fn has_ended(ledger: &Ledger, known: &Assignment) -> bool {
    let ended = |phase: &Phase| {
        matches!(phase, Phase::Ended { reason: EndReason::Own | EndReason::Asked, .. } | Phase::Failed { .. })
    };
    // A report that cannot be read says nothing.
    let report = ledger.report(&known.id).ok().flatten();
    report.is_some_and(|report| report.generation == known.generation && ended(&report.phase))
}
