//! Is the daemon there, will it stay, and since when?
//!
//! A container that ends because its daemon goes down looks just like one that ends by itself, so whoever sees an end
//! asks here. Three things tell: systemd's word on docker.service (`deactivating` from before the daemon hears of it),
//! whether the socket answers (a daemon that goes down closes it first; while it is down systemd may hold the socket
//! open, and then nobody answers), and the age of the daemon's pid file.
//!
//! A knock on a socket that systemd holds starts the daemon. Somebody may have stopped it on purpose, so a daemon that
//! systemd says is stopped is not knocked for.

use super::error::{gone, within};
use super::{Docker, LIMIT};
use crate::compute::{DriverInfo, Error, Health};
use crate::systemd::{self, bus};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Systemd or the daemon itself answers a small question within this, or is not to be relied on now.
const PROMPT: Duration = Duration::from_secs(1);

/// What matters of a daemon for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Facts {
    /// Containers can stand in systemd's slices.
    pub slices: bool,
    /// Containers outlive the daemon.
    pub live_restore: bool,
    /// When it was started, in milliseconds, where that can be told.
    pub started_at: Option<i64>,
}

#[derive(Debug)]
pub(super) struct Daemon {
    pid_file: PathBuf,
    /// Asking takes Docker some 10 ms, so one asks for all.
    kept: PathBuf,
}

impl Daemon {
    pub fn new(socket: &Path, runtime: &Path) -> Self {
        Self { pid_file: socket.with_file_name("docker.pid"), kept: runtime.join("docker.json") }
    }

    /// Asked once in a daemon's life, where its life can be told.
    pub async fn facts(&self, docker: &Docker) -> Result<Facts, Error> {
        if let Some(facts) = self.kept() {
            return Ok(facts);
        }
        let started_at = self.started_at();
        let info = probe(docker).await?;
        let facts = Facts {
            slices: info.cgroup_driver == "systemd" && systemd::booted(),
            live_restore: info.live_restore,
            started_at,
        };
        self.keep(&facts);
        Ok(facts)
    }

    /// What somebody found out of this very daemon.
    pub fn kept(&self) -> Option<Facts> {
        let started_at = self.started_at()?;
        let facts: Facts = serde_json::from_slice(&std::fs::read(&self.kept).ok()?).ok()?;
        (facts.started_at == Some(started_at)).then_some(facts)
    }

    /// For the next who asks; who cannot read it asks Docker.
    fn keep(&self, facts: &Facts) {
        let beside = self.kept.with_extension(format!("{}.new", std::process::id()));
        let written = serde_json::to_vec(facts)
            .map_err(std::io::Error::from)
            .and_then(|bytes| std::fs::write(&beside, bytes))
            .and_then(|()| std::fs::rename(&beside, &self.kept));
        if let Err(error) = written {
            tracing::debug!(%error, path = %self.kept.display(), "cannot keep what Docker is like");
        }
    }

    /// The daemon writes its pid file when it starts.
    fn started_at(&self) -> Option<i64> {
        let written = std::fs::metadata(&self.pid_file).ok()?.modified().ok()?;
        i64::try_from(written.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis()).ok()
    }

    /// Whether there is a process that the pid file names.
    fn process_exists(&self) -> bool {
        let pid = std::fs::read_to_string(&self.pid_file).ok().and_then(|pid| pid.trim().parse::<u32>().ok());
        pid.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists())
    }

    pub async fn health(&self, docker: &Docker) -> Health {
        match (service_state().await.as_deref(), self.process_exists()) {
            (Some("deactivating" | "activating"), _) => return Health::Away,
            // Not systemd's daemon if there is one at all.
            (Some("inactive" | "failed"), false) => return Health::Away,
            _ => {}
        }
        for _ in 0..2 {
            if ping(docker, PROMPT).await.is_ok() {
                return Health::Answers;
            }
        }
        Health::Silent
    }
}

/// Systemd's word on docker.service; `None` where it has none.
async fn service_state() -> Option<String> {
    if !systemd::booted() {
        return None;
    }
    let connection = bus::connect(PROMPT).await.ok()?;
    let (load, active) = bus::unit_states(&connection, "docker.service", PROMPT).await.ok()?;
    (load == "loaded").then_some(active)
}

async fn ping(docker: &Docker, limit: Duration) -> Result<(), Error> {
    let action = "see whether it is there";
    within(action, limit, docker.client(action)?.ping()).await.map(drop)
}

pub(super) async fn probe(docker: &Docker) -> Result<DriverInfo, Error> {
    let action = "ask what it is";
    let client = docker.client(action)?;
    let (version, info) =
        futures::try_join!(within(action, LIMIT, client.version()), within(action, LIMIT, client.info()))?;
    let missing = || gone(action, std::io::Error::from(std::io::ErrorKind::InvalidData));
    Ok(DriverInfo {
        version: version.version.ok_or_else(missing)?,
        api_version: version.api_version.unwrap_or_default(),
        cgroup_driver: info.cgroup_driver.map(|driver| driver.to_string()).unwrap_or_default(),
        storage_driver: info.driver.unwrap_or_default(),
        live_restore: info.live_restore_enabled.unwrap_or(false),
        operating_system: info.operating_system.unwrap_or_default(),
        kernel: info.kernel_version.unwrap_or_default(),
        warnings: info.warnings.unwrap_or_default(),
    })
}
