//! Docker's way into the managed network: a libnetwork remote driver and IPAM driver on a Unix socket.
//!
//! Docker asks it while it starts, before its own API is up, and waits for up to 45 s where it does not answer; so it
//! answers from the host's ledger and the kernel alone, without the agent, etcd or Docker, in a small process of its own
//! (`stampede network-driver`) behind a socket that systemd holds. Whatever it must remember lies in the kernel: an endpoint is
//! a veth pair, and the alias of its host's end tells whose.
//!
//! ```text
//!  docker run ─► RequestAddress ─► CreateEndpoint ─► Join ─► (Docker moves the peer into the container)
//!                 in the ledger?    veth, isolated    its name, the gateway
//!  docker stop ─► Leave ─► DeleteEndpoint ─► ReleaseAddress
//!                           veth gone
//! ```
//! Where Docker asks for an address without saying which, it is for a container that somebody started with Docker alone
//! ([`super::spares`]): it gets one of those that this host keeps for that.
//!
//! A virtual machine's port is made by libvirt; `Stampede.Pin` lays on it what a container's has, before it runs.
//!
//! Every call can come again, late, or for what is long gone.

mod answer;
mod directory;
mod endpoint;
mod handout;
mod http;
mod wire;

pub use answer::Driver;
pub use endpoint::host_end as endpoint_end;
pub(super) use endpoint::parse as parse_alias;
pub use http::serve;

use super::kernel::{self, Kernel};
use super::subnet::SubnetSpec;
use crate::environment::Environment;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::UnixListener;

/// Where Docker looks for drivers; the file's name is the driver's.
pub const SOCKET: &str = "/run/docker/plugins/stampede.sock";

/// What is asked, beside what Docker asks, before a virtual machine runs: that its port is its own.
pub const PIN: &str = "/Stampede.Pin";

/// What the driver is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens if systemd hands no socket in.
    pub socket: PathBuf,
    /// The ledger's directory, `/var/lib/stampede`.
    pub ledger: PathBuf,
    pub subnet: SubnetSpec,
}

impl Default for Options {
    fn default() -> Self {
        Self { socket: SOCKET.into(), ledger: "/var/lib/stampede".into(), subnet: SubnetSpec::default() }
    }
}

/// Why the driver cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the socket that systemd handed in cannot be used")]
    Inherited { source: io::Error },
    #[error("cannot listen on {}", path.display())]
    Listen { path: PathBuf, source: io::Error },
    #[error("another driver answers on {}", path.display())]
    Taken { path: PathBuf },
    #[error("cannot talk to the kernel")]
    Kernel(#[from] kernel::Error),
}

/// Serves until it is dropped, on the socket that systemd handed in or one of its own.
///
/// # Errors
/// Only at the start: a single call or connection that fails ends nothing.
pub async fn run(options: Options, environment: Environment) -> Result<(), Error> {
    let listener = match inherited()? {
        Some(listener) => listener,
        None => bind(&options.socket)?,
    };
    let driver = Driver::new(Kernel::open()?, &options, environment);
    driver.prepare().await;
    tracing::info!(socket = %options.socket.display(), "the network driver answers");
    serve(listener, Arc::new(driver)).await;
    Ok(())
}

fn inherited() -> Result<Option<UnixListener>, Error> {
    let failed = |source| Error::Inherited { source };
    let Some(listener) = listenfd::ListenFd::from_env().take_unix_listener(0).map_err(failed)? else { return Ok(None) };
    listener.set_nonblocking(true).map_err(failed)?;
    UnixListener::from_std(listener).map(Some).map_err(failed)
}

/// Listens on a path of its own. A socket that nobody answers on is a leftover and replaced.
pub fn bind(path: &Path) -> Result<UnixListener, Error> {
    let failed = |source| Error::Listen { path: path.to_owned(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(Error::Taken { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => std::fs::remove_file(path).map_err(failed)?,
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    // Root only: whoever may connect can take links away.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}
