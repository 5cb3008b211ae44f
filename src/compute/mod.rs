//! Drivers behind one trait: what creates, starts, stops and watches workloads.
//!
//! A driver keeps no state of its own. What it made carries labels that say whose it is, and each call looks there
//! first: called again after a cut, by another process or on another day, it comes to the same end. What already runs
//! is taken over as it is.
//!
//! [`docker`] is the driver for containers, [`libvirt`] for virtual machines, [`simulated`] one with nothing behind it; [`supervisor`] is the small program that stands by one instance.
//! [`native`] is what people made with Docker alone; [`streams`] what they ask of what runs.

pub mod docker;
pub mod libvirt;
pub mod native;
pub mod simulated;
pub mod streams;
pub mod supervisor;

use crate::resource::assignment::{Assignment, Token};
use crate::resource::port::Protocol;
use crate::storage;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long a container has between being asked to stop and being killed.
pub const GRACE: Duration = Duration::from_secs(10);

/// What went wrong between a driver and what it drives.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or went away in the middle.
    #[error("{daemon} cannot be reached to {action}")]
    Gone { daemon: Daemon, action: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    /// It is there and has not answered in time.
    #[error("{daemon} has not answered in {}s to {action}", limit.as_secs())]
    Late { daemon: Daemon, action: &'static str, limit: Duration },
    /// It said no, in its own words.
    #[error("{message}")]
    Refused { action: &'static str, status: Option<u16>, message: String },
    /// It said something that we do not understand.
    #[error("the answer of {daemon} to {action} makes no sense")]
    Answer { daemon: Daemon, action: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    /// The image is not on this host; it can be pulled.
    #[error("the image {0} is not on this host")]
    ImageAbsent(String),
    /// Something of another's has the name.
    #[error("the name {name} is taken in {daemon} by what belongs to nobody we know")]
    Foreign { daemon: Daemon, name: String },
    /// An image cannot be had, or is not what it should be.
    #[error(transparent)]
    Image(#[from] storage::Error),
    /// What it needs on this host's disk cannot be written.
    #[error("cannot {action}")]
    Disk { action: &'static str, source: std::io::Error },
    /// This host runs nothing of its kind.
    #[error("this host has no {0}")]
    Absent(Daemon),
    /// The managed network's name is taken by a network of another kind.
    #[error("Docker's network {name} is not ours: {reason}")]
    Network { name: String, reason: String },
}

/// What a driver drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    Docker,
    Libvirt,
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "Docker",
            Self::Libvirt => "libvirt",
        })
    }
}

impl Error {
    /// Whether it is worth waiting for the daemon: it is not there, or does not answer.
    pub const fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::Late { .. })
    }

    /// Whether what was asked for is not there.
    pub const fn is_absent(&self) -> bool {
        matches!(self, Self::Refused { status: Some(404), .. })
    }
}

/// What is driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverInfo {
    pub version: String,
    pub api_version: String,
    /// `systemd`, `cgroupfs` or `none`.
    pub cgroup_driver: String,
    pub storage_driver: String,
    /// Whether containers outlive the daemon.
    pub live_restore: bool,
    pub operating_system: String,
    pub kernel: String,
    /// What it complains of about this machine.
    pub warnings: Vec<String>,
}

/// The result of making something that may have been there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    pub external_id: String,
    /// It was there.
    pub adopted: bool,
    pub running: bool,
}

/// How something came to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// `None` where nobody can tell: it was removed.
    pub exit_code: Option<i64>,
    pub message: Option<String>,
    /// The kernel killed it for want of memory.
    pub oom: bool,
}

impl End {
    /// Nobody can tell any more.
    pub fn removed() -> Self {
        Self { exit_code: None, message: Some("the container was removed".to_owned()), oom: false }
    }
}

/// Something of ours on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    pub instance: String,
    pub uuid: String,
    /// The claim under which it was made.
    pub token: Option<Token>,
    pub generation: Option<u64>,
    pub external_id: String,
    pub running: bool,
    pub exit_code: Option<i64>,
    /// When it was last started, in milliseconds; `None` where it never was.
    pub started_at: Option<i64>,
    /// The driver's words about its end.
    pub message: Option<String>,
    pub oom: bool,
}

impl Observed {
    pub fn end(&self) -> End {
        End { exit_code: self.exit_code, message: self.message.clone(), oom: self.oom }
    }
}

/// Ends what was found of an instance that is not to run. What was made and never started goes: the agent may be starting
/// it at this moment, and what is gone cannot start behind our back.
pub async fn halt(driver: &dyn Driver, found: &Observed, grace: Duration) -> Result<(), Error> {
    if found.running {
        driver.stop(&found.external_id, grace).await
    } else if found.started_at.is_none() {
        driver.remove(&found.external_id).await
    } else {
        Ok(())
    }
}

/// Whether the daemon can be relied on now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Answers,
    /// It is going down or coming up, or is not to be there at all.
    Away,
    /// It should be there and does not answer.
    Silent,
}

/// A reason to look again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// What happened to an instance, in the driver's word (`die`, `destroy`, `oom`, …).
    Instance { id: String, kind: String },
    /// The stream begins, or begins again: anything may have happened.
    Resync,
}

/// A piece of an instance's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When, as the driver wrote it down: text that sorts by time.
    pub at: String,
    /// With its line's end; without one it goes on in the next piece.
    pub text: Bytes,
}

/// What runs workloads.
#[async_trait::async_trait]
pub trait Driver: Send + Sync + fmt::Debug {
    /// What it drives, for words.
    fn daemon(&self) -> Daemon {
        Daemon::Docker
    }

    /// How long what it runs has between being asked to stop and being ended.
    fn grace(&self) -> Duration {
        GRACE
    }

    /// What is driven, and whether it is there.
    async fn probe(&self) -> Result<DriverInfo, Error>;

    /// Makes it, or takes over what carries its labels. [`Error::ImageAbsent`] asks for [`Driver::pull`] first.
    async fn ensure_created(&self, assignment: &Assignment) -> Result<Created, Error>;

    /// Starts it. Fine where it runs.
    async fn start(&self, external_id: &str) -> Result<(), Error>;

    /// Waits until it does not run. An end is the daemon's word and may be of the daemon's own making, so nothing more is
    /// asked of it here (the question itself might start another daemon): see [`Driver::health`] first.
    async fn wait(&self, external_id: &str) -> Result<End, Error>;

    /// Stops it: asks, and after `grace` kills. Fine where it does not run or is not there.
    async fn stop(&self, external_id: &str, grace: Duration) -> Result<(), Error>;

    /// Removes it, running or not. Fine where it is not there.
    async fn remove(&self, external_id: &str) -> Result<(), Error>;

    /// What is there of an instance.
    async fn observe(&self, id: &str) -> Result<Option<Observed>, Error>;

    /// What is there under the driver's own id; `None` where nothing is, or it is none of ours.
    async fn look(&self, external_id: &str) -> Result<Option<Observed>, Error>;

    /// All that is there of ours.
    async fn list(&self) -> Result<Vec<Observed>, Error>;

    /// The ports that what it made exposes, by its image or otherwise; none where the driver knows of none.
    async fn exposed(&self, _external_id: &str) -> Result<BTreeSet<(u16, Protocol)>, Error> {
        Ok(BTreeSet::new())
    }

    /// Fetches the image of an assignment; `progress` is told how far it is, in words.
    async fn pull(
        &self,
        assignment: &Assignment,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<(), Error>;

    /// Output since a moment in the driver's own words ([`LogLine::at`], that moment included), and what follows until
    /// it ends.
    fn logs(&self, external_id: &str, since: &str) -> BoxStream<'static, Result<LogLine, Error>>;

    /// What happens to ours from now on. Never ends; survives the daemon.
    fn events(&self) -> BoxStream<'static, Event>;

    /// Whether the daemon can be relied on. Never makes systemd start it.
    async fn health(&self) -> Health;

    /// Whether what it starts stands in the instance's slice, as far as is known without asking.
    fn in_slices(&self) -> bool {
        false
    }

    /// Whether something that is found ended may have been ended by a daemon that went away: the present one was started
    /// after it, and daemons do not leave it running. `None` where that cannot be told.
    async fn outlived(&self, observed: &Observed) -> Result<Option<bool>, Error>;
}

/// The drivers of a host, by what they run.
#[derive(Clone, Debug)]
pub struct Drivers {
    pub containers: Arc<dyn Driver>,
    pub machines: Arc<dyn Driver>,
}

impl Drivers {
    /// One for all.
    pub fn one(driver: Arc<dyn Driver>) -> Self {
        Self { containers: driver.clone(), machines: driver }
    }

    /// The one that runs `assignment`; that of containers, where nothing is known of it.
    pub fn of(&self, assignment: Option<&Assignment>) -> &Arc<dyn Driver> {
        match assignment {
            Some(assignment) if assignment.workload.is_machine() => &self.machines,
            _ => &self.containers,
        }
    }
}
