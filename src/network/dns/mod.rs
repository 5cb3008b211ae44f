//! Names on the managed network: DNS at the gateway's address on every host, in the agent.
//!
//! ```text
//!  packet ──► wire ──► who asks? (askers) ──► what is the name? (zone)
//!                        │                      ├─ a link's, an instance's ──► own names, names ──► store, watched
//!                        │ outsider: silence    ├─ an address turned round ──► names
//!                        │ host: refused        ├─ a word that nobody has ──► no such name
//!                        ▼                      └─ somebody else's ──► upstream: the host's own name servers (resolv)
//! ```
//! | part | what it does |
//! |---|---|
//! | [`wire`], [`zone`] | packets and names, as pure functions |
//! | [`askers`] | which instance has the source of a packet, and whose it is |
//! | [`names`] | what an account's names lead to: read when asked for, then watched while somebody does |
//! | [`resolv`], [`upstream`] | everything else |
//! | [`respond`] | puts these together |
//! | [`server`], [`batch`] | the sockets; many datagrams at once |
//! | [`super::limit`], [`kept`] | how much may wait; that the sockets outlive the agent |
//!
//! The address is the asker's only proof; what is answered goes to the port of who has it ([`super::pins`]).

mod askers;
mod batch;
mod kept;
mod names;
mod resolv;
mod respond;
mod server;
#[cfg(test)]
mod tests;
mod upstream;
mod wire;
mod zone;

pub(super) use askers::Asker;
pub use askers::{Askers, OwnNames};
pub use kept::forget;
pub use names::{Found, Names};
pub use resolv::{Files, of_host};

use crate::environment::{Backoff, Environment};
use crate::membership::record::Alive;
use crate::network::subnet::SubnetSpec;
use crate::store::{Store, mirror::Mirror};
use resolv::NameServers;
use respond::Responder;
use server::Sockets;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use upstream::Upstream;

const PORT: u16 = 53;
/// How soon it is tried again to open the sockets.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What the DNS is told.
#[derive(Debug)]
pub struct Settings {
    pub subnet: SubnetSpec,
    pub askers: Askers,
    /// The names of each instance's links.
    pub own_names: Option<Arc<dyn OwnNames>>,
    pub alive: Mirror<Alive>,
    /// Where this host says whom it asks itself.
    pub files: Files,
}

/// The running DNS of this host; dropping it ends it.
#[derive(Debug)]
pub struct Dns(tokio::task::JoinHandle<()>);

impl Drop for Dns {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Dns {
    /// Begins to answer, in a task of its own.
    pub fn start(settings: Settings, store: Arc<dyn Store>, environment: &Environment) -> Self {
        let address = SocketAddr::from((settings.subnet.gateway, PORT));
        let servers = NameServers::new(settings.files.clone(), settings.subnet);
        let responder = Arc::new(settings.responder(Names::new(store, environment), servers));
        let backoff = Backoff::new(environment, AGAIN.0, AGAIN.1);
        Self(tokio::spawn(run(address, responder, backoff)))
    }
}

impl Settings {
    fn responder(self, names: Names, servers: NameServers) -> Responder {
        Responder {
            subnet: self.subnet,
            askers: self.askers,
            own_names: self.own_names,
            names,
            alive: self.alive,
            upstream: Upstream::new(servers),
            turn: AtomicUsize::new(0),
        }
    }
}

/// Answers for ever. Where the port is another's it is said once, and tried on.
async fn run(address: SocketAddr, responder: Arc<Responder>, mut backoff: Backoff) {
    let mut told = false;
    let mut kept = kept::take(address);
    loop {
        let opened = match kept.take() {
            Some(sockets) => Ok(sockets),
            None => {
                // What systemd holds would still be in the way.
                kept::forget();
                Sockets::open(address).inspect(kept::give)
            }
        };
        let error = match opened {
            Ok(sockets) => {
                told = false;
                backoff.reset();
                tracing::info!(%address, "names on the managed network are answered");
                sockets.serve(responder.clone()).await
            }
            Err(error) => error,
        };
        if !std::mem::replace(&mut told, true) {
            tracing::error!(
                %address, %error,
                "no names on the managed network: is another name server at that port (ss -lnup sport = 53)? Trying on"
            );
        }
        backoff.wait().await;
    }
}
