//! Endpoints as links: a veth pair each, whose host's end carries whose it is.
//!
//! ```text
//!   st-1i54 ═══════ sp-1i54 → eth0 in the container
//!   alias "stampede 1i54 endpoint <id>"
//! ```
//! An endpoint of what Docker started by itself is called by its address in place of an instance ([`spares::owner`]): `st-0a2a0709`.

use super::super::kernel::{Error, Kernel, Wish};
use super::super::overlay::{BRIDGE, base};
use super::super::senders::{self, Sender};
use super::super::spares;
use super::super::subnet::SubnetSpec;
use crate::resource::assignment::ManagedAddress;
use stampede_netlink::{
    Mac,
    address::Others,
    link::{PortFlags, Settings, VethSpec},
    pin::Pin,
};
use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

/// The host's end of its owner's pair. Ids have at most 12 characters, links' names at most 15.
pub fn host_end(id: &str) -> String {
    format!("st-{id}")
}

/// The end that goes into the container, while it is not there.
pub fn peer_end(id: &str) -> String {
    format!("sp-{id}")
}

/// The endpoints of this host.
#[derive(Debug)]
pub struct Endpoints {
    kernel: Kernel,
    subnet: SubnetSpec,
    /// By Docker's id: the owner's. A copy of what the aliases tell.
    known: Mutex<HashMap<String, String>>,
    /// The bridge's index, as last seen.
    bridge: Mutex<Option<u32>>,
}

impl Endpoints {
    pub fn new(kernel: Kernel, subnet: SubnetSpec) -> Self {
        Self { kernel, subnet, known: Mutex::default(), bridge: Mutex::default() }
    }

    /// The bridge with its address and settings, whether or not the agent was here before.
    pub async fn ensure_bridge(&self) -> Result<u32, Error> {
        let plan = base(&self.subnet);
        // Settings may be refused (a read-only /proc/sys); containers start all the same, and the agent says so.
        let warn = |failed: Vec<Error>| failed.iter().for_each(|error| tracing::warn!(%error, "a kernel setting"));
        warn(self.kernel.ensure_settings(&plan.global).1);
        let mut index = None;
        if let Some(spec) = &plan.bridge {
            let made = self.kernel.netlink.ensure_link(spec).await?.index;
            let _ = self
                .kernel
                .netlink
                .ensure_addresses(made, &plan.bridge_addresses, Others::Keep)
                .await?
                .into_result()?;
            index = Some(made);
        }
        warn(self.kernel.ensure_settings(&plan.settings).1);
        *self.bridge.lock().unwrap_or_else(PoisonError::into_inner) = index;
        index.ok_or_else(|| Error::NoSuchLink { name: BRIDGE.to_owned() })
    }

    async fn bridge(&self) -> Result<u32, Error> {
        let known = *self.bridge.lock().unwrap_or_else(PoisonError::into_inner);
        match known {
            Some(index) => Ok(index),
            None => self.ensure_bridge().await,
        }
    }

    /// Makes an instance's pair. A pair of that name is an earlier endpoint's of the same instance, and replaced.
    pub async fn create(&self, endpoint: &str, owner: &str, network: &ManagedAddress, mac: Mac) -> Result<(), Error> {
        let (name, peer) = (host_end(owner), peer_end(owner));
        let mut spec = VethSpec {
            name: name.clone(),
            peer,
            mtu: network.mtu,
            mac: None,
            peer_mac: mac,
            master: Some(self.bridge().await?),
            port: PortFlags::pinned(),
            alias: Some(alias(owner, endpoint)),
        };
        let mut result = self.kernel.netlink.create_veth(&spec).await;
        if let Err(error) = &result {
            tracing::info!(link = name, %error, "once more, from the start");
            // The bridge may be another one than last time; what stands in the way is a leftover.
            spec.master = Some(self.ensure_bridge().await?);
            self.kernel.netlink.delete_link(&spec.name).await?;
            self.kernel.netlink.delete_link(&spec.peer).await?;
            result = self.kernel.netlink.create_veth(&spec).await;
        }
        result?;
        if let Some(bridge) = spec.master {
            self.pin(&spec.name, bridge, network, mac).await?;
        }
        let quiet = [Wish::Interface6(name, "disable_ipv6", "1")];
        for error in self.kernel.ensure_settings(&quiet).1 {
            tracing::warn!(%error, "IPv6 stays on for this port");
        }
        self.known().insert(endpoint.to_owned(), owner.to_owned());
        Ok(())
    }

    /// Makes a port that somebody else has made, a virtual machine's, its instance's own, as if it were made here.
    pub async fn hold(&self, owner: &str, network: &ManagedAddress, mac: Mac) -> Result<(), Error> {
        let name = host_end(owner);
        let settings =
            Settings { master: Some(self.bridge().await?), port: PortFlags::pinned(), ..Settings::default() };
        self.kernel.netlink.set_link(&name, &settings).await?;
        let quiet = [Wish::Interface6(name.clone(), "disable_ipv6", "1")];
        for error in self.kernel.ensure_settings(&quiet).1 {
            tracing::warn!(%error, "IPv6 stays on for this port");
        }
        self.pin(&name, self.bridge().await?, network, mac).await
    }

    /// What is sent to its address goes to this port from now on, and nowhere else ([`super::super::pins`]), and it sends as
    /// itself.
    async fn pin(&self, name: &str, bridge: u32, network: &ManagedAddress, mac: Mac) -> Result<(), Error> {
        let port = self.kernel.netlink.link_index(name).await?;
        self.kernel.netlink.pin(&Pin { bridge, port, address: network.address.into(), mac }).await?;
        senders::admit(&self.kernel, Sender { port: name.to_owned(), mac, address: network.address }).await
    }

    /// The addresses that Docker's own containers have here.
    pub async fn spares_in_use(&self) -> Result<BTreeSet<Ipv4Addr>, Error> {
        spares::in_use(&self.kernel).await
    }

    /// Whether the pair of `owner` is there already, as another endpoint than this.
    pub async fn is_taken(&self, endpoint: &str, owner: &str) -> Result<bool, Error> {
        let link = self.kernel.netlink.link_by_name(&host_end(owner)).await?;
        Ok(link.is_some_and(|link| link.alias != Some(alias(owner, endpoint))))
    }

    /// Whose an endpoint is; `None` where there is no such pair.
    pub async fn owner(&self, endpoint: &str) -> Result<Option<String>, Error> {
        if let Some(id) = self.known().get(endpoint) {
            return Ok(Some(id.clone()));
        }
        let links = self.kernel.netlink.links().await?;
        let found = links.iter().find_map(|link| {
            let (id, of) = parse(link.alias.as_deref()?)?;
            (of == endpoint && link.name == host_end(id)).then(|| id.to_owned())
        });
        if let Some(id) = &found {
            self.known().insert(endpoint.to_owned(), id.clone());
        }
        Ok(found)
    }

    /// Takes an endpoint's pair away; fine where there is none, or where its name is another endpoint's by now.
    pub async fn delete(&self, endpoint: &str) -> Result<(), Error> {
        let known = self.known().remove(endpoint);
        let id = match known {
            Some(id) => id,
            None => match self.owner(endpoint).await? {
                Some(id) => id,
                None => return Ok(()),
            },
        };
        self.known().remove(endpoint);
        let name = host_end(&id);
        let link = self.kernel.netlink.link_by_name(&name).await?;
        let ours = link.and_then(|link| link.alias).is_some_and(|found| found == alias(&id, endpoint));
        if ours {
            self.kernel.netlink.delete_link(&name).await?;
        }
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alias(id: &str, endpoint: &str) -> String {
    format!("stampede {id} endpoint {endpoint}")
}

/// The owner and the endpoint in an alias of ours.
pub fn parse(alias: &str) -> Option<(&str, &str)> {
    alias.strip_prefix("stampede ")?.split_once(" endpoint ")
}
