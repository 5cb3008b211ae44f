//! The supervisor's report: written to the ledger first, told to systemd then.

use super::Options;
use super::decide::last_seen;
use crate::resource::assignment::Assignment;
use crate::store::ledger::{EndReason, Phase, Report};
use std::time::Duration;

pub(super) struct Journal {
    options: Options,
    id: String,
    generation: u64,
    begun: Duration,
    timings: Vec<(String, u64)>,
    /// What the report says now.
    pub phase: Option<Phase>,
    /// Own ends soon after a start, in a row.
    pub short_runs: u32,
    /// It is given up, and may run on.
    pub left: bool,
}

impl Journal {
    /// Goes on from the report of this boot; one of an earlier boot says nothing.
    pub fn open(options: &Options, assignment: &Assignment) -> Self {
        let earlier = options.ledger.report(&assignment.id).unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "the earlier report cannot be read");
            None
        });
        let earlier = earlier.filter(|report| report.boot_id == options.environment.identity.boot_id);
        Self {
            options: options.clone(),
            id: assignment.id.clone(),
            generation: assignment.generation,
            begun: options.environment.clock.boottime(),
            timings: earlier.as_ref().map(|report| report.timings.clone()).unwrap_or_default(),
            short_runs: earlier.as_ref().map_or(0, |report| report.short_runs),
            phase: earlier.map(|report| report.phase),
            left: false,
        }
    }

    /// What ran when somebody last looked.
    pub fn last_seen(&self) -> Option<(&str, Option<i64>)> {
        self.phase.as_ref().and_then(last_seen)
    }

    /// Notes how long it took from the beginning until now.
    pub fn time(&mut self, what: &str) {
        let taken = self.options.environment.clock.boottime().saturating_sub(self.begun);
        self.timings.push((what.to_owned(), u64::try_from(taken.as_millis()).unwrap_or(u64::MAX)));
    }

    /// The times of another beginning.
    pub fn restart_timings(&mut self) {
        self.begun = self.options.environment.clock.boottime();
        self.timings.clear();
    }

    /// Reports. Where the ledger cannot be written (a full disk), the instance goes on all the same.
    pub fn report(&mut self, phase: Phase) {
        if matches!(phase, Phase::Ended { .. }) {
            self.catch_up();
        }
        let report = Report {
            boot_id: self.options.environment.identity.boot_id.clone(),
            generation: self.generation,
            phase: phase.clone(),
            timings: self.timings.clone(),
            short_runs: self.short_runs,
            left: self.left,
        };
        if let Err(error) = self.options.ledger.put_report(&self.id, &report) {
            tracing::error!(error = &error as &dyn std::error::Error, "the report cannot be written");
        }
        let ready = matches!(phase, Phase::Running { .. });
        self.options.announce.status(&words(&phase));
        if ready {
            self.options.announce.ready();
        }
        self.phase = Some(phase);
    }

    /// The ledger may have been written anew while it ran; its end is the end of what is wanted now.
    fn catch_up(&mut self) {
        if let Ok(Some(now)) = self.options.ledger.assignment(&self.id) {
            self.generation = now.generation;
        }
    }

    /// As systemd's start limit would otherwise be over: we are at it.
    pub fn extend(&self, span: Duration) {
        self.options.announce.extend(span);
    }
}

/// For `systemctl status`.
fn words(phase: &Phase) -> String {
    match phase {
        Phase::Pulling { message } => message.clone(),
        Phase::Starting => "starting".to_owned(),
        Phase::Running { external_id, .. } => {
            format!("container {} runs", external_id.get(..12).unwrap_or(external_id))
        }
        Phase::Failed { message } => format!("failed: {message}"),
        Phase::Ended { reason, exit_code, message } => {
            let why = match reason {
                EndReason::Own => "ended by itself",
                EndReason::Asked => "stopped as asked",
                EndReason::DriverGone => "waiting for its daemon",
                EndReason::Shutdown => "stopped with the machine",
                EndReason::Fenced => "fenced",
            };
            let code = exit_code.map(|code| format!(", exit code {code}")).unwrap_or_default();
            let message = message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
            format!("{why}{code}{message}")
        }
    }
}
