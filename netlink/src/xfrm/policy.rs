//! Policies: what becomes of which packets.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::{Lifetimes, Mark, Mode, PRIORITIES, REQUEST_ID, Selector};

/// Where a policy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// Packets to this host.
    In,
    /// Packets from this host or passed on by it.
    Out,
    /// Packets that are passed on.
    Forward,
}

impl Direction {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::In => 0,
            Self::Out => 1,
            Self::Forward => 2,
        }
    }

    pub(super) fn read(number: u8) -> Option<Self> {
        [Self::In, Self::Out, Self::Forward].into_iter().find(|direction| direction.number() == number)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::In => "in",
            Self::Out => "out",
            Self::Forward => "forward",
        })
    }
}

/// Which ESP associations fit (struct xfrm_user_tmpl).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Template {
    /// The association's source; unspecified for any, in transport mode.
    pub source: IpAddr,
    /// The association's destination; unspecified for any, in transport mode.
    pub destination: IpAddr,
    /// The association's SPI, 0 for any.
    pub spi: u32,
    /// The association's request id.
    pub request_id: u32,
    /// The association's mode.
    pub mode: Mode,
    /// Packets that came without one pass too.
    pub optional: bool,
}

impl Template {
    /// Any association of ours in transport mode between the packet's own addresses.
    pub fn transport(ipv4: bool) -> Self {
        let any = if ipv4 { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { IpAddr::from(Ipv6Addr::UNSPECIFIED) };
        Self { source: any, destination: any, spi: 0, request_id: REQUEST_ID, mode: Mode::Transport, optional: false }
    }
}

/// What a policy does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// They go through these associations, innermost first, or came through them; else they are dropped. Six at most.
    Protect(Vec<Template>),
    /// They are dropped.
    Block,
    /// They pass as they are.
    Pass,
}

/// What the kernel tells policies apart by. The priority is no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyId {
    /// Which packets.
    pub selector: Selector,
    /// Where.
    pub direction: Direction,
    /// Only packets with this mark.
    pub mark: Mark,
    /// The XFRM interface it belongs to, 0 for none.
    pub interface_id: u32,
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {} {}", self.direction, self.selector)?;
        if self.mark.mask == 0 { Ok(()) } else { write!(f, " mark {:#x}/{:#x}", self.mark.value, self.mark.mask) }
    }
}

/// A policy as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicySpec {
    /// What it is known by.
    pub id: PolicyId,
    /// What it does.
    pub action: Action,
    /// The lower number wins. Only those in [`PRIORITIES`] are ever removed by a reconcile.
    pub priority: u32,
    /// When it ends.
    pub lifetimes: Lifetimes,
}

impl PolicySpec {
    /// For ever, without mark or interface.
    pub fn new(direction: Direction, selector: Selector, action: Action, priority: u32) -> Self {
        let id = PolicyId { selector, direction, mark: Mark::default(), interface_id: 0 };
        Self { id, action, priority, lifetimes: Lifetimes::default() }
    }
}

impl fmt::Display for PolicySpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Protect(_) => "protect",
            Action::Block => "block",
            Action::Pass => "pass",
        };
        write!(f, "{} priority {}: {action}", self.id, self.priority)
    }
}

/// A policy as it is. Those of single sockets, of the `sub` type, or with templates for other than ESP are left out of dumps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// What it is.
    pub spec: PolicySpec,
    /// The kernel's number of it.
    pub index: u32,
}

impl Policy {
    /// One of ours.
    pub fn is_ours(&self) -> bool {
        PRIORITIES.contains(&self.spec.priority)
    }
}

/// One change of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PolicyChange {
    /// Add it; fails if somebody else has one for the same packets.
    Add(PolicySpec),
    /// Put it in the place of ours for the same packets, at once.
    Replace(PolicySpec),
    /// Remove it.
    Remove(PolicyId),
}

impl fmt::Display for PolicyChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(spec) => write!(f, "add {spec}"),
            Self::Replace(spec) => write!(f, "replace {spec}"),
            Self::Remove(id) => write!(f, "remove {id}"),
        }
    }
}

/// The changes from the policies that are there to those desired; of two wishes for the same packets the first counts.
///
/// Safe at every step: blocks come before all others and go after all others, so nothing passes for want of a block
/// that is still to come or already gone. What is opened by a wish comes last of what comes.
pub fn plan_policies(current: &[Policy], desired: &[PolicySpec]) -> Vec<PolicyChange> {
    let there: HashMap<_, _> =
        current.iter().filter(|policy| policy.is_ours()).map(|policy| (policy.spec.id, &policy.spec)).collect();
    let mut wishes = HashSet::new();
    let mut put = Vec::new();
    for wish in desired.iter().filter(|wish| wishes.insert(wish.id)) {
        match there.get(&wish.id) {
            None => put.push(PolicyChange::Add(wish.clone())),
            Some(found) if *found != wish => put.push(PolicyChange::Replace(wish.clone())),
            Some(_) => {}
        }
    }
    let openness = |action: &Action| match action {
        Action::Block => 0,
        Action::Protect(_) => 1,
        Action::Pass => 2,
    };
    put.sort_by_key(|change| match change {
        PolicyChange::Add(spec) | PolicyChange::Replace(spec) => openness(&spec.action),
        PolicyChange::Remove(_) => 3,
    });
    let mut gone: Vec<_> =
        current.iter().filter(|policy| policy.is_ours() && !wishes.contains(&policy.spec.id)).collect();
    gone.sort_by_key(|policy| std::cmp::Reverse(openness(&policy.spec.action)));
    put.extend(gone.into_iter().map(|policy| PolicyChange::Remove(policy.spec.id)));
    put
}
