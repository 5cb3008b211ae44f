//! Units, notify and watchdog over D-Bus; the process fallback where systemd is not PID 1.
//!
//! Each instance runs under `stampede-instance@<id>.service`. The agent starts and stops those units and is told when
//! one changes; it asks for nothing at intervals. Two things stand behind [`Supervision`]: [`units::Units`], systemd
//! over D-Bus, and [`fallback::Tasks`], the same supervisors as tasks of the agent, for machines without systemd.
//!
//! What a change *means* (ended by itself, asked to, Docker gone) is in the report that the supervisor leaves in the
//! ledger; a unit's state only says whether a supervisor is at work. A signal is a hint to look, never the news itself,
//! so one that is lost, late or doubled does no harm.

pub mod bus;
pub mod fallback;
pub mod keep;
pub mod notify;
pub mod shutdown;
pub mod units;

use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The supervisor's exit code: the instance ended and is to be started again; the wait for it is over.
pub const EXIT_AGAIN: u8 = 80;
/// The supervisor's exit code: the instance ended and stays so.
pub const EXIT_ENDED: u8 = 81;

/// Whether systemd is this machine's first process.
pub fn booted() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What went wrong between us and systemd.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("systemd cannot be reached over D-Bus")]
    Lost,
    #[error("cannot connect to the system bus")]
    Connect { source: zbus::Error },
    #[error("cannot {action} {unit}")]
    Call { action: &'static str, unit: String, source: zbus::Error },
    #[error("cannot {action}: no answer from systemd within {}s", limit.as_secs())]
    Late { action: &'static str, limit: Duration },
}

/// What a supervisor's unit is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnitState {
    /// The supervisor has said that its instance runs.
    Active,
    /// The supervisor is at work on it (pulling, creating, waiting for Docker), or waits to be started again.
    Activating,
    Deactivating,
    /// It ended as it should; systemd forgets the exit code soon after.
    Inactive {
        exit_code: Option<i32>,
    },
    /// It ended as it should not (`result` is systemd's word: `timeout`, `signal`, `exit-code`).
    Failed {
        result: String,
        exit_code: Option<i32>,
    },
    /// Systemd has nothing of that name in memory.
    NotLoaded,
}

impl UnitState {
    /// Whether a supervisor is there, or about to be.
    pub const fn alive(&self) -> bool {
        matches!(self, Self::Active | Self::Activating | Self::Deactivating)
    }
}

/// A reason to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something about this instance's supervisor.
    Instance(String),
    /// Changes may have been missed: look at all of them.
    Resync,
}

/// Who keeps the supervisors.
#[async_trait::async_trait]
pub trait Supervision: Send + Sync + std::fmt::Debug {
    /// Starts the supervisor of `id`, or leaves one that is there. Returns when its instance runs, when it has failed,
    /// or after `limit`; the state that it found tells which.
    ///
    /// # Errors
    /// Where systemd refuses or is not there.
    async fn start(&self, id: &str, limit: Duration) -> Result<UnitState, Error>;

    /// Stops the supervisor of `id`, which stops its instance. Fine where there is none. Returns as `start` does.
    ///
    /// # Errors
    /// Where systemd refuses or is not there.
    async fn stop(&self, id: &str, limit: Duration) -> Result<UnitState, Error>;

    /// # Errors
    /// Where systemd is not there.
    async fn state(&self, id: &str) -> Result<UnitState, Error>;

    /// Every supervisor there is a trace of.
    ///
    /// # Errors
    /// Where systemd is not there.
    async fn list(&self) -> Result<BTreeMap<String, UnitState>, Error>;

    /// Takes away what is left of the supervisor of `id`, which is down: that it failed, and its slice. Fine where nothing is.
    ///
    /// # Errors
    /// Where systemd refuses or is not there.
    async fn forget(&self, id: &str) -> Result<(), Error>;

    /// Changes from now on. Never ends; a gap shows as [`Change::Resync`].
    fn changes(&self) -> BoxStream<'static, Change>;
}

/// The unit of an instance.
pub fn unit_name(id: &str) -> String {
    format!("stampede-instance@{id}.service")
}

/// The instance of a unit; `None` where it is no instance's unit.
pub fn instance_of(unit: &str) -> Option<&str> {
    let id = unit.strip_prefix("stampede-instance@")?.strip_suffix(".service")?;
    (!id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric())).then_some(id)
}

/// The slice that holds an instance's unit and its container. Named by the whole id, since a unit's `Slice=` can only be
/// made from `%i`.
pub fn slice_name(id: &str) -> String {
    format!("stampede-{id}.slice")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_names_its_instance() {
        assert_eq!(instance_of(&unit_name("1i54")), Some("1i54"));
        for other in
            ["stampede.service", "stampede-instance@.service", "stampede-instance@a-b.service", "docker.service"]
        {
            assert_eq!(instance_of(other), None, "{other}");
        }
    }
}
