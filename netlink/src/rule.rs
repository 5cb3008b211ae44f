//! Policy rules: which routing table is asked for which packets.
//!
//! Ours carry [`crate::route::PROTOCOL`], so that a reconcile removes our own only. `ip rule show` lists all of them.

use std::{fmt, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleMessage},
};

use crate::{
    Error, Netlink, Outcome, Prefix,
    route::PROTOCOL,
    socket::{NLM_F_CREATE, NLM_F_EXCL},
};

/// A rule of IPv4 as it should be: packets that are all of this are routed by `table`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleSpec {
    /// The lower is asked first; the main table is asked at 32766.
    pub priority: u32,
    /// Where they come from.
    pub source: Option<Prefix>,
    /// Where they go.
    pub destination: Option<Prefix>,
    /// The link they came in by.
    pub from: Option<String>,
    /// These bits of their mark are set.
    pub mark: Option<u32>,
    /// The routing table.
    pub table: u32,
}

impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        if let Some(source) = self.source {
            write!(f, " from {source}")?;
        }
        if let Some(destination) = self.destination {
            write!(f, " to {destination}")?;
        }
        if let Some(from) = &self.from {
            write!(f, " iif {from}")?;
        }
        if let Some(mark) = self.mark {
            write!(f, " fwmark {mark:#x}/{mark:#x}")?;
        }
        write!(f, " lookup {}", self.table)
    }
}

/// One change of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Add it.
    Add(RuleSpec),
    /// Remove it.
    Remove(RuleSpec),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(spec) => write!(f, "add rule {spec}"),
            Self::Remove(spec) => write!(f, "remove rule {spec}"),
        }
    }
}

/// The changes from our rules to those desired. What is new comes first; one that is there twice goes once.
pub fn plan(current: &[RuleSpec], desired: &[RuleSpec]) -> Vec<Change> {
    let mut kept = Vec::new();
    let mut gone = Vec::new();
    for rule in current {
        if desired.contains(rule) && !kept.contains(&rule) {
            kept.push(rule);
        } else {
            gone.push(Change::Remove(rule.clone()));
        }
    }
    let mut changes: Vec<Change> = Vec::new();
    for rule in desired {
        let add = Change::Add(rule.clone());
        if !kept.contains(&rule) && !changes.contains(&add) {
            changes.push(add);
        }
    }
    changes.extend(gone);
    changes
}

fn write(spec: &RuleSpec) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::ToTable;
    let attributes = &mut message.attributes;
    attributes.push(RuleAttribute::Table(spec.table));
    attributes.push(RuleAttribute::Priority(spec.priority));
    attributes.push(RuleAttribute::Protocol(RouteProtocol::from(PROTOCOL)));
    if let Some(source) = spec.source {
        message.header.src_len = source.length();
        attributes.push(RuleAttribute::Source(source.address()));
    }
    if let Some(destination) = spec.destination {
        message.header.dst_len = destination.length();
        attributes.push(RuleAttribute::Destination(destination.address()));
    }
    attributes.extend(spec.from.clone().map(RuleAttribute::Iifname));
    attributes
        .extend(spec.mark.into_iter().flat_map(|mark| [RuleAttribute::FwMark(mark), RuleAttribute::FwMask(mark)]));
    message
}

/// A rule and who made it; what a rule of ours never has is passed over.
fn read(message: &RuleMessage) -> Option<(RuleSpec, RouteProtocol)> {
    let header = &message.header;
    let prefix = |address: &IpAddr, length| Prefix::new(*address, length);
    let mut protocol = RouteProtocol::from(0);
    let mut spec = RuleSpec {
        priority: 0,
        source: None,
        destination: None,
        from: None,
        mark: None,
        table: u32::from(header.table),
    };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Source(address) => spec.source = prefix(address, header.src_len),
            RuleAttribute::Destination(address) => spec.destination = prefix(address, header.dst_len),
            RuleAttribute::Iifname(name) => spec.from = Some(name.clone()),
            RuleAttribute::Priority(priority) => spec.priority = *priority,
            RuleAttribute::FwMark(mark) => spec.mark = Some(*mark),
            RuleAttribute::Table(table) => spec.table = *table,
            RuleAttribute::Protocol(made_by) => protocol = *made_by,
            _ => {}
        }
    }
    (header.action == RuleAction::ToTable).then_some((spec, protocol))
}

impl Netlink {
    /// Our rules of IPv4.
    pub async fn rules_of_ours(&self) -> Result<Vec<RuleSpec>, Error> {
        let mut request = RuleMessage::default();
        request.header.family = AddressFamily::Inet;
        let request = RouteNetlinkMessage::GetRule(request);
        let found = self
            .dump("list rules", &request, |message| match message {
                RouteNetlinkMessage::NewRule(message) => read(&message),
                _ => None,
            })
            .await?;
        let ours = RouteProtocol::from(PROTOCOL);
        Ok(found.into_iter().filter(|(_, protocol)| *protocol == ours).map(|(spec, _)| spec).collect())
    }

    /// Makes our rules those desired and leaves all others alone.
    pub async fn reconcile_rules(&self, desired: &[RuleSpec]) -> Result<Outcome<Change>, Error> {
        let changes = plan(&self.rules_of_ours().await?, desired);
        self.make(changes, |change| match change {
            Change::Add(spec) => (RouteNetlinkMessage::NewRule(write(spec)), NLM_F_CREATE | NLM_F_EXCL, false),
            Change::Remove(spec) => (RouteNetlinkMessage::DelRule(write(spec)), 0, true),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(priority: u32) -> RuleSpec {
        RuleSpec { priority, source: None, destination: None, from: None, mark: Some(1), table: 7 }
    }

    proptest! {
        #[test]
        fn a_plan_reaches_what_is_desired(
            current in prop::collection::vec(0..4_u32, 0..8),
            desired in prop::collection::vec(0..4_u32, 0..5),
        ) {
            let mut there: Vec<RuleSpec> = current.into_iter().map(rule).collect();
            let desired: Vec<RuleSpec> = desired.into_iter().map(rule).collect();
            for change in plan(&there, &desired) {
                match change {
                    Change::Add(spec) => there.push(spec),
                    Change::Remove(spec) => {
                        let place = there.iter().position(|rule| *rule == spec).expect("one to remove");
                        there.remove(place);
                    }
                }
            }
            prop_assert_eq!(plan(&there, &desired), vec![]);
            there.sort();
            let mut wanted = desired;
            wanted.sort();
            wanted.dedup();
            prop_assert_eq!(there, wanted);
        }
    }
}
