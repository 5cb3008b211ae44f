//! What etcd gives for the same transactions with no agent behind them: made beforehand, one placement a host, and then
//! only sent.

use crate::etcd::Server;
use crate::world::{World, block, subnet};
use futures::{StreamExt, stream};
use stampede::network::block::Holder;
use stampede::placement::record::{Allocation, Claim, Promise};
use stampede::resource::{Resource, identifier, instance};
use stampede::store::{self, Compare, Entry, Operation, Revision, Store, Transaction, key};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Placements in one transaction, as agents batch them.
const TOGETHER: usize = 64;
/// Such transactions under way at once.
const BATCHES: usize = 6;
/// Connections that share the work.
const CONNECTIONS: usize = 4;

/// How they are sent.
#[derive(Clone, Copy)]
pub enum Sent {
    /// Each for itself, so many under way.
    Alone(usize),
    /// Many in one.
    Together,
}

/// How many placements a second etcd takes, over so many placements.
pub async fn rate(server: &Server, world: &World, placements: u64, sent: Sent) -> f64 {
    let stores: Vec<Arc<dyn Store>> = (0..CONNECTIONS).map(|_| server.connect()).collect();
    let (mut took, mut done, mut made) = (Duration::ZERO, 0, Vec::new());
    while done < placements {
        let prepared = prepare(world, done, placements - done).await;
        done += prepared.len() as u64;
        let (transactions, rows): (Vec<Transaction>, Vec<Resource>) = prepared.into_iter().unzip();
        made.extend(rows);
        let (transactions, at_once): (Vec<Transaction>, usize) = match sent {
            Sent::Alone(at_once) => (transactions, at_once),
            Sent::Together => {
                let nest = |part: &[Transaction]| Transaction {
                    success: part.iter().cloned().map(Operation::Nested).collect(),
                    ..Transaction::default()
                };
                (transactions.chunks(TOGETHER).map(nest).collect(), BATCHES)
            }
        };
        let begun = Instant::now();
        let numbered = stream::iter(transactions.into_iter().enumerate());
        numbered
            .for_each_concurrent(at_once, |(at, transaction)| {
                let store = &stores[at % CONNECTIONS];
                async move { assert!(store.commit(transaction).await.unwrap().succeeded) }
            })
            .await;
        took += begun.elapsed();
    }
    world.take_away(&made).await;
    done as f64 / took.as_secs_f64()
}

/// A placement for each host, no more than `most`; the numbers count from `since`.
async fn prepare(world: &World, since: u64, most: u64) -> Vec<(Transaction, Resource)> {
    let [alive, blocks, allocations] = [key::all_alive(), key::blocks(subnet().network), key::allocs()];
    let (alive, blocks) = (by_key(world, &alive).await, by_key(world, &blocks).await);
    let allocations = by_key(world, &allocations).await;
    let prepared = (1..=world.hosts.min(most)).map(|host| {
        let number = world.first_free + since + host;
        let name = format!("h{host}");
        let alloc = key::alloc(&name);
        let mut allocation: Allocation = store::decode(&allocations[&alloc]).unwrap();
        // From the block's end: what is placed there already is at its beginning.
        let address =
            subnet().assignable(block(host)).nth(200 + usize::try_from(since / world.hosts).unwrap()).unwrap();
        let row = world.row(number, host, address);
        let id = identifier::instance(number);
        allocation.instances.insert(id.clone(), Arc::new(Promise::of(&row)));
        let claim = Claim { id: number, uuid: row.uuid.clone(), generation: 1, ..Claim::default() };
        let holder = Holder { instance: id.clone(), host: name.clone() };
        let [on, uuid] = [key::on(&name, &id), key::uuid(&row.uuid)];
        let [resource, address] = [key::resource(instance::BASE, number), key::address(subnet().network, address)];
        let [alive_key, block_key] = [key::alive(&name), key::block(subnet().network, block(host))];
        let compares = vec![
            Compare::ModRevision { key: alloc.clone(), revision: allocations[&alloc].mod_revision },
            Compare::Absent { key: on.clone() },
            Compare::CreateRevision { revision: created(&alive, &alive_key), key: alive_key },
            Compare::Absent { key: resource.clone() },
            Compare::Absent { key: uuid.clone() },
            Compare::Absent { key: address.clone() },
            Compare::CreateRevision { revision: created(&blocks, &block_key), key: block_key },
        ];
        let failure = compares.iter().map(|compare| match compare {
            Compare::Absent { key }
            | Compare::Exists { key }
            | Compare::CreateRevision { key, .. }
            | Compare::ModRevision { key, .. } => Operation::get(key),
        });
        let success = vec![
            put(&alloc, &allocation),
            put(&on, &claim),
            put(&uuid, &format!("instance/{number}")),
            put(&resource, &row),
            put(&address, &holder),
        ];
        (Transaction { failure: failure.collect(), compares, success }, row)
    });
    prepared.collect()
}

fn put<T: serde::Serialize>(key: &str, value: &T) -> Operation {
    Operation::put(key, store::encode(key, value).unwrap())
}

fn created(entries: &HashMap<String, Entry>, key: &str) -> Revision {
    entries[key].create_revision
}

async fn by_key(world: &World, prefix: &str) -> HashMap<String, Entry> {
    let entries = world.store.range(prefix).await.unwrap().entries;
    entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}
