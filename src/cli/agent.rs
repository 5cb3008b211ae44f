//! What `agent`, `up` and the two programs of its units do, from settings to a running process.

use super::options::{AgentOptions, NetworkDriverOptions, UpOptions};
use super::{assembly, logging};
use crate::compute::supervisor::command::{self, Supervise, supervise as stand_by};
use crate::environment::Environment;
use crate::host::config::{Config, ConfigError};
use crate::membership::JoinError;
use crate::membership::trust::TrustError;
use crate::network::driver;
use crate::systemd::notify::{Announce, Service};
use anyhow::{Context, Result};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::path::Path;
use std::process::ExitCode;

/// EX_CONFIG (sysexits.h): starting again changes nothing; `stampede.service` does not.
const EXIT_REFUSED: u8 = 78;

pub fn run(options: AgentOptions) -> ExitCode {
    logging::start();
    exit(options.config().map_err(Into::into).and_then(|config| serve(config, crate::systemd::booted())))
}

pub fn up(options: UpOptions) -> ExitCode {
    logging::start();
    exit(options.config().map_err(Into::into).and_then(|config| {
        eprintln!(
            "stampede: one host, state in {}; the API answers on http://{} and, for root, on {}. Ctrl-C ends the agent; \
             what runs goes on.",
            config.store.file.as_deref().unwrap_or(Path::new("memory")).display(),
            config.api.address,
            config.socket().display()
        );
        serve(config, false)
    }))
}

fn serve(config: Config, units: bool) -> Result<()> {
    leave_no_core();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let environment = Environment::system().context("cannot tell which machine this is (/etc/machine-id)")?;
    let result = runtime.block_on(assembly::serve(config, environment, units));
    // A call that blocks must not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// An agent has the cluster's secret and its private keys in memory. However it ends, they are not to lie in a file after (prctl(2),
/// PR_SET_DUMPABLE); what it was doing its log tells.
fn leave_no_core() {
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core of this agent would hold the cluster's secret, and cannot be forbidden");
    }
}

fn exit(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let text = format!("{error:#}");
    tracing::error!(error = text, "the agent ends");
    eprintln!("stampede: {text}");
    let refused = error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.downcast_ref::<TrustError>().is_some_and(TrustError::refuses)
            || cause.downcast_ref::<JoinError>().is_some_and(|cause| !matches!(cause, JoinError::Store(_)))
    });
    if refused { ExitCode::from(EXIT_REFUSED) } else { ExitCode::FAILURE }
}

/// `stampede supervise <id>`: one thread, and as little as can be. Its log goes to standard error as its instance's
/// output goes to standard output: both are the unit's journal.
pub fn supervise(options: &Supervise) -> ExitCode {
    logging::start_plain();
    match stand_by(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => exit(Err(error.into())),
    }
}

/// `stampede fence`: what must not run twice is ended where its supervisor cannot do it any more.
pub fn fence(options: &Supervise) -> ExitCode {
    logging::start_plain();
    match command::fence(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => exit(Err(error.into())),
    }
}

/// `stampede network-driver`: by the same settings as the agent, which need not be there.
pub fn network_driver(options: NetworkDriverOptions) -> Result<()> {
    logging::start();
    let config = Config::read(&options.config, false)?;
    let environment = Environment::system().context("cannot tell which machine this is (/etc/machine-id)")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let options = assembly::driver_options(&config)?;
    // Connections wait in the socket that systemd holds, so ready is as good as serving.
    runtime.block_on(async {
        Service.ready();
        driver::run(options, environment).await
    })?;
    Ok(())
}
