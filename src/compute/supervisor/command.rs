//! `stampede supervise <id>`: the supervisor as a process of its own.

use super::cgroup::Cgroups;
use super::{Fencing, Options, Output, after, run};
use crate::compute::Driver;
use crate::compute::docker::{Docker, SOCKET};
use crate::compute::libvirt::Libvirt;
use crate::environment::Environment;
use crate::membership::Place;
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
    // What cannot be read is told of by who stands by it.
    let is_machine =
        ledger.assignment(&arguments.id).is_ok_and(|found| found.is_some_and(|found| found.workload.is_machine()));
    let driver: Arc<dyn Driver> = if is_machine {
        Arc::new(Libvirt::new(&environment))
    } else {
        Arc::new(Docker::new(&environment, &arguments.docker, first(&arguments.runtime)))
    };
    let options = options(arguments, environment, ledger, stop);
    Ok(run(&arguments.id, driver, options).await)
}

fn options(arguments: &Supervise, environment: Environment, ledger: Ledger, stop: CancellationToken) -> Options {
    Options {
        environment,
        ledger,
        runtime: first(&arguments.runtime).to_owned(),
        announce: Arc::new(Service),
        stop,
        output: Output::Stdout,
        fencing: Fencing { killer: Arc::new(Cgroups::default()), place: Place::Thread },
    }
}

/// `stampede fence <id>`, after its supervisor has ended in whatever way: ends what must not run twice and is past its deadline.
///
/// # Errors
/// Where the machine does not give what is needed.
pub fn fence(arguments: &Supervise) -> Result<u8, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::Runtime { source })?
        .block_on(end_if_past(arguments))
}

async fn end_if_past(arguments: &Supervise) -> Result<u8, Error> {
    let ledger = Ledger::open(first(&arguments.state)).map_err(|source| Error::Ledger { source })?;
    let environment = Environment::system().map_err(|source| Error::Environment { source })?;
    let options = options(arguments, environment, ledger, CancellationToken::new());
    after::end_if_past(&arguments.id, &options).await.map_err(|source| Error::Ledger { source })?;
    Ok(0)
}

/// Systemd's variables may name several directories; ours is the first.
fn first(path: &Path) -> &Path {
    path.to_str().and_then(|text| text.split(':').next()).map_or(path, Path::new)
}
