//! Routes.
//!
//! Ours carry a protocol number of their own ([`PROTOCOL`]), so that a reconcile removes our own only, whatever other
//! programs or people put into the same table. `ip route show proto 183` lists them.

mod message;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::HashMap, fmt, net::IpAddr};

use netlink_packet_route::RouteNetlinkMessage;

use crate::{
    Error, Netlink, Outcome, Prefix,
    socket::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE},
};

/// The protocol number of our routes (rtm_protocol of linux/rtnetlink.h; 183 is used by nobody in iproute2's
/// rt_protos). A line `183 stampede` in /etc/iproute2/rt_protos.d/stampede.conf makes `ip route` show the name.
pub const PROTOCOL: u8 = 183;

/// The table `main` (RT_TABLE_MAIN).
pub const MAIN_TABLE: u32 = 254;

/// What a route does with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    /// Send it on (RTN_UNICAST).
    Unicast,
    /// Drop it and say "unreachable" to the sender (RTN_UNREACHABLE).
    Unreachable,
    /// Take it as this host's own, though no link has that address (RTN_LOCAL). Of those, ours alone are seen: the kernel makes one
    /// for each address.
    Local,
}

/// A route as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteSpec {
    /// Where packets go.
    pub destination: Prefix,
    /// What becomes of them.
    pub kind: RouteKind,
    /// The next router.
    pub via: Option<IpAddr>,
    /// The next router is on the link, even if no address of ours says so.
    pub onlink: bool,
    /// The link, by name.
    pub device: Option<String>,
    /// The address packets of this host itself are sent from.
    pub source: Option<IpAddr>,
    /// The lower wins. IPv6 makes 1024 of 0; say 1024 there.
    pub metric: u32,
    /// The routing table.
    pub table: u32,
}

impl RouteSpec {
    /// A route onto a link.
    pub fn on(destination: Prefix, device: impl Into<String>) -> Self {
        Self { device: Some(device.into()), ..Self::unreachable(destination).unicast() }
    }

    /// "Unreachable" for what no longer prefix catches.
    pub fn unreachable(destination: Prefix) -> Self {
        let metric = if destination.address().is_ipv4() { 0 } else { 1024 };
        let kind = RouteKind::Unreachable;
        Self { destination, kind, via: None, onlink: false, device: None, source: None, metric, table: MAIN_TABLE }
    }

    /// What goes there is this host's own, as if the link had the address. For tables of one's own: the kernel's own has those of
    /// links' addresses.
    pub fn local(destination: Prefix, device: impl Into<String>) -> Self {
        Self { kind: RouteKind::Local, ..Self::on(destination, device) }
    }

    fn unicast(self) -> Self {
        Self { kind: RouteKind::Unicast, ..self }
    }

    /// What the kernel tells routes apart by: two with the same key replace each other.
    fn key(&self) -> (u32, Prefix, u32) {
        (self.table, self.destination, self.metric)
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            RouteKind::Unicast => {}
            RouteKind::Unreachable => write!(f, "unreachable ")?,
            RouteKind::Local => write!(f, "local ")?,
        }
        write!(f, "{}", self.destination)?;
        if let Some(via) = self.via {
            write!(f, " via {via}")?;
        }
        if let Some(device) = &self.device {
            write!(f, " dev {device}")?;
        }
        if let Some(source) = self.source {
            write!(f, " src {source}")?;
        }
        if self.metric != 0 {
            write!(f, " metric {}", self.metric)?;
        }
        if self.table != MAIN_TABLE {
            write!(f, " table {}", self.table)?;
        }
        if self.onlink { write!(f, " onlink") } else { Ok(()) }
    }
}

/// A route as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// What it is. The kernel also has kinds of which [`RouteKind`] knows nothing; those routes are left out of dumps.
    pub spec: RouteSpec,
    /// Who made it; ours are [`PROTOCOL`].
    pub protocol: u8,
}

/// One change of routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Add it; fails if somebody else has one with the same destination, metric and table.
    Add(RouteSpec),
    /// Put it in the place of ours with the same destination, metric and table, at once.
    Replace(RouteSpec),
    /// Remove it.
    Remove(RouteSpec),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(spec) => write!(f, "add route {spec}"),
            Self::Replace(spec) => write!(f, "replace route {spec}"),
            Self::Remove(spec) => write!(f, "remove route {spec}"),
        }
    }
}

/// The changes from our routes to those desired. Of two wishes with one destination, metric and table the first counts.
///
/// The order is safe at every step: "unreachable" ones come before all others, the rest by length of prefix, the longest
/// last; removals come after, the longest first and "unreachable" ones at the very end. So no packet takes a shorter
/// prefix, such as the default route, for want of a guard that is still to come or already gone.
pub fn plan(current: &[RouteSpec], desired: &[RouteSpec]) -> Vec<Change> {
    let order = |spec: &RouteSpec| (spec.kind != RouteKind::Unreachable, spec.destination.length());
    let mut wishes: HashMap<_, &RouteSpec> = HashMap::new();
    for wish in desired {
        wishes.entry(wish.key()).or_insert(wish);
    }
    let mut there: HashMap<_, Vec<&RouteSpec>> = HashMap::new();
    for route in current {
        there.entry(route.key()).or_default().push(route);
    }
    let mut put = Vec::new();
    let mut gone = Vec::new();
    for (key, wish) in &wishes {
        match there.get(key).map(Vec::as_slice) {
            None => put.push(Change::Add((*wish).clone())),
            // A replacement takes the first of several with one key; the others would stay, so they go before.
            Some([first, rest @ ..]) => {
                gone.extend(rest.iter().filter(|route| **route != *wish).map(|route| (*route).clone()));
                if *first != *wish {
                    if rest.contains(wish) {
                        gone.push((*first).clone());
                    } else {
                        put.push(Change::Replace((*wish).clone()));
                    }
                }
            }
            Some([]) => {}
        }
    }
    gone.extend(
        there.iter().filter(|(key, _)| !wishes.contains_key(key)).flat_map(|(_, r)| r.iter().copied().cloned()),
    );
    put.sort_by_key(|change| match change {
        Change::Add(spec) | Change::Replace(spec) | Change::Remove(spec) => (order(spec), spec.clone()),
    });
    gone.sort_by_key(|spec| (Reverse(order(spec)), spec.clone()));
    put.into_iter().chain(gone.into_iter().map(Change::Remove)).collect()
}

/// Names and indexes of links, for routes speak of the one and messages of the other.
pub(crate) struct Names {
    by_name: HashMap<String, u32>,
    by_index: HashMap<u32, String>,
}

impl Names {
    fn index(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied()
    }

    fn name(&self, index: u32) -> String {
        // A link that came between the two dumps; no wish names it like this, and a removal needs no name.
        self.by_index.get(&index).cloned().unwrap_or_else(|| format!("index {index}"))
    }
}

impl Netlink {
    async fn names(&self) -> Result<Names, Error> {
        let links = self.links().await?;
        Ok(Names {
            by_name: links.iter().map(|link| (link.name.clone(), link.index)).collect(),
            by_index: links.into_iter().map(|link| (link.index, link.name)).collect(),
        })
    }

    async fn routes_of(&self, protocol: u8, names: &Names) -> Result<Vec<Route>, Error> {
        let mut routes = Vec::new();
        for ipv4 in [true, false] {
            let request = RouteNetlinkMessage::GetRoute(message::request(ipv4, protocol));
            routes.extend(self.dump("list routes", &request, |message| message::read(message, names)).await?);
        }
        // A kernel before 4.20 filters nothing.
        routes.retain(|route| protocol == 0 || route.protocol == protocol);
        Ok(routes)
    }

    /// All unicast and unreachable routes of all tables, whoever made them, and local ones of ours.
    pub async fn routes(&self) -> Result<Vec<Route>, Error> {
        self.routes_of(0, &self.names().await?).await
    }

    /// Makes our routes ([`PROTOCOL`], in all tables) those desired and leaves all others alone. Each failure is in the
    /// outcome: [`Error::NoSuchLink`] for a link that is not there, [`Error::is_exists`] where somebody else's route is.
    pub async fn reconcile_routes(&self, desired: &[RouteSpec]) -> Result<Outcome<Change>, Error> {
        let names = self.names().await?;
        let current: Vec<_> = self.routes_of(PROTOCOL, &names).await?.into_iter().map(|route| route.spec).collect();
        let (possible, failed): (Vec<_>, Vec<_>) =
            plan(&current, desired).into_iter().partition(|change| match change {
                Change::Add(spec) | Change::Replace(spec) => missing(spec, &names).is_none(),
                Change::Remove(_) => true,
            });
        let mut outcome = self
            .make(possible, |change| match change {
                Change::Add(spec) => {
                    // IPv4's "exclusive" means the key; without it a second route would stand beside a foreign one.
                    (RouteNetlinkMessage::NewRoute(message::write(spec, &names)), NLM_F_CREATE | NLM_F_EXCL, false)
                }
                Change::Replace(spec) => {
                    (RouteNetlinkMessage::NewRoute(message::write(spec, &names)), NLM_F_CREATE | NLM_F_REPLACE, false)
                }
                Change::Remove(spec) => (RouteNetlinkMessage::DelRoute(message::write(spec, &names)), 0, true),
            })
            .await?;
        for change in failed {
            let (Change::Add(spec) | Change::Replace(spec) | Change::Remove(spec)) = &change;
            let name = missing(spec, &names).unwrap_or_default();
            outcome.record(change, Err(Error::NoSuchLink { name }));
        }
        Ok(outcome)
    }
}

fn missing(spec: &RouteSpec, names: &Names) -> Option<String> {
    spec.device.clone().filter(|device| names.index(device).is_none())
}
