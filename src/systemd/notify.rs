//! What a service tells systemd of itself (sd_notify), and the watchdog.
//!
//! A supervisor speaks through [`Announce`], so that the same supervisor runs as a service ([`Service`]) and as a task
//! of the agent ([`super::fallback`]). Outside systemd all of it is silence.

use crate::environment::Environment;
use sd_notify::NotifyState;
use std::time::Duration;

/// What a supervisor says while it works. Never fails: nothing hangs on being heard.
pub trait Announce: Send + Sync + std::fmt::Debug {
    /// The instance runs.
    fn ready(&self);
    /// How far it is, in a few words. Systemd passes a change of it on to whoever watches the unit, so it also tells the
    /// agent that the report has changed: write that first.
    fn status(&self, text: &str);
    /// Getting there takes longer: count the start's limit from now on, `span` long.
    fn extend(&self, span: Duration);
    /// It is about to end.
    fn stopping(&self);
}

/// A service of systemd's.
#[derive(Debug, Clone, Copy)]
pub struct Service;

impl Announce for Service {
    fn ready(&self) {
        send(&[NotifyState::Ready]);
    }

    fn status(&self, text: &str) {
        // A line's end would begin another assignment.
        send(&[NotifyState::Status(&text.replace(['\n', '\r'], " "))]);
    }

    fn extend(&self, span: Duration) {
        send(&[NotifyState::ExtendTimeoutUsec(u32::try_from(span.as_micros()).unwrap_or(u32::MAX))]);
    }

    fn stopping(&self) {
        send(&[NotifyState::Stopping]);
    }
}

fn send(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd did not take a notification");
    }
}

/// The watchdog, fed by progress alone: whoever does the work calls [`Watchdog::progress`] each time round, and no
/// timer calls it for them.
#[derive(Debug)]
pub struct Watchdog {
    environment: Environment,
    interval: Option<Duration>,
    fed: Option<Duration>,
}

impl Watchdog {
    /// As systemd asks for it (`WatchdogSec=`); without systemd it does nothing.
    pub fn of_service(environment: &Environment) -> Self {
        Self { environment: environment.clone(), interval: sd_notify::watchdog_enabled(), fed: None }
    }

    /// At most how long the work may stand still between two calls of `progress`: a third of systemd's limit.
    pub fn interval(&self) -> Option<Duration> {
        self.interval.map(|interval| interval / 3)
    }

    /// The work got on. Sent when it is worth a message, at most ten in systemd's limit.
    pub fn progress(&mut self) {
        let Some(interval) = self.interval else { return };
        let now = self.environment.clock.boottime();
        if self.fed.is_none_or(|fed| now.saturating_sub(fed) >= interval / 10) {
            send(&[NotifyState::Watchdog]);
            self.fed = Some(now);
        }
    }
}
