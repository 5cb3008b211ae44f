//! Hosts that encrypt and the wire between them, as namespaces: a switch, one veth pair a host.

use super::etcd;
use super::support::{Namespace, PATIENCE, cable, eventually, exchange, ip};
use crate::environment::{Clock, Environment, Identity, Random, Timestamp};
use crate::membership::trust::keyring::Said;
use crate::membership::trust::{Keyring, SecretPlace, secret::write_private};
use crate::membership::{ClusterSettings, ensure_cluster, record::Alive};
use crate::network::ipsec::{EspInUdp, derive::generations};
use crate::network::mesh::{Outside, PORT, VNI, vtep_mac};
use crate::network::{Ipsec, MeshView, Network, NetworkConfig, NetworkStatus, Protection, SubnetSpec};
use crate::store::{Operation, Store, Transaction, encode, key, mirror::Mirror};
use serde_json::Value;
use stampede_netlink::{
    Mac,
    link::{LinkKind, LinkSpec, PortFlags, VethSpec},
    xfrm::Association,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where hosts take ESP in UDP.
pub const ESP_PORTS: [u16; 2] = [4500, 4600];
pub(super) const UDP: u8 = 17;

/// Time since boot, and what is laid upon it.
#[derive(Debug, Default)]
pub struct Shifted(AtomicU64);

impl Shifted {
    pub fn forward(&self, span: Duration) {
        self.0.fetch_add(u64::try_from(span.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

impl Clock for Shifted {
    fn now(&self) -> Timestamp {
        Timestamp(0)
    }

    fn boottime(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let real = Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap());
        real + Duration::from_millis(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Debug)]
struct Urandom;

impl Random for Urandom {
    fn fill(&self, bytes: &mut [u8]) {
        File::open("/dev/urandom").unwrap().read_exact(bytes).unwrap();
    }
}

/// On an emulated machine, which has no machine-id.
pub fn environment() -> Environment {
    on(&Arc::default())
}

fn on(clock: &Arc<Shifted>) -> Environment {
    let identity = Identity { machine_id: "0".repeat(32), boot_id: "b".to_owned() };
    Environment { clock: clock.clone(), random: Arc::new(Urandom), identity }
}

/// A store, a switch, a clock, and a folder for secrets.
pub struct World {
    pub clock: Arc<Shifted>,
    environment: Environment,
    store: Arc<dyn Store>,
    pub(super) switch: Namespace,
    secrets: tempfile::TempDir,
    ipv6: bool,
}

impl World {
    pub async fn new() -> Self {
        Self::over(false).await
    }

    /// One whose hosts reach each other by IPv6 alone.
    pub async fn over_ipv6() -> Self {
        Self::over(true).await
    }

    async fn over(ipv6: bool) -> Self {
        let clock = Arc::new(Shifted::default());
        let environment = on(&clock);
        let store = etcd::empty(&environment).await;
        ensure_cluster(store.as_ref(), &environment, ClusterSettings::default()).await.unwrap();
        let switch = Namespace::new().await;
        switch.netlink.ensure_link(&LinkSpec::new("switch", LinkKind::Bridge)).await.unwrap();
        switch.up("switch", &[("198.18.0.254", 24)]).await;
        Self { clock, environment, store, switch, secrets: tempfile::tempdir().unwrap(), ipv6 }
    }

    /// Where the host of this number is, and how long its network's prefix is.
    fn place_of_host(&self, number: u8) -> (String, u8) {
        if self.ipv6 { (format!("fd00:198::{number}"), 64) } else { (format!("198.18.0.{number}"), 24) }
    }

    fn secret(&self, digits: &str) -> PathBuf {
        let path = self.secrets.path().join(&digits[..1]);
        std::fs::write(&path, digits).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    pub fn protection(&self) -> Protection {
        self.protection_by(&"a".repeat(64))
    }

    /// ESP with those that encrypt, plain text with the others.
    pub fn either(&self) -> Protection {
        match self.protection() {
            Protection::Ipsec(told) => Protection::Ipsec(Ipsec { takes_plain: true, ..told }),
            Protection::None => unreachable!(),
        }
    }

    pub fn protection_by(&self, digits: &str) -> Protection {
        self.protect(SecretPlace::new(Some(self.secret(digits)), None, self.secrets.path()))
    }

    /// A folder in which there is no secret yet.
    pub fn place(&self) -> PathBuf {
        self.place_of("later")
    }

    fn place_of(&self, name: &str) -> PathBuf {
        let place = self.secrets.path().join(name);
        std::fs::create_dir_all(&place).unwrap();
        place
    }

    /// Three hosts, each with a folder of its own for its secrets.
    pub async fn three_with_files(&self) -> Vec<Member> {
        let mut hosts = Vec::new();
        for number in 1..=3 {
            let place = self.place_of(&format!("h{number}"));
            self.bring_secret(&place);
            hosts.push(self.member(number, self.protection_at(&place)).await);
        }
        self.meshed(&hosts).await;
        hosts
    }

    pub fn protection_at(&self, place: &Path) -> Protection {
        self.protect(SecretPlace::new(None, None, place))
    }

    /// The secret that is to follow, on this host.
    pub fn bring_next_secret(&self, member: &Member, digits: &str) {
        let Protection::Ipsec(Ipsec { keys, .. }) = &member.protection else { unreachable!() };
        write_private(&keys.place().next(), digits.as_bytes()).unwrap();
        keys.look().unwrap();
    }

    /// All hosts hear what each says that it has; which are used then.
    pub fn secrets_are_heard(&self, hosts: &[Member]) -> BTreeSet<String> {
        let keys = |member: &Member| match &member.protection {
            Protection::Ipsec(told) => told.keys.clone(),
            Protection::None => unreachable!(),
        };
        let said: Said = hosts.iter().map(|host| (host.name.clone(), keys(host).held().unwrap().names())).collect();
        hosts.iter().map(|host| keys(host).heard(said.clone()).unwrap().unwrap().names().used).collect()
    }

    pub fn settle_secrets(&self, hosts: &[Member]) {
        for host in hosts {
            let Protection::Ipsec(Ipsec { keys, .. }) = &host.protection else { unreachable!() };
            keys.settle().unwrap();
        }
    }

    pub fn bring_secret(&self, place: &Path) {
        std::fs::copy(self.secret(&"a".repeat(64)), place.join("secret")).unwrap();
    }

    fn protect(&self, secret: SecretPlace) -> Protection {
        let alive = Mirror::start(self.store.clone(), &self.environment, key::all_alive());
        Protection::Ipsec(Ipsec { keys: Keyring::new(secret), alive, esp: None, takes_plain: false })
    }

    /// A host of which a port takes ESP in UDP. Whoever keeps the protection keeps the port open.
    pub async fn member_in_udp(&self, number: u8, port: u16) -> Member {
        let mut member = self.member(number, self.protection()).await;
        let opened = member.namespace.run(|| EspInUdp::open(port, !self.ipv6)).unwrap();
        let Protection::Ipsec(told) = member.protection.clone() else { unreachable!() };
        member.restart_with(self, Protection::Ipsec(Ipsec { esp: Some(opened), ..told })).await;
        member
    }

    /// A host whose address ends with this number, with an address for an instance, and a lease.
    pub async fn member(&self, number: u8, protection: Protection) -> Member {
        let namespace = Namespace::new().await;
        let (address, length) = self.place_of_host(number);
        if self.ipv6 {
            // There are no doubles here, and none is looked for, which takes seconds.
            namespace.run(|| std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")).unwrap();
        }
        self.plug(&namespace, number, &address, length).await;
        self.begin(namespace, number, address, Outside::default(), protection).await
    }

    /// A cable from the switch into a namespace, with this address there.
    async fn plug(&self, namespace: &Namespace, number: u8, address: &str, length: u8) {
        let cable = VethSpec {
            name: format!("port{number}"),
            peer: "wire".to_owned(),
            mtu: 1500,
            mac: None,
            peer_mac: Mac([2, 0x99, 0, 0, 0, number]),
            master: Some(self.switch.netlink.link_index("switch").await.unwrap()),
            port: PortFlags::default(),
            alias: None,
        };
        self.switch.netlink.create_veth(&cable).await.unwrap();
        self.switch.netlink.move_link("wire", namespace.fd()).await.unwrap();
        self.switch.up(&cable.name, &[]).await;
        namespace.up("wire", &[(address, length)]).await;
    }

    /// One of another site, which the others reach at 198.18.0.NUMBER, and whose own address is 192.168.7.NUMBER: between them is a router
    /// that translates the one into the other. It is given back too.
    pub async fn member_behind(&self, number: u8, port: u16) -> (Member, Namespace) {
        let (router, namespace) = (Namespace::new().await, Namespace::new().await);
        let (public, private) = (format!("198.18.0.{number}"), format!("192.168.7.{number}"));
        self.plug(&router, number, &public, 24).await;
        cable(&router, &namespace, "lan", ["192.168.7.254", &private], 24).await;
        namespace.tool(&["ip", "route", "add", "default", "via", "192.168.7.254"]);
        router.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")).unwrap();
        let rules = self.secrets.path().join("translation");
        let text = format!(
            "table ip translation {{
                chain in {{ type nat hook prerouting priority dstnat; ip daddr {public} dnat to {private}; }}
                chain out {{ type nat hook postrouting priority srcnat; ip saddr {private} snat to {public}; }}
            }}"
        );
        std::fs::write(&rules, text).unwrap();
        router.tool(&["nft", "-f", rules.to_str().unwrap()]);
        let outside = Outside { public: Some(ip(&public)), site: Some("there".to_owned()) };
        let opened = namespace.run(|| EspInUdp::open(port, true)).unwrap();
        let Protection::Ipsec(told) = self.protection() else { unreachable!() };
        let protection = Protection::Ipsec(Ipsec { esp: Some(opened), ..told });
        (self.begin(namespace, number, private, outside, protection).await, router)
    }

    /// The agent of a host that has its address.
    async fn begin(
        &self,
        namespace: Namespace,
        number: u8,
        address: String,
        outside: Outside,
        protection: Protection,
    ) -> Member {
        let name = format!("h{number}");
        let alive = Alive { identity: name.clone(), incarnation: 1, boot_id: "b".into(), address: address.clone() };
        self.put(&key::alive(&name), &alive).await;
        let place = (Some(ip(&address)), outside.clone());
        let network = self.start(&name, place, &namespace, protection.clone());
        let own = self.address(&network, &name).await;
        Member { namespace, network: Some(network), name, address, outside, own, protection }
    }

    async fn put<T: serde::Serialize>(&self, key: &str, value: &T) {
        let put = Operation::put(key, encode(key, value).unwrap());
        self.store.commit(Transaction::new().then(put)).await.unwrap();
    }

    /// Without an address that it is told it finds its own, towards the switch.
    fn start(
        &self,
        name: &str,
        (underlay, outside): (Option<IpAddr>, Outside),
        namespace: &Namespace,
        protection: Protection,
    ) -> Network {
        let towards = vec![(ip(&self.place_of_host(254).0), 2379).into()];
        let config = NetworkConfig { underlay, outside, towards, protection, ..NetworkConfig::new(name) };
        Network::start(config, self.store.clone(), &self.environment, namespace.kernel())
    }

    /// The host's own address on the managed network; takes a block where it has none.
    async fn address(&self, network: &Network, host: &str) -> Ipv4Addr {
        let reserved = network.allocator().reserve(host, &format!("{host}i")).await.unwrap();
        let transaction =
            Transaction { compares: reserved.compares, success: reserved.operations, failure: Vec::new() };
        assert!(self.store.commit(transaction).await.unwrap().succeeded);
        let subnet = SubnetSpec::default();
        subnet.router(subnet.block_of(reserved.address.address)).unwrap()
    }

    /// Three hosts that understand each other, at rest.
    pub async fn three(&self) -> Vec<Member> {
        let mut hosts = Vec::new();
        for number in 1..=3 {
            hosts.push(self.member(number, self.protection()).await);
        }
        let since = tokio::time::Instant::now();
        self.meshed(&hosts).await;
        println!("three hosts were a mesh in {:?}", since.elapsed());
        hosts
    }

    /// Waits until all of them understand each other.
    pub async fn meshed(&self, hosts: &[Member]) {
        for host in hosts {
            host.until("ready", |status| status.ready).await;
        }
        for from in hosts {
            for to in hosts.iter().filter(|to| to.name != from.name) {
                eventually("they understand each other", async || from.asks_soon(to).is_ok()).await;
            }
        }
        let encrypts = |host: &&Member| matches!(host.protection, Protection::Ipsec(_));
        let peers = hosts.iter().filter(encrypts).count().saturating_sub(1);
        for host in hosts.iter().filter(encrypts) {
            eventually("two associations a peer, all used", async || {
                let all = host.all().await;
                all.len() == 2 * peers && all.iter().all(|association| association.packets > 0)
            })
            .await;
        }
    }

    /// A host's record as it is in the store.
    pub async fn record(&self, host: &str) -> String {
        let entry = self.store.get(&key::mesh(host)).await.unwrap().entry.unwrap();
        String::from_utf8(entry.value.to_vec()).unwrap()
    }

    /// The public halves in each host's record.
    pub async fn halves(&self) -> BTreeMap<String, Vec<String>> {
        let mut all = BTreeMap::new();
        for entry in self.store.range(&key::all_mesh()).await.unwrap().entries {
            let record: Value = serde_json::from_slice(&entry.value).unwrap();
            let halves = record["halves"].as_array().into_iter().flatten();
            let public = halves.map(|half| half["public"].as_str().unwrap().to_owned()).collect();
            all.insert(key::last(&key::all_mesh(), &entry.key).to_owned(), public);
        }
        all
    }

    /// As when a host is removed from the cluster.
    pub async fn forget(&self, host: &str) {
        let gone =
            Transaction::new().then(Operation::delete(key::mesh(host))).then(Operation::delete(key::alive(host)));
        self.store.commit(gone).await.unwrap();
    }

    /// Pulls a host's cable, or puts it in again.
    pub fn cut(&self, number: u8, cut: bool) {
        self.switch.tool(&["ip", "link", "set", &format!("port{number}"), if cut { "down" } else { "up" }]);
    }

    /// Somebody on the wire sends `to` a packet of the overlay that says it is from `from`.
    pub async fn stranger(&self, port: u16, from: &Member, to: &Member) {
        let socket = self.switch.udp("198.18.0.254:0");
        let number = |member: &Member| member.name[1..].parse().unwrap();
        let mut frame = vec![8, 0, 0, 0, 0, 0, u8::try_from(VNI).unwrap(), 0];
        frame.extend(vtep_mac(number(to)).0);
        frame.extend(vtep_mac(number(from)).0);
        frame.extend([8, 0]);
        let mut header = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, UDP, 0, 0];
        header.extend(from.own.octets());
        header.extend(to.own.octets());
        let sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(header);
        for part in [7000, port, 12, 0] {
            frame.extend(part.to_be_bytes());
        }
        frame.extend(b"evil");
        socket.send_to(&frame, (to.address.parse::<IpAddr>().unwrap(), PORT)).unwrap();
    }
}

/// A host of the world.
pub struct Member {
    pub namespace: Namespace,
    network: Option<Network>,
    pub name: String,
    address: String,
    outside: Outside,
    own: Ipv4Addr,
    protection: Protection,
}

impl Member {
    pub fn mesh(&self) -> MeshView {
        self.network.as_ref().unwrap().mesh()
    }

    pub fn status(&self) -> NetworkStatus {
        self.network.as_ref().unwrap().status().borrow().clone()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&NetworkStatus) -> bool) {
        let mut status = self.network.as_ref().unwrap().status();
        let waited = tokio::time::timeout(PATIENCE, status.wait_for(|status| holds(status))).await;
        assert!(waited.is_ok_and(|waited| waited.is_ok()), "{}: not {what}: {:?}", self.name, self.status());
    }

    /// The agent ends and another begins; the kernel is left as it is.
    pub async fn restart(&mut self, world: &World) {
        self.restart_with(world, self.protection.clone()).await;
    }

    pub async fn restart_with(&mut self, world: &World, protection: Protection) {
        self.ends().await;
        self.protection = protection.clone();
        self.network =
            Some(world.start(&self.name, (Some(ip(&self.address)), self.outside.clone()), &self.namespace, protection));
        self.until("ready again", |status| status.ready).await;
    }

    /// The agent ends; the kernel is left as it is.
    pub async fn ends(&mut self) {
        if let Some(network) = self.network.take() {
            network.end().await;
        }
    }

    /// The agent starts anew without being told its address.
    pub async fn finds_its_address(&mut self, world: &World) {
        self.ends().await;
        self.network =
            Some(world.start(&self.name, (None, self.outside.clone()), &self.namespace, self.protection.clone()));
        self.until("ready again", |status| status.ready).await;
    }

    /// It gets another address in place of the one it has, as from DHCP.
    pub async fn moves(&mut self, world: &World, number: u8) {
        let (address, length) = world.place_of_host(number);
        self.namespace.up("wire", &[(&address, length)]).await;
        self.address = address;
    }

    /// The machine goes down, with all that is in its kernel.
    pub fn leaves(self, world: &World) {
        drop(self.network);
        world.switch.tool(&["ip", "link", "del", &format!("port{}", &self.name[1..])]);
    }

    pub fn listen(&self, port: u16) -> UdpSocket {
        self.namespace.udp(&self.at(port))
    }

    pub fn at(&self, port: u16) -> String {
        format!("{}:{port}", self.own)
    }

    /// A word to another host's own address and back.
    pub fn asks(&self, other: &Self) -> std::io::Result<()> {
        self.ask(other, Duration::from_secs(5))
    }

    pub fn asks_soon(&self, other: &Self) -> std::io::Result<()> {
        self.ask(other, Duration::from_millis(300))
    }

    fn ask(&self, other: &Self, limit: Duration) -> std::io::Result<()> {
        let bind = |member: &Self, port| {
            let at = (member.own, port);
            let socket = member.namespace.run(|| UdpSocket::bind(at))?;
            socket.set_read_timeout(Some(limit)).map(|()| socket)
        };
        let (server, client) = (bind(other, 7000)?, bind(self, 0)?);
        exchange(&client, &server, &other.at(7000)).map(drop)
    }

    pub async fn all(&self) -> Vec<Association> {
        self.namespace.kernel().xfrm().unwrap().associations().await.unwrap()
    }

    pub async fn associations(&self) -> usize {
        self.all().await.len()
    }

    /// How many associations there are to or from an address.
    pub async fn about(&self, address: &str) -> usize {
        let about = |association: &&Association| {
            [association.spec.source, association.spec.id.destination].contains(&ip(address))
        };
        self.all().await.iter().filter(about).count()
    }

    /// What its kernel has dropped for IPsec's sake.
    pub fn drops(&self) -> String {
        format!("{:?}", self.namespace.kernel().xfrm_drops())
    }

    pub async fn policies(&self) -> usize {
        self.namespace.kernel().xfrm().unwrap().policies().await.unwrap().len()
    }

    /// Waits until [`Self::newest_is_used`]; what there is instead is told.
    pub async fn uses_the_newest(&self, patience: Duration) {
        let limit = tokio::time::Instant::now() + patience;
        while !self.newest_is_used().await {
            if tokio::time::Instant::now() > limit {
                let all = self.all().await;
                let told = all.iter().map(|one| {
                    let (from, to) = generations(one.spec.id.spi);
                    let (source, destination) = (one.spec.source, one.spec.id.destination);
                    format!("{source} to {destination}, halves {from} and {to}: {}", one.packets)
                });
                panic!("{} uses {:#?}, {:?}", self.name, told.collect::<Vec<_>>(), self.status());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Towards each peer there is one way out, and something went through it and came back under both ends' newest halves.
    pub async fn newest_is_used(&self) -> bool {
        let all = self.all().await;
        let (ins, outs): (Vec<_>, Vec<_>) =
            all.iter().partition(|association| association.spec.id.destination == ip(&self.address));
        let own = |association: &&Association| generations(association.spec.id.spi).0;
        let newest = outs.iter().map(own).max();
        let mut peers: Vec<_> = outs.iter().map(|out| out.spec.id.destination).collect();
        peers.dedup();
        outs.len() == peers.len()
            && outs.iter().all(|out| Some(own(out)) == newest && out.packets > 0)
            && outs.iter().all(|out| {
                let back = |it: &&&Association| {
                    it.spec.source == out.spec.id.destination && Some(generations(it.spec.id.spi).1) == newest
                };
                ins.iter().filter(back).any(|it| it.packets > 0)
            })
    }
}
