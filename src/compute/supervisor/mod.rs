//! The small program that stands by one instance: `stampede supervise <id>`, one for each, under systemd.
//!
//! It reads from the ledger what is to run, makes it or takes it over, says so, and waits for its end. What it finds
//! and what becomes of it go into the ledger's report, always before systemd hears of it; the agent reads that.
//!
//! ```text
//!             ┌──────────── the daemon is gone ───────────┐
//!             ▼                                           │
//! ledger ─▶ look ─▶ (pull) ─▶ create ─▶ start ─▶ running ─┤ end ─▶ by policy: 80 again, 81 stays
//!             └─▶ runs already: take over ────────▲       │ told to stop ─▶ stop it ─▶ 81
//!             └─▶ ended while nobody looked ──────────────┘
//! ```
//!
//! Three parties could start an instance again; only this one knows the policy ([`decide`]), systemd does it (exit code
//! 80, or after a crash of the supervisor), and Docker's own restart policy is never used. A supervisor that is killed
//! leaves its container alone; the next one takes it over.
//!
//! What must not run twice is killed where the host loses touch with the cluster ([`guard`]).
//!
//! An end that is of the daemon's or the machine's making is never the instance's own: see [`decide::on_end`].

pub mod after;
pub mod cgroup;
pub mod command;
pub mod decide;
mod guard;
mod journal;
mod output;
mod work;

pub use guard::{Fencing, allowed};

use super::Driver;
use crate::environment::Environment;
use crate::store::ledger::Ledger;
use crate::systemd::notify::Announce;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// While a supervisor works on a start or waits for Docker, systemd gives it so long at a time.
const EXTENSION: Duration = Duration::from_secs(60);

/// Where the instance's output goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// As it is to standard output: the journal of the unit.
    Stdout,
    /// A record a line, with the instance as a field: where many supervisors share one process.
    Trace,
}

/// What a supervisor needs.
#[derive(Clone, Debug)]
pub struct Options {
    pub environment: Environment,
    pub ledger: Ledger,
    /// `/run/stampede`: what may be lost with the boot.
    pub runtime: PathBuf,
    pub announce: Arc<dyn Announce>,
    /// Cancelled: stop the instance, and then end.
    pub stop: CancellationToken,
    pub output: Output,
    pub fencing: Fencing,
}

/// Stands by an instance until it has ended; the exit code says what is to follow.
pub async fn run(id: &str, driver: Arc<dyn Driver>, options: Options) -> u8 {
    work::run(id, driver, options).await
}

/// Forgets how far an instance's output was followed.
pub fn forget(runtime: &std::path::Path, id: &str) {
    output::forget(runtime, id);
}
