//! DHCP on the bridge of each host, for what boots from it: every instance of this host is given the address that it has, by its
//! hardware address.
//!
//! | part | what it does |
//! |---|---|
//! | [`wire`], [`answer`] | packets, and what is said to one, as pure functions |
//! | [`server`] | the sockets, and who has a hardware address |
//!
//! Nothing is given away here and nothing remembered: addresses are decided where instances are placed, so an answer needs neither
//! the store nor what was answered before. What is answered goes to the port of who has the address ([`super::pins`]).

mod answer;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use super::dns::Askers;
use super::subnet::SubnetSpec;
use crate::environment::{Backoff, Environment};
use crate::store::ledger::Ledger;
use server::{Server, Sockets};
use std::time::Duration;

/// How soon it is tried again to open the sockets.
const AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// So often the bridge may not be there yet before it is said.
const PATIENCE: u32 = 10;

/// The running service of this host; dropping it ends it.
#[derive(Debug)]
pub struct Dhcp(tokio::task::JoinHandle<()>);

impl Drop for Dhcp {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Dhcp {
    /// Begins to answer, in a task of its own.
    pub fn start(subnet: SubnetSpec, askers: Askers, ledger: Ledger, environment: &Environment) -> Self {
        let server = Server { subnet, askers, ledger };
        let backoff = Backoff::new(environment, AGAIN.0, AGAIN.1);
        Self(tokio::spawn(run(server, backoff)))
    }
}

/// Answers for ever. What is in the way is said once, and tried on.
async fn run(server: Server, mut backoff: Backoff) {
    let mut failed = 0_u32;
    loop {
        let error = match Sockets::open(server.subnet.gateway) {
            Ok(sockets) => {
                failed = 0;
                backoff.reset();
                tracing::info!("instances that ask for their addresses are given them");
                sockets.serve(&server).await
            }
            Err(error) => error,
        };
        failed = failed.saturating_add(1);
        if failed == PATIENCE {
            tracing::error!(%error, "no addresses by DHCP: does another program have the port (ss -lnup sport = 67)? Trying on");
        }
        backoff.wait().await;
    }
}
