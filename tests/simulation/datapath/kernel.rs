//! One host's kernel, as far as it leads packets: addresses of its bridge, and the table of rules as the product puts it there.

use stampede::environment::Clock;
use stampede::resource::port::Protocol;
use stampede_netlink::nftables::{self, Element, ElementData, Expression, Rule, Table, Target, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

/// Who asks, by which protocol, at which port.
pub type From = (Ipv4Addr, Protocol, u16);

/// See the module's text.
#[derive(Debug, Default)]
pub struct Kernel {
    /// This boot's, which goes with the power.
    pub clock: Option<Arc<dyn Clock>>,
    /// Until when it has an address, on CLOCK_BOOTTIME; `None` for ever.
    addresses: BTreeMap<Ipv4Addr, Option<Duration>>,
    table: Option<Table>,
    pub rules: Rules,
    /// Of a hundred changes so many fail.
    pub refuses: usize,
    /// A call takes up to so many milliseconds.
    pub takes: u64,
}

/// What the table comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub ports: BTreeMap<(Protocol, u16), SocketAddrV4>,
    /// `None` where they are refused.
    pub links: BTreeMap<From, Option<SocketAddrV4>>,
    /// A floating address → an instance's.
    pub floating: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// Under which address instances leave.
    pub leaving: BTreeMap<Ipv4Addr, Ipv4Addr>,
    /// What comes in is led only where the address is the host's.
    asks_in: bool,
    /// What leaves under such a one is dropped where the host does not have it.
    asks_out: BTreeSet<Ipv4Addr>,
}

impl Kernel {
    pub fn booted(clock: Arc<dyn Clock>) -> Self {
        Self { clock: Some(clock), ..Self::default() }
    }

    pub fn is_on(&self) -> bool {
        self.clock.is_some()
    }

    pub fn now(&self) -> Duration {
        self.clock.as_ref().map_or(Duration::ZERO, |clock| clock.boottime())
    }

    /// Those that it has, and how long yet.
    pub fn addresses(&self) -> BTreeMap<Ipv4Addr, Option<Duration>> {
        let now = self.now();
        let there = self.addresses.iter().filter(|(_, until)| until.is_none_or(|until| now < until));
        there.map(|(address, until)| (*address, until.map(|until| until.saturating_sub(now)))).collect()
    }

    pub fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.get(&address).is_some_and(|until| until.is_none_or(|until| self.now() < until))
    }

    /// False where it had it: its lifetime alone is another now.
    pub fn add(&mut self, address: Ipv4Addr, valid_for: Option<Duration>) -> bool {
        let (had, now) = (self.has(address), self.now());
        self.addresses.insert(address, valid_for.map(|valid_for| now + valid_for));
        !had
    }

    pub fn remove(&mut self, address: Ipv4Addr) {
        self.addresses.remove(&address);
    }

    /// Whether others may meet this host at the address, or hear it under that.
    pub fn is_in_effect(&self, address: Ipv4Addr) -> bool {
        let rules = &self.rules;
        let led = !rules.asks_in && rules.floating.contains_key(&address);
        let left = !rules.asks_out.contains(&address) && rules.leaving.values().any(|under| *under == address);
        self.is_on() && (self.has(address) || led || left)
    }

    /// The table in place of the one that was there; that one.
    pub fn put_table(&mut self, table: &Table) -> Option<Table> {
        self.rules = Rules::of(table);
        self.table.replace(table.clone())
    }

    pub fn has_table(&self, table: &Table) -> bool {
        self.table.as_ref() == Some(table)
    }

    pub fn flush(&mut self) {
        (self.table, self.rules) = (None, Rules::default());
    }
}

impl Rules {
    fn of(table: &Table) -> Self {
        let fenced = has_rule(table, |rule| {
            rule.expressions.contains(&Expression::NotFromThisHost)
                && rule.expressions.iter().any(|it| matches!(it, Expression::Lookup { set, .. } if set == "fenced"))
        });
        let asks_in = has_rule(table, |rule| {
            rule.expressions.contains(&Expression::ToThisHost)
                && rule
                    .expressions
                    .iter()
                    .any(|it| matches!(it, Expression::DestinationNat(Target::Map { map, .. }) if map == "floating"))
        });
        let one = |element: &Element| Some((address(element.key.first())?, address(led(element).first())?));
        let from = |element: &Element| match element.key.as_slice() {
            [Value::Ipv4(who), Value::Protocol(protocol), Value::Port(port)] => Some((*who, known(*protocol), *port)),
            _ => None,
        };
        let port = |element: &Element| match element.key.as_slice() {
            [Value::Protocol(protocol), Value::Port(public)] => Some(((known(*protocol), *public), place(element)?)),
            _ => None,
        };
        let links = elements(table, "links").filter_map(|element| Some((from(element)?, place(element))));
        let refused = elements(table, "refused").filter_map(|element| Some((from(element)?, None)));
        let all = elements(table, "fenced").filter_map(|element| address(element.key.first()));
        Self {
            ports: elements(table, "ports").filter_map(port).collect(),
            links: links.chain(refused).collect(),
            floating: elements(table, "floating").filter_map(one).collect(),
            leaving: elements(table, "leaving").filter_map(one).collect(),
            asks_in,
            asks_out: if fenced { all.collect() } else { BTreeSet::new() },
        }
    }
}

fn has_rule(table: &Table, is: impl Fn(&Rule) -> bool) -> bool {
    table.chains.iter().flat_map(|chain| &chain.rules).any(is)
}

fn elements<'a>(table: &'a Table, name: &str) -> impl Iterator<Item = &'a Element> {
    table.sets.iter().find(|set| set.name == name).into_iter().flat_map(|set| &set.elements)
}

fn led(element: &Element) -> &[Value] {
    match &element.data {
        Some(ElementData::Values(values)) => values,
        _ => &[],
    }
}

fn address(value: Option<&Value>) -> Option<Ipv4Addr> {
    match value {
        Some(Value::Ipv4(address)) => Some(*address),
        _ => None,
    }
}

fn place(element: &Element) -> Option<SocketAddrV4> {
    match led(element) {
        [Value::Ipv4(address), Value::Port(port)] => Some(SocketAddrV4::new(*address, *port)),
        _ => None,
    }
}

fn known(protocol: nftables::Protocol) -> Protocol {
    if protocol == nftables::Protocol::Udp { Protocol::Udp } else { Protocol::Tcp }
}
