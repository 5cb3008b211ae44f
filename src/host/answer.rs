//! What this host's agent answers another that asks whether it is gone ([`crate::membership::peers`]).

use crate::environment::Environment;
use crate::membership::Membership;
use crate::membership::fence::DeadlineFile;
use crate::membership::peers::{self, Answer};
use crate::resource::assignment::{Assignment, Token};
use crate::store::ledger::{EndReason, Ledger, Phase};
use crate::systemd::Supervision;
use std::path::Path;

/// The answer, from what is on the disk and what systemd says now.
pub async fn answer(
    membership: &Membership,
    environment: &Environment,
    run_directory: &Path,
    ledger: &Ledger,
    supervision: &dyn Supervision,
) -> Answer {
    let assignments = ledger.assignments().map(|(found, _)| found).unwrap_or_default();
    let exclusive: Vec<Assignment> = assignments.into_iter().filter(|known| known.exclusive.is_some()).collect();
    // First: what is started from now on knows of it, and what was started before shows.
    membership.give_up(exclusive.iter().map(|known| known.token));
    let looks = exclusive.into_iter().map(|known| async move { ended(environment, ledger, supervision, &known).await });
    let ended: Vec<Token> = futures::future::join_all(looks).await.into_iter().flatten().collect();
    let liveness = *membership.liveness().borrow();
    let fence = DeadlineFile::new(run_directory, &environment.identity.boot_id).read();
    peers::answer(liveness, fence, environment.clock.boottime(), ended)
}

/// Its claim, where it was ended by the fence and its supervisor is down.
async fn ended(
    environment: &Environment,
    ledger: &Ledger,
    supervision: &dyn Supervision,
    known: &Assignment,
) -> Option<Token> {
    let report = ledger.report(&known.id).ok().flatten()?;
    let fenced = matches!(report.phase, Phase::Ended { reason: EndReason::Fenced, .. });
    let down = supervision.state(&known.id).await.is_ok_and(|state| !state.alive());
    (fenced && down && report.boot_id == environment.identity.boot_id).then_some(known.token)
}
