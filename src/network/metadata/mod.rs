//! What an instance may know of itself, by HTTP at 169.254.169.254: as EC2 has it, and as OpenStack has it.
//!
//! ```text
//!  instance ──► 169.254.169.254:80 ── rule (way) ──► the gateway's address, on its own host ──► server
//!                                                          │ who asks? (askers)
//!                                                          ▼
//!     tree: ec2, openstack ◄── facts ◄── known: ledger, store; for a moment from memory
//! ```
//! | part | what it does |
//! |---|---|
//! | [`way`] | how questions come here, and that they go nowhere else |
//! | [`server`], [`kept`] | the socket, its limits, and that it outlives the agent |
//! | [`respond`], [`token`] | who asks and how; tokens (IMDSv2) |
//! | [`tree`], [`ec2`], [`openstack`] | what names there are, as pure functions of what is known |
//! | [`drive`] | the same trees as the files of a config drive |
//! | [`known`], [`facts`] | what is known of an instance |
//!
//! Each host answers for its own instances alone. The address is the asker's only proof, and a connection from it is its port's
//! ([`super::pins`]).

mod drive;
mod ec2;
mod facts;
mod kept;
mod known;
mod openstack;
mod respond;
mod server;
#[cfg(test)]
mod tests;
mod token;
mod tree;
pub(super) mod way;

pub use drive::files as config_drive;
pub use kept::forget;

use super::dns::Askers;
use super::subnet::SubnetSpec;
use crate::environment::{Backoff, Environment};
use crate::store::Store;
use crate::store::ledger::Ledger;
use known::Known;
use respond::Responder;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use token::Tokens;
use tokio::net::TcpListener;

/// How soon it is tried again to open the socket.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What it is told.
#[derive(Debug)]
pub struct Settings {
    pub subnet: SubnetSpec,
    pub askers: Askers,
    /// This host's name.
    pub host: String,
    /// What this host was told to run.
    pub ledger: Ledger,
}

/// The running service of this host; dropping it ends it.
#[derive(Debug)]
pub struct Metadata(tokio::task::JoinHandle<()>);

impl Drop for Metadata {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Metadata {
    /// Begins to answer, in a task of its own.
    pub fn start(settings: Settings, store: Arc<dyn Store>, environment: &Environment) -> Self {
        let address = SocketAddr::from((settings.subnet.gateway, way::LISTEN));
        let responder = Arc::new(settings.responder(store, environment));
        let backoff = Backoff::new(environment, AGAIN.0, AGAIN.1);
        Self(tokio::spawn(run(address, responder, backoff)))
    }
}

impl Settings {
    fn responder(self, store: Arc<dyn Store>, environment: &Environment) -> Responder {
        Responder {
            askers: self.askers,
            known: Known::new(self.subnet, self.host, self.ledger, store, environment),
            tokens: Tokens::new(environment),
        }
    }
}

/// Answers for ever. Where the port is another's it is said once, and tried on.
async fn run(address: SocketAddr, responder: Arc<Responder>, mut backoff: Backoff) {
    let mut told = false;
    let mut kept = kept::take(address);
    loop {
        let opened = match kept.take() {
            Some(listener) => Ok(listener),
            None => {
                // What systemd holds would still be in the way.
                kept::forget();
                server::open(address).inspect(kept::give)
            }
        };
        match opened.and_then(TcpListener::from_std) {
            Ok(listener) => {
                tracing::info!(%address, at = %way::ADDRESS, "instances are told about themselves");
                match server::serve(listener, responder.clone()).await {}
            }
            Err(error) if !std::mem::replace(&mut told, true) => tracing::error!(
                %address, %error,
                "no metadata for instances: is another program at that port (ss -lntp sport = {})? Trying on", way::LISTEN
            ),
            Err(_) => {}
        }
        backoff.wait().await;
    }
}
