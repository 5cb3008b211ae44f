//! `stampede-libvirt`: the one program that links libvirt. The agent and its supervisors ask it over a Unix socket
//! ([`stampede_libvirt_protocol`]), so that a host without libvirt has an agent all the same, and a fault in C code takes nothing else
//! down. It keeps nothing: what it does not know libvirt does. Killed, it is started again with the next question.
//!
//! ```text
//!  agent, supervisors ── a line, a line ──► serve ──► answer ──► libvirt's own calls
//!                     ◄── events ── follow ◄── daemon ◄── shim ◄── libvirt's event loop
//! ```

mod answer;
mod daemon;
mod serve;
mod shim;
mod trial;
mod volumes;

use daemon::Daemon;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

/// libvirt's own logs have what it says of itself; its errors come back as answers.
const URI: &str = "qemu:///system";

/// Why it cannot do its work.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("libvirt's event loop does not start: {}", .0.message())]
    EventLoop(virt::error::Error),
    #[error("cannot listen on {}", stampede_libvirt_protocol::SOCKET)]
    Listen(#[source] std::io::Error),
    #[error("no thread can be had")]
    Thread(#[source] std::io::Error),
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time()
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "ended");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    // Before the first connection, or its events go nowhere.
    virt::event::event_register_default_impl().map_err(Error::EventLoop)?;
    // libvirt prints each error to standard error unless somebody takes it.
    virt::error::clear_error_callback();
    let listener = serve::listener(Path::new(stampede_libvirt_protocol::SOCKET)).map_err(Error::Listen)?;
    let daemon = Arc::new(Daemon::new(&std::env::var("STAMPEDE_LIBVIRT_URI").unwrap_or_else(|_| URI.to_owned())));
    let thread = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(Error::Thread)
    };
    thread("events", Box::new(turn))?;
    let kept = daemon.clone();
    thread("libvirt", Box::new(move || kept.keep(trial::probe)))?;
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        tracing::debug!(%error, "systemd is not told that it answers");
    }
    serve::serve(&listener, &daemon);
    Ok(())
}

/// libvirt's event loop.
fn turn() {
    loop {
        if let Err(error) = virt::event::event_run_default_impl() {
            tracing::warn!(%error, "libvirt's event loop");
            std::thread::park_timeout(std::time::Duration::from_millis(100));
        }
    }
}
