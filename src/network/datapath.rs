//! What leads packets: this host's kernel, with its addresses, its one table of rules and the connections that it tracks. What floating
//! addresses, published ports and links ask of it is in one trait, so that the simulation can put a model of all hosts' kernels in
//! its place.

use super::announce;
use super::kernel::{Error, Kernel};
use super::overlay::BRIDGE;
use stampede_netlink::address::{Address, AddressSpec, Others};
use stampede_netlink::conntrack::Flow;
use stampede_netlink::nftables::{Table, TableOutcome};
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

/// Which addresses, as of the moment that it is called.
pub type Wanted<'a> = &'a (dyn Fn() -> Vec<AddressSpec> + Send + Sync);

/// See the module's text.
#[async_trait::async_trait]
pub trait Datapath: Debug + Send + Sync {
    /// All addresses that this host has.
    async fn addresses(&self) -> Result<Vec<Address>, Error>;
    /// The index of the managed network's bridge, once there is one.
    async fn bridge(&self) -> Result<Option<u32>, Error>;
    /// Has a link have these addresses, whatever others it has. They are asked for as late as can be: lifetimes are of that moment.
    async fn ensure_addresses(&self, link: u32, wanted: Wanted<'_>) -> Result<(), Error>;
    /// Takes an address from a link.
    async fn remove_address(&self, link: u32, address: &AddressSpec) -> Result<(), Error>;
    /// Tells the wire once that an address is here.
    async fn announce(&self, address: Ipv4Addr, underlay: Option<IpAddr>);
    /// Makes a table so.
    async fn ensure_table(&self, table: &Table) -> Result<TableOutcome, Error>;
    /// The connections that are tracked.
    async fn flows(&self) -> Result<Vec<Flow>, Error>;
    /// Forgets some of them; how many there were.
    async fn forget_flows(&self, flows: &[Flow]) -> Result<usize, Error>;
    /// See [`Kernel::nudge`].
    fn nudge(&self, flows: &[Flow], mark: u32) -> Result<io::Result<usize>, Error>;
}

#[async_trait::async_trait]
impl Datapath for Kernel {
    async fn addresses(&self) -> Result<Vec<Address>, Error> {
        self.netlink.addresses().await
    }

    async fn bridge(&self) -> Result<Option<u32>, Error> {
        let links = self.netlink.links().await?;
        Ok(links.into_iter().find(|link| link.name == BRIDGE).map(|link| link.index))
    }

    async fn ensure_addresses(&self, link: u32, wanted: Wanted<'_>) -> Result<(), Error> {
        self.netlink.ensure_addresses_as_of(link, wanted, Others::Keep).await?.into_result().map(drop)
    }

    async fn remove_address(&self, link: u32, address: &AddressSpec) -> Result<(), Error> {
        self.netlink.remove_address(link, address).await.map(drop)
    }

    async fn announce(&self, address: Ipv4Addr, underlay: Option<IpAddr>) {
        let wires = match announce::wires(self, address, underlay).await {
            Ok(wires) => wires,
            Err(error) => return tracing::warn!(%address, %error, "not announced"),
        };
        for wire in &wires {
            match announce::announce(self, wire, address) {
                Ok(Ok(())) => tracing::debug!(%address, link = wire.name, "announced"),
                Ok(Err(error)) => tracing::warn!(%address, link = wire.name, %error, "not announced"),
                Err(error) => tracing::warn!(%address, link = wire.name, %error, "not announced"),
            }
        }
    }

    async fn ensure_table(&self, table: &Table) -> Result<TableOutcome, Error> {
        self.netlink.ensure_table(table).await
    }

    async fn flows(&self) -> Result<Vec<Flow>, Error> {
        self.netlink.flows().await
    }

    async fn forget_flows(&self, flows: &[Flow]) -> Result<usize, Error> {
        self.netlink.forget_flows(flows).await
    }

    fn nudge(&self, flows: &[Flow], mark: u32) -> Result<io::Result<usize>, Error> {
        Kernel::nudge(self, flows, mark)
    }
}
