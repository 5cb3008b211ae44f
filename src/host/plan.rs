//! What is to be done for one instance on this host: a pure function from what is wanted and what is there.
//!
//! Nothing here waits, reads or writes. Steps are done in order and each may be done again; after them it is looked at
//! anew, until there is nothing left to do but to say what is.

use crate::orchestration::lifecycle::Observation;
use crate::resource::assignment::{Assignment, Desired, OnEnd};
use crate::store::ledger::{EndReason, Phase, Report};

/// What the cluster wants here: the claim, and the instance as it was written with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    pub assignment: Assignment,
    /// Nothing of it is to be left.
    pub purge: bool,
    /// Once it is down, the host is given up and takes its container away.
    pub deallocate: bool,
}

/// How the instance's unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Its supervisor says that the instance runs.
    Up,
    /// Its supervisor starts, stops, or is about to be started again.
    Moving,
    Down,
    /// Down, and systemd calls it failed: killed, or ended before it said that it was ready.
    Failed,
    /// Down, and what it stood by runs all the same: Docker was not there to stop it.
    Left,
}

/// What is there.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `None`: this host holds no claim on it.
    pub wanted: Option<Wanted>,
    /// With no claim: whether it was purged, and may be taken away.
    pub tombstone: bool,
    /// With no claim: whether the cluster says that it is on another host, or on none.
    pub elsewhere: bool,
    pub ledger: Option<Assignment>,
    /// Its supervisor's last word, of this boot only.
    pub report: Option<Report>,
    pub unit: Unit,
    /// Who else has its address on this host.
    pub occupied: Option<String>,
}

impl Seen {
    /// Whether its unit is down and is to be: only its driver knows then that nothing of it runs.
    pub fn is_to_be_down(&self) -> bool {
        let wanted = match &self.wanted {
            Some(wanted) => wanted.assignment.desired == Desired::Running,
            None => self.ledger.is_none(),
        };
        !wanted && is_down(self)
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    WriteLedger(Box<Assignment>),
    ForgetReport,
    StopUnit,
    StartUnit,
    /// The container and what Docker keeps for it.
    RemoveWorkload,
    ForgetLedger,
    Say(Observation),
    /// It runs here and the cluster knows nothing of it: left alone, and shown.
    Quarantine,
}

/// See the module's text.
pub fn plan(seen: &Seen) -> Vec<Step> {
    match &seen.wanted {
        None => unclaimed(seen),
        Some(wanted) if wanted.purge => {
            let mut steps = down(seen);
            steps.extend([Step::RemoveWorkload, Step::ForgetLedger, Step::Say(Observation::Purged)]);
            steps
        }
        Some(wanted) => match wanted.assignment.desired {
            Desired::Running => running(seen, wanted),
            Desired::Stopped | Desired::Purged => stopped(seen, wanted),
        },
    }
}

fn unclaimed(seen: &Seen) -> Vec<Step> {
    let Some(known) = &seen.ledger else { return Vec::new() };
    let exclusive = known.exclusive.is_some();
    let mut steps = Vec::new();
    if seen.tombstone || seen.elsewhere || exclusive {
        steps.extend(down(seen));
    }
    if seen.tombstone || (seen.elsewhere && exclusive) {
        steps.extend([Step::RemoveWorkload, Step::ForgetLedger]);
    } else {
        // What was taken from a host by force may have left its data there: that is for people to decide.
        steps.push(Step::Quarantine);
    }
    steps
}

fn down(seen: &Seen) -> Vec<Step> {
    if is_down(seen) { Vec::new() } else { vec![Step::StopUnit] }
}

fn is_down(seen: &Seen) -> bool {
    matches!(seen.unit, Unit::Down | Unit::Failed)
}

fn ledger(seen: &Seen, wanted: &Wanted) -> Option<Step> {
    let written = seen.ledger.as_ref() == Some(&wanted.assignment);
    (!written).then(|| Step::WriteLedger(Box::new(wanted.assignment.clone())))
}

/// Whether the ledger says so already, but for ports, links and whose it is, which are no matter of what runs.
fn runs_so(seen: &Seen, wanted: &Wanted) -> bool {
    let Assignment { ports, links, account, .. } = &wanted.assignment;
    let so = |known| Assignment { ports: ports.clone(), links: links.clone(), account: *account, ..known };
    let known = seen.ledger.clone().map(so);
    known.as_ref() == Some(&wanted.assignment)
}

fn stopped(seen: &Seen, wanted: &Wanted) -> Vec<Step> {
    // The ledger first: whatever starts the unit from now on, it does nothing.
    let mut steps: Vec<Step> = ledger(seen, wanted).into_iter().collect();
    steps.extend(down(seen));
    if wanted.deallocate {
        steps.extend([Step::RemoveWorkload, Step::ForgetLedger]);
    }
    steps.push(Step::Say(Observation::Stopped));
    steps
}

fn running(seen: &Seen, wanted: &Wanted) -> Vec<Step> {
    let again = seen.ledger.as_ref().is_some_and(|known| {
        // Another address: a store that went back did not know that it is here, and gave it its place anew.
        let given = known.address().zip(wanted.assignment.address());
        known.restarts != wanted.assignment.restarts || given.is_some_and(|(known, wanted)| known != wanted)
    });
    let may_run = !is_down(seen) || seen.report.as_ref().is_some_and(|report| runs(&report.phase).is_some());
    if again && may_run {
        // The ledger last: what the supervisor says at its end then carries the old generation and does not count.
        let mut steps = vec![Step::StopUnit, Step::ForgetReport];
        steps.extend(start(seen, wanted));
        return steps;
    }
    // What was said of an earlier wish does not count, nor of an earlier place: a store that went back counts generations
    // anew, and a stop of ours for the sake of the new place would be taken for an administrator's. A unit that is up is believed.
    let said = seen.report.as_ref();
    let counted = said.filter(|report| report.generation == wanted.assignment.generation && !again);
    match seen.unit {
        Unit::Up => {
            let mut steps: Vec<Step> = ledger(seen, wanted).into_iter().collect();
            steps.extend(said.and_then(|report| runs(&report.phase)).map(Step::Say));
            steps
        }
        Unit::Moving => {
            let mut steps: Vec<Step> = ledger(seen, wanted).into_iter().collect();
            steps.extend(counted.and_then(|report| moving_report(report, wanted)).map(Step::Say));
            steps
        }
        Unit::Down | Unit::Failed | Unit::Left => match counted.map(|report| &report.phase) {
            Some(Phase::Ended { reason: EndReason::Own, exit_code, message }) => {
                vec![Step::Say(Observation::Ended { exit_code: *exit_code, message: message.clone() })]
            }
            Some(Phase::Ended { reason: EndReason::Asked, .. }) => {
                vec![Step::Say(Observation::StoppedByAdministrator)]
            }
            Some(Phase::Failed { message }) => vec![Step::Say(Observation::Failed { message: message.clone() })],
            // Its supervisor was not there yet, or is not any more: the next one goes on from this report.
            Some(Phase::Running { .. }) if seen.occupied.is_none() && runs_so(seen, wanted) => {
                ledger(seen, wanted).into_iter().chain([Step::StartUnit]).collect()
            }
            // Never started, or the machine went down, or Docker did: it is to run.
            _ => start(seen, wanted),
        },
    }
}

fn start(seen: &Seen, wanted: &Wanted) -> Vec<Step> {
    if let Some(other) = &seen.occupied {
        let message = format!("its address is in use on this host by {other}, which the cluster knows nothing of");
        return vec![Step::Say(Observation::Starting { message: Some(message) })];
    }
    let mut steps = Vec::new();
    if seen.report.is_some() {
        steps.push(Step::ForgetReport);
    }
    steps.extend(ledger(seen, wanted));
    steps.push(Step::Say(Observation::Starting { message: seen.report.as_ref().and_then(fenced) }));
    steps.push(Step::StartUnit);
    steps
}

fn fenced(report: &Report) -> Option<String> {
    let fenced = matches!(report.phase, Phase::Ended { reason: EndReason::Fenced, .. });
    fenced.then(|| "its host could not reach the cluster in time, so it was ended there".to_owned())
}

/// What is said of a report that it runs.
pub fn runs(phase: &Phase) -> Option<Observation> {
    match phase {
        Phase::Running { external_id, started_at } => {
            Some(Observation::Running { external_id: external_id.clone(), started_at: *started_at })
        }
        _ => None,
    }
}

fn moving_report(report: &Report, wanted: &Wanted) -> Option<Observation> {
    match &report.phase {
        Phase::Pulling { message } => Some(Observation::Starting { message: Some(message.clone()) }),
        // Its supervisor waits a while and starts it again.
        Phase::Ended { reason: EndReason::Own, exit_code, message } if wanted.assignment.on_end == OnEnd::Restart => {
            Some(Observation::Ended { exit_code: *exit_code, message: message.clone() })
        }
        Phase::Ended { reason: EndReason::DriverGone, .. } => {
            Some(Observation::Starting { message: Some(format!("{} is not there; waiting for it", daemon(wanted))) })
        }
        _ => None,
    }
}

const fn daemon(wanted: &Wanted) -> &'static str {
    if wanted.assignment.workload.is_machine() { "libvirt" } else { "Docker" }
}

#[cfg(test)]
mod tests;
