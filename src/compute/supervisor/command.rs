//! `stampede supervise <id>`: the supervisor as a process of its own.

use super::{GRACE, Options, Output, run};
use crate::compute::docker::{Docker, SOCKET};
use crate::environment::Environment;
use crate::store::ledger::Ledger;
use crate::systemd::notify::Service;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Stands by one instance; started by its unit, not by people.
#[derive(Debug, Clone, clap::Args)]
pub struct Supervise {
    /// The instance, as on the wire: 1i54.
    pub id: String,
    /// The agent's state.
    #[arg(long, default_value = "/var/lib/stampede", env = "STATE_DIRECTORY")]
    pub state: PathBuf,
    /// What lives as long as the boot.
    #[arg(long, default_value = "/run/stampede", env = "RUNTIME_DIRECTORY")]
    pub runtime: PathBuf,
    /// Docker's socket.
    #[arg(long, default_value = SOCKET)]
    pub docker: PathBuf,
}

/// What keeps a supervisor from its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot tell which machine and boot this is")]
    Environment { source: std::io::Error },
    #[error("cannot start the runtime")]
    Runtime { source: std::io::Error },
    #[error("cannot listen for signals")]
    Signals { source: std::io::Error },
    #[error("cannot open the ledger")]
    Ledger { source: crate::store::ledger::Error },
}

/// Runs it, in a runtime of its own on this one thread; the result is the process's exit code.
///
/// # Errors
/// Where the machine does not give what is needed; systemd starts it again then, as after a crash.
pub fn supervise(arguments: &Supervise) -> Result<u8, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Runtime { source })?
        .block_on(work(arguments))
}

async fn work(arguments: &Supervise) -> Result<u8, Error> {
    let environment = Environment::system().map_err(|source| Error::Environment { source })?;
    let ledger = Ledger::open(first(&arguments.state)).map_err(|source| Error::Ledger { source })?;
    let runtime = first(&arguments.runtime).to_owned();
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(|source| Error::Signals { source })?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|source| Error::Signals { source })?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        }
    });
    let docker = Arc::new(Docker::new(&environment, &arguments.docker, &runtime));
    let options = Options {
        environment,
        ledger,
        runtime,
        announce: Arc::new(Service),
        stop,
        output: Output::Stdout,
        grace: GRACE,
    };
    Ok(run(&arguments.id, docker, options).await)
}

/// Systemd's variables may name several directories; ours is the first.
fn first(path: &Path) -> &Path {
    path.to_str().and_then(|text| text.split(':').next()).map_or(path, Path::new)
}
