//! Simulated hosts beside the agent's own, for tests and demos: hosts in every respect but that what they run is only said to run.
//!
//! Each has its lease, its ledger and its loop, in a directory of its own, and comes up again with the agent. To the cluster
//! an agent that starts anew is a simulated host that was rebooted.

use crate::api::simulated::{Refused, SimulatedHosts};
use crate::compute::Drivers;
use crate::compute::simulated::{Gait, NoWitness, Simulated};
use crate::compute::supervisor::{self, Fencing, Options, Output};
use crate::environment::{Backoff, Environment, Identity};
use crate::host::exclusive::{self, Exclusives};
use crate::host::first::Firsts;
use crate::host::instances::Instances;
use crate::host::natives::Natives;
use crate::host::reclaim::Kept;
use crate::membership::record::{Capability, Capacity, Overcommit};
use crate::membership::{Connect, HostDescription, Join, Membership, Place, identity};
use crate::network::{Addressing, dns::Askers};
use crate::orchestration::Orchestrator;
use crate::store::Store;
use crate::store::ledger::Ledger;
use crate::systemd::fallback::{Run, Tasks};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// What each of them has, which is more than anybody asks of it.
const CAPACITY: Capacity = Capacity { cpu_millis: 1_000_000, memory_mb: 1 << 20, disk_mb: 1 << 24 };
/// How quick they are: no slower than need be.
const GAIT: Gait = Gait {
    call: Duration::ZERO,
    start: Duration::from_millis(5),
    stop: Duration::from_millis(5),
    kill: Duration::from_millis(5),
    slices: true,
    live_restore: true,
};
/// For a host to come up while somebody waits; another boot of it may have to end first.
const LIMIT: Duration = Duration::from_secs(45);

/// With what all of them work.
#[derive(Clone)]
pub struct Site {
    pub environment: Environment,
    pub store: Arc<dyn Store>,
    pub keepalive: Connect,
    pub orchestrator: Orchestrator,
    pub cluster_generation: u64,
    /// Where the agent has the managed network, so have they.
    pub network: Option<Addressing>,
    /// The agent's own.
    pub address: String,
    pub state_directory: PathBuf,
    pub run_directory: PathBuf,
    pub ttl: Duration,
}

/// See the module's text.
pub struct Simulations {
    site: Site,
    hosts: Mutex<BTreeMap<String, Simulation>>,
}

impl fmt::Debug for Simulations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulations").field("directory", &self.site.state_directory).finish_non_exhaustive()
    }
}

struct Simulation {
    membership: Membership,
    _work: AbortOnDropHandle<()>,
}

impl Simulations {
    /// Those that were there before come up by and by.
    pub fn start(site: Site) -> Arc<Self> {
        let this = Arc::new(Self { site, hosts: Mutex::default() });
        let before = directories(&this.site.directory());
        let starting = this.clone();
        tokio::spawn(async move {
            futures::future::join_all(before.iter().map(|name| starting.restart(name))).await;
        });
        this
    }

    async fn restart(&self, name: &str) {
        let mut backoff = Backoff::new(&self.site.environment, Duration::from_secs(1), Duration::from_secs(60));
        loop {
            match self.bring_up(name).await {
                Ok(_) => return,
                Err(Refused::Join(error)) => {
                    tracing::warn!(host = name, %error, "a simulated host does not come up again");
                    return;
                }
                Err(error) => tracing::warn!(host = name, %error, "a simulated host is not up yet"),
            }
            backoff.wait().await;
        }
    }
}

#[async_trait::async_trait]
impl SimulatedHosts for Simulations {
    async fn bring_up(&self, name: &str) -> Result<u64, Refused> {
        if let Some(up) = self.hosts.lock().await.get(name) {
            return Ok(up.membership.host().id);
        }
        // Others are not held up while this one waits for its lease; of two for one name the second finds its files locked.
        let joined = tokio::time::timeout(LIMIT, self.site.join(name)).await;
        let membership = joined.map_err(|_| Refused::Late(LIMIT))??;
        let id = membership.host().id;
        let work = AbortOnDropHandle::new(tokio::spawn(self.site.clone().live(name.to_owned(), membership.clone())));
        self.hosts.lock().await.insert(name.to_owned(), Simulation { membership, _work: work });
        tracing::info!(host = name, id, "a simulated host is up");
        Ok(id)
    }

    async fn take_down(&self, name: &str) -> Result<bool, Refused> {
        let Some(Simulation { membership, _work: work }) = self.hosts.lock().await.remove(name) else {
            return Ok(false);
        };
        drop(work);
        if let Err(error) = membership.leave().await {
            tracing::warn!(host = name, %error, "its lease ends by itself");
        }
        let _ = std::fs::remove_dir_all(self.site.run_directory_of(name));
        std::fs::remove_dir_all(self.site.directory().join(name))?;
        tracing::info!(host = name, "a simulated host is down for good");
        Ok(true)
    }
}

impl Site {
    fn directory(&self) -> PathBuf {
        self.state_directory.join("simulated")
    }

    fn run_directory_of(&self, name: &str) -> PathBuf {
        self.run_directory.join("simulated").join(name)
    }

    /// A machine of its own, and another boot whenever the agent starts.
    fn environment_of(&self, name: &str) -> Environment {
        let own = &self.environment;
        let digest = Sha256::digest(format!("{}/{name}", own.identity.machine_id));
        let machine_id = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        Environment { identity: Identity { machine_id, boot_id: own.uuid().to_string() }, ..own.clone() }
    }

    async fn join(&self, name: &str) -> Result<Membership, Refused> {
        let (state_dir, run_dir) = (self.directory().join(name), self.run_directory_of(name));
        if !crate::membership::is_name(name) {
            return Err(crate::membership::JoinError::Name(name.to_owned()).into());
        }
        identity::create_directory(&self.directory()).map_err(crate::membership::JoinError::from)?;
        std::fs::create_dir_all(self.run_directory.join("simulated"))?;
        let ledger = Ledger::open(&state_dir)?;
        let mut capabilities = BTreeSet::from([Capability::Simulated]);
        if self.network.is_some() {
            capabilities.insert(Capability::Network);
        }
        let membership = Membership::join(Join {
            store: self.store.clone(),
            keepalive: self.keepalive.clone(),
            environment: self.environment_of(name),
            description: HostDescription {
                name: name.to_owned(),
                labels: BTreeMap::new(),
                capabilities,
                capacity: CAPACITY,
                overcommit: Overcommit::default(),
                versions: BTreeMap::from([("stampede".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
                warnings: Vec::new(),
                address: self.address.clone(),
                secrets: None,
            },
            state_dir,
            run_dir,
            ttl: self.ttl,
            place: Place::Task,
            exclusive: !self.store.single_host() && exclusive::any(&ledger),
        })
        .await?;
        Ok(membership)
    }

    async fn live(self, name: String, membership: Membership) {
        let directory = self.directory().join(&name);
        let ledger = match Ledger::open(&directory) {
            Ok(ledger) => ledger,
            Err(error) => {
                tracing::error!(host = name, %error, "a simulated host cannot open its ledger");
                return;
            }
        };
        let environment = self.environment_of(&name);
        let run_directory = self.run_directory_of(&name);
        let containers = Simulated::new(&environment, &name, GAIT, Arc::new(NoWitness));
        let run = supervise(&environment, &ledger, &run_directory, &containers);
        let instances = Arc::new(Instances {
            host: name,
            store: self.store.clone(),
            orchestrator: self.orchestrator,
            ledger,
            supervision: Arc::new(Tasks::new(&environment, run)),
            drivers: Drivers::one(Arc::new(containers.clone())),
            network: self.network,
            led: None,
            askers: Askers::default(),
            cluster_generation: self.cluster_generation,
            exclusives: Exclusives::new(membership, Arc::new(containers), self.store.single_host()),
            firsts: Firsts::default(),
            natives: Natives::default(),
            kept: Kept::default(),
            run_directory,
            beats: Arc::new(AtomicU64::new(0)),
            environment,
        });
        instances.run(CancellationToken::new()).await;
    }
}

fn supervise(environment: &Environment, ledger: &Ledger, runtime: &Path, containers: &Simulated) -> Run {
    let options = (environment.clone(), ledger.clone(), runtime.to_owned(), containers.clone());
    Arc::new(move |id, stop, announce| {
        let (environment, ledger, runtime, containers) = options.clone();
        let options = Options {
            environment,
            ledger,
            runtime,
            announce,
            stop,
            output: Output::Trace,
            fencing: Fencing { killer: Arc::new(containers.clone()), place: Place::Task },
        };
        Box::pin(async move { supervisor::run(&id, Arc::new(containers), options).await })
    })
}

/// The hosts that were there before.
fn directories(below: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(below) else { return Vec::new() };
    let names = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    names.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
