//! An agent put together from its rooms, and its life: open the store, answer, join, work, end.
//!
//! ```text
//! store, API ──► join ──────────────► network, placement, orchestration ──► instances' loop ──► stop
//!                 │ 5 s without a store
//!                 └─► ready all the same: what the ledger knows is started, reads are refused, nothing is removed
//! ```
//! Stopping ends the agent alone: its lease, its units and what they hold go on.

mod network;

pub use network::driver_options;

use super::late::LateService;
use super::names;
use super::simulated::{self, Simulations};
use super::trust::{self, LateLease};
use super::way::Way;
use crate::api;
use crate::compute::Drivers;
use crate::compute::docker::Docker;
use crate::compute::libvirt::Libvirt;
use crate::compute::supervisor::{self, cgroup::Cgroups};
use crate::environment::Environment;
use crate::host::boot;
use crate::host::config::Config;
use crate::host::description::{self, advertised};
use crate::host::exclusive::{self, Exclusives};
use crate::host::first::Firsts;
use crate::host::floating;
use crate::host::instances::Instances;
use crate::host::links;
use crate::host::natives::{self, Natives};
use crate::host::reclaim::{self, Kept};
use crate::host::shutdown;
use crate::host::volumes::Volumes;
use crate::host::watch::Watch;
use crate::membership::trust::Names;
use crate::membership::{
    Cluster, ClusterSettings, History, Hosts, Join, Membership, Place, Subnet, Trust, ensure_cluster,
};
use crate::network::{ForDocker, MeshView, Network, dns::Askers, driver};
use crate::orchestration::failover::{self, Failover};
use crate::orchestration::{Orchestrator, house, names as instance_names, seed, todo::Shards};
use crate::placement::{AddressSource, Placer, audit};
use crate::store::Store;
use crate::store::ledger::Ledger;
use crate::systemd::fallback::{Run, Tasks};
use crate::systemd::notify::{Announce, Service, Watchdog};
use crate::systemd::{Supervision, units::Units};
use anyhow::{Context, Result, anyhow};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// How long an agent waits for the store before it says that it is ready without.
const STORE_GRACE: Duration = Duration::from_secs(5);
/// How often the main loop turns.
const TURN: Duration = Duration::from_secs(5);
/// The work may stand still this long before the watchdog is no longer fed.
const STANDSTILL: u32 = 6;

/// Runs an agent until it is told to stop; `units` says whether systemd keeps its supervisors.
pub async fn serve(config: Config, environment: Environment, units: bool) -> Result<()> {
    let stop = CancellationToken::new();
    tokio::spawn(on_signal(stop.clone()));
    let ledger = Ledger::open(&config.state_directory)?;
    std::fs::create_dir_all(&config.run_directory)
        .with_context(|| format!("cannot create {}", config.run_directory.display()))?;
    let way = Way::open(&config, &environment)?;
    let opened = way.store.clone();
    // A store of this host's own is nobody's to take back but this host's.
    let history = if opened.single_host() { None } else { Some(History::open(&config.state_directory)?) };
    let store = history.as_ref().map_or_else(|| opened.clone(), |history| history.guard(opened.clone()));
    let docker = Docker::new(&environment, &config.docker.socket, &config.run_directory);
    let libvirt = Libvirt::new(&environment);
    let supervision = supervision(&config, &environment, &docker, units).await?;
    let hosts = Hosts::start(store.clone(), &environment);
    let service = Arc::new(LateService::default());
    let settings = api::Settings {
        allow_plain_text: config.api.plain_text,
        allow_simulated: config.allow_simulated,
        no_auth: config.api.no_auth,
    };
    let trust = trust::open(&config, &environment, store.clone());
    let lease = LateLease::new(&config, &environment, &ledger, &supervision);
    let (mesh_view, simulated) = (Arc::default(), api::LateSimulated::default());
    let trusted = api::Trusted {
        trust: trust.clone(),
        lease: lease.clone(),
        mesh: Arc::clone(&mesh_view),
        simulated: simulated.clone(),
        invitation: trust::invitation(&config)?,
        local: api::Local {
            host: config.host_name(),
            streams: Arc::new(docker.clone()),
            consoles: Arc::new(libvirt.clone()),
        },
    };
    let context = api::Context::with_trust(&environment, store.clone(), service.clone(), settings, Some(trusted));
    let answering = answer(&config, &context, &stop).await?;
    let beats = Arc::new(AtomicU64::new(0));
    let agent = Agent {
        askers: names::askers(&ledger).context("who is on this host cannot be read")?,
        libvirt,
        config,
        environment,
        units,
        way,
        store,
        docker,
        ledger,
        supervision,
        hosts,
        service,
        trust,
        lease,
        mesh_view,
        simulated,
        history: history.clone(),
        beats: beats.clone(),
    };
    let anew = restored(history, opened);
    tokio::pin!(anew);
    let announced = CancellationToken::new();
    let mut work = tokio::spawn(agent.clone().work(stop.clone(), announced.clone()));
    let mut watchdog = Watchdog::of_service(&agent.environment);
    let mut pace = tokio::time::interval(watchdog.interval().unwrap_or(TURN).min(TURN));
    let (mut last, mut still, mut ready) = (0, 0, false);
    let result = loop {
        tokio::select! {
            ended = &mut work => break ended.context("the agent's work ended badly").and_then(|result| result),
            () = &mut anew => break Err(anyhow!("a backup of the store was restored: the agent starts anew with it")),
            () = announced.cancelled(), if !ready => {
                ready = true;
                Service.ready();
            }
            _ = pace.tick() => {
                let beat = beats.load(Ordering::Relaxed);
                still = if beat == last { still + 1 } else { 0 };
                last = beat;
                if still < STANDSTILL {
                    watchdog.progress();
                }
            }
        }
    };
    Service.stopping();
    stop.cancel();
    // Connections get a moment to end.
    let _ = tokio::time::timeout(Duration::from_secs(6), answering.join_all()).await;
    result
}

/// Ends when the agent has to start anew, because the cluster is another generation than it joined.
async fn restored(history: Option<History>, store: Arc<dyn Store>) {
    match history {
        Some(history) => history.keep(store).await,
        None => std::future::pending().await,
    }
}

/// Opens both doors of the API: the port, and root's socket.
async fn answer(config: &Config, context: &Arc<api::Context>, stop: &CancellationToken) -> Result<JoinSet<()>> {
    let address = config.api.address;
    let port = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("the API cannot listen on {address}: is another agent running?"))?;
    let socket = driver::bind(&config.socket()).context("root's way into the API")?;
    let mut answering = JoinSet::new();
    answering.spawn(api::serve(port, context.clone(), stop.clone()));
    answering.spawn(api::serve(socket, context.clone(), stop.clone()));
    tracing::info!(%address, socket = %config.socket().display(), "the API answers");
    Ok(answering)
}

async fn on_signal(stop: CancellationToken) {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::warn!("signals cannot be caught; the agent ends at once when told to");
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.cancel();
}

async fn supervision(
    config: &Config,
    environment: &Environment,
    docker: &Docker,
    units: bool,
) -> Result<Arc<dyn Supervision>> {
    if units {
        return Ok(Arc::new(Units::connect(environment).await.context("cannot speak to systemd")?));
    }
    let ledger = Ledger::open(&config.state_directory)?;
    let (environment, docker, runtime) = (environment.clone(), docker.clone(), config.run_directory.clone());
    let keeper = environment.clone();
    let run: Run = Arc::new(move |id, stop, announce| {
        let options = supervisor::Options {
            environment: environment.clone(),
            ledger: ledger.clone(),
            runtime: runtime.clone(),
            announce,
            stop,
            output: supervisor::Output::Trace,
            fencing: supervisor::Fencing { killer: Arc::new(Cgroups::default()), place: Place::Thread },
        };
        let driver = Arc::new(docker.clone());
        Box::pin(async move { supervisor::run(&id, driver, options).await })
    });
    Ok(Arc::new(Tasks::new(&keeper, run)))
}

/// Everything the work needs.
#[derive(Clone, Debug)]
struct Agent {
    config: Config,
    environment: Environment,
    units: bool,
    way: Way,
    store: Arc<dyn Store>,
    docker: Docker,
    libvirt: Libvirt,
    ledger: Ledger,
    askers: Askers,
    supervision: Arc<dyn Supervision>,
    hosts: Hosts,
    service: Arc<LateService>,
    trust: Trust,
    lease: Arc<LateLease>,
    mesh_view: Arc<OnceLock<MeshView>>,
    simulated: api::LateSimulated,
    history: Option<History>,
    beats: Arc<AtomicU64>,
}

impl Agent {
    async fn work(self, stop: CancellationToken, announced: CancellationToken) -> Result<()> {
        let network = self.network().await?;
        if let Some(network) = &network {
            // Once in an agent's life.
            let _ = self.mesh_view.set(network.mesh());
        }
        let _answering = self.names(network.as_ref())?;
        let mut joining = Box::pin(self.join(network.as_ref()));
        let joined = tokio::select! {
            joined = &mut joining => joined,
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(STORE_GRACE) => {
                Service.status("waiting for the store");
                tracing::warn!(store = self.store.describe(), "no word from the store; starting what the ledger knows");
                announced.cancel();
                let pulse = self.pulse();
                tokio::select! {
                    joined = async { boot::start_known(&self.ledger, self.supervision.as_ref()).await; (&mut joining).await } => joined,
                    () = stop.cancelled() => return Ok(()),
                    () = pulse => return Ok(()),
                }
            }
        };
        drop(joining);
        let joined = joined?;
        announced.cancel();
        let host = joined.membership.host().name.clone();
        Service.status(&format!("{host} is in the cluster"));
        tracing::info!(host, store = self.store.describe(), cluster = joined.cluster.id, "in the cluster");
        self.live(host, joined, network, stop).await
    }

    /// Without it, waiting for the store would look like standing still.
    async fn pulse(&self) {
        loop {
            self.beats.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(TURN).await;
        }
    }

    async fn join(&self, network: Option<&Network>) -> Result<Joined> {
        let config = &self.config;
        let settings = ClusterSettings {
            subnet: Subnet { address: config.network.subnet, prefix: config.network.prefix },
            block_size: config.network.block,
        };
        let cluster = ensure_cluster(self.store.as_ref(), &self.environment, settings).await?;
        self.trust.check(&cluster.id).await?;
        let watch = Watch {
            config: config.clone(),
            docker: self.docker.clone(),
            // Its supervisors are units; without systemd there are none.
            libvirt: self.units.then(|| self.libvirt.clone()),
            network: network.map(Network::status),
            keys: self.trust.keys().clone(),
        };
        let description = watch.look().await;
        let kept = match network {
            Some(_) => {
                let (name, subnet) = (config.host_name(), network::subnet(config)?);
                let (store, place) = (self.store.as_ref(), (name.as_str(), &subnet));
                let for_docker = ForDocker::load(&config.state_directory)?.now();
                reclaim::for_docker(store, &self.environment, place, &for_docker).await?;
                reclaim::addresses(store, &self.environment, place, &self.ledger, cluster.generation).await?
            }
            None => Kept::default(),
        };
        let membership = Membership::join(Join {
            store: self.store.clone(),
            keepalive: self.way.keepalive(&self.config, &self.environment, self.history.as_ref()),
            environment: self.environment.clone(),
            description: description.clone(),
            state_dir: config.state_directory.clone(),
            run_dir: config.run_directory.clone(),
            ttl: config.lease_ttl(),
            place: Place::Thread,
            exclusive: !self.store.single_host() && exclusive::any(&self.ledger),
        })
        .await?;
        self.lease.set(membership.clone());
        let underlay = network.map(Network::status);
        let named = config.clone();
        let names = Names::new(move || {
            description::names(&named, underlay.as_ref().and_then(|status| status.borrow().underlay))
        });
        let keeping = self.trust.clone().keep(
            cluster.id.clone(),
            membership.host().name.clone(),
            membership.identity().to_owned(),
            names,
        );
        tokio::spawn(keeping);
        tokio::spawn(self.trust.clone().follow_secrets());
        seed::seed(self.store.as_ref(), &self.environment).await?;
        tokio::spawn(watch.run(membership.clone(), description));
        Ok(Joined { cluster, membership, kept })
    }

    fn simulations(
        &self,
        orchestrator: &Orchestrator,
        cluster_generation: u64,
        network: Option<&Network>,
    ) -> Result<Arc<Simulations>> {
        Ok(Simulations::start(simulated::Site {
            environment: self.environment.clone(),
            store: self.store.clone(),
            keepalive: self.way.keepalive(&self.config, &self.environment, self.history.as_ref()),
            orchestrator: orchestrator.clone(),
            cluster_generation,
            network: network.map(Network::addressing),
            address: advertised(&self.config, network.and_then(|network| network.status().borrow().underlay)),
            state_directory: self.config.state_directory.clone(),
            run_directory: self.config.run_directory.clone(),
            ttl: self.config.lease_ttl(),
        }))
    }

    async fn live(self, host: String, joined: Joined, network: Option<Network>, stop: CancellationToken) -> Result<()> {
        let addresses = network.as_ref().map(|network| network.allocator().clone() as Arc<dyn AddressSource>);
        let generation = joined.cluster.generation;
        let placer = Placer::new(self.store.clone(), &self.environment, generation, self.hosts.clone(), addresses)
            .with_policy(self.config.placement.policy);
        let orchestrator = Orchestrator::new(self.store.clone(), self.environment.clone(), placer);
        self.service.set(orchestrator.clone());
        let _shards = Shards::start(
            orchestrator.clone(),
            self.store.clone(),
            self.environment.clone(),
            host.clone(),
            self.hosts.alive().clone(),
        );
        let _failover = Failover::start(failover::Settings {
            orchestrator: orchestrator.clone(),
            store: self.store.clone(),
            environment: self.environment.clone(),
            host: host.clone(),
            hosts: self.hosts.clone(),
            peers: Arc::new(self.trust.clone()),
            ttl: self.config.lease_ttl(),
        });
        if self.config.allow_simulated {
            // Once in an agent's life.
            let _ = self.simulated.set(self.simulations(&orchestrator, generation, network.as_ref())?);
        }
        let own = joined.membership.host().id;
        let leaving = tokio::spawn(shutdown::keep(orchestrator.clone(), self.environment.clone(), own, self.units));
        let auditing = tokio::spawn(audit::keep(self.store.clone(), self.environment.clone(), host.clone()));
        let naming = tokio::spawn(instance_names::keep(self.store.clone(), self.environment.clone(), host.clone()));
        let alive = self.hosts.alive().clone();
        let housekeeping = tokio::spawn(house::keep(self.store.clone(), self.environment.clone(), host.clone(), alive));
        let learning = network.as_ref().map(|network| {
            let orchestrator = orchestrator.clone();
            tokio::spawn(links::keep(network.links(), orchestrator, self.environment.clone(), host.clone()))
        });
        let floats = self.floats()?;
        let floating = network.as_ref().map(|network| {
            let keeper = floating::Keeper {
                floats: floats.clone(),
                network: network.floating(),
                membership: joined.membership.clone(),
                orchestrator: orchestrator.clone(),
                store: self.store.clone(),
                environment: self.environment.clone(),
                host: host.clone(),
            };
            tokio::spawn(keeper.keep())
        });
        let natives = network.as_ref().map_or_else(Natives::default, |network| {
            let spares = network.spares(&self.config.state_directory);
            Natives::new(natives::Site { driver: Arc::new(self.docker.clone()), spares, host_id: own })
        });
        let volumes = Arc::new(Volumes {
            host: host.clone(),
            environment: self.environment.clone(),
            store: self.store.clone(),
            orchestrator: orchestrator.clone(),
            libvirt: self.libvirt.clone(),
        });
        let keeping = tokio::spawn(volumes.keep());
        let killer = Arc::new(Cgroups::default());
        let exclusives = Exclusives::new(joined.membership, killer, self.store.single_host());
        let instances = Arc::new(Instances {
            host,
            environment: self.environment,
            store: self.store,
            orchestrator,
            ledger: self.ledger,
            supervision: self.supervision,
            drivers: Drivers { containers: Arc::new(self.docker), machines: Arc::new(self.libvirt) },
            network: network.as_ref().map(Network::addressing),
            led: network.as_ref().map(|network| (network.published(), network.links(), floats)),
            askers: self.askers,
            cluster_generation: generation,
            exclusives,
            firsts: Firsts::default(),
            natives,
            kept: joined.kept,
            run_directory: self.config.run_directory,
            beats: self.beats,
        });
        instances.run(stop).await;
        auditing.abort();
        naming.abort();
        leaving.abort();
        housekeeping.abort();
        keeping.abort();
        learning.iter().chain(&floating).for_each(JoinHandle::abort);
        Ok(())
    }
}

#[derive(Debug)]
struct Joined {
    cluster: Cluster,
    membership: Membership,
    kept: Kept,
}
