//! An agent put together from its rooms, as `cli::assembly` does it, without API, kernel and Docker.

use crate::machine::TTL;
use crate::network::Led;
use stampede::compute::supervisor::cgroup::Killer;
use stampede::compute::{Driver, Drivers};
use stampede::environment::{Clock, Environment};
use stampede::host::exclusive::{self, Exclusives};
use stampede::host::first::Firsts;
use stampede::host::instances::Instances;
use stampede::host::natives::Natives;
use stampede::host::reclaim::{self, Kept};
use stampede::host::{answer, boot};
use stampede::membership::peers::{Answer, Peers};
use stampede::membership::record::{Capability, Capacity, Overcommit};
use stampede::membership::trust::{Keyring, SecretPlace};
use stampede::membership::{
    Cluster, ClusterSettings, Connect, History, HostDescription, Hosts, Join, JoinError, Membership, Place,
    ensure_cluster,
};
use stampede::network::datapath::Datapath;
use stampede::network::dns::Names;
use stampede::network::ipsec::encryptor::Encryptor;
use stampede::network::ipsec::engine::{Engine, Reach, Word};
use stampede::network::mesh::{OVERHEAD, Outside, Underlay};
use stampede::network::{Addressing, Allocator, SubnetSpec};
use stampede::orchestration::failover::{self, Failover};
use stampede::orchestration::{Orchestrator, house, seed, todo::Shards};
use stampede::placement::{AddressSource, Placer, audit};
use stampede::store::ledger::Ledger;
use stampede::store::mirror::Mirror;
use stampede::store::simulated::Link;
use stampede::store::{Store, key};
use stampede::systemd::Supervision;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// How long an agent waits for the store before it starts what its ledger knows.
const STORE_GRACE: Duration = Duration::from_secs(5);
/// How long it takes to find this host's address towards the others.
const FINDING: Duration = Duration::from_millis(200);
/// What links carry.
const MTU: u32 = 1500;

/// Everything an agent needs of its host.
#[derive(Clone, Debug)]
pub struct Site {
    pub name: String,
    pub environment: Environment,
    pub store: Arc<dyn Store>,
    pub keepalive: Arc<dyn Store>,
    pub driver: Arc<dyn Driver>,
    pub killer: Arc<dyn Killer>,
    pub supervision: Arc<dyn Supervision>,
    pub ledger: Ledger,
    pub state_directory: PathBuf,
    pub run_directory: PathBuf,
    pub memory_mb: u64,
    /// Whether it notices that the store went back.
    pub heeds_history: bool,
    pub peers: Arc<dyn Peers>,
    pub link: Link,
    pub encryptor: Arc<dyn Encryptor>,
    pub datapath: Arc<dyn Datapath>,
    /// Its address towards the others.
    pub address: IpAddr,
    /// By which its keys grow old.
    pub keys_clock: Arc<dyn Clock>,
    /// The file that holds the cluster's secret.
    pub secret: PathBuf,
    /// What it says of encryption.
    pub word: watch::Sender<Option<Word>>,
}

/// Where an agent is spoken to.
#[derive(Clone, Debug)]
pub struct Desk {
    pub orchestrator: Orchestrator,
    pub link: Link,
    /// What it says when it is asked for names.
    pub names: Names,
    membership: Membership,
    site: Site,
}

impl Desk {
    /// What it says to another that asks whether it is gone.
    pub async fn answer(&self) -> Answer {
        let site = &self.site;
        let supervision = site.supervision.as_ref();
        answer::answer(&self.membership, &site.environment, &site.run_directory, &site.ledger, supervision).await
    }
}

/// The managed network of all runs: small blocks, so that they fill.
pub fn subnet() -> SubnetSpec {
    SubnetSpec::of(Ipv4Addr::new(10, 42, 0, 0), 16, 28).unwrap()
}

/// Lives until it is dropped, may not be part of the cluster, or has to start anew with a new generation of it.
pub async fn run(site: &Site, desk: &watch::Sender<Option<Desk>>) {
    std::fs::create_dir_all(&site.run_directory).unwrap();
    std::fs::create_dir_all(&site.state_directory).unwrap();
    if !site.heeds_history {
        return work(site, desk).await;
    }
    let history = History::open(&site.state_directory).unwrap();
    let guarded = |store: &Arc<dyn Store>| history.guard(store.clone());
    let (store, keepalive) = (guarded(&site.store), guarded(&site.keepalive));
    let heeding = Site { store, keepalive, ..site.clone() };
    tokio::select! {
        biased;
        () = history.keep(site.store.clone()) => tracing::info!(host = site.name, "starts anew"),
        () = work(&heeding, desk) => {}
    }
}

async fn work(site: &Site, desk: &watch::Sender<Option<Desk>>) {
    let hosts = Hosts::start(site.store.clone(), &site.environment);
    let _encrypting = encrypt(site, &hosts);
    let Some(led) = Led::start(site).await else { return };
    let mut joining = std::pin::pin!(join(site));
    let joined = tokio::select! {
        biased;
        joined = &mut joining => joined,
        () = tokio::time::sleep(STORE_GRACE) => {
            boot::start_known(&site.ledger, site.supervision.as_ref()).await;
            joining.await
        }
    };
    match joined {
        Ok(joined) => live(site, desk, hosts, (joined, &led)).await,
        Err(error) => tracing::warn!(host = site.name, %error, "may not join"),
    }
}

/// The one half of `Network::start`: whom it reaches is told when it is known, and nothing is sent before the port is closed.
fn encrypt(site: &Site, hosts: &Hosts) -> AbortOnDropHandle<()> {
    let (store, environment) = (&site.store, &site.environment);
    let (reach, found) = watch::channel(None);
    let engine = Engine {
        encryptor: site.encryptor.clone(),
        store: store.clone(),
        environment: Environment { clock: site.keys_clock.clone(), ..environment.clone() },
        host: site.name.clone(),
        keys: Keyring::new(SecretPlace::new(Some(site.secret.clone()), None, &site.state_directory)),
        takes_plain: false,
        outside: Outside::default(),
        esp: None,
        mesh: Mirror::start(store.clone(), environment, key::all_mesh()),
        alive: hosts.alive().clone(),
        cluster: Mirror::start(store.clone(), environment, key::cluster()),
        reach: found,
        word: site.word.clone(),
        report: watch::Sender::new(BTreeMap::new()),
    };
    let (finding, address) = (environment.jitter(FINDING), site.address);
    let work = async move {
        engine.close().await;
        let find = async move {
            tokio::time::sleep(finding).await;
            reach.send_replace(Some(Reach { underlay: Underlay { address, mtu: MTU }, mtu: MTU - OVERHEAD }));
            std::future::pending::<()>().await;
        };
        tokio::join!(engine.run(), find);
    };
    AbortOnDropHandle::new(tokio::spawn(Box::pin(work) as Work))
}

async fn join(site: &Site) -> Result<Joined, JoinError> {
    let cluster = ensure_cluster(site.store.as_ref(), &site.environment, ClusterSettings::default()).await?;
    let place = (site.name.as_str(), &subnet());
    let (store, generation) = (site.store.as_ref(), cluster.generation);
    let kept = reclaim::addresses(store, &site.environment, place, &site.ledger, generation).await?;
    let membership = Membership::join(Join {
        store: site.store.clone(),
        keepalive: Connect::shared(site.keepalive.clone()),
        environment: site.environment.clone(),
        description: HostDescription {
            name: site.name.clone(),
            labels: BTreeMap::new(),
            capabilities: BTreeSet::from([Capability::Container, Capability::Network]),
            capacity: Capacity { cpu_millis: 2000, memory_mb: site.memory_mb, disk_mb: 10_000 },
            overcommit: Overcommit::default(),
            versions: BTreeMap::new(),
            warnings: Vec::new(),
            address: format!("{}:9080", site.name),
            secrets: None,
        },
        state_dir: site.state_directory.clone(),
        run_dir: site.run_directory.clone(),
        ttl: TTL,
        place: Place::Task,
        exclusive: exclusive::any(&site.ledger),
    })
    .await?;
    if let Err(error) = seed::seed(site.store.as_ref(), &site.environment).await {
        tracing::warn!(%error, "not seeded");
        return Err(JoinError::Ended);
    }
    Ok(Joined { cluster, membership, kept })
}

struct Joined {
    cluster: Cluster,
    membership: Membership,
    kept: Kept,
}

async fn live(site: &Site, desk: &watch::Sender<Option<Desk>>, hosts: Hosts, (joined, led): (Joined, &Led)) {
    let Joined { cluster, membership, kept } = joined;
    let (store, environment, host) = (&site.store, &site.environment, &site.name);
    let mtu = Arc::new(AtomicU32::new(1380));
    let addresses: Arc<dyn AddressSource> = Arc::new(Allocator::new(store.clone(), environment, subnet(), mtu.clone()));
    let placer = Placer::new(store.clone(), environment, cluster.generation, hosts.clone(), Some(addresses));
    let orchestrator = Orchestrator::new(store.clone(), environment.clone(), placer);
    desk.send_replace(Some(Desk {
        orchestrator: orchestrator.clone(),
        link: site.link.clone(),
        names: led.names.clone(),
        membership: membership.clone(),
        site: site.clone(),
    }));
    let _shards =
        Shards::start(orchestrator.clone(), store.clone(), environment.clone(), host.clone(), hosts.alive().clone());
    let _failover = Failover::start(failover::Settings {
        orchestrator: orchestrator.clone(),
        store: store.clone(),
        environment: environment.clone(),
        host: host.clone(),
        hosts: hosts.clone(),
        peers: site.peers.clone(),
        ttl: TTL,
    });
    let besides = |work| AbortOnDropHandle::new(tokio::spawn(work));
    let _auditing = besides(Box::pin(audit::keep(store.clone(), environment.clone(), host.clone())) as Work);
    let alive = hosts.alive().clone();
    let _housekeeping = besides(Box::pin(house::keep(store.clone(), environment.clone(), host.clone(), alive)) as Work);
    let (led, _leading) = led.live(site, &orchestrator, &membership);
    let exclusives = Exclusives::new(membership, site.killer.clone(), false);
    let instances = Arc::new(Instances {
        host: host.clone(),
        environment: environment.clone(),
        store: store.clone(),
        orchestrator,
        ledger: site.ledger.clone(),
        supervision: site.supervision.clone(),
        drivers: Drivers::one(site.driver.clone()),
        network: Some(Addressing::new(subnet(), mtu)),
        led: Some(led),
        askers: stampede::network::dns::Askers::default(),
        cluster_generation: cluster.generation,
        exclusives,
        firsts: Firsts::default(),
        natives: Natives::default(),
        kept,
        run_directory: site.run_directory.clone(),
        beats: Arc::new(AtomicU64::new(0)),
    });
    instances.run(CancellationToken::new()).await;
}

type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
