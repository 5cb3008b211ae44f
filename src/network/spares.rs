//! Spares: addresses that this host keeps for Docker, which asks for one when somebody says `docker run --net stampede`.
//!
//! Docker asks with nothing that tells for whom, at boot before its own API is up, and also while neither agent nor etcd are
//! there. So the agent takes a few ahead of time and writes them down; the network driver gives them out from that file.
//!
//! ```text
//!  agent: fewer than a few free? ── address/…/<ip> {"instance": "docker", …} ──► docker.json ──► network driver ──► container
//!                                                                                                  │
//!  agent: too many free ── out of the file, and a while later out of the store ◄── free again ◄── st-0a2a0709 gone
//! ```
//! Which of them are in use stands in the kernel alone: an endpoint's link has the address for a name. So nothing is lost with
//! any process, and what a crash left behind is free as soon as its link is gone. Mostly that is Docker's to see to when it starts;
//! a link that Docker knows nothing of is taken away here.

use super::address::{self, Allocator};
use super::block::Holder;
use super::driver::{endpoint_end, parse_alias};
use super::kernel::{self, Kernel};
use super::subnet::SubnetSpec;
use crate::environment::Environment;
use crate::resource::native::HOLDER;
use crate::store::{self, Compare, Operation, Store, Transaction, key};
use serde::{Deserialize, Serialize};
use stampede_netlink::link::Link;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Fewer free ones than this, and more are taken; more than that, and some are given back.
const FEWEST: usize = 4;
const MOST: usize = 12;
/// How long one that was taken out of the file is kept from others: longer than Docker takes from asking for an address to
/// making a link of it.
const LEAVING: Duration = Duration::from_secs(60);

/// How long a link is there of which Docker does not know before it is a leftover: longer than a start takes.
const STRAY: Duration = Duration::from_secs(90);

/// What can go wrong while they are seen to; it is tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no address can be taken for Docker")]
    Address(#[from] address::Error),
    #[error("the store")]
    Store(#[from] store::Error),
    #[error("the links of this host cannot be seen")]
    Kernel(#[from] kernel::Error),
    #[error("{} cannot be written", path.display())]
    File { path: PathBuf, source: io::Error },
}

/// The file: `/var/lib/stampede/docker.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What instances are told of the overlay, in bytes.
    pub mtu: u32,
    pub addresses: BTreeSet<Ipv4Addr>,
}

impl Kept {
    fn path(directory: &Path) -> PathBuf {
        directory.join("docker.json")
    }

    /// As it is; nothing where there is none.
    ///
    /// # Errors
    /// Where it is there and cannot be read.
    pub fn load(directory: &Path) -> io::Result<Self> {
        match std::fs::read(Self::path(directory)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    fn save(&self, directory: &Path) -> io::Result<()> {
        let path = Self::path(directory);
        let beside = path.with_extension("new");
        std::fs::write(&beside, serde_json::to_vec(self)?)?;
        std::fs::File::open(&beside)?.sync_all()?;
        std::fs::rename(beside, path)
    }
}

/// What an endpoint's links are named by, in place of an instance: `0a2a0709` for 10.42.7.9.
pub fn owner(address: Ipv4Addr) -> String {
    format!("{:08x}", u32::from(address))
}

/// The address of such an owner. An instance's id begins with `1i`, which is no number of that kind.
pub fn of_owner(owner: &str) -> Option<Ipv4Addr> {
    let digits = owner.len() == 8 && owner.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| u32::from_str_radix(owner, 16).ok().map(Ipv4Addr::from)).flatten()
}

/// The address of the endpoint that a link is the host's end of.
pub(super) fn of_link(name: &str) -> Option<Ipv4Addr> {
    name.strip_prefix(&endpoint_end("")).and_then(of_owner)
}

/// Those that are in use: whose links are there.
pub(super) async fn in_use(kernel: &Kernel) -> Result<BTreeSet<Ipv4Addr>, kernel::Error> {
    let links = kernel.netlink.links().await?;
    Ok(links.iter().filter_map(|link| of_link(&link.name)).collect())
}

/// All that this host keeps, in use or not: told to whoever makes rules of it. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct ForDocker(Arc<watch::Sender<BTreeSet<Ipv4Addr>>>);

impl Default for ForDocker {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl ForDocker {
    /// As the file has it.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load(directory: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(watch::Sender::new(Kept::load(directory)?.addresses))))
    }

    pub(super) fn changes(&self) -> watch::Receiver<BTreeSet<Ipv4Addr>> {
        self.0.subscribe()
    }

    /// All of them.
    pub fn now(&self) -> BTreeSet<Ipv4Addr> {
        self.0.borrow().clone()
    }

    fn is_now(&self, addresses: &BTreeSet<Ipv4Addr>) {
        self.0.send_if_modified(|now| now != addresses && std::mem::replace(now, addresses.clone()) != *addresses);
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    take: usize,
    leave: BTreeSet<Ipv4Addr>,
}

fn plan(kept: &BTreeSet<Ipv4Addr>, used: &BTreeSet<Ipv4Addr>) -> Plan {
    let free: Vec<Ipv4Addr> = kept.difference(used).copied().collect();
    if free.len() < FEWEST {
        return Plan { take: FEWEST - free.len(), ..Plan::default() };
    }
    let spare = if free.len() > MOST { free.len() - FEWEST } else { 0 };
    Plan { take: 0, leave: free.into_iter().rev().take(spare).collect() }
}

/// Sees to the spares of this host. One for the agent's life.
#[derive(Debug)]
pub struct Spares {
    pub(super) allocator: Arc<Allocator>,
    pub(super) kernel: Kernel,
    pub(super) store: Arc<dyn Store>,
    pub(super) environment: Environment,
    pub(super) host: String,
    pub(super) subnet: SubnetSpec,
    pub(super) mtu: Arc<AtomicU32>,
    /// Where the file is.
    pub(super) directory: PathBuf,
    pub(super) told: ForDocker,
    pub(super) state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Whether it was looked what the store has of them.
    looked: bool,
    /// Out of the file since then.
    leaving: BTreeMap<Ipv4Addr, Duration>,
    /// Links of which Docker does not know, since then.
    strays: Strays,
}

/// By name: the endpoint that it is of, and since when it is seen.
type Strays = BTreeMap<String, (String, Duration)>;

/// Whose endpoints are not among those that Docker `knows`.
fn strays<'a>(links: &'a [Link], knows: &BTreeSet<String>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let spares = links.iter().filter(|link| of_link(&link.name).is_some());
    let endpoints = spares.filter_map(|link| Some((link.name.as_str(), parse_alias(link.alias.as_deref()?)?.1)));
    endpoints.filter(|(_, endpoint)| !knows.contains(*endpoint))
}

impl Spares {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file<T>(&self, result: io::Result<T>) -> Result<T, Error> {
        result.map_err(|source| Error::File { path: Kept::path(&self.directory), source })
    }

    /// Takes what is wanting and gives back what is too much.
    ///
    /// # Errors
    /// What could not be done; done again it goes on.
    pub async fn tend(&self) -> Result<(), Error> {
        let before = self.file(Kept::load(&self.directory))?;
        let used = in_use(&self.kernel).await?;
        let mut kept = before.clone();
        kept.mtu = self.mtu.load(Ordering::Relaxed);
        if !self.state().looked {
            // An agent before may have ended between the store and the file. What the store says is another's goes from here
            // once nothing has it.
            let stored = self.allocator.held(&self.host, HOLDER).await?;
            kept.addresses.retain(|address| stored.contains(address) || used.contains(address));
            kept.addresses.extend(stored);
        }
        // Docker was faster than the file.
        let back: Vec<Ipv4Addr> = self.state().leaving.keys().filter(|one| used.contains(*one)).copied().collect();
        kept.addresses.extend(&back);
        let plan = plan(&kept.addresses, &used);
        kept.addresses.extend(self.take(plan.take).await?);
        kept.addresses.retain(|address| !plan.leave.contains(address));
        if kept != before {
            self.file(kept.save(&self.directory))?;
        }
        self.told.is_now(&kept.addresses);
        let now = self.environment.clock.boottime();
        let over: Vec<Ipv4Addr> = {
            let mut state = self.state();
            state.looked = true;
            state.leaving.retain(|address, _| !back.contains(address));
            state.leaving.extend(plan.leave.iter().map(|address| (*address, now)));
            let over = state.leaving.iter().filter(|(_, since)| now.saturating_sub(**since) > LEAVING);
            over.map(|(address, _)| *address).collect()
        };
        for address in over {
            self.give_back(address).await?;
            self.state().leaving.remove(&address);
        }
        Ok(())
    }

    /// Takes links away that stay without an endpoint of those that Docker `knows` of, which it has just told.
    ///
    /// # Errors
    /// Where links cannot be seen, or not taken away.
    pub async fn sweep(&self, knows: &BTreeSet<String>) -> Result<(), Error> {
        let links = self.kernel.netlink.links().await?;
        let now = self.environment.clock.boottime();
        let leftovers: Vec<String> = {
            let mut state = self.state();
            let before = std::mem::take(&mut state.strays);
            let since = |link: &str, endpoint: &str| {
                before.get(link).filter(|(known, _)| known == endpoint).map_or(now, |(_, since)| *since)
            };
            let found = strays(&links, knows);
            state.strays = found.map(|(link, of)| (link.to_owned(), (of.to_owned(), since(link, of)))).collect();
            let old = state.strays.iter().filter(|(_, (_, since))| now.saturating_sub(*since) >= STRAY);
            old.map(|(link, _)| link.clone()).collect()
        };
        for link in leftovers {
            tracing::warn!(link, "Docker knows nothing of its endpoint: a leftover, taken away");
            self.kernel.netlink.delete_link(&link).await?;
        }
        Ok(())
    }

    /// Takes so many, as many as there are.
    async fn take(&self, count: usize) -> Result<BTreeSet<Ipv4Addr>, Error> {
        let mut taken = BTreeSet::new();
        for _ in 0..count {
            let reserved = self.allocator.reserve(&self.host, HOLDER).await?;
            let address = reserved.address.address;
            let transaction =
                Transaction { compares: reserved.compares, success: reserved.operations, ..Transaction::new() };
            if self.store.commit(transaction).await?.succeeded {
                taken.insert(address);
            } else {
                self.allocator.abandoned(address);
                self.allocator.conflicted(&self.host);
            }
        }
        Ok(taken)
    }

    async fn give_back(&self, address: Ipv4Addr) -> Result<(), Error> {
        let key = key::address(self.subnet.network, address);
        let Some(entry) = self.store.get(&key).await?.entry else { return Ok(()) };
        if store::decode::<Holder>(&entry)?.instance == HOLDER {
            let as_it_was = Compare::ModRevision { key: key.clone(), revision: entry.mod_revision };
            let free: Operation = self.allocator.release(address);
            self.store.commit(Transaction::new().when(as_it_was).then(free)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use stampede_netlink::link::PortFlags;

    #[test]
    fn links_tell_whose_they_are() {
        let address = Ipv4Addr::new(10, 42, 7, 9);
        assert_eq!(owner(address), "0a2a0709");
        assert_eq!(of_link("st-0a2a0709"), Some(address));
        assert_eq!(["st-1i54", "st-1i345678", "eth0", "st-0a2a07090"].map(of_link), [None; 4]);
    }

    #[test]
    fn what_docker_does_not_know_is_a_leftover() {
        let link = |name: &str, endpoint: &str| Link {
            index: 7,
            name: name.to_owned(),
            kind: "veth".to_owned(),
            vxlan: None,
            mtu: 1380,
            mac: None,
            alias: Some(format!("stampede {} endpoint {endpoint}", &name[3..])),
            up: true,
            carrier: true,
            master: None,
            port: PortFlags::default(),
            lower: None,
        };
        let links = [link("st-0a2a0709", "a"), link("st-0a2a070a", "b"), link("st-1i54", "c")];
        let found: Vec<_> = strays(&links, &BTreeSet::from(["a".to_owned()])).collect();
        assert_eq!(found, [("st-0a2a070a", "b")], "an instance's is not Docker's own");
    }

    proptest! {
        #[test]
        fn a_few_are_free_and_none_in_use_is_given_back(kept in 0..40u8, used in prop::collection::btree_set(0..40u8, 0..40)) {
            let address = |last: u8| Ipv4Addr::new(10, 42, 7, last);
            let kept: BTreeSet<_> = (0..kept).map(address).collect();
            let used: BTreeSet<_> = used.into_iter().map(address).collect();
            let plan = plan(&kept, &used);
            prop_assert!(plan.leave.is_disjoint(&used) && plan.leave.is_subset(&kept));
            let free = kept.difference(&used).count() + plan.take - plan.leave.len();
            prop_assert!((FEWEST..=MOST).contains(&free));
        }
    }
}
