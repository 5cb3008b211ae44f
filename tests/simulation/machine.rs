//! One simulated host: its disk, its boots, its daemon, its supervisors and its agent, each of which ends for itself.

use crate::agent::{self, Desk, Site};
use crate::chronicle::{Chronicle, Onlooker};
use crate::clock::{HostClock, Leaping, Stopped};
use crate::datapath::{self, Datapaths};
use crate::dice::Dice;
use crate::esp::{Bent, Esp};
use crate::etcd;
use crate::guards::{Ambush, Doctored, Guard, Hearsay};
use crate::mortal::Mortal;
use crate::peers::Wire;
use crate::wire::Members;
use stampede::compute::simulated::{Gait, Simulated as Containers};
use stampede::compute::supervisor::{self, Fencing, Options, Output, after};
use stampede::environment::{Clock, Environment, Identity};
use stampede::membership::Place;
use stampede::membership::fence;
use stampede::network::ipsec::engine::Word;
use stampede::store::Store;
use stampede::store::etcd::{EtcdOptions, EtcdStore, Members as Used};
use stampede::store::ledger::Ledger;
use stampede::store::simulated::{Link, Simulated, Way};
use stampede::systemd::EXIT_AGAIN;
use stampede::systemd::fallback::{Run, Tasks};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// As long as an etcd tries to get a call decided.
const ETCD_GIVES_UP: Duration = Duration::from_secs(7);
/// The lease's time to live.
pub const TTL: Duration = Duration::from_secs(10);

/// What all hosts share.
#[derive(Clone, Debug)]
pub struct Common {
    pub origin: Instant,
    pub dice: Dice,
    pub store: Simulated,
    pub chronicle: Chronicle,
    pub wire: Wire,
    pub esp: Esp,
    pub datapaths: Datapaths,
    /// The file that holds the cluster's secret.
    pub secret: PathBuf,
    /// The one guard that is taken away.
    pub without: Option<Guard>,
    /// Where agents reach the store by etcd's own client, over a wire.
    pub members: Option<Members>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Machine {
    pub name: String,
    common: Common,
    number: u8,
    directory: PathBuf,
    memory_mb: u64,
    pub containers: Containers,
    drift: i64,
    state: Mutex<State>,
    desk: watch::Sender<Option<Desk>>,
    /// What its agent says of encryption.
    word: watch::Sender<Option<Word>>,
    pub ambush: Ambush,
    /// Where its connections to etcd are answered.
    doors: mpsc::UnboundedSender<DuplexStream>,
}

#[derive(Debug, Default)]
struct State {
    boots: u64,
    boot: Option<Boot>,
    agent: Option<Agent>,
    /// Nothing of it is left.
    destroyed: bool,
    /// Its agent is not to be started.
    forbidden: bool,
}

/// From power to power.
#[derive(Clone, Debug)]
struct Boot {
    environment: Environment,
    clock: Arc<HostClock>,
    keys_clock: Arc<Leaping>,
    supervision: Arc<Tasks>,
    /// Cancelled where the power goes.
    off: CancellationToken,
    killed: Killed,
}

type Killed = Arc<Mutex<BTreeMap<String, CancellationToken>>>;

#[derive(Debug)]
struct Agent {
    link: Link,
    /// Keepalives have a connection of their own.
    keepalive: Link,
    _task: AbortOnDropHandle<()>,
}

impl Machine {
    pub fn new(common: &Common, number: u8, directory: PathBuf) -> Arc<Self> {
        let name = format!("h{number}");
        let dice = &common.dice;
        common.esp.connect(&name, number);
        common.datapaths.connect(&name);
        let clock = HostClock { origin: common.origin, booted: common.origin, drift: 0, skew: AtomicI64::new(0) };
        let environment = environment(common, number, 0, Arc::new(clock));
        let slices = dice.percent(70);
        let slow = dice.percent(15);
        let gait = Gait {
            start: if slow { Duration::from_secs(6) } else { Duration::from_millis(300) },
            stop: if dice.percent(15) { Duration::from_secs(12) } else { Duration::from_millis(500) },
            // With what else there is to it, less than the tenth of F by which it begins early.
            kill: dice.millis(10, 340),
            slices,
            live_restore: dice.percent(25),
            ..Gait::default()
        };
        let (doors, connections) = mpsc::unbounded_channel();
        if common.members.is_some() {
            tokio::spawn(etcd::serve(common.store.client(&name).patient_for(ETCD_GIVES_UP), connections));
        }
        if !slices {
            common.chronicle.cannot_seal(&name);
        }
        let onlooker = Onlooker { chronicle: common.chronicle.clone(), host: name.clone() };
        Arc::new(Self {
            containers: Containers::new(&environment, &name, gait, Arc::new(onlooker)),
            name,
            common: common.clone(),
            number,
            directory,
            memory_mb: 64 * (4 + dice.below(14) as u64),
            // One in a thousand is far worse than any real clock.
            drift: dice.below(2001) as i64 - 1000,
            state: Mutex::default(),
            desk: watch::Sender::new(None),
            word: watch::Sender::new(None),
            ambush: Ambush::new(&common.store),
            doors,
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn is_on(&self) -> bool {
        self.state().boot.is_some()
    }

    /// What its agent says of encryption, once it said anything.
    pub fn word(&self) -> Option<Word> {
        self.word.borrow().clone()
    }

    /// Where its agent can be asked, as long as it answers.
    pub fn desk(&self) -> Option<Desk> {
        let desk = self.desk.borrow().clone();
        desk.filter(|desk| matches!(desk.link.way(), Way::Open | Way::Cut))
    }

    /// The power is there again: it boots, and the agent starts.
    pub fn power_on(self: &Arc<Self>) {
        let boot = {
            let mut state = self.state();
            if state.boot.is_some() || state.destroyed {
                return;
            }
            state.boots += 1;
            let skew = AtomicI64::new(self.common.dice.below(4001) as i64 - 2000);
            let clock = HostClock { origin: self.common.origin, booted: Instant::now(), drift: self.drift, skew };
            let clock = Arc::new(clock);
            let environment = environment(&self.common, self.number, state.boots, clock.clone());
            let (off, killed) = (CancellationToken::new(), Killed::default());
            let run = self.run(&environment, &off, &killed);
            let supervision = Arc::new(Tasks::new(&environment, run));
            let keys_clock = Arc::new(Leaping::new(&clock));
            let boot = Boot { environment, clock, keys_clock, supervision, off, killed };
            state.boot = Some(boot.clone());
            boot
        };
        self.containers.power_on(&boot.environment);
        self.common.esp.power_on(&self.name, boot.clock.clone());
        self.common.datapaths.power_on(&self.name, boot.clock);
        self.start_agent();
    }

    /// All of it goes dark at once.
    pub fn power_off(&self) {
        self.crash_agent();
        let Some(boot) = self.state().boot.take() else { return };
        boot.off.cancel();
        self.containers.power_off();
        self.common.esp.power_off(&self.name);
        self.common.datapaths.power_off(&self.name);
        let _ = std::fs::remove_dir_all(self.run_directory());
    }

    pub fn start_agent(self: &Arc<Self>) {
        let mut state = self.state();
        let may_start = state.agent.is_none() && !state.forbidden;
        let Some(boot) = state.boot.clone().filter(|_| may_start) else { return };
        let (link, keepalive) = (Link::default(), Link::default());
        let site = self.site(&boot, &link, &keepalive);
        let this = self.clone();
        let task = tokio::spawn(async move {
            loop {
                agent::run(&site, &this.desk).await;
                // It ended by itself: systemd starts it again.
                this.desk.send_replace(None);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        state.agent = Some(Agent { link, keepalive, _task: AbortOnDropHandle::new(task) });
    }

    /// The agent is killed, wherever it is.
    pub fn crash_agent(&self) {
        self.desk.send_replace(None);
        self.word.send_replace(None);
        if let Some(agent) = self.state().agent.take() {
            agent.link.set(Way::Dead);
            agent.keepalive.set(Way::Dead);
        }
    }

    /// It burns down.
    pub fn destroy(&self) {
        self.state().destroyed = true;
        self.power_off();
    }

    /// Whether its agent ever saw the store.
    pub fn knows_the_store(&self) -> bool {
        self.directory.join("state/store.json").exists()
    }

    /// Its agent is not started again; one that is at work goes on.
    pub fn forbid_agent(&self) {
        self.state().forbidden = true;
        if self.desk.borrow().is_none() {
            self.crash_agent();
        }
    }

    /// Its agent may be started, and is.
    pub fn allow_agent(self: &Arc<Self>) {
        self.state().forbidden = false;
        self.start_agent();
    }

    /// How the way between the agent and the store is from now on.
    pub fn set_way(&self, way: Way) {
        if let Some(agent) = &self.state().agent {
            agent.link.set(way);
            agent.keepalive.set(way);
        }
    }

    /// The same for its keepalives alone.
    pub fn set_keepalive_way(&self, way: Way) {
        if let Some(agent) = &self.state().agent {
            agent.keepalive.set(way);
        }
    }

    /// The wall clock is set to be so far off.
    pub fn step_clock(&self, millis: i64) {
        if let Some(boot) = &self.state().boot {
            boot.clock.step(millis);
        }
    }

    /// To its keys, a day is over.
    pub fn age_keys(&self) {
        if let Some(boot) = &self.state().boot {
            boot.keys_clock.leap();
        }
    }

    /// The supervisor of one instance is killed; systemd does what it does then.
    pub fn kill_supervisor(&self, id: &str) {
        let boot = self.state().boot.clone();
        if let Some(token) = boot.and_then(|boot| boot.killed.lock().unwrap().get(id).cloned()) {
            token.cancel();
        }
    }

    fn run_directory(&self) -> PathBuf {
        self.directory.join("run")
    }

    fn ledger(&self) -> Ledger {
        Ledger::open(&self.directory.join("state")).unwrap().in_place()
    }

    /// A supervisor as systemd runs it, `stampede fence` after it included.
    fn run(self: &Arc<Self>, environment: &Environment, off: &CancellationToken, killed: &Killed) -> Run {
        let (ledger, runtime, off, killed) = (self.ledger(), self.run_directory(), off.clone(), killed.clone());
        let (containers, mut environment) = (self.containers.clone(), environment.clone());
        if self.common.without == Some(Guard::Timer) {
            environment.clock = Arc::new(Stopped);
        }
        Arc::new(move |id, stop, announce| {
            let options = Options {
                environment: environment.clone(),
                ledger: ledger.clone(),
                runtime: runtime.clone(),
                announce,
                stop,
                output: Output::Trace,
                fencing: Fencing { killer: Arc::new(containers.clone()), place: Place::Task },
            };
            let (driver, off) = (Arc::new(containers.clone()), off.clone());
            let kill = CancellationToken::new();
            killed.lock().unwrap().insert(id.clone(), kill.clone());
            Box::pin(async move {
                let work = async {
                    tokio::select! {
                        biased;
                        () = kill.cancelled() => {
                            after::end_if_past(&id, &options).await.unwrap();
                            EXIT_AGAIN
                        }
                        code = supervisor::run(&id, driver, options.clone()) => code,
                    }
                };
                tokio::select! {
                    biased;
                    () = off.cancelled() => std::future::pending().await,
                    code = work => code,
                }
            })
        })
    }

    /// Its way to the store: a simulated client's, or that of etcd's own.
    fn connect(&self, environment: &Environment, link: &Link, timeout: Duration, used: &Used) -> Arc<dyn Store> {
        let Some(members) = &self.common.members else {
            return Arc::new(self.common.store.client(&self.name).over(link.clone()).patient_for(timeout));
        };
        let dial = Some(members.dial(link, self.doors.clone()));
        let options = EtcdOptions {
            endpoints: members.endpoints(),
            timeout,
            dial,
            members: used.clone(),
            ..EtcdOptions::default()
        };
        Arc::new(Mortal { inner: EtcdStore::connect(options, environment).unwrap(), link: link.clone() })
    }

    fn site(&self, boot: &Boot, link: &Link, keepalive: &Link) -> Site {
        let common = &self.common;
        let hearsay = Hearsay::default();
        let run = self.run_directory();
        let used = Used::default();
        let client = |link: &Link, patience: Duration| -> Arc<dyn Store> {
            let inner = (self.connect(&boot.environment, link, patience, &used), link.clone());
            let shared = (&hearsay, &self.ambush);
            Arc::new(Doctored::new(inner, common.without, &self.name, &run, &boot.environment, shared))
        };
        Site {
            name: self.name.clone(),
            environment: boot.environment.clone(),
            store: client(link, Duration::from_secs(5)),
            keepalive: client(keepalive, fence::wait(TTL) / 2),
            driver: Arc::new(Mortal { inner: self.containers.clone(), link: link.clone() }),
            killer: Arc::new(self.containers.clone()),
            supervision: Arc::new(Mortal { inner: boot.supervision.clone(), link: link.clone() }),
            ledger: self.ledger(),
            state_directory: self.directory.join("state"),
            run_directory: run,
            memory_mb: self.memory_mb,
            heeds_history: common.without != Some(Guard::History),
            peers: Arc::new(common.wire.of(&self.name)),
            link: link.clone(),
            encryptor: Arc::new(Mortal {
                inner: Bent::new(common.esp.of(&self.name), common.without),
                link: link.clone(),
            }),
            datapath: Arc::new(Mortal {
                inner: datapath::Bent::new(common.datapaths.of(&self.name), common.without),
                link: link.clone(),
            }),
            address: common.esp.address(self.number),
            keys_clock: boot.keys_clock.clone(),
            secret: common.secret.clone(),
            word: self.word.clone(),
        }
    }
}

fn environment(common: &Common, number: u8, boot: u64, clock: Arc<dyn Clock>) -> Environment {
    Environment {
        clock,
        random: Arc::new(common.dice.clone()),
        identity: Identity { machine_id: format!("{number:032x}"), boot_id: format!("h{number}-boot-{boot}") },
    }
}
