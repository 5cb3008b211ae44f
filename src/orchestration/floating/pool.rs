//! Pools: no two have an address in common, and each address is had once.

use super::TRIES;
use crate::environment::Environment;
use crate::membership::Cluster;
use crate::orchestration::image::resource;
use crate::orchestration::orchestrator::{Orchestrator, invalid};
use crate::orchestration::{Draft, ServiceError, Written, ports, seed};
use crate::placement::Writes;
use crate::resource::floating::{self, Associated, Pool, overlap};
use crate::resource::{Resource, State, identifier};
use crate::store::{self, Compare, Operation, Transaction, decode, encode, key};
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Of so many free addresses one is drawn: who acquires at the same moment mostly draws another.
const DRAWN_FROM: usize = 16;

/// Of a host's record in the mesh: its own addresses.
#[derive(Debug, Deserialize)]
struct Reached {
    underlay: Vec<IpAddr>,
}

/// One entry of `pools`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Taken {
    pool: u64,
    network: Ipv4Addr,
    prefix: u8,
}

/// A new address's row, and that nobody has it.
pub(super) fn take(writes: &mut Writes, row: &Resource) -> Result<(), store::Error> {
    let (stored, name) = (key::resource(floating::BASE, row.id), key::uuid(&row.uuid));
    let pool = row.get(floating::POOL_ID).unwrap_or_default();
    let address = row.get(floating::ADDRESS).unwrap_or(Ipv4Addr::UNSPECIFIED);
    let taken = key::floating(pool, address);
    for key in [&stored, &name, &taken] {
        writes.compares.push(Compare::Absent { key: key.clone() });
    }
    writes.operations.push(Operation::put(&stored, encode(&stored, row)?));
    writes.operations.push(Operation::put(&name, encode(&name, &json!(format!("{}/{}", floating::BASE, row.id)))?));
    writes.operations.push(Operation::put(&taken, encode(&taken, &row.id)?));
    Ok(())
}

/// The row of an address that leads nowhere yet.
pub(super) fn acquired(environment: &Environment, chosen: &Associated, account: Option<u64>) -> Resource {
    let fields = Map::from_iter([
        (floating::ADDRESS.to_owned(), json!(chosen.address)),
        (floating::POOL_ID.to_owned(), json!(chosen.pool)),
    ]);
    let draft = Draft { kind: floating::BASE.into(), account_id: account, fields, ..Draft::default() };
    resource(chosen.id, draft, environment, State::Active, environment.clock.now())
}

impl Orchestrator {
    /// A new pool, where its network is nobody's.
    pub(in crate::orchestration) async fn create_pool(&self, mut draft: Draft) -> Result<Written, ServiceError> {
        let pool = Pool::asked(&draft.fields).map_err(ports::refused)?;
        pool.write(&mut draft.fields);
        let network = (pool.network, pool.prefix);
        if let Some(cluster) = self.store().get(&key::cluster()).await?.entry {
            let managed = decode::<Cluster>(&cluster)?.subnet;
            if overlap(network, (managed.address, managed.prefix)) {
                let message =
                    format!("{}/{} is the managed network; a pool is outside of it", managed.address, managed.prefix);
                return Err(invalid("NotUnique", "networkAddress", message));
            }
        }
        for _ in 0..TRIES {
            let entry = self.store().get(&key::pools()).await?.entry;
            let mut all: Vec<Taken> = entry.as_ref().map(decode).transpose()?.unwrap_or_default();
            let mut gone = Vec::new();
            for other in all.iter().filter(|other| overlap(network, (other.network, other.prefix))) {
                if self.has_ended(other).await? {
                    gone.push(other.pool);
                    continue;
                }
                let name = identifier::format(floating::POOL, other.pool);
                let message = format!(
                    "the pool {name} has {}/{}; purge that, or take another network",
                    other.network, other.prefix
                );
                return Err(invalid("NotUnique", "networkAddress", message));
            }
            let id = self.number(floating::POOL).await?;
            all.retain(|other| !gone.contains(&other.pool));
            all.push(Taken { pool: id, network: pool.network, prefix: pool.prefix });
            let besides = match &entry {
                Some(entry) => Transaction::new().unchanged(&entry.key, entry.mod_revision),
                None => Transaction::new().absent(key::pools()),
            };
            let besides = besides.then(Operation::put(key::pools(), encode(&key::pools(), &all)?));
            match self.create_plain_with(id, draft.clone(), besides).await {
                // The uuid is taken, or somebody made another pool meanwhile.
                Err(ServiceError::Conflict(message)) => {
                    let now = self.store().get(&key::pools()).await?.entry.map(|now| now.mod_revision);
                    if now == entry.map(|entry| entry.mod_revision) {
                        return Err(ServiceError::Conflict(message));
                    }
                }
                made => return made,
            }
        }
        Err(ServiceError::busy())
    }

    async fn has_ended(&self, taken: &Taken) -> Result<bool, ServiceError> {
        match self.read(floating::POOL, taken.pool).await {
            Ok((row, _)) => Ok(row.state == State::Purged),
            Err(ServiceError::NotFound) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// That nobody has an address of it.
    pub(in crate::orchestration) async fn check_unused(&self, pool: u64) -> Result<(), ServiceError> {
        let count = self.store().range(&key::floatings(pool)).await?.entries.len();
        if count == 0 {
            return Ok(());
        }
        Err(ServiceError::Conflict(format!("{count} addresses of this pool are acquired; remove and purge them first")))
    }

    /// A free address of the pool, under a number of its own; `field` is what named the pool.
    pub(super) async fn choose(
        &self,
        pool: u64,
        account: Option<u64>,
        field: &str,
    ) -> Result<Associated, ServiceError> {
        let name = identifier::format(floating::POOL, pool);
        let row = match self.read(floating::POOL, pool).await {
            Ok((row, _)) => row,
            Err(ServiceError::NotFound) => {
                return Err(invalid("InvalidReference", field, format!("there is no pool {name}")));
            }
            Err(error) => return Err(error),
        };
        let owned = account.is_some() && row.account_id == account;
        if !owned && !row.get("isPublic").unwrap_or(false) && account != Some(seed::ADMIN) {
            return Err(invalid("InvalidReference", field, format!("there is no pool {name} for this account")));
        }
        if row.state != State::Active {
            let message = format!("the pool {name} is {}; activate it, or take another", row.state);
            return Err(invalid("InvalidReference", field, message));
        }
        let spec = Pool::of(&row)
            .ok_or_else(|| invalid("InvalidReference", field, format!("{name} is no pool of addresses")))?;
        let prefix = key::floatings(pool);
        let entries = self.store().range(&prefix).await?.entries;
        let mut taken: BTreeSet<Ipv4Addr> =
            entries.iter().filter_map(|entry| key::last(&prefix, &entry.key).parse().ok()).collect();
        taken.extend(self.hosts_own().await?);
        let free: Vec<Ipv4Addr> = spec.addresses().filter(|one| !taken.contains(one)).take(DRAWN_FROM).collect();
        if free.is_empty() {
            let message = format!("all addresses of the pool {name} are taken ({} to {})", spec.first, spec.last);
            return Err(invalid("NotUnique", field, format!("{message}: purge some, or take another pool")));
        }
        let address = free[self.environment().below(free.len())];
        let id = self.number(floating::BASE).await?;
        Ok(Associated { id, address, pool, own: true, rest: Map::new() })
    }

    /// What hosts have themselves is nobody's to acquire.
    async fn hosts_own(&self) -> Result<Vec<Ipv4Addr>, ServiceError> {
        let entries = self.store().range(&key::all_mesh()).await?.entries;
        let records = entries.iter().filter_map(|entry| decode::<Reached>(entry).ok());
        let addresses = records.flat_map(|record| record.underlay);
        Ok(addresses
            .filter_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            })
            .collect())
    }
}
