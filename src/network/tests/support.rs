//! Hosts and containers as network namespaces. One lives as long as somebody holds its descriptor, so nothing is left behind,
//! however a test ends.

use crate::environment::{Clock, Environment, Identity, Random, Timestamp};
use crate::network::kernel::Kernel;
use crate::network::{Network, NetworkConfig, NetworkStatus};
use crate::store::{Store, embedded::Embedded};
use nix::sched::{CloneFlags, unshare};
use stampede_netlink::{
    Mac, Netlink,
    address::{AddressSpec, Others},
    link::{PortFlags, Settings, VethSpec},
    namespace,
    route::RouteSpec,
};
use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn environment() -> Environment {
    Environment::system().unwrap()
}

pub fn store() -> Arc<dyn Store> {
    Arc::new(Embedded::in_memory(&environment()).unwrap())
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// Tries until it holds; what is waited for is told where it does not.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let limit = tokio::time::Instant::now() + PATIENCE;
    while !holds().await {
        assert!(tokio::time::Instant::now() < limit, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A network namespace with its handle; `lo` is up.
pub struct Namespace {
    file: File,
    pub netlink: Netlink,
}

impl Namespace {
    pub async fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let file = made.join().unwrap();
        let netlink = Netlink::open_in(file.as_fd()).unwrap();
        netlink.set_link("lo", &Settings { up: Some(true), ..Settings::default() }).await.unwrap();
        Self { file, netlink }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub fn kernel(&self) -> Kernel {
        Kernel::open_in(OwnedFd::from(self.file.try_clone().unwrap())).unwrap()
    }

    /// Runs something blocking inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        namespace::run_in(self.fd(), work).unwrap()
    }

    pub async fn up(&self, link: &str, addresses: &[(&str, u8)]) -> u32 {
        self.netlink.set_link(link, &Settings { up: Some(true), ..Settings::default() }).await.unwrap();
        let index = self.netlink.link_index(link).await.unwrap();
        let specs: Vec<_> = addresses.iter().map(|(address, length)| AddressSpec::new(ip(address), *length)).collect();
        let outcome = self.netlink.ensure_addresses(index, &specs, Others::Remove).await.unwrap();
        outcome.into_result().unwrap();
        index
    }

    /// What a container has as Docker sets it up: its address in the subnet, and the gateway.
    pub async fn as_container(&self, link: &str, address: &str) {
        self.up(link, &[(address, 16)]).await;
        let gateway = RouteSpec { via: Some(ip("10.42.0.1")), ..RouteSpec::on("0.0.0.0/0".parse().unwrap(), link) };
        self.netlink.reconcile_routes(&[gateway]).await.unwrap().into_result().unwrap();
    }

    pub fn udp(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().unwrap();
        let socket = self.run(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    /// Runs a test tool inside and gives its output; fails if it fails.
    #[allow(clippy::disallowed_types, reason = "test tools are what people look with; the product runs none")]
    pub fn tool(&self, command: &[&str]) -> String {
        let output = self.run(|| std::process::Command::new(command[0]).args(&command[1..]).output()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }
}

/// A cable: a veth pair between two namespaces, each end with an address.
pub async fn cable(a: &Namespace, b: &Namespace, name: &str, addresses: [&str; 2], prefix: u8) {
    let spec = VethSpec {
        name: name.to_owned(),
        peer: format!("{name}p"),
        mtu: 1500,
        mac: None,
        peer_mac: Mac([2, 0x99, 0, 0, 0, name.len() as u8]),
        master: None,
        port: PortFlags::default(),
        alias: None,
    };
    a.netlink.create_veth(&spec).await.unwrap();
    a.netlink.move_link(&spec.peer, b.fd()).await.unwrap();
    a.up(&spec.name, &[(addresses[0], prefix)]).await;
    b.up(&spec.peer, &[(addresses[1], prefix)]).await;
}

/// Sends a datagram one way and back, like a ping; gives the address that the server saw.
pub fn exchange(client: &UdpSocket, server: &UdpSocket, to: &str) -> std::io::Result<SocketAddr> {
    client.send_to(b"ping", to)?;
    let mut buffer = [0; 64];
    let (_, from) = server.recv_from(&mut buffer)?;
    server.send_to(b"pong", from)?;
    let (length, _) = client.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], b"pong");
    Ok(from)
}

/// A host: a namespace in which the network runs.
pub struct Host {
    pub namespace: Namespace,
    pub network: Network,
    pub name: String,
}

impl Host {
    pub async fn start(name: &str, namespace: Namespace, underlay: Option<&str>, store: &Arc<dyn Store>) -> Self {
        let config = NetworkConfig { underlay: underlay.map(ip), ..NetworkConfig::new(name) };
        let network = Network::start(config, store.clone(), &environment(), namespace.kernel());
        Self { namespace, network, name: name.to_owned() }
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&NetworkStatus) -> bool) -> NetworkStatus {
        let mut status = self.network.status();
        let waited = tokio::time::timeout(PATIENCE, status.wait_for(|status| holds(status))).await;
        let found = waited.map(|status| status.unwrap().clone());
        found.unwrap_or_else(|_| panic!("{}: not {what}: {:?}", self.name, self.network.status().borrow()))
    }
}

/// A clock that stands and randomness that counts.
#[derive(Debug)]
pub struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }

    fn boottime(&self) -> Duration {
        Duration::ZERO
    }
}

impl Random for Fixed {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}

/// An environment in which the first of several is always picked: what two agents would pick alike, they pick alike.
pub fn alike() -> Environment {
    let identity = Identity { machine_id: "0".repeat(32), boot_id: "b".to_owned() };
    Environment { clock: Arc::new(Fixed), random: Arc::new(Fixed), identity }
}

/// A store that never answers.
#[derive(Debug)]
pub struct Silent;

fn unavailable<T>() -> Result<T, crate::store::Error> {
    Err(crate::store::Error::Unavailable { message: "silent".to_owned() })
}

#[async_trait::async_trait]
impl Store for Silent {
    async fn get(&self, _: &str) -> Result<crate::store::Lookup, crate::store::Error> {
        unavailable()
    }
    async fn range(&self, _: &str) -> Result<crate::store::Snapshot, crate::store::Error> {
        unavailable()
    }
    async fn changed_since(
        &self,
        _: &str,
        _: crate::store::Revision,
    ) -> Result<crate::store::Difference, crate::store::Error> {
        unavailable()
    }
    async fn commit(&self, _: crate::store::Transaction) -> Result<crate::store::Outcome, crate::store::Error> {
        unavailable()
    }
    async fn watch(&self, _: &str, _: crate::store::Revision) -> Result<crate::store::Watch, crate::store::Error> {
        unavailable()
    }
    async fn grant_lease(&self, _: Duration) -> Result<crate::store::LeaseId, crate::store::Error> {
        unavailable()
    }
    async fn keep_alive(&self, _: crate::store::LeaseId) -> Result<Duration, crate::store::Error> {
        unavailable()
    }
    async fn time_to_live(&self, _: crate::store::LeaseId) -> Result<Option<Duration>, crate::store::Error> {
        unavailable()
    }
    async fn revoke_lease(&self, _: crate::store::LeaseId) -> Result<(), crate::store::Error> {
        unavailable()
    }
    fn single_host(&self) -> bool {
        false
    }
    fn describe(&self) -> String {
        "silence".to_owned()
    }
}
