//! The agent's part of the managed network, put together: what it is told, what is known of it from before, who answers on it.

use super::Agent;
use crate::cli::{esp, names};
use crate::host::config::{Config, ConfigError, Encryption};
use crate::host::description::store_addresses;
use crate::host::floating::Floats;
use crate::network::{
    Floating, ForDocker, Ipsec, Links, Network, NetworkConfig, Protection, Published, SubnetSpec, driver,
    ipsec::capability, kernel::Kernel, mesh,
};
use anyhow::{Context, Result};
use std::path::PathBuf;
use std::sync::Arc;

impl Agent {
    pub(super) async fn network(&self) -> Result<Option<Network>> {
        if !self.config.network.enabled {
            return Ok(None);
        }
        if !self.units {
            let (options, environment) = (driver_options(&self.config)?, self.environment.clone());
            tokio::spawn(async move {
                if let Err(error) = driver::run(options, environment).await {
                    let error = anyhow::Error::from(error);
                    tracing::error!(error = format!("{error:#}"), "Docker gets no answers about the managed network");
                }
            });
        }
        let kernel = Kernel::open().context("cannot open netlink")?;
        let (published, links) = self.led()?;
        let told = NetworkConfig {
            subnet: subnet(&self.config)?,
            underlay: self.config.network.underlay,
            outside: mesh::Outside {
                public: self.config.network.public_address,
                site: self.config.network.site.clone(),
            },
            towards: store_addresses(&self.config),
            memory: Some(self.config.state_directory.join("network.json")),
            published,
            links,
            links_memory: Some(self.links_memory()),
            floating: self.floating(&kernel).await?,
            askers: self.askers.clone(),
            for_docker: ForDocker::load(&self.config.state_directory)
                .context("which addresses are kept for Docker cannot be read")?,
            protection: self.protection(&kernel).await?,
            ..NetworkConfig::new(self.config.host_name())
        };
        Ok(Some(Network::start(told, self.store.clone(), &self.environment, kernel)))
    }

    /// From the beginning on: names that are not ours need no store.
    pub(super) fn names(&self, network: Option<&Network>) -> Result<Option<names::Answering>> {
        let Some(network) = network else {
            names::forget();
            return Ok(None);
        };
        let own = names::Own {
            subnet: subnet(&self.config)?,
            host: self.config.host_name(),
            askers: &self.askers,
            ledger: &self.ledger,
            links: Arc::new(network.links()),
        };
        Ok(Some(names::start(own, &self.hosts, &self.store, &self.environment)))
    }

    /// What the ledger has published and linked. Without it nothing would be: better no agent, and all stays as it is.
    fn led(&self) -> Result<(Published, Links)> {
        let (known, _) = self.ledger.assignments().context("what is published on this host cannot be read")?;
        Ok((Published::new(&known), Links::new(&known, Some(&self.links_memory()))))
    }

    /// Those that an agent before this one had lead on.
    async fn floating(&self, kernel: &Kernel) -> Result<Floating> {
        let floating = Floating::default();
        floating.adopt(kernel, self.floats()?.ways()).await.context("which floating addresses this host has")?;
        Ok(floating)
    }

    /// What the ledger has of floating addresses.
    pub(super) fn floats(&self) -> Result<Floats> {
        let (known, _) = self.ledger.assignments().context("which floating addresses this host has cannot be read")?;
        Ok(Floats::new(&known))
    }

    fn links_memory(&self) -> PathBuf {
        self.config.state_directory.join("links.json")
    }

    /// How packets to other hosts are protected; an error where this kernel cannot do what was asked for.
    async fn protection(&self, kernel: &Kernel) -> Result<Protection> {
        if self.config.network.esp_udp_port.is_none() {
            // An agent before this one may have been told otherwise.
            esp::forget();
        }
        if self.config.network.encryption == Encryption::None {
            return Ok(Protection::None);
        }
        let underlay = mesh::underlay(kernel, self.config.network.underlay, &store_addresses(&self.config)).await;
        let ipv4 = underlay.map_or(true, |underlay| underlay.address.is_ipv4());
        let capable = capability::check(kernel, &self.environment, ipv4).await;
        capable.map_err(|error| ConfigError::Wrong(error.to_string()))?;
        let esp = self.config.network.esp_udp_port.map(|port| esp::open(port, ipv4)).transpose()?;
        Ok(Protection::Ipsec(Ipsec {
            keys: self.trust.keys().clone(),
            alive: self.hosts.alive().clone(),
            esp,
            takes_plain: self.config.network.encryption == Encryption::Either,
        }))
    }
}

/// What the network driver is told, in the agent or in a process of its own.
pub fn driver_options(config: &Config) -> Result<driver::Options, ConfigError> {
    Ok(driver::Options {
        socket: config.network.driver_socket.clone(),
        ledger: config.state_directory.clone(),
        subnet: subnet(config)?,
    })
}

pub(super) fn subnet(config: &Config) -> Result<SubnetSpec, ConfigError> {
    let told = &config.network;
    SubnetSpec::of(told.subnet, told.prefix, told.block)
        .map_err(|error| ConfigError::Wrong(format!("the managed network: {error}")))
}
