//! Keeps what this host says of itself true: whether Docker is there, whether its network is, which secrets it has.

use super::chain;
use super::config::Config;
use super::description::describe;
use crate::compute::docker::{Docker, ManagedNetwork};
use crate::compute::libvirt::Libvirt;
use crate::compute::{Driver, Event};
use crate::membership::trust::Keyring;
use crate::membership::{HostDescription, Membership};
use crate::network::NetworkStatus;
use futures::StreamExt;
use std::time::Duration;
use tokio::sync::watch;

/// A look without a reason this often: Docker says nothing when it goes.
const PERIOD: Duration = Duration::from_secs(60);
/// While Docker comes up, its network may need a moment.
const SOON: Duration = Duration::from_secs(2);

/// What is looked at.
#[derive(Debug)]
pub struct Watch {
    pub config: Config,
    pub docker: Docker,
    /// `None` where nothing could stand by virtual machines.
    pub libvirt: Option<Libvirt>,
    /// `None` on a host without the managed network.
    pub network: Option<watch::Receiver<NetworkStatus>>,
    pub keys: Keyring,
}

impl Watch {
    /// Looks once. The Docker network is made where it is missing and can be.
    pub async fn look(&self) -> HostDescription {
        let ready = match &self.network {
            Some(status) if status.borrow().ready => {
                let wanted = ManagedNetwork {
                    subnet: format!("{}/{}", self.config.network.subnet, self.config.network.prefix),
                    gateway: self.config.network.gateway(),
                };
                match self.docker.ensure_network(&wanted).await {
                    Ok(()) => true,
                    Err(error) => {
                        // Without Docker there is nothing to say twice.
                        if !error.is_gone() {
                            tracing::warn!(error = chain(&error), "Docker's side of the managed network is missing");
                        }
                        false
                    }
                }
            }
            _ => false,
        };
        let underlay = self.network.as_ref().and_then(|status| status.borrow().underlay);
        let secrets = self.keys.held().map(|held| held.names());
        describe(&self.config, &self.docker, self.libvirt.as_ref(), ready, underlay, secrets).await
    }

    /// Looks whenever something may have changed, and tells the cluster; never ends.
    pub async fn run(mut self, membership: Membership, mut told: HostDescription) {
        let mut events = self.docker.events();
        let mut machines = self.libvirt.as_ref().map_or_else(|| futures::stream::pending().boxed(), Driver::events);
        let mut secrets = self.keys.watch();
        let mut network = self.network.take();
        self.network = network.clone();
        loop {
            let settled = told.capabilities.len() > usize::from(network.is_some());
            tokio::select! {
                () = resync(&mut events) => {}
                () = resync(&mut machines) => {}
                () = changed(&mut network) => {}
                // The keyring is ours, so that this ends never.
                _ = secrets.changed() => {}
                () = tokio::time::sleep(if settled { PERIOD } else { SOON }) => {}
            }
            let now = self.look().await;
            if now == told {
                continue;
            }
            match membership.describe(&now).await {
                Ok(_) => {
                    tracing::info!(capabilities = ?now.capabilities, "what this host can run has changed");
                    told = now;
                }
                Err(error) => tracing::warn!(error = chain(&error), "cannot tell the cluster what this host can run"),
            }
        }
    }
}

async fn resync(events: &mut futures::stream::BoxStream<'static, Event>) {
    while let Some(event) = events.next().await {
        if event == Event::Resync {
            return;
        }
    }
    std::future::pending().await
}

async fn changed(network: &mut Option<watch::Receiver<NetworkStatus>>) {
    if let Some(status) = network
        && status.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}
