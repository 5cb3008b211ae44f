//! An agent's way to its kernel, on which a guard of what is led may be lost; as in [`crate::guards`].

use super::Leading;
use crate::guards::Guard;
use stampede::network::datapath::{Datapath, Wanted};
use stampede::network::kernel::Error;
use stampede_netlink::address::{Address, AddressSpec};
use stampede_netlink::conntrack::Flow;
use stampede_netlink::nftables::{Expression, Table, TableOutcome};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

/// How late addresses go where nobody waits for that, milliseconds.
const LATE: (u64, u64) = (500, 4000);

/// See the module's text. One agent's.
#[derive(Debug)]
pub struct Bent {
    inner: Leading,
    guard: Option<Guard>,
    /// To be gone, and there yet; by the turn in which that was asked for.
    going: Arc<Mutex<BTreeMap<IpAddr, u64>>>,
}

impl Bent {
    pub fn new(inner: Leading, guard: Option<Guard>) -> Self {
        Self { inner, guard, going: Arc::default() }
    }

    fn remove_later(&self, link: u32, spec: AddressSpec) {
        let turn = {
            let mut going = self.going.lock().unwrap();
            let turn = going.values().max().map_or(1, |last| last + 1);
            going.insert(spec.address, turn);
            turn
        };
        let (inner, going) = (self.inner.clone(), self.going.clone());
        tokio::spawn(async move {
            inner.later(LATE.0, LATE.1).await;
            let still = {
                let mut going = going.lock().unwrap();
                going.get(&spec.address) == Some(&turn) && going.remove(&spec.address).is_some()
            };
            if still {
                // What is refused goes by itself.
                drop(inner.remove_address(link, &spec).await);
            }
        });
    }
}

/// A table whose rules do not ask whether an address is this host's.
fn unasking(table: &Table) -> Table {
    let mut table = table.clone();
    for rule in table.chains.iter_mut().flat_map(|chain| &mut chain.rules) {
        rule.expressions.retain(|it| !matches!(it, Expression::ToThisHost | Expression::NotFromThisHost));
    }
    table
}

#[async_trait::async_trait]
impl Datapath for Bent {
    async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let mut found = self.inner.addresses().await?;
        found.retain(|address| !self.going.lock().unwrap().contains_key(&address.spec.address));
        Ok(found)
    }

    async fn bridge(&self) -> Result<Option<u32>, Error> {
        self.inner.bridge().await
    }

    async fn ensure_addresses(&self, link: u32, wanted: Wanted<'_>) -> Result<(), Error> {
        let bent = || {
            let mut specs = wanted();
            for spec in &mut specs {
                self.going.lock().unwrap().remove(&spec.address);
                if self.guard == Some(Guard::Lifetime) {
                    spec.valid_for = None;
                }
            }
            specs
        };
        self.inner.ensure_addresses(link, &bent).await
    }

    async fn remove_address(&self, link: u32, spec: &AddressSpec) -> Result<(), Error> {
        if self.guard == Some(Guard::Gone) {
            self.remove_later(link, *spec);
            return Ok(());
        }
        self.inner.remove_address(link, spec).await
    }

    async fn announce(&self, address: Ipv4Addr, underlay: Option<IpAddr>) {
        self.inner.announce(address, underlay).await;
    }

    async fn ensure_table(&self, table: &Table) -> Result<TableOutcome, Error> {
        match self.guard {
            Some(Guard::Asks) => self.inner.ensure_table(&unasking(table)).await,
            _ => self.inner.ensure_table(table).await,
        }
    }

    async fn flows(&self) -> Result<Vec<Flow>, Error> {
        self.inner.flows().await
    }

    async fn forget_flows(&self, flows: &[Flow]) -> Result<usize, Error> {
        self.inner.forget_flows(flows).await
    }

    fn nudge(&self, flows: &[Flow], mark: u32) -> Result<io::Result<usize>, Error> {
        self.inner.nudge(flows, mark)
    }
}
