//! Who gets which address.
//!
//! An instance's address comes from a block of its host. The allocator proposes one that is free as far as it knows;
//! whether it is free is decided by the transaction that the proposal becomes a part of ([`Reserved::compares`]).
//! What is known of a block's addresses is read once, when the block is first used, and again after a conflict or when
//! the block looks full.
//!
//! ```text
//!   reserve ─► blocks of the host ─► free one known? ──────────── yes ─► Reserved
//!                  ▲                     │ no: read again, look again ─► yes ─► Reserved
//!                  └──── claim a block ◄─┘ no
//! ```
//! A block is claimed by a transaction of its own before the first address in it is proposed. Which block a host tries first
//! follows from its name, so that two agents that place on one host at once try the same one: one of them gets it for the
//! host and the other sees that the host has it. Were it a random one, each would leave the host with a block of its own.

use super::block::{Block, ByHost, Holder, Taken};
use super::subnet::SubnetSpec;
use crate::environment::Environment;
use crate::placement::Reserved;
use crate::store::{self, Compare, Entry, Operation, Revision, Store, Transaction, key, mirror::Mirror};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the first list of blocks may take.
const LIST_LIMIT: Duration = Duration::from_secs(5);
/// How many blocks are tried before it is left to the caller to come again.
const CLAIM_ATTEMPTS: u32 = 64;
/// How long a proposed address is kept from others without being in the store: longer than a placement takes.
const PROPOSAL: Duration = Duration::from_secs(10);

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the blocks of {subnet} are not known yet")]
    Unlisted { subnet: Ipv4Addr },
    #[error("no address is left: all {blocks} blocks of {subnet} are taken and those of {host} are full")]
    Exhausted { subnet: Ipv4Addr, host: String, blocks: u32 },
    #[error("no block of {subnet} could be claimed for {host}: others were quicker each time")]
    Contended { subnet: Ipv4Addr, host: String },
    #[error("cannot {action}")]
    Store { action: String, source: store::Error },
}

/// See the module's text.
#[derive(Debug)]
pub struct Allocator {
    store: Arc<dyn Store>,
    environment: Environment,
    subnet: SubnetSpec,
    blocks: Mirror<Block>,
    /// The overlay's MTU, as the network's reconciler last found it.
    mtu: Arc<AtomicU32>,
    known: Mutex<Known>,
    /// One claim at a time, so that many placements at once share the block.
    claiming: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: HashMap<Ipv4Addr, Addresses>,
    /// Blocks seen in the store that the mirror may not have yet.
    claimed: BTreeMap<Ipv4Addr, Taken>,
    /// What the mirror has; none before the first look.
    listed: Option<ByHost>,
}

/// What is known of a block.
#[derive(Debug, Default)]
struct Addresses {
    /// Whether `used` is good for something.
    read: bool,
    /// Held by someone when the store was read.
    used: BTreeSet<Ipv4Addr>,
    /// Proposed here, and when.
    proposed: BTreeMap<Ipv4Addr, Duration>,
}

impl Addresses {
    fn is_free(&self, address: Ipv4Addr) -> bool {
        !self.used.contains(&address) && !self.proposed.contains_key(&address)
    }
}

impl Allocator {
    /// `mtu` is what instances are told; [`super::Network::mtu`] keeps it up to date.
    pub fn new(store: Arc<dyn Store>, environment: &Environment, subnet: SubnetSpec, mtu: Arc<AtomicU32>) -> Self {
        let blocks = Mirror::start(store.clone(), environment, key::blocks(subnet.network));
        Self::with_blocks(store, environment, subnet, mtu, blocks)
    }

    pub(super) fn with_blocks(
        store: Arc<dyn Store>,
        environment: &Environment,
        subnet: SubnetSpec,
        mtu: Arc<AtomicU32>,
        blocks: Mirror<Block>,
    ) -> Self {
        let environment = environment.clone();
        Self {
            store,
            environment,
            subnet,
            blocks,
            mtu,
            known: Mutex::default(),
            claiming: tokio::sync::Mutex::default(),
        }
    }

    /// A free address for `instance` on `host`.
    ///
    /// It stays marked as used here, so that the next call proposes another one; where the transaction fails, say so by
    /// [`Self::conflicted`].
    ///
    /// # Errors
    /// [`Error::Exhausted`] where there is none; else the store's.
    pub async fn reserve(&self, host: &str, instance: &str) -> Result<Reserved, Error> {
        if !self.blocks.listed(LIST_LIMIT).await {
            return Err(Error::Unlisted { subnet: self.subnet.network });
        }
        loop {
            let own = self.own(host);
            if let Some(found) = self.pick_from(&own).await? {
                return self.reservation(found, host, instance);
            }
            // What looks used may be free again since it was read; a block is not taken on hearsay.
            for taken in &own {
                self.read(taken.block).await?;
            }
            if let Some(found) = self.pick(&own) {
                return self.reservation(found, host, instance);
            }
            let _one = self.claiming.lock().await;
            if self.own(host).len() == own.len() {
                self.claim(host).await?;
            }
        }
    }

    /// A transaction with a reservation for `host` failed: what is known of its blocks is read again.
    pub fn conflicted(&self, host: &str) {
        let own = self.own(host);
        let mut known = self.known();
        for taken in own {
            if let Some(addresses) = known.addresses.get_mut(&taken.block) {
                // Others' proposals stay theirs.
                addresses.read = false;
            }
            known.claimed.remove(&taken.block);
        }
    }

    /// What gives an address back, in the transaction that removes its instance.
    pub fn release(&self, address: Ipv4Addr) -> Operation {
        // It may be proposed again before that transaction is done; the compare then sorts it out.
        if let Some(addresses) = self.known().addresses.get_mut(&self.subnet.block_of(address)) {
            addresses.used.remove(&address);
            addresses.proposed.remove(&address);
        }
        Operation::delete(key::address(self.subnet.network, address))
    }

    /// A proposed address is not used after all: it may be proposed again.
    pub fn abandoned(&self, address: Ipv4Addr) {
        if let Some(addresses) = self.known().addresses.get_mut(&self.subnet.block_of(address)) {
            addresses.proposed.remove(&address);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blocks of a host, the oldest first, as the mirror and what was claimed here since have it.
    fn own(&self, host: &str) -> Vec<Taken> {
        let Known { listed, claimed, .. } = &mut *self.known();
        let listed = listed.get_or_insert_with(|| ByHost::of(&self.blocks));
        listed.refresh(&self.blocks, &self.subnet);
        // What the mirror tells now need not be remembered.
        claimed.retain(|block, _| !listed.knows(*block));
        let mut own: Vec<Taken> = listed.blocks_of(host).cloned().collect();
        own.extend(claimed.values().filter(|taken| taken.host == host).cloned());
        own.sort();
        own
    }

    async fn pick_from(&self, own: &[Taken]) -> Result<Option<(Taken, Ipv4Addr)>, Error> {
        for taken in own {
            if !self.known().addresses.get(&taken.block).is_some_and(|addresses| addresses.read) {
                self.read(taken.block).await?;
            }
            if let Some(found) = self.pick(std::slice::from_ref(taken)) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// A free address, by chance, of the first of these blocks that has one, marked as used.
    fn pick(&self, blocks: &[Taken]) -> Option<(Taken, Ipv4Addr)> {
        let mut known = self.known();
        for taken in blocks {
            let Some(known) = known.addresses.get_mut(&taken.block) else { continue };
            // From a random one on: to ask of all whether they are free costs more than the rest of a placement.
            let all = || self.subnet.assignable(taken.block);
            let start = self.environment.below(all().count());
            if let Some(address) = all().skip(start).chain(all().take(start)).find(|address| known.is_free(*address)) {
                known.proposed.insert(address, self.environment.clock.boottime());
                return Some((taken.clone(), address));
            }
        }
        None
    }

    fn reservation(&self, (taken, address): (Taken, Ipv4Addr), host: &str, instance: &str) -> Result<Reserved, Error> {
        let address_key = key::address(self.subnet.network, address);
        let block_key = key::block(self.subnet.network, taken.block);
        let holder = Holder { instance: instance.to_owned(), host: host.to_owned() };
        let value = store::encode(&address_key, &holder)
            .map_err(|source| Error::Store { action: format!("write down {address}"), source })?;
        Ok(Reserved {
            address: self.subnet.managed(address, self.mtu.load(Ordering::Relaxed)),
            compares: vec![
                Compare::Absent { key: address_key.clone() },
                Compare::CreateRevision { key: block_key, revision: taken.created },
            ],
            operations: vec![Operation::put(address_key, value)],
        })
    }

    /// The addresses in the blocks of `host` that `holder` has.
    pub(super) async fn held(&self, host: &str, holder: &str) -> Result<BTreeSet<Ipv4Addr>, Error> {
        if !self.blocks.listed(LIST_LIMIT).await {
            return Err(Error::Unlisted { subnet: self.subnet.network });
        }
        let mut held = BTreeSet::new();
        for taken in self.own(host) {
            let entries = self.entries(taken.block).await?;
            let own = |entry: &Entry| store::decode::<Holder>(entry).is_ok_and(|found| found.instance == holder);
            held.extend(entries.into_iter().filter(|(_, entry)| own(entry)).map(|(address, _)| address));
        }
        Ok(held)
    }

    /// What the store has of a block's addresses. Keys sort as text, so a block is read by the first three numbers of its
    /// addresses, each at most 256 keys.
    async fn entries(&self, block: Ipv4Addr) -> Result<Vec<(Ipv4Addr, Entry)>, Error> {
        let prefix = key::addresses(self.subnet.network);
        let parts = self.subnet.assignable(block).map(|address| {
            let [a, b, c, _] = address.octets();
            format!("{prefix}{a}.{b}.{c}.")
        });
        let parts: BTreeSet<_> = parts.collect();
        let mut found = Vec::new();
        for part in parts {
            let snapshot = self
                .store
                .range(&part)
                .await
                .map_err(|source| Error::Store { action: format!("read the addresses of block {block}"), source })?;
            let entries = snapshot.entries.into_iter();
            let addresses = entries.filter_map(|entry| Some((key::last(&prefix, &entry.key).parse().ok()?, entry)));
            found.extend(addresses.filter(|(address, _)| self.subnet.block_of(*address) == block));
        }
        Ok(found)
    }

    /// Reads which addresses of a block are in use.
    async fn read(&self, block: Ipv4Addr) -> Result<(), Error> {
        let used: BTreeSet<Ipv4Addr> = self.entries(block).await?.into_iter().map(|(address, _)| address).collect();
        let now = self.environment.clock.boottime();
        let mut known = self.known();
        let known = known.addresses.entry(block).or_default();
        known.read = true;
        known.used = used;
        // What is in the store is no proposal any more: when it is released there, it is free.
        let Addresses { used, proposed, .. } = known;
        proposed.retain(|address, since| !used.contains(address) && now.saturating_sub(*since) < PROPOSAL);
        Ok(())
    }

    /// Takes a block for the host, or finds that it has one more than was known.
    async fn claim(&self, host: &str) -> Result<(), Error> {
        let failed = |source| Error::Store { action: format!("claim a block for {host}"), source };
        let start = host
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        let count = self.subnet.block_count();
        let start = u32::try_from(start % u64::from(count)).unwrap_or(0);
        let mut attempts = 0;
        for number in 0..count {
            let block = self.subnet.block_at(start + number);
            let taken = self.known().claimed.contains_key(&block) || self.blocks.get(&block.to_string()).is_some();
            if taken || self.subnet.assignable(block).next().is_none() {
                continue;
            }
            attempts += 1;
            if attempts > CLAIM_ATTEMPTS {
                return Err(Error::Contended { subnet: self.subnet.network, host: host.to_owned() });
            }
            let block_key = key::block(self.subnet.network, block);
            let value = store::encode(&block_key, &Block { host: host.to_owned() }).map_err(failed)?;
            let transaction = Transaction::new()
                .absent(&block_key)
                .then(Operation::put(&block_key, value))
                .or_else(Operation::get(&block_key));
            let outcome = self.store.commit(transaction).await.map_err(failed)?;
            let (owner, created) = if outcome.succeeded {
                tracing::info!(%block, host, "a block claimed");
                (host.to_owned(), outcome.revision)
            } else {
                let Some((owner, created)) = owner(&outcome).map_err(failed)? else { continue };
                (owner, created)
            };
            let mine = owner == host;
            self.known().claimed.insert(block, Taken { created, block, host: owner });
            if mine {
                return Ok(());
            }
        }
        Err(Error::Exhausted { subnet: self.subnet.network, host: host.to_owned(), blocks: count })
    }
}

/// Makes `address`, which `instance` on `host` has already, its own in the store too, and the block the host's where it is
/// nobody's. Done again, it changes nothing; where another has the address, that stays, and is told.
///
/// # Errors
/// What the store answers.
pub async fn hold(
    store: &dyn Store,
    subnet: &SubnetSpec,
    host: &str,
    instance: &str,
    address: Ipv4Addr,
) -> Result<(), store::Error> {
    let block = key::block(subnet.network, subnet.block_of(address));
    let value = store::encode(&block, &Block { host: host.to_owned() })?;
    // One of another host's stays that: nobody routes to this instance then, and its address is not given away all the same.
    store.commit(Transaction::new().absent(&block).then(Operation::put(&block, value))).await?;
    let key = key::address(subnet.network, address);
    let holder = Holder { instance: instance.to_owned(), host: host.to_owned() };
    let put = Operation::put(&key, store::encode(&key, &holder)?);
    let outcome = store.commit(Transaction::new().absent(&key).then(put).or_else(Operation::get(&key))).await?;
    let found = match outcome.answers.first() {
        Some(store::Answer::Entries(entries)) => entries.first().map(store::decode::<Holder>).transpose()?,
        _ => None,
    };
    match found.filter(|found| *found != holder) {
        Some(other) => {
            tracing::error!(%address, instance, other = other.instance, at = other.host, "an address was given twice");
        }
        None if outcome.succeeded => {
            tracing::warn!(%address, instance, "the store does not know it; its address is kept")
        }
        None => {}
    }
    Ok(())
}

/// Who holds the block that a claim found taken; `None` where it was given up in the very moment.
fn owner(outcome: &store::Outcome) -> Result<Option<(String, Revision)>, store::Error> {
    let Some(store::Answer::Entries(entries)) = outcome.answers.first() else { return Ok(None) };
    let Some(entry) = entries.first() else { return Ok(None) };
    Ok(Some((store::decode::<Block>(entry)?.host, entry.create_revision)))
}
