//! What is sent to an address of this host and led on: published ports and links, as sets of our table.
//!
//! ```text
//!  [`super::ports`] ──► Opened ─┐
//!                               ├─► Led ──► five sets of our table, element by element
//!  [`super::links`] ──► Linked ─┘    │
//!                  connection tracking ── stale (pure) ──► what leads elsewhere now is forgotten
//! ```
//! A connection is led where the rules led its first packet, so after a change those that lead elsewhere now are forgotten.
//! [`super::hairpin`] has the ways that are not straight.

use super::apart::{Apart, Whose};
use super::apply::Applied;
use super::datapath::Datapath;
use super::dns::{self, Askers};
use super::firewall::{self, Ensured};
use super::floating::{Floated, Floating, FloatingChanges};
use super::hairpin;
use super::kernel::Error;
use super::links::{From, LinkChanges, Linked, Links};
use super::metadata;
use super::ports::{Opened, Published, Tenants, transport};
use super::spares::ForDocker;
use super::subnet::SubnetSpec;
use crate::resource::port::Protocol;
use stampede_netlink::conntrack::Flow;
use stampede_netlink::nftables::{DataType, Element, ElementData, Protocol as Transport, Set, SetData, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::atomic::Ordering;
use tokio::sync::watch;

/// Protocol and public port → address and private port.
pub const PORTS: &str = "ports";
/// Who asks, protocol and port at the gateway's address → the target's address and private port.
pub const LINKS: &str = "links";
/// The same of links that lead nowhere now.
pub const REFUSED: &str = "refused";
/// The addresses of this host that something leads to.
pub const HERE: &str = "here";
/// Those that may ask for something of their own, each as source and destination of a packet.
pub const ITSELF: &str = "itself";

/// A floating address → its instance's; and back, of each instance one; and all of them.
pub const FLOATING: &str = "floating";
pub const LEAVING: &str = "leaving";
pub const FENCED: &str = "fenced";

/// The mark of nudges, which are not tracked (SO_MARK).
pub(super) const NUDGE: u32 = 0x2000_0000;

/// The addresses that are kept for Docker, and whom its containers ask for names.
pub const DOCKER: &str = "docker";
pub const RESOLVERS: &str = "resolvers";

/// All that is led.
#[derive(Clone, Debug, Default)]
pub(super) struct Led {
    pub opened: Opened,
    pub linked: Linked,
    /// Floating addresses, and whom they lead to.
    pub floating: Floated,
    /// Where instances find their links.
    pub gateway: Option<Ipv4Addr>,
    /// The addresses of what Docker starts by itself, and the name servers that it has its containers ask.
    pub docker: BTreeSet<Ipv4Addr>,
    pub resolvers: BTreeSet<Ipv4Addr>,
    /// Whose this host's addresses are, where accounts are apart.
    pub apart: Option<Whose>,
}

fn addresses<'a>(all: impl Iterator<Item = &'a Ipv4Addr>, twice: bool) -> Vec<Element> {
    let all: BTreeSet<Ipv4Addr> = all.copied().collect();
    let element = |address: Ipv4Addr| {
        let key = std::iter::repeat_n(Value::Ipv4(address), if twice { 2 } else { 1 }).collect();
        Element { key, data: None }
    };
    all.into_iter().map(element).collect()
}

fn place(to: &SocketAddrV4) -> Option<ElementData> {
    Some(ElementData::Values(vec![Value::Ipv4(*to.ip()), Value::Port(to.port())]))
}

impl Led {
    /// As sets of our table.
    pub fn sets(&self) -> Vec<Set> {
        let set = |name: &str, comment: &str, key: &[DataType], data: Option<SetData>, elements| Set {
            name: name.to_owned(),
            comment: Some(comment.to_owned()),
            key: key.to_vec(),
            data,
            elements,
        };
        let port = |((protocol, public), to): (&(Protocol, u16), &SocketAddrV4)| Element {
            key: vec![Value::Protocol(transport(*protocol)), Value::Port(*public)],
            data: place(to),
        };
        let from = |(source, protocol, public): &From, to: Option<&SocketAddrV4>| Element {
            key: vec![Value::Ipv4(*source), Value::Protocol(transport(*protocol)), Value::Port(*public)],
            data: to.and_then(place),
        };
        let ways = || self.linked.ways.iter();
        let links = ways().filter_map(|(key, to)| to.as_ref().map(|to| from(key, Some(to)))).collect();
        let refused = ways().filter(|(_, to)| to.is_none()).map(|(key, _)| from(key, None)).collect();
        let published = || self.opened.ports.values().map(SocketAddrV4::ip).chain(self.floating.all.values());
        let one = |(from, to): (&Ipv4Addr, &Ipv4Addr)| Element {
            key: vec![Value::Ipv4(*from)],
            data: Some(ElementData::Values(vec![Value::Ipv4(*to)])),
        };
        let floating = self.floating.all.iter().map(one).collect();
        // The first of several.
        let there = self.floating.all.iter().rev().filter(|(at, _)| self.floating.there.contains(at));
        let leaving: BTreeMap<Ipv4Addr, Ipv4Addr> = there.map(|(at, to)| (*to, *at)).collect();
        let address = || Some(SetData::Values(vec![DataType::Ipv4]));
        let to = || Some(SetData::Values(vec![DataType::Ipv4, DataType::Port]));
        let who = [DataType::Ipv4, DataType::Protocol, DataType::Port];
        // Whom it leads to is known before anything is led there.
        let here = addresses(published().chain(&self.linked.here), false);
        let itself = addresses(published().chain(&self.linked.itself), true);
        let ports = self.opened.ports.iter().map(port).collect();
        let apart = self.apart.iter().flat_map(Whose::sets);
        let led = vec![
            set(HERE, "whom of this host they lead to", &[DataType::Ipv4], None, here),
            set(ITSELF, "who asks for a port of its own", &[DataType::Ipv4, DataType::Ipv4], None, itself),
            set(PORTS, "published ports", &[DataType::Protocol, DataType::Port], to(), ports),
            set(LINKS, "links", &who, to(), links),
            set(REFUSED, "links to nobody", &who, None, refused),
            set(FLOATING, "floating addresses", &[DataType::Ipv4], address(), floating),
            set(
                LEAVING,
                "under which address they leave",
                &[DataType::Ipv4],
                address(),
                leaving.iter().map(one).collect(),
            ),
            set(
                FENCED,
                "not to be sent from without having it",
                &[DataType::Ipv4],
                None,
                addresses(self.floating.all.keys(), false),
            ),
            set(DOCKER, "kept for Docker", &[DataType::Ipv4], None, addresses(self.docker.iter(), false)),
            set(
                RESOLVERS,
                "whom this host asks for names",
                &[DataType::Ipv4],
                None,
                addresses(self.resolvers.iter(), false),
            ),
        ];
        led.into_iter().chain(apart).collect()
    }

    /// Where this leads now; the outer `None` where it is not ours to lead, the inner where that is nowhere.
    fn wanted(&self, flow: &Flow) -> Option<Option<SocketAddrV4>> {
        let protocol = if flow.protocol == Transport::Tcp { Protocol::Tcp } else { Protocol::Udp };
        let (source, asked) = (flow.original.source, flow.original.destination);
        if let Some(to) = self.floating.all.get(asked.ip()) {
            return Some(Some(SocketAddrV4::new(*to, asked.port())));
        }
        let link = self.linked.ways.get(&(*source.ip(), protocol, asked.port()));
        match link.filter(|_| Some(*asked.ip()) == self.gateway) {
            Some(to) => Some(*to),
            None => self.opened.ports.get(&(protocol, asked.port())).copied().map(Some),
        }
    }

    /// Connections that are led elsewhere than they would be now; `own` are this host's addresses, `managed` tells which are
    /// those of instances.
    ///
    /// A conversation by UDP that began before its port was open would go past it for ever; one by TCP has an end of its own.
    fn stale(&self, flows: Vec<Flow>, own: &BTreeSet<Ipv4Addr>, managed: impl Fn(Ipv4Addr) -> bool) -> Vec<Flow> {
        let is_stale = |flow: &Flow| {
            let (asked, led) = (flow.original.destination, flow.reply.source);
            let wanted = self.wanted(flow);
            let to_us = asked.ip().is_loopback() || own.contains(asked.ip());
            let past = asked == led && flow.protocol == Transport::Udp && wanted.flatten().is_some();
            let elsewhere = asked != led && managed(*led.ip()) && wanted != Some(Some(led));
            // Whoever asks itself and keeps its source gets no answer.
            let asker = flow.original.source;
            let alone = asked != led && asker.ip() == led.ip() && flow.reply.destination == asker;
            // A floating address that was this host's, either way.
            let gone = asked != led && managed(*led.ip()) && !to_us;
            let (left, under) = (flow.original.source.ip(), flow.reply.destination.ip());
            let is_ours = own.contains(under) || *under == hairpin::SOURCE || managed(*under) || under.is_loopback();
            let left = managed(*left) && under != left && !is_ours;
            gone || left || to_us && (past || elsewhere || alone)
        };
        flows.into_iter().filter(is_stale).collect()
    }
}

/// Whom the containers that Docker starts by itself ask for names: whom the host asks.
fn resolvers(subnet: &SubnetSpec) -> BTreeSet<Ipv4Addr> {
    let servers = dns::of_host(&dns::Files::default(), subnet).into_iter();
    servers
        .filter_map(|server| match server {
            // Asked from within the host, where no rule of ours is in the way.
            IpAddr::V4(server) if !server.is_loopback() => Some(server),
            _ => None,
        })
        .collect()
}

/// Who leads: all that this host is told to, and where. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Leader {
    /// This host's name.
    pub host: String,
    pub subnet: SubnetSpec,
    pub published: Published,
    pub links: Links,
    pub floating: Floating,
    pub for_docker: ForDocker,
    pub apart: Apart,
    pub askers: Askers,
}

impl Leader {
    /// Tells where something is to be led elsewhere.
    pub fn changes(&self) -> LedChanges {
        LedChanges {
            published: self.published.changes(),
            links: self.links.changes(),
            floating: self.floating.changes(),
            for_docker: self.for_docker.changes(),
            apart: self.apart.changes(),
            askers: self.askers.changes(),
        }
    }

    /// Opens and closes ports and leads links at once, without a look at the rest; whether that went well.
    pub async fn lead(&self, datapath: &dyn Datapath) -> bool {
        let mut applied = Applied::default();
        self.apply(datapath, &mut applied).await;
        applied.failed.is_empty() && applied.warnings.is_empty()
    }

    /// Leads what is to be led, and nothing else.
    pub(super) async fn apply(&self, datapath: &dyn Datapath, applied: &mut Applied) {
        let mut opened = self.published.plan();
        applied.warnings.append(&mut opened.problems);
        let linked = self.links.plan(&self.host);
        let docker = self.for_docker.now();
        let resolvers = if docker.is_empty() { BTreeSet::new() } else { resolvers(&self.subnet) };
        let floating = self.floating.plan();
        let apart = self.apart.plan(&self.askers);
        let led = Led { opened, linked, floating, gateway: Some(self.subnet.gateway), docker, resolvers, apart };
        let unseen = self.published.unseen();
        let ensured = firewall::ensure_table(datapath, &self.subnet, &led).await;
        let anew = matches!(ensured, Ok(Ensured::Anew));
        let changed = ensured.map(|ensured| ensured != Ensured::AsItWas);
        unseen.fetch_or(matches!(changed, Ok(true)), Ordering::Relaxed);
        applied.note(changed);
        if unseen.load(Ordering::Relaxed) {
            match forget_stale(datapath, &self.subnet, &led, anew).await {
                Ok(()) => unseen.store(false, Ordering::Relaxed),
                Err(error) => applied.note(Err(error)),
            }
        }
    }
}

/// See [`Leader::changes`].
#[derive(Debug)]
pub struct LedChanges {
    published: watch::Receiver<Tenants>,
    links: LinkChanges,
    floating: FloatingChanges,
    for_docker: watch::Receiver<BTreeSet<Ipv4Addr>>,
    apart: watch::Receiver<bool>,
    askers: watch::Receiver<()>,
}

impl LedChanges {
    /// Waits for the next one.
    pub async fn next(&mut self) {
        let apart = *self.apart.borrow_and_update();
        tokio::select! {
            // Ours are the other ends.
            _ = self.published.changed() => {}
            () = self.links.next() => {}
            () = self.floating.next() => {}
            _ = self.for_docker.changed() => {}
            _ = self.apart.changed() => {}
            // Whose they are matters to no rule else.
            _ = self.askers.changed(), if apart => {}
        }
    }
}

/// Where the table was put `anew`, also those to metadata: an answer that was on its way without it is lost, and with it the
/// server's end, while who asked waits.
async fn forget_stale(datapath: &dyn Datapath, subnet: &SubnetSpec, led: &Led, anew: bool) -> Result<(), Error> {
    let Some(managed) = subnet.as_prefix() else { return Ok(()) };
    let own = datapath.addresses().await?.into_iter().filter_map(|found| match found.spec.address {
        std::net::IpAddr::V4(address) => Some(address),
        std::net::IpAddr::V6(_) => None,
    });
    let own: BTreeSet<Ipv4Addr> = own.collect();
    let flows = datapath.flows().await?;
    let cut: Vec<Flow> = flows.iter().filter(|flow| anew && metadata::way::leads(flow)).cloned().collect();
    let mut stale = led.stale(flows, &own, |address| managed.contains(address.into()));
    stale.extend(cut);
    if stale.is_empty() {
        return Ok(());
    }
    let forgotten = datapath.forget_flows(&stale).await?;
    // Who waits for an answer would do so for ever.
    if let Err(error) = datapath.nudge(&stale, NUDGE)? {
        tracing::warn!(%error, "who waits on a connection that was forgotten is not told");
    }
    tracing::info!(connections = forgotten, "led elsewhere than published ports and links lead now: forgotten");
    Ok(())
}

#[cfg(test)]
mod tests;
