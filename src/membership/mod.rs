//! Who is in the cluster: lease, liveness, and what each host says of itself.
//!
//! A host joins in two steps, each of which can run again. [`register`] makes `host/<name>` for good and refuses a second
//! host of the same name or machine id. Then the [`keeper`] takes the host's one lease and puts `alive/<name>` under it;
//! a restarted agent goes on with the lease it finds, another boot waits for the old one to end. What others see of it is
//! [`Hosts`]; what the agent itself goes by is [`Liveness`].
//!
//! Stopping an agent never ends its lease: what runs keeps running, and a restart is nobody's business. Only
//! [`Membership::leave`] does.

mod clearance;
pub mod backup;
pub mod cluster;
pub mod counter;
mod demand;
pub mod fence;
mod history;
mod hosts;
pub mod identity;
mod keeper;
pub mod lease;
pub mod lost;
mod patience;
pub mod peers;
pub mod protocol;
pub mod record;
mod register;
pub mod trust;

pub use cluster::{Cluster, ClusterSettings, Subnet, ensure_cluster};
pub use counter::Counter;
pub use demand::OnDemand;
pub use history::History;
pub use hosts::{HostView, Hosts, IDLE};
pub use keeper::Liveness;
pub use patience::Patience;
pub use register::{HostDescription, JoinError, is_name};
pub use trust::Trust;

use crate::environment::Environment;
use crate::store::{self, Store};
use clearance::GivenUp;
use fence::{DeadlineFile, Fence};
use futures::future::BoxFuture;
use keeper::{Command, Keeper};
use lease::LeaseFile;
use record::Host;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The usual time to live of a host's lease.
pub const TTL: Duration = Duration::from_secs(10);

type Opening = BoxFuture<'static, Result<Arc<dyn Store>, store::Error>>;

/// Opens the connection that only keepalives use. Called on the keeper's own runtime, which the connection then lives on.
#[derive(Clone)]
pub struct Connect(Arc<dyn Fn() -> Opening + Send + Sync>);

impl Connect {
    pub fn new<F>(open: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Arc<dyn Store>, store::Error>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(open())))
    }

    /// A store that any runtime can use: the embedded one.
    pub fn shared(store: Arc<dyn Store>) -> Self {
        Self::new(move || std::future::ready(Ok(store.clone())))
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connect")
    }
}

/// Where the keepalives run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Place {
    /// On a thread with a runtime of its own: what an agent does.
    #[default]
    Thread,
    /// In a task: a simulation, whose clock governs one runtime.
    Task,
}

/// With what a host joins.
#[derive(Clone, Debug)]
pub struct Join {
    pub store: Arc<dyn Store>,
    pub keepalive: Connect,
    pub environment: Environment,
    pub description: HostDescription,
    /// Kept over boots: `/var/lib/stampede`.
    pub state_dir: PathBuf,
    /// Gone with the boot: `/run/stampede`.
    pub run_dir: PathBuf,
    pub ttl: Duration,
    pub place: Place,
    /// Whether this host has exclusive work from before: what its ledger says.
    pub exclusive: bool,
}

/// This host in the cluster. Cheap to clone; keepalives end with the last clone, the lease does not.
#[derive(Clone, Debug)]
pub struct Membership {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    environment: Environment,
    identity: String,
    host: watch::Sender<Arc<Host>>,
    liveness: watch::Receiver<Liveness>,
    exclusive: watch::Sender<bool>,
    fenced: Mutex<Fenced>,
    fence: watch::Receiver<Option<Fence>>,
    given_up: GivenUp,
    commands: mpsc::Sender<Command>,
    ttl: Duration,
}

/// What this host has that lives no longer than its deadline.
#[derive(Debug, Default)]
struct Fenced {
    instances: bool,
    addresses: bool,
}

impl Shared {
    fn set_fenced(&self, change: impl FnOnce(&mut Fenced)) {
        let mut fenced = self.fenced.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut fenced);
        let any = fenced.instances || fenced.addresses;
        self.exclusive.send_if_modified(|known| std::mem::replace(known, any) != any);
    }
}

impl Membership {
    /// Joins the cluster, or comes back to it. Waits while the store cannot be reached, and for the lease of another boot to
    /// end; drop the future to give up.
    ///
    /// # Errors
    /// Where this host may not join: the error says what to do.
    pub async fn join(join: Join) -> Result<Self, JoinError> {
        let Join { store, keepalive, environment, description, state_dir, run_dir, ttl, place, exclusive } = join;
        if !register::is_name(&description.name) {
            return Err(JoinError::Name(description.name));
        }
        if !register::is_machine_id(&environment.identity.machine_id) {
            return Err(JoinError::MachineId(environment.identity.machine_id));
        }
        let own_identity = identity::ensure(&state_dir, &environment)?;
        identity::create_directory(&run_dir)?;
        // Both: two agents with one state directory are one host, wherever each keeps its lease.
        let locks = vec![identity::lock(&state_dir.join("identity"))?, identity::lock(&run_dir.join("lease.lock"))?];
        let mut patience = Patience::new(&environment, "the host's record");
        let host = loop {
            let registered = register::register(store.as_ref(), &environment, &own_identity, &description).await;
            if let Some(result) = patience.settle(registered).await {
                break result?;
            }
        };
        let (liveness, seen) = watch::channel(Liveness::Joining);
        let reasons = Mutex::new(Fenced { instances: exclusive, addresses: false });
        let (exclusive, asked) = watch::channel(exclusive);
        let (fence, fenced) = watch::channel(None);
        let (commands, orders) = mpsc::channel(1);
        let (joined, first) = oneshot::channel();
        let keeper = Keeper {
            environment: environment.clone(),
            name: description.name,
            identity: own_identity.clone(),
            address: description.address,
            state: state_dir,
            file: LeaseFile::new(&run_dir).in_place(place == Place::Task),
            ttl,
            liveness,
            exclusive: asked,
            deadline_file: DeadlineFile::new(&run_dir, &environment.identity.boot_id).in_place(place == Place::Task),
            fence,
            _locks: locks,
        };
        spawn(place, keeper, keepalive, joined, orders)?;
        first.await.map_err(|_| JoinError::Ended)??;
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                environment,
                identity: own_identity,
                host: watch::Sender::new(Arc::new(host)),
                liveness: seen,
                fenced: reasons,
                exclusive,
                fence: fenced,
                given_up: GivenUp::default(),
                commands,
                ttl,
            }),
        })
    }

    /// This host's record as last written.
    pub fn host(&self) -> Arc<Host> {
        self.shared.host.borrow().clone()
    }

    /// What the host's identity file holds.
    pub fn identity(&self) -> &str {
        &self.shared.identity
    }

    /// The lease's time to live.
    pub fn ttl(&self) -> Duration {
        self.shared.ttl
    }

    /// Whether this host is in the cluster, and its changes.
    pub fn liveness(&self) -> watch::Receiver<Liveness> {
        self.shared.liveness.clone()
    }

    /// Until when ([`crate::environment::Clock::boottime`]) the lease lives for certain: one TTL after the last confirmed keepalive was
    /// sent. `None` while that is over. What must not outlive the lease counts from here, minus [`Self::ttl`].
    pub fn deadline(&self) -> Option<Duration> {
        match *self.shared.liveness.borrow() {
            Liveness::Alive { deadline, .. } if deadline > self.shared.environment.clock.boottime() => Some(deadline),
            _ => None,
        }
    }

    /// Writes what the host says of itself, where that changed; its name and its agent's address stay.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn describe(&self, description: &HostDescription) -> Result<Arc<Host>, JoinError> {
        let shared = &self.shared;
        let description = HostDescription { name: self.host().name.clone(), ..description.clone() };
        let host = Arc::new(
            register::register(shared.store.as_ref(), &shared.environment, &shared.identity, &description).await?,
        );
        shared.host.send_replace(host.clone());
        Ok(host)
    }

    /// Ends the keepalives and waits for that; the lease lives on for the next agent to find.
    pub async fn stop(self) {
        let (done, ended) = oneshot::channel();
        if self.shared.commands.send(Command::Stop(done)).await.is_ok() {
            let _ = ended.await;
        }
    }

    /// Gives the lease back: the cluster sees this host as gone at once.
    ///
    /// # Errors
    /// Where the store did not confirm it; the lease then ends by itself.
    pub async fn leave(self) -> Result<(), store::Error> {
        let (done, answer) = oneshot::channel();
        let gone = || store::Error::Unavailable { message: "the keeping of the lease has ended".into() };
        self.shared.commands.send(Command::Leave(done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn spawn(
    place: Place,
    keeper: Keeper,
    connect: Connect,
    joined: oneshot::Sender<Result<u64, JoinError>>,
    orders: mpsc::Receiver<Command>,
) -> Result<(), JoinError> {
    let work = async move {
        let mut patience = Patience::new(&keeper.environment, "the connection for keepalives");
        while !joined.is_closed() {
            match patience.settle((connect.0)().await).await {
                Some(Ok(store)) => {
                    drop(connect);
                    if let Some(ended) = keeper.run(store, joined, orders).await {
                        ended();
                    }
                    return;
                }
                Some(Err(error)) => {
                    let _ = joined.send(Err(error.into()));
                    return;
                }
                None => {}
            }
        }
    };
    match place {
        Place::Task => {
            tokio::spawn(work);
        }
        Place::Thread => {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(JoinError::Thread)?;
            std::thread::Builder::new()
                .name("keepalive".into())
                .spawn(move || runtime.block_on(work))
                .map_err(JoinError::Thread)?;
        }
    }
    Ok(())
}
