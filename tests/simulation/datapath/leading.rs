//! What an agent asks of its host's kernel, in the model.

use super::Datapaths;
use rustix::io::Errno;
use stampede::network::datapath::{Datapath, Wanted};
use stampede::network::kernel::Error;
use stampede_netlink::RequestError;
use stampede_netlink::address::{Address, AddressSpec};
use stampede_netlink::conntrack::Flow;
use stampede_netlink::nftables::{Difference, ElementOutcome, Table, TableOutcome};
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The bridge's index.
const BRIDGE: u32 = 7;
/// The kernel looks at lifetimes up to so late.
const LATE: u64 = 1000;
/// In so many of a hundred cases a call takes its time on a host that is well, and then up to so many milliseconds.
const SELDOM: usize = 3;
const AWHILE: u64 = 20;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leading {
    all: Datapaths,
    host: String,
}

impl Leading {
    pub fn new(all: &Datapaths, host: &str) -> Self {
        Self { all: all.clone(), host: host.to_owned() }
    }

    /// Up to so many milliseconds later, by chance.
    pub async fn later(&self, least: u64, most: u64) {
        tokio::time::sleep(self.all.dice.millis(least, most)).await;
    }

    async fn take_time(&self) {
        let dice = &self.all.dice;
        let most = match self.all.look(&self.host, |kernel| kernel.takes) {
            0 if dice.percent(SELDOM) => AWHILE,
            0 => return,
            most => most,
        };
        tokio::time::sleep(dice.millis(1, most)).await;
    }

    /// Whether the next change fails, and whether it is done all the same: the answer is lost.
    fn fails(&self) -> (bool, bool) {
        let (percent, dice) = (self.all.look(&self.host, |kernel| kernel.refuses), &self.all.dice);
        let fails = percent > 0 && dice.percent(percent);
        (fails, !fails || dice.percent(30))
    }

    fn add(&self, spec: &AddressSpec) {
        let IpAddr::V4(address) = spec.address else { return };
        let late = self.all.dice.millis(0, LATE);
        let valid_for = spec.valid_for.map(|seconds| Duration::from_secs(seconds.into()) + late);
        if self.all.look(&self.host, |kernel| kernel.add(address, valid_for)) {
            self.all.chronicle.note(format_args!("{}: {spec} comes", self.host));
            self.all.chronicle.count("floating address came");
        }
        self.all.changed(&self.host, address);
    }

    fn put_table(&self, table: &Table) -> TableOutcome {
        let as_it_was = TableOutcome { replaced: None, elements: ElementOutcome::default() };
        if self.all.look(&self.host, |kernel| kernel.has_table(table)) {
            return as_it_was;
        }
        let before = self.all.look(&self.host, |kernel| kernel.put_table(table));
        let rules = self.all.look(&self.host, |kernel| kernel.rules.clone());
        let (ports, links, floating) = (rules.ports.len(), rules.links.len(), rules.floating.len());
        self.all.chronicle.note(format_args!(
            "{}: leads {ports} ports, {links} ports of links, {floating} floating addresses",
            self.host
        ));
        for address in rules.floating.keys() {
            self.all.changed(&self.host, *address);
        }
        match before {
            Some(_) => TableOutcome { elements: ElementOutcome { added: 1, deleted: 0 }, ..as_it_was },
            None => TableOutcome { replaced: Some(Difference::Absent), ..as_it_was },
        }
    }
}

fn refused(action: &impl Display) -> Error {
    let source = RequestError::Refused { errno: Errno::NOBUFS, message: None };
    Error::Request { action: action.to_string(), source }
}

#[async_trait::async_trait]
impl Datapath for Leading {
    async fn addresses(&self) -> Result<Vec<Address>, Error> {
        self.take_time().await;
        if self.fails().0 {
            return Err(Error::Request { action: "list addresses".to_owned(), source: RequestError::Interrupted });
        }
        let there = self.all.look(&self.host, |kernel| kernel.addresses());
        let found = |(address, left): (Ipv4Addr, Option<Duration>)| Address {
            link: BRIDGE,
            spec: AddressSpec {
                valid_for: left.map(|left| u32::try_from(left.as_secs()).unwrap()),
                no_prefix_route: true,
                ..AddressSpec::new(IpAddr::V4(address), 32)
            },
            link_local: false,
        };
        let found = there.into_iter().map(found).collect();
        self.take_time().await;
        Ok(found)
    }

    async fn bridge(&self) -> Result<Option<u32>, Error> {
        Ok(Some(BRIDGE))
    }

    async fn ensure_addresses(&self, _: u32, wanted: Wanted<'_>) -> Result<(), Error> {
        self.take_time().await;
        let mut result = Ok(());
        for spec in wanted() {
            let (fails, done) = self.fails();
            if done {
                self.add(&spec);
            }
            if fails {
                result = Err(refused(&format_args!("add address {spec}")));
            }
        }
        self.take_time().await;
        result
    }

    async fn remove_address(&self, _: u32, spec: &AddressSpec) -> Result<(), Error> {
        self.take_time().await;
        let (fails, done) = self.fails();
        if let IpAddr::V4(address) = spec.address
            && done
        {
            self.all.chronicle.note(format_args!("{}: {spec} goes", self.host));
            self.all.look(&self.host, |kernel| kernel.remove(address));
        }
        if fails { Err(refused(&format_args!("remove address {spec}"))) } else { Ok(()) }
    }

    async fn announce(&self, address: Ipv4Addr, _: Option<IpAddr>) {
        self.all.chronicle.note(format_args!("{}: {address} announced", self.host));
    }

    async fn ensure_table(&self, table: &Table) -> Result<TableOutcome, Error> {
        self.take_time().await;
        let (fails, done) = self.fails();
        let outcome = done.then(|| self.put_table(table));
        self.take_time().await;
        outcome.filter(|_| !fails).ok_or_else(|| refused(&"put rules"))
    }

    async fn flows(&self) -> Result<Vec<Flow>, Error> {
        Ok(Vec::new())
    }

    async fn forget_flows(&self, _: &[Flow]) -> Result<usize, Error> {
        Ok(0)
    }

    fn nudge(&self, _: &[Flow], _: u32) -> Result<io::Result<usize>, Error> {
        Ok(Ok(0))
    }
}
