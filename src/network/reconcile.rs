//! The loop that makes this host's part of the managed network as it should be.
//!
//! It wakes when the store's records of the mesh or of blocks change, when somebody changes links, addresses, routes or
//! rules, and once a minute; each time it looks at everything, plans ([`super::overlay::plan`]) and closes the difference. A
//! wake-up carries no meaning but "look". Its result is a status, never an error that ends it.
//!
//! What was known last lies in a file, so that a host that boots while nobody answers reaches the others as before. While
//! nothing at all is known, nothing is taken away.

use super::apart;
use super::apply::{Extent, apply};
use super::block::{Block, Taken, taken};
use super::hairpin;
use super::ipsec::{
    engine::{Reach, Word},
    record::Sealed,
};
use super::kernel::Kernel;
use super::mesh::{self, Encryption, Mesh, Underlay};
use super::overlay::{self, BRIDGE, OVERLAY, View};
use super::{Floating, NetworkConfig, NetworkStatus};
use crate::environment::{Backoff, Environment};
use crate::resource::Resource;
use crate::store::{Store, mirror::Changes, mirror::Mirror};
use serde::{Deserialize, Serialize};
use stampede_netlink::notify::{Event, Monitor, RulesMonitor};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::watch;

/// What happens within this time after a wake-up is looked at together.
const GATHER: Duration = Duration::from_millis(20);
/// A look without a reason this often.
const PERIOD: Duration = Duration::from_secs(60);
/// After a failure: again, first after …, and at most after `PERIOD`.
const AGAIN: Duration = Duration::from_secs(1);
/// Why it wakes where ports are to be opened or closed, or links lead elsewhere.
const LED: &str = "led";
/// How long the first lists may take before the last known is used.
const LIST_LIMIT: Duration = Duration::from_secs(2);

/// What is known of all hosts; also the file's form.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Knowledge {
    mesh: BTreeMap<String, Mesh>,
    blocks: Vec<KnownBlock>,
    /// Whether accounts are apart.
    #[serde(default)]
    apart: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KnownBlock {
    created: crate::store::Revision,
    block: Ipv4Addr,
    host: String,
}

impl Knowledge {
    fn taken(&self) -> Vec<Taken> {
        let blocks = self.blocks.iter();
        blocks.map(|known| Taken { created: known.created, block: known.block, host: known.host.clone() }).collect()
    }
}

/// The way to and from the loop that encrypts.
pub(super) struct Encrypted {
    pub reach: watch::Sender<Option<Reach>>,
    pub word: watch::Receiver<Option<Word>>,
}

impl Encrypted {
    /// Waits until that loop says something else; for ever where there is none.
    async fn speaks(this: &mut Option<Self>) {
        if let Some(encrypted) = this
            && encrypted.word.changed().await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

pub(super) struct Reconciler {
    pub kernel: Kernel,
    pub store: Arc<dyn Store>,
    pub environment: Environment,
    pub config: NetworkConfig,
    pub mesh: Mirror<Mesh>,
    pub blocks: Mirror<Block>,
    pub networks: Mirror<Resource>,
    pub mtu: Arc<AtomicU32>,
    pub status: watch::Sender<NetworkStatus>,
    /// `None` where nothing is encrypted.
    pub encrypted: Option<Encrypted>,
}

impl Reconciler {
    pub async fn run(mut self) {
        let (mut mesh, mut blocks) = (self.mesh.changes(), self.blocks.changes());
        let mut networks = self.networks.changes();
        let leader = self.config.leader();
        let mut led = leader.changes();
        let mut backoff = Backoff::new(&self.environment, AGAIN, PERIOD);
        let mut last = self.load();
        let mut ears = Ears::default();
        self.config.apart.is_now(match &last {
            Some(known) => known.apart,
            None => apart::stands(&self.kernel).await,
        });
        // The bridge at once; the rest when it is known, or known to be unreachable for now.
        if last.is_none() {
            self.reconcile(None, Vec::new()).await;
        }
        tokio::join!(self.mesh.listed(LIST_LIMIT), self.blocks.listed(LIST_LIMIT), self.networks.listed(LIST_LIMIT));
        let mut announcing = tokio::task::JoinSet::new();
        loop {
            let deaf = ears.listen(&self.kernel);
            if self.mesh.freshness().worse(self.blocks.freshness()).worse(self.networks.freshness()).listed {
                let now = self.knowledge();
                if last.as_ref() != Some(&now) {
                    self.save(&now);
                    last = Some(now);
                }
            }
            if let Some(known) = &last {
                self.config.apart.is_now(known.apart);
            }
            let mut warnings = deaf;
            let underlay = self.underlay(last.as_ref(), &mut warnings).await;
            let fine = self.reconcile(last.as_ref().map(|known| (known, underlay)), warnings).await;
            if let Some(underlay) = underlay {
                self.announce(underlay, &mut announcing);
            }
            let pause = if fine {
                backoff.reset();
                PERIOD
            } else {
                backoff.next_delay()
            };
            let until = tokio::time::Instant::now() + pause;
            let why = loop {
                let why = tokio::select! {
                    () = led.next() => LED,
                    _ = mesh.next() => "mesh",
                    _ = blocks.next() => "blocks",
                    _ = networks.next() => "networks",
                    why = ears.hear(&self.config.floating) => why,
                    () = Encrypted::speaks(&mut self.encrypted) => "encryption",
                    Some(_) = announcing.join_next() => "announced",
                    () = tokio::time::sleep_until(until) => "time",
                };
                if why != LED || !leader.lead(&self.kernel).await {
                    break why;
                }
            };
            tracing::debug!(why, "looking at the network");
            tokio::time::sleep(GATHER).await;
            ears.forget();
            self.swallow([&mut mesh, &mut blocks, &mut networks]).await;
        }
    }

    /// Looks at everything and closes the difference; whether nothing failed.
    async fn reconcile(&self, known: Option<(&Knowledge, Option<Underlay>)>, mut warnings: Vec<String>) -> bool {
        let subnet = &self.config.subnet;
        let word = self.word();
        let (plan, extent, mtu) = match known {
            None => (overlay::base(subnet), Extent::Base, self.mtu.load(Ordering::Relaxed)),
            Some((known, underlay)) => {
                let own = underlay.map_or(self.config.default_mtu(), |underlay| self.config.mtu_over(underlay));
                let mtu = overlay::mtu(own, &known.mesh);
                let blocks = known.taken();
                let host = self.config.host.as_str();
                let mesh = match &word {
                    Some(Word { closed: Some(_), .. }) => &only(&known.mesh, host),
                    _ => &known.mesh,
                };
                let refused = word.as_ref().map(|word| &word.refused).unwrap_or(&NOBODY);
                let encryption = self.config.protection.mode();
                let outside = &self.config.outside;
                let (apart, blocks) = (known.apart, blocks.as_slice());
                let view = View { host, subnet, underlay, outside, mtu, encryption, mesh, apart, refused, blocks };
                (overlay::plan(&view), Extent::Whole, mtu)
            }
        };
        self.mtu.store(mtu, Ordering::Relaxed);
        let clock = self.environment.clock.as_ref();
        let applied = apply(&self.kernel, &self.config, &plan, (extent, clock)).await;
        if applied.changes > 0 || !applied.failed.is_empty() {
            tracing::info!(changes = applied.changes, failed = applied.failed.len(), "the network was changed");
        }
        let fine = applied.failed.is_empty();
        let open = word.as_ref().map_or(self.encrypted.is_none(), |word| word.closed.is_none());
        let ready = fine && extent == Extent::Whole && open;
        warnings.extend(applied.failed);
        warnings.extend(applied.warnings);
        warnings.extend(word.into_iter().flat_map(|word| word.closed.into_iter().chain(word.problems)));
        let status = NetworkStatus {
            ready,
            problems: warnings,
            mtu,
            underlay: known.and_then(|(_, underlay)| underlay).map(|underlay| underlay.address),
            routed: if fine { plan.routed.into_iter().collect() } else { self.status.borrow().routed.clone() },
        };
        self.status.send_if_modified(|now| {
            for problem in status.problems.iter().filter(|problem| !now.problems.contains(problem)) {
                tracing::warn!(problem, "the managed network");
            }
            std::mem::replace(now, status.clone()) != status
        });
        fine
    }

    /// This host's address towards the others; where it cannot be found, as it was.
    async fn underlay(&self, known: Option<&Knowledge>, warnings: &mut Vec<String>) -> Option<Underlay> {
        match mesh::underlay(&self.kernel, self.config.underlay, &self.config.towards).await {
            Ok(found) => {
                let needed = self.config.mtu.map_or(0, |mtu| mtu + mesh::OVERHEAD);
                if found.mtu < needed {
                    warnings.push(format!(
                        "the link of {} carries {} bytes; an overlay of {} needs {needed}",
                        found.address,
                        found.mtu,
                        needed - mesh::OVERHEAD
                    ));
                }
                Some(found)
            }
            Err(error) => {
                // A single host needs no way to others.
                if !self.store.single_host() {
                    warnings.push(error.to_string());
                }
                let own = known?.mesh.get(&self.config.host)?;
                own.underlay.first().map(|address| Underlay { address: *address, mtu: own.mtu + mesh::OVERHEAD })
            }
        }
    }

    /// Sees to this host's record, beside the loop: a store that does not answer must not hold up a repair.
    fn announce(&self, underlay: Underlay, announcing: &mut tokio::task::JoinSet<()>) {
        let mtu = self.config.mtu_over(underlay);
        if let Some(encrypted) = &self.encrypted {
            // The record is under a seal, so who has the keys writes it.
            let reach = Some(Reach { underlay, mtu });
            encrypted.reach.send_if_modified(|now| std::mem::replace(now, reach) != reach);
            return;
        }
        let host = self.config.host.clone();
        let as_is = self.mesh.get(&host).is_some_and(|item| {
            let record = &*item.value;
            let wanted = Mesh::new(record.number, underlay, mtu, Encryption::None, Sealed::default());
            record.says(&Mesh { outside: self.config.outside.clone(), ..wanted })
        });
        if as_is || !announcing.is_empty() || !self.mesh.freshness().listed {
            return;
        }
        let (store, environment, outside) = (self.store.clone(), self.environment.clone(), self.config.outside.clone());
        announcing.spawn(async move {
            let mut backoff = Backoff::new(&environment, Duration::from_millis(200), Duration::from_secs(10));
            // Then the loop looks again whether it is still so.
            for _ in 0..5 {
                match mesh::publish(store.as_ref(), &host, (underlay, outside.clone()), mtu).await {
                    Ok(_) => return,
                    Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "not in the mesh yet"),
                }
                backoff.wait().await;
            }
        });
    }

    /// What the loop that encrypts says; `None` where there is none, or it has not said anything yet.
    fn word(&self) -> Option<Word> {
        self.encrypted.as_ref().and_then(|encrypted| encrypted.word.borrow().clone())
    }

    fn knowledge(&self) -> Knowledge {
        let mesh = self.mesh.view().iter().map(|(host, item)| (host.clone(), (*item.value).clone())).collect();
        let blocks = taken(&self.blocks.view(), &self.config.subnet).into_iter();
        let known = |taken: Taken| KnownBlock { created: taken.created, block: taken.block, host: taken.host };
        Knowledge { mesh, blocks: blocks.map(known).collect(), apart: apart::is_said(&self.networks.view()) }
    }

    fn load(&self) -> Option<Knowledge> {
        let bytes = std::fs::read(self.config.memory.as_ref()?).ok()?;
        serde_json::from_slice(&bytes).inspect_err(|error| tracing::warn!(%error, "the last known mesh is lost")).ok()
    }

    fn save(&self, knowledge: &Knowledge) {
        let Some(path) = &self.config.memory else { return };
        if let Err(error) = write(path, knowledge) {
            tracing::warn!(path = %path.display(), %error, "the mesh as known cannot be kept for the next boot");
        }
    }

    /// What changed during the gathering is looked at now.
    async fn swallow(&self, all: [&mut Changes; 3]) {
        for changes in all {
            let _ = tokio::time::timeout(Duration::ZERO, changes.next()).await;
        }
    }
}

static NOBODY: BTreeMap<String, String> = BTreeMap::new();

/// This host's own record alone.
fn only(mesh: &BTreeMap<String, Mesh>, host: &str) -> BTreeMap<String, Mesh> {
    mesh.iter().filter(|(name, _)| *name == host).map(|(name, record)| (name.clone(), record.clone())).collect()
}

fn write(path: &Path, knowledge: &Knowledge) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, serde_json::to_vec(knowledge)?)?;
    std::fs::rename(beside, path)
}

/// The kernel's notifications.
#[derive(Default)]
struct Ears {
    links: Option<Monitor>,
    rules: Option<RulesMonitor>,
}

impl Ears {
    /// Listens where it does not yet; what it cannot hear, in words.
    fn listen(&mut self, kernel: &Kernel) -> Vec<String> {
        let mut deaf = Vec::new();
        if self.links.is_none() {
            match kernel.monitor() {
                Ok(monitor) => self.links = Some(monitor),
                Err(error) => deaf.push(format!("changes of links and routes are seen once a minute only: {error}")),
            }
        }
        if self.rules.is_none() {
            match kernel.rules_monitor() {
                Ok(monitor) => self.rules = Some(monitor),
                Err(error) => deaf.push(format!("changes of rules are seen once a minute only: {error}")),
            }
        }
        deaf
    }

    /// Waits for something that may concern us.
    async fn hear(&mut self, floating: &Floating) -> &'static str {
        let Self { links, rules } = self;
        tokio::select! {
            alive = hear_links(links, floating) => {
                if !alive {
                    *links = None;
                }
                "kernel"
            }
            alive = hear_rules(rules) => {
                if !alive {
                    *rules = None;
                }
                "rules"
            }
        }
    }

    /// What is waiting to be heard is looked at now. Dropping what was heard is safe: the look comes after.
    fn forget(&mut self) {
        use futures::FutureExt;
        if let Some(monitor) = &mut self.links {
            while let Some(Ok(_)) = monitor.next().now_or_never() {}
        }
        if let Some(monitor) = &mut self.rules {
            while let Some(Ok(_)) = monitor.next().now_or_never() {}
        }
    }
}

/// False where the socket is of no more use.
async fn hear_links(monitor: &mut Option<Monitor>, floating: &Floating) -> bool {
    let Some(monitor) = monitor else { return std::future::pending().await };
    loop {
        match monitor.next().await {
            Ok(event) if concerns_us(&event, floating) => return true,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "notifications of links end; listening anew");
                return false;
            }
        }
    }
}

async fn hear_rules(monitor: &mut Option<RulesMonitor>) -> bool {
    let Some(monitor) = monitor else { return std::future::pending().await };
    match monitor.next().await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "notifications of rules end; listening anew");
            false
        }
    }
}

/// Containers' links come and go all day and are none of the loop's business.
fn concerns_us(event: &Event, floating: &Floating) -> bool {
    match event {
        // Renewed all the time.
        Event::Address { came: Some(IpAddr::V4(address)), .. } if floating.is_held(*address) => false,
        Event::Link(link) | Event::LinkGone(link) => {
            [BRIDGE, OVERLAY, hairpin::OUT, hairpin::IN].contains(&link.name.as_str())
        }
        Event::Route { protocol } => *protocol == stampede_netlink::route::PROTOCOL,
        // Of whichever link: an underlay's address matters too.
        Event::Address { .. } | Event::Overrun => true,
    }
}
