//! The answers, call by call.

use super::super::kernel::{self, Kernel};
use super::super::spares;
use super::super::subnet::SubnetSpec;
use super::Options;
use super::directory::Directory;
use super::endpoint::{Endpoints, peer_end};
use super::handout::{Given, Handout};
use super::wire;
use crate::environment::Environment;
use crate::resource::assignment::{Assignment, ManagedAddress};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The name of our one pool of addresses.
const POOL: &str = "stampede";
/// What Docker says about the address it asks for, and when it is the gateway's.
const ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

/// How long it is waited for the agent to take more addresses, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);

/// Why a call is refused, in words that `docker run` shows.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("{call} is not understood: {source}")]
    Unreadable { call: String, source: serde_json::Error },
    #[error("{0} is no call of a network or IPAM driver")]
    UnknownCall(String),
    #[error("the managed network is {wanted}, not {asked}; make it with --subnet {wanted} --gateway {gateway}")]
    OtherPool { asked: String, wanted: String, gateway: Ipv4Addr },
    #[error("the managed network has no IPv6")]
    Ipv6,
    #[error(
        "no address is kept for Docker on this host: its agent takes some once it is in the cluster (systemctl status stampede); \
         containers that are started through Stampede get one of their own"
    )]
    NoneKept,
    #[error(
        "all addresses that this host keeps for Docker are in use: its agent takes more while it runs and reaches the cluster \
         (systemctl status stampede)"
    )]
    AllUsed,
    #[error("the address {0} is in use on this host")]
    InUse(Ipv4Addr),
    #[error(
        "-p and -P publish nothing on the managed network: its containers are reached at their own addresses, and ports of \
         the host are given to containers that are started through Stampede (`ports`); leave it out"
    )]
    Published,
    #[error("the hardware address of {address} is {wanted}: leave --mac-address out")]
    OtherMac { address: Ipv4Addr, wanted: String },
    #[error("{0} is no address")]
    BadAddress(String),
    #[error("{0} is no hardware address")]
    BadMac(String),
    #[error("no instance on this host has the address {0}: Stampede gives out the addresses of the managed network")]
    Unassigned(Ipv4Addr),
    #[error("endpoint {0} is not there")]
    NoEndpoint(String),
    #[error("the ledger cannot be read: {0}")]
    Ledger(#[from] io::Error),
    #[error("{0}")]
    Kernel(#[from] kernel::Error),
}

/// The driver: see the module above.
#[derive(Debug)]
pub struct Driver {
    subnet: SubnetSpec,
    endpoints: Endpoints,
    directory: Mutex<Directory>,
    handout: Handout,
    environment: Environment,
}

impl Driver {
    pub fn new(kernel: Kernel, options: &Options, environment: Environment) -> Self {
        Self {
            subnet: options.subnet,
            endpoints: Endpoints::new(kernel, options.subnet),
            directory: Mutex::new(Directory::new(&options.ledger)),
            handout: Handout::new(&options.ledger, environment.clone()),
            environment,
        }
    }

    /// The bridge and forwarding, before Docker is there. What fails is tried again when it is needed.
    pub async fn prepare(&self) {
        if let Err(error) = self.endpoints.ensure_bridge().await {
            tracing::warn!(%error, "the bridge is not there yet");
        }
    }

    /// Answers one call, such as `NetworkDriver.Join`.
    pub async fn answer(&self, call: &str, body: &[u8]) -> Result<Value, Refusal> {
        let start = self.environment.clock.boottime();
        let result = self.decide(call, body).await;
        let micros = u64::try_from(self.environment.clock.boottime().saturating_sub(start).as_micros());
        match &result {
            Ok(answer) => tracing::debug!(call, micros = micros.unwrap_or(u64::MAX), %answer, "answered"),
            Err(refusal) => tracing::warn!(call, %refusal, "refused"),
        }
        result
    }

    async fn decide(&self, call: &str, body: &[u8]) -> Result<Value, Refusal> {
        match call {
            "Plugin.Activate" => Ok(json!({"Implements": ["NetworkDriver", "IpamDriver"]})),
            "NetworkDriver.GetCapabilities" => Ok(json!({"Scope": "local", "ConnectivityScope": "local"})),
            "NetworkDriver.CreateNetwork" => self.create_network(&read(call, body)?),
            "NetworkDriver.CreateEndpoint" => self.create_endpoint(&read(call, body)?).await,
            "NetworkDriver.EndpointOperInfo" => Ok(json!({"Value": {}})),
            "NetworkDriver.Join" => self.join(&read(call, body)?).await,
            "Stampede.Pin" => self.pin(&read(call, body)?).await,
            "NetworkDriver.DeleteEndpoint" => {
                let call: wire::OfEndpoint = read(call, body)?;
                self.endpoints.delete(&call.endpoint).await?;
                Ok(json!({}))
            }
            // Networks and nodes are no state of ours; ports are published by the agent, not by Docker.
            "NetworkDriver.DeleteNetwork"
            | "NetworkDriver.AllocateNetwork"
            | "NetworkDriver.FreeNetwork"
            | "NetworkDriver.Leave"
            | "NetworkDriver.DiscoverNew"
            | "NetworkDriver.DiscoverDelete"
            | "NetworkDriver.ProgramExternalConnectivity"
            | "NetworkDriver.RevokeExternalConnectivity"
            | "IpamDriver.ReleasePool" => Ok(json!({})),
            "IpamDriver.ReleaseAddress" => {
                let call: wire::ReleaseAddress = read(call, body)?;
                call.address.parse().into_iter().for_each(|address| self.handout.settle(address));
                Ok(json!({}))
            }
            "IpamDriver.GetCapabilities" => Ok(json!({"RequiresMACAddress": false, "RequiresRequestReplay": false})),
            "IpamDriver.GetDefaultAddressSpaces" => {
                Ok(json!({"LocalDefaultAddressSpace": "StampedeLocal", "GlobalDefaultAddressSpace": "StampedeGlobal"}))
            }
            "IpamDriver.RequestPool" => self.request_pool(&read(call, body)?),
            "IpamDriver.RequestAddress" => self.request_address(&read(call, body)?).await,
            other => Err(Refusal::UnknownCall(other.to_owned())),
        }
    }

    fn pool(&self) -> String {
        format!("{}/{}", self.subnet.network, self.subnet.prefix)
    }

    fn check_pool(&self, asked: &str) -> Result<(), Refusal> {
        let wanted = self.pool();
        if asked == wanted {
            return Ok(());
        }
        Err(Refusal::OtherPool { asked: asked.to_owned(), wanted, gateway: self.subnet.gateway })
    }

    fn request_pool(&self, call: &wire::RequestPool) -> Result<Value, Refusal> {
        if call.v6 {
            return Err(Refusal::Ipv6);
        }
        // Without --subnet the pool is ours to choose, but then Docker takes no --ip.
        self.check_pool(&call.pool)?;
        if !call.sub_pool.is_empty() {
            self.check_pool(&call.sub_pool)?;
        }
        Ok(json!({"PoolID": POOL, "Pool": self.pool(), "Data": {}}))
    }

    fn create_network(&self, call: &wire::CreateNetwork) -> Result<Value, Refusal> {
        for data in &call.ipv4 {
            self.check_pool(&data.pool)?;
        }
        Ok(json!({}))
    }

    async fn request_address(&self, call: &wire::RequestAddress) -> Result<Value, Refusal> {
        let gateway = call.options.get(ADDRESS_TYPE).is_some_and(|kind| kind == GATEWAY);
        let address = match call.address.as_str() {
            "" if gateway => self.subnet.gateway,
            "" => self.give(None).await?,
            text => {
                let asked = text.parse().map_err(|_| Refusal::BadAddress(text.to_owned()))?;
                // The gateway's is every host's own; Docker asks for it when the network is made and at each start.
                let known = asked == self.subnet.gateway || self.assigned(asked).is_ok();
                if known { asked } else { self.give(Some(asked)).await? }
            }
        };
        Ok(json!({"Address": format!("{address}/{}", self.subnet.prefix), "Data": {}}))
    }

    /// The port of a virtual machine, which libvirt has made.
    async fn pin(&self, call: &wire::Pin) -> Result<Value, Refusal> {
        let address = call.address.parse().map_err(|_| Refusal::BadAddress(call.address.clone()))?;
        let (assignment, network) = self.assigned(address)?;
        self.endpoints.hold(&assignment.id, &network, self.subnet.mac(address)).await?;
        Ok(json!({}))
    }

    /// One of those that are kept for Docker.
    async fn give(&self, asked: Option<Ipv4Addr>) -> Result<Ipv4Addr, Refusal> {
        let until = self.environment.clock.boottime() + PATIENCE;
        loop {
            let used = self.endpoints.spares_in_use().await?;
            match (self.handout.give(asked, &used)?, asked) {
                (Given::Address(address), _) => return Ok(address),
                (Given::InUse, Some(asked)) => return Err(Refusal::InUse(asked)),
                (Given::NotKept, Some(asked)) => return Err(Refusal::Unassigned(asked)),
                (Given::AllUsed, _) if self.environment.clock.boottime() < until => tokio::time::sleep(LOOK).await,
                (Given::AllUsed, _) => return Err(Refusal::AllUsed),
                _ => return Err(Refusal::NoneKept),
            }
        }
    }

    /// Who has the address on this host.
    fn assigned(&self, address: Ipv4Addr) -> Result<(Arc<Assignment>, ManagedAddress), Refusal> {
        let found = self.directory.lock().unwrap_or_else(PoisonError::into_inner).find(address)?;
        let found = found.and_then(|assignment| assignment.network.clone().map(|network| (assignment, network)));
        found.ok_or(Refusal::Unassigned(address))
    }

    async fn create_endpoint(&self, call: &wire::CreateEndpoint) -> Result<Value, Refusal> {
        let text = call.interface.address.as_str();
        let address = text.split('/').next().unwrap_or_default();
        let address = address.parse().map_err(|_| Refusal::BadAddress(text.to_owned()))?;
        // One chosen by --mac-address must not be answered.
        let asked = &call.interface.mac_address;
        let mac = match self.assigned(address) {
            Ok((assignment, network)) => {
                let mac = if asked.is_empty() { &network.mac } else { asked };
                let parsed = mac.parse().map_err(|_| Refusal::BadMac(mac.clone()))?;
                self.endpoints.create(&call.endpoint, &assignment.id, &network, parsed).await?;
                network.mac
            }
            Err(Refusal::Unassigned(_)) => self.create_spare(call, address).await?,
            Err(refusal) => return Err(refusal),
        };
        let answered = if asked.is_empty() { mac } else { String::new() };
        let interface = wire::Interface { mac_address: answered, ..wire::Interface::default() };
        Ok(json!(wire::CreatedEndpoint { interface }))
    }

    /// The endpoint of a container that Docker starts by itself; its hardware address.
    async fn create_spare(&self, call: &wire::CreateEndpoint, address: Ipv4Addr) -> Result<String, Refusal> {
        let kept = self.handout.kept()?;
        if !kept.addresses.contains(&address) {
            return Err(Refusal::Unassigned(address));
        }
        if call.options.publishes() {
            return Err(Refusal::Published);
        }
        let network = self.subnet.managed(address, kept.mtu);
        let mac = self.subnet.mac(address);
        // Each address has one, by which it is known on the bridge.
        let asked = &call.interface.mac_address;
        if !asked.is_empty() && asked.parse() != Ok(mac) {
            return Err(Refusal::OtherMac { address, wanted: network.mac });
        }
        let owner = spares::owner(address);
        if self.endpoints.is_taken(&call.endpoint, &owner).await? {
            return Err(Refusal::InUse(address));
        }
        self.endpoints.create(&call.endpoint, &owner, &network, mac).await?;
        self.handout.settle(address);
        Ok(network.mac)
    }

    async fn join(&self, call: &wire::OfEndpoint) -> Result<Value, Refusal> {
        let owner = self.endpoints.owner(&call.endpoint).await?;
        let owner = owner.ok_or_else(|| Refusal::NoEndpoint(call.endpoint.clone()))?;
        Ok(json!(wire::Joined {
            interface_name: wire::InterfaceName { src_name: peer_end(&owner), dst_prefix: "eth" },
            gateway: self.subnet.gateway.to_string(),
            disable_gateway_service: true,
        }))
    }
}

/// A body; an empty one is one without fields.
fn read<T: DeserializeOwned + Default>(call: &str, body: &[u8]) -> Result<T, Refusal> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(T::default());
    }
    serde_json::from_slice(body).map_err(|source| Refusal::Unreadable { call: call.to_owned(), source })
}
