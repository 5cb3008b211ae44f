//! A cluster of hosts that are there as records only, with what is placed on them.
//!
//! What stands in the records is what the agent itself writes: one instance is made by it, and the others are copies of
//! that one with their own names, numbers and addresses.

use crate::agent::{Agent, draft};
use bytes::Bytes;
use futures::{StreamExt, stream};
use stampede::environment::Environment;
use stampede::membership::record::{Alive, Capability, Capacity, Host};
use stampede::membership::{ClusterSettings, Subnet, ensure_cluster};
use stampede::network::SubnetSpec;
use stampede::network::block::{Block, Holder};
use stampede::network::ipsec::record::Sealed;
use stampede::network::mesh::{Encryption, Mesh, Underlay};
use stampede::orchestration::seed;
use stampede::placement::record::{Allocation, Claim, Promise};
use stampede::resource::{Resource, identifier, instance};
use stampede::store::{self, Operation, Store, Transaction, key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// Transactions under way while records are written.
const AT_ONCE: usize = 8;
/// Operations in one of them.
const OPERATIONS: usize = 120;

/// 10.0.0.0/8 with a /24 for each host: room for 65,536 hosts with 253 instances.
pub fn subnet() -> SubnetSpec {
    SubnetSpec::of(Ipv4Addr::new(10, 0, 0, 0), 8, 24).unwrap()
}

/// See the module's text.
pub struct World {
    pub store: Arc<dyn Store>,
    pub hosts: u64,
    /// `alloc/<host>` as it is when nothing is being measured.
    allocations: BTreeMap<String, Bytes>,
    /// What an instance is a copy of.
    template: Resource,
    /// Numbers from here on are nobody's.
    pub first_free: u64,
}

impl World {
    pub async fn make(store: Arc<dyn Store>, hosts: u64, instances: u64) -> Self {
        let environment = Environment::system().unwrap();
        let SubnetSpec { network, prefix, block_prefix, .. } = subnet();
        let settings = ClusterSettings { subnet: Subnet { address: network, prefix }, block_size: block_prefix };
        ensure_cluster(store.as_ref(), &environment, settings).await.unwrap();
        seed::seed(store.as_ref(), &environment).await.unwrap();
        let records: Vec<Operation> = (1..=hosts).flat_map(|id| host(&environment, id)).collect();
        write(&store, records).await;
        let template = template(&store).await;
        // Behind what agents will have given out when all is over.
        let first_free = 1_000_000_000;
        let mut world = Self { store, hosts, allocations: BTreeMap::new(), template, first_free };
        let mut records = Vec::new();
        for id in 1..=hosts {
            let numbers =
                (1..=instances).skip(usize::try_from(id - 1).unwrap()).step_by(usize::try_from(hosts).unwrap());
            records.extend(world.instances_of(id, numbers));
        }
        records.push(put(&key::counter("instance"), &(instances + 1)));
        write(&world.store, records).await;
        world
    }

    pub fn described(&self) -> String {
        let SubnetSpec { network, prefix, block_prefix, .. } = subnet();
        format!("a /{block_prefix} of {network}/{prefix} for each host")
    }

    /// An instance as the agent writes it, with a number, a host and an address of its own.
    pub fn row(&self, number: u64, host: u64, address: Ipv4Addr) -> Resource {
        let mut row = self.template.clone();
        row.id = number;
        row.uuid = uuid(number);
        row.name = draft(number).name;
        row.set("labels", draft(number).fields["labels"].clone());
        row.set(instance::HOST, host);
        row.set(instance::HOST_NAME, format!("h{host}"));
        row.set(instance::ADDRESS, address.to_string());
        row
    }

    fn instances_of(&mut self, host: u64, numbers: impl Iterator<Item = u64>) -> Vec<Operation> {
        let (name, block) = (format!("h{host}"), block(host));
        let addresses = subnet().assignable(block);
        let mut allocation = Allocation::default();
        let mut records = Vec::new();
        for (number, address) in numbers.zip(addresses) {
            let id = identifier::instance(number);
            let row = self.row(number, host, address);
            let claim = Claim { id: number, uuid: row.uuid.clone(), generation: 1, ..Claim::default() };
            let network = subnet().network;
            records.push(put(&key::on(&name, &id), &claim));
            records.push(put(&key::uuid(&row.uuid), &format!("instance/{number}")));
            records.push(put(&key::resource("instance", number), &row));
            records.push(put(&key::address(network, address), &Holder { instance: id.clone(), host: name.clone() }));
            allocation.instances.insert(id, Arc::new(Promise::of(&row)));
        }
        let alloc = key::alloc(&name);
        let value = store::encode(&alloc, &allocation).unwrap();
        records.push(Operation::put(&alloc, value.clone()));
        self.allocations.insert(name, value);
        records
    }

    pub fn host_of(instance: &Resource) -> Option<String> {
        instance.get(instance::HOST_NAME)
    }

    /// Takes away what a round made: all is as it was before.
    pub async fn take_away(&self, made: &[Resource]) {
        let mut records: Vec<Operation> = made.iter().flat_map(taken_away).collect();
        let hosts: BTreeSet<String> = made.iter().filter_map(Self::host_of).collect();
        for host in hosts {
            if let Some(value) = self.allocations.get(&host) {
                records.push(Operation::put(key::alloc(&host), value.clone()));
            }
        }
        write(&self.store, records).await;
    }
}

/// An instance that an agent made in a cluster without any; it is gone again.
async fn template(store: &Arc<dyn Store>) -> Resource {
    let made = Agent::start(store.clone()).place(0).await;
    let mut records = taken_away(&made);
    records.push(Operation::delete(key::alloc(&World::host_of(&made).unwrap())));
    write(store, records).await;
    made
}

/// All that is its own.
fn taken_away(instance: &Resource) -> Vec<Operation> {
    let host = World::host_of(instance).unwrap();
    let address: Ipv4Addr = instance.get::<String>(instance::ADDRESS).unwrap().parse().unwrap();
    vec![
        Operation::delete(key::on(&host, &identifier::instance(instance.id))),
        Operation::delete(key::uuid(&instance.uuid)),
        Operation::delete(key::resource(instance::BASE, instance.id)),
        Operation::delete(key::address(subnet().network, address)),
    ]
}

async fn write(store: &Arc<dyn Store>, records: Vec<Operation>) {
    let transactions = records.chunks(OPERATIONS);
    let transactions: Vec<Transaction> =
        transactions.map(|part| Transaction { success: part.to_vec(), ..Transaction::default() }).collect();
    let committed = stream::iter(transactions).for_each_concurrent(AT_ONCE, |transaction| async {
        assert!(store.commit(transaction).await.unwrap().succeeded);
    });
    committed.await;
}

fn put<T: serde::Serialize>(key: &str, value: &T) -> Operation {
    Operation::put(key, store::encode(key, value).unwrap())
}

/// The block of the host with this number.
pub fn block(host: u64) -> Ipv4Addr {
    subnet().block_at(u32::try_from(host).unwrap())
}

/// A random one's form, and one of its own for each number.
fn uuid(number: u64) -> String {
    let high = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{number:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high >> 4 & 0xfff,
        high & 0xfff
    )
}

/// What a host writes of itself.
fn host(environment: &Environment, id: u64) -> Vec<Operation> {
    let name = format!("h{id}");
    let record = Host {
        id,
        uuid: environment.uuid().to_string(),
        name: name.clone(),
        identity: format!("{id:032x}"),
        machine_id: format!("{id:032x}"),
        created: environment.clock.now(),
        labels: BTreeMap::from([("rack".into(), format!("r{}", id % 100)), ("zone".into(), format!("z{}", id % 3))]),
        capabilities: BTreeSet::from([Capability::Container, Capability::Network]),
        capacity: Capacity { cpu_millis: 32_000, memory_mb: 131_072, disk_mb: 1_000_000 },
        versions: ["stampede", "docker", "kernel", "systemd"].map(|what| (what.to_owned(), "1.2.3".to_owned())).into(),
        protocol: 1,
        ..Host::default()
    };
    let alive = Alive {
        identity: record.identity.clone(),
        incarnation: 1,
        boot_id: environment.uuid().to_string(),
        address: format!("198.19.{}.{}:9080", id / 250, id % 250 + 1),
    };
    let number = u32::try_from(id).unwrap();
    let address = IpAddr::V4(Ipv4Addr::from(0xc613_0000 + number / 250 * 256 + number % 250 + 1));
    let underlay = Underlay { address, mtu: 1500 };
    let mesh = Mesh::new(number, underlay, 1380, Encryption::None, Sealed::default());
    vec![
        put(&key::host(&name), &record),
        put(&key::alive(&name), &alive),
        put(&key::mesh(&name), &mesh),
        put(&key::name("hostNumber", &number.to_string()), &name),
        put(&key::block(subnet().network, block(id)), &Block { host: name }),
    ]
}
