//! `<run>/lease.json`: the lease that this host's agent holds, so that a restarted agent goes on with it.
//!
//! The directory goes with the boot, or else the boot id in the file tells that it is of an earlier one. Whoever writes it holds the
//! lock `<run>/lease.lock`; anyone may read it.

use super::identity::{self, Error};
use crate::store::LeaseId;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseRecord {
    pub host: String,
    pub identity: String,
    pub boot_id: String,
    pub lease: LeaseId,
    pub incarnation: u64,
    pub ttl_millis: u64,
    /// Until when the lease lives at least: milliseconds since boot ([`crate::environment::Clock::boottime`]), counted from when
    /// the last confirmed keepalive was sent.
    pub deadline_millis: u64,
}

/// The file.
#[derive(Clone, Debug)]
pub struct LeaseFile {
    path: PathBuf,
    in_place: bool,
}

impl LeaseFile {
    pub fn new(run: &Path) -> Self {
        Self { path: run.join("lease.json"), in_place: false }
    }

    /// The same, written as it lies: for simulations, where nobody reads it meanwhile and a kernel's time counts.
    #[must_use]
    pub fn in_place(self, in_place: bool) -> Self {
        Self { in_place, ..self }
    }

    /// What it says; `None` where there is none, or nothing of use.
    pub fn read(&self) -> Option<LeaseRecord> {
        // Half a file after a power loss is of an earlier boot anyway.
        std::fs::read(&self.path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn write(&self, record: &LeaseRecord) -> Result<(), Error> {
        let failed = |source| Error::File { action: "write", path: self.path.clone(), source };
        let bytes = serde_json::to_vec(record).map_err(|error| failed(error.into()))?;
        if self.in_place {
            return std::fs::write(&self.path, bytes).map_err(failed);
        }
        identity::replace(&self.path, &bytes)
    }

    /// Takes it away; fine where there is none.
    pub fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the lease's file");
        }
    }
}

/// Whole milliseconds.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
