//! A source of addresses for tests: it knows what is taken only when it looks, so that agents collide.

use stampede::environment::Environment;
use stampede::placement::{AddressError, AddressSource, Reserved};
use stampede::resource::assignment::ManagedAddress;
use stampede::store::{Compare, Operation, Store, key};
use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

pub const SUBNET: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 0);

#[derive(Debug)]
pub struct Pool {
    store: Arc<dyn Store>,
    environment: Environment,
    /// How many addresses a host has.
    size: u8,
    /// By host: what is known to be taken or was given to somebody here.
    taken: Mutex<HashMap<String, HashSet<Ipv4Addr>>>,
    stale: Mutex<HashSet<String>>,
    pub abandoned: Mutex<Vec<Ipv4Addr>>,
    pub conflicts: Mutex<usize>,
}

impl Pool {
    pub fn new(store: Arc<dyn Store>, size: u8) -> Arc<Self> {
        Arc::new(Self {
            store,
            environment: crate::environment(),
            size,
            taken: Mutex::default(),
            stale: Mutex::default(),
            abandoned: Mutex::default(),
            conflicts: Mutex::default(),
        })
    }
}

#[async_trait::async_trait]
impl AddressSource for Pool {
    async fn reserve(&self, host: &str, instance: &str) -> Result<Reserved, AddressError> {
        let refresh = self.stale.lock().unwrap().remove(host);
        if refresh {
            let found = self.store.range(&key::addresses(SUBNET)).await?;
            let prefix = key::addresses(SUBNET);
            let all = found.entries.iter().map(|entry| key::last(&prefix, &entry.key).parse::<Ipv4Addr>().unwrap());
            self.taken.lock().unwrap().entry(host.to_owned()).or_default().extend(all);
        }
        let number: u8 = host[1..].parse().unwrap();
        let mut taken = self.taken.lock().unwrap();
        let taken = taken.entry(host.to_owned()).or_default();
        let free: Vec<Ipv4Addr> = (1..=self.size)
            .map(|last| Ipv4Addr::new(10, 42, number, last))
            .filter(|address| !taken.contains(address))
            .collect();
        if free.is_empty() {
            return Err(AddressError::Exhausted(format!("all {} are taken", self.size)));
        }
        let address = free[self.environment.below(free.len())];
        taken.insert(address);
        let key = key::address(SUBNET, address);
        Ok(Reserved {
            address: ManagedAddress {
                address,
                prefix: 16,
                gateway: Ipv4Addr::new(10, 42, 0, 1),
                mac: "02:00:01:00:00:01".into(),
                mtu: 1380,
            },
            compares: vec![Compare::Absent { key: key.clone() }],
            operations: vec![Operation::put(key, format!("{instance:?}").into_bytes().into())],
        })
    }

    fn conflicted(&self, host: &str) {
        *self.conflicts.lock().unwrap() += 1;
        self.stale.lock().unwrap().insert(host.to_owned());
    }

    fn abandoned(&self, host: &str, address: Ipv4Addr) {
        self.abandoned.lock().unwrap().push(address);
        self.taken.lock().unwrap().entry(host.to_owned()).or_default().remove(&address);
        // It may have been given up because somebody else has it.
        self.stale.lock().unwrap().insert(host.to_owned());
    }

    fn release(&self, address: Ipv4Addr) -> Operation {
        Operation::delete(key::address(SUBNET, address))
    }
}
