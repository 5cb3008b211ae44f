//! The managed network, in terms of users: one flat private network over all hosts, 10.42.0.0/16.
//!
//! | part | what it does |
//! |---|---|
//! | [`subnet`], [`block`], [`address`] | who gets which address: hosts take blocks, instances addresses of them |
//! | [`mesh`] | how the hosts reach each other: one record a host |
//! | [`overlay`], [`apply`](mod@apply) | links, routes and neighbours: a pure plan, and making it so |
//! | [`firewall`] | one nftables table, and two rules in Docker's chain |
//! | [`ports`], [`links`] | which ports this host opens, and whom its instances reach by names of their own |
//! | [`floating`], [`announce`] | addresses of other networks that lead to instances of this host, and that others hear of it |
//! | [`led`], [`hairpin`] | how both are led where they lead; the ways to there that are not straight |
//! | [`datapath`] | what these ask of the kernel |
//! | [`ipsec`] | what is sent between hosts is encrypted: keys, how they change, the loop that sees to it |
//! | [`report`] | how the others are reached, for people |
//! | [`reconcile`] | the loop that keeps all that as it should be |
//! | [`dns`] | names: instances' by who asks, all others from where the host asks |
//! | [`dhcp`] | the same addresses, for what asks for them when it boots |
//! | [`metadata`] | what an instance may know of itself, at 169.254.169.254 |
//! | [`apart`] | who reaches whom, where the network keeps accounts apart |
//! | [`pins`] | each instance's address leads to its own port, whoever says what |
//! | [`senders`] | no port sends as somebody else |
//! | [`spares`] | addresses for what Docker starts by itself |
//! | [`driver`] | Docker's way in: a libnetwork driver that needs neither agent nor etcd nor Docker |
//!
//! Start at [`Network::start`] for the agent's side, at [`driver::run`] for Docker's.

pub mod address;
mod announce;
pub mod apart;
mod apply;
pub mod block;
pub mod datapath;
pub mod dhcp;
pub mod dns;
pub mod driver;
mod firewall;
pub mod floating;
mod hairpin;
pub mod ipsec;
pub mod kernel;
pub mod led;
mod limit;
pub mod links;
pub mod mesh;
pub mod metadata;
pub mod overlay;
mod pins;
pub mod ports;
mod reconcile;
pub mod report;
mod senders;
mod source;
pub mod spares;
pub mod subnet;
#[cfg(test)]
mod tests;

pub use address::{Allocator, hold};
pub use driver::endpoint_end as port_name;
pub use floating::{Floating, Lead};
pub use links::Links;
pub use overlay::BRIDGE;
pub use ports::Published;
pub use spares::{ForDocker, Spares};
pub use subnet::SubnetSpec;

use crate::environment::Environment;
use crate::membership::{record::Alive, trust::Keyring};
use crate::resource::assignment::ManagedAddress;
use crate::store::{Store, key, mirror::Mirror};
use kernel::Kernel;
use report::{MeshReport, PeerReport};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What links carry where nothing else is known, bytes.
const ETHERNET: u32 = 1500;

/// How packets to other hosts are protected.
#[derive(Debug, Clone)]
pub enum Protection {
    /// Not at all.
    None,
    /// By ESP, under the cluster secrets that are held here. Keys are given up when those that live have newer ones.
    Ipsec(Ipsec),
}

/// What is needed to encrypt.
#[derive(Debug, Clone)]
pub struct Ipsec {
    pub keys: Keyring,
    pub alive: Mirror<Alive>,
    pub esp: Option<ipsec::EspInUdp>,
    /// Plain text with those that do not encrypt.
    pub takes_plain: bool,
}

impl Protection {
    fn mode(&self) -> mesh::Mode {
        match self {
            Self::None => mesh::Mode::None,
            Self::Ipsec(Ipsec { takes_plain: true, .. }) => mesh::Mode::Either,
            Self::Ipsec(_) => mesh::Mode::Ipsec,
        }
    }
}

/// What the network is told.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// This host's name.
    pub host: String,
    pub subnet: SubnetSpec,
    /// This host's address towards the others; else it is found by `towards`.
    pub underlay: Option<IpAddr>,
    /// Where it is for hosts of other sites.
    pub outside: mesh::Outside,
    /// Where the others are: the store's endpoints, other agents. Nothing is sent there.
    pub towards: Vec<SocketAddr>,
    /// The overlay's MTU; else the underlay's less [`mesh::OVERHEAD`]. The smallest of all hosts' counts.
    pub mtu: Option<u32>,
    /// The file that keeps what is known of the mesh over a boot without store: `/var/lib/stampede/network.json`.
    pub memory: Option<PathBuf>,
    pub protection: Protection,
    /// What this host opens.
    pub published: Published,
    /// Whom its instances are linked to; and the file that keeps where those are: `/var/lib/stampede/links.json`.
    pub links: Links,
    pub links_memory: Option<PathBuf>,
    /// What of other networks leads to its instances.
    pub floating: Floating,
    /// Its instances, whose addresses are pinned to their ports.
    pub askers: dns::Askers,
    /// Which addresses are kept for Docker.
    pub for_docker: ForDocker,
    /// Whether accounts are apart; follows from the store.
    pub apart: apart::Apart,
}

impl NetworkConfig {
    /// In plain text, the rest as most hosts have it.
    pub fn new(host: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            subnet: SubnetSpec::default(),
            underlay: None,
            outside: mesh::Outside::default(),
            towards: Vec::new(),
            mtu: None,
            memory: None,
            protection: Protection::None,
            published: Published::new(&[]),
            links: Links::new(&[], None),
            links_memory: None,
            floating: Floating::default(),
            askers: dns::Askers::default(),
            for_docker: ForDocker::default(),
            apart: apart::Apart::default(),
        }
    }

    fn leader(&self) -> led::Leader {
        led::Leader {
            host: self.host.clone(),
            subnet: self.subnet,
            published: self.published.clone(),
            links: self.links.clone(),
            floating: self.floating.clone(),
            for_docker: self.for_docker.clone(),
            apart: self.apart.clone(),
            askers: self.askers.clone(),
        }
    }

    fn default_mtu(&self) -> u32 {
        self.mtu.unwrap_or(ETHERNET - mesh::OVERHEAD)
    }

    /// The overlay's MTU over this underlay.
    fn mtu_over(&self, underlay: mesh::Underlay) -> u32 {
        // Less than 576 is no IPv4 network (RFC 791).
        self.mtu.unwrap_or_else(|| underlay.mtu.saturating_sub(mesh::OVERHEAD).max(576))
    }
}

/// How the network is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkStatus {
    /// Everything that is known of is as it should be.
    pub ready: bool,
    /// What is not, in words for the operator.
    pub problems: Vec<String>,
    /// The overlay's MTU.
    pub mtu: u32,
    /// This host's address towards the others.
    pub underlay: Option<IpAddr>,
    /// Own blocks that are routed.
    pub routed: BTreeSet<Ipv4Addr>,
}

/// What an instance's host is told of an address, as the network is now. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Addressing {
    subnet: SubnetSpec,
    mtu: Arc<AtomicU32>,
}

impl Addressing {
    /// `mtu` is kept up to date by who knows the overlay.
    pub fn new(subnet: SubnetSpec, mtu: Arc<AtomicU32>) -> Self {
        Self { subnet, mtu }
    }

    pub fn managed(&self, address: Ipv4Addr) -> ManagedAddress {
        self.subnet.managed(address, self.mtu.load(Ordering::Relaxed))
    }
}

/// What is known of the others. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MeshView {
    host: String,
    encryption: mesh::Mode,
    outside: mesh::Outside,
    kernel: Kernel,
    records: Mirror<mesh::Mesh>,
    status: watch::Receiver<NetworkStatus>,
    encrypted: watch::Receiver<BTreeMap<String, PeerReport>>,
}

impl MeshView {
    /// How the others are reached, as far as is known now.
    pub fn report(&self) -> MeshReport {
        let records = self.records.view().iter().map(|(host, item)| (host.clone(), (*item.value).clone())).collect();
        let dropped = self.kernel.xfrm_drops();
        let report = MeshReport::of(
            &self.host,
            (self.encryption, &self.outside),
            &self.status.borrow(),
            &records,
            &self.encrypted.borrow(),
        );
        MeshReport { dropped, ..report }
    }
}

/// The running network of this host. Dropping it ends the loop; what runs on the network goes on as it is.
#[derive(Debug)]
pub struct Network {
    allocator: Arc<Allocator>,
    subnet: SubnetSpec,
    published: Published,
    links: Links,
    mtu: Arc<AtomicU32>,
    status: watch::Receiver<NetworkStatus>,
    view: MeshView,
    task: tokio::task::JoinHandle<()>,
    floating: Floating,
    for_docker: ForDocker,
    store: Arc<dyn Store>,
    environment: Environment,
    _following: AbortOnDropHandle<()>,
    _floated: AbortOnDropHandle<()>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Both loops; with encryption none before the way of plain text is closed.
async fn run(
    kernel: Kernel,
    environment: Environment,
    engine: Option<ipsec::engine::Engine>,
    reconciler: reconcile::Reconciler,
) {
    let Some(engine) = engine else {
        tokio::join!(ipsec::policy::leave(&kernel, &environment), reconciler.run());
        return;
    };
    engine.close().await;
    tokio::join!(engine.run(), reconciler.run());
}

impl Network {
    /// Begins to make this host's network as it should be, in a task of its own.
    pub fn start(config: NetworkConfig, store: Arc<dyn Store>, environment: &Environment, kernel: Kernel) -> Self {
        let subnet = config.subnet;
        let mtu = Arc::new(AtomicU32::new(config.default_mtu()));
        let blocks = Mirror::start(store.clone(), environment, key::blocks(subnet.network));
        let mesh = Mirror::start(store.clone(), environment, key::all_mesh());
        let first = NetworkStatus { mtu: config.default_mtu(), ..NetworkStatus::default() };
        let (status, receiver) = watch::channel(first);
        let allocator = Allocator::with_blocks(store.clone(), environment, subnet, mtu.clone(), blocks.clone());
        let (reach, underlay) = watch::channel(None);
        let (word, heard) = watch::channel(None);
        let (report, encrypted) = watch::channel(BTreeMap::new());
        let engine = match &config.protection {
            Protection::None => None,
            Protection::Ipsec(told) => Some(ipsec::engine::Engine {
                encryptor: Arc::new(ipsec::encryptor::InKernel::new(kernel.clone())),
                store: store.clone(),
                environment: environment.clone(),
                host: config.host.clone(),
                keys: told.keys.clone(),
                takes_plain: told.takes_plain,
                outside: config.outside.clone(),
                esp: told.esp.clone(),
                mesh: mesh.clone(),
                alive: told.alive.clone(),
                cluster: Mirror::start(store.clone(), environment, key::cluster()),
                reach: underlay,
                word,
                report,
            }),
        };
        let view = MeshView {
            host: config.host.clone(),
            encryption: config.protection.mode(),
            outside: config.outside.clone(),
            kernel: kernel.clone(),
            records: mesh.clone(),
            status: receiver.clone(),
            encrypted,
        };
        let (published, links) = (config.published.clone(), config.links.clone());
        let following = links.clone().follow(store.clone(), environment.clone(), config.links_memory.clone());
        let following = AbortOnDropHandle::new(tokio::spawn(following));
        let (floating, for_docker) = (config.floating.clone(), config.for_docker.clone());
        let keeper = floating::Keeper {
            floating: floating.clone(),
            datapath: Arc::new(kernel.clone()),
            environment: environment.clone(),
            subnet,
            status: receiver.clone(),
        };
        let floated = AbortOnDropHandle::new(tokio::spawn(keeper.run()));
        let reconciler = reconcile::Reconciler {
            kernel: kernel.clone(),
            store: store.clone(),
            environment: environment.clone(),
            config,
            mesh,
            blocks,
            networks: Mirror::start(store.clone(), environment, key::resources("network")),
            mtu: mtu.clone(),
            status,
            encrypted: engine.is_some().then_some(reconcile::Encrypted { reach, word: heard }),
        };
        let task = tokio::spawn(run(kernel, environment.clone(), engine, reconciler));
        Self {
            allocator: Arc::new(allocator),
            subnet,
            published,
            links,
            mtu,
            status: receiver,
            view,
            task,
            floating,
            for_docker,
            store,
            environment: environment.clone(),
            _following: following,
            _floated: floated,
        }
    }

    /// Ends the loop and waits until it has: as the end of a process does, it leaves nothing that is still being done.
    #[cfg(test)]
    async fn end(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    /// Who gets which address, for placement.
    pub fn allocator(&self) -> &Arc<Allocator> {
        &self.allocator
    }

    /// What this host opens: to be told of what comes, changes and goes.
    pub fn published(&self) -> Published {
        self.published.clone()
    }

    /// Whom this host's instances are linked to: the same.
    pub fn links(&self) -> Links {
        self.links.clone()
    }

    /// Which floating addresses are this host's: the same.
    pub fn floating(&self) -> Floating {
        self.floating.clone()
    }

    /// What sees to the addresses that are kept for Docker; `directory` is where their file is.
    pub fn spares(&self, directory: &Path) -> Spares {
        Spares {
            allocator: self.allocator.clone(),
            kernel: self.view.kernel.clone(),
            store: self.store.clone(),
            environment: self.environment.clone(),
            host: self.view.host.clone(),
            subnet: self.subnet,
            mtu: self.mtu.clone(),
            directory: directory.to_owned(),
            told: self.for_docker.clone(),
            state: std::sync::Mutex::default(),
        }
    }

    /// The overlay's MTU as it is now: what new instances are told.
    pub fn mtu(&self) -> u32 {
        self.mtu.load(Ordering::Relaxed)
    }

    /// An address as an instance's host is told it.
    pub fn addressing(&self) -> Addressing {
        Addressing::new(self.subnet, self.mtu.clone())
    }

    /// How the network is; changes are told.
    pub fn status(&self) -> watch::Receiver<NetworkStatus> {
        self.status.clone()
    }

    /// How the others are reached.
    pub fn mesh(&self) -> MeshView {
        self.view.clone()
    }

    /// Waits until this host routes the block of an address; false after `limit`. For who starts an instance in a block that
    /// was taken a moment ago.
    pub async fn routed(&self, address: Ipv4Addr, limit: Duration) -> bool {
        let block = self.subnet.block_of(address);
        let mut status = self.status.clone();
        let routed = status.wait_for(|status| status.routed.contains(&block));
        matches!(tokio::time::timeout(limit, routed).await, Ok(Ok(_)))
    }
}
