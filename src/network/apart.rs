//! Accounts apart: where the network says so (`accountsApart`), an instance is reached by those of its own account and by the
//! hosts, and by nobody else on the managed network.
//!
//! ```text
//!  10.42.7.9, of account 5 ──► mark 5 ──► stampede-vx ══ VXLAN, group 5 ══ stampede-vx ──► mark 5 ──► is 10.42.9.4 of account 5? ──► 10.42.9.4
//!                    └────────────────► on the same host ─────────────────────────────────────┘
//! ```
//! Whose a packet is, the host knows that it is sent from: nobody sends as somebody else ([`super::senders`]). It crosses to another
//! host beside the VNI, as the 16 bits of a group policy (draft-smith-vxlan-group-policy-05; IFLA_VXLAN_GBP, which takes it from the
//! packet's mark and puts it there again), under the encryption. So a host needs to know of its own instances alone. What is led by a
//! published port or a floating address was let in by whoever published it and is not asked; links lead to one's own account. Answers
//! come back whatever they are. What is not known to be of an account reaches nobody: without rules at its source too.

use super::dns::Askers;
use super::firewall;
use super::kernel::Kernel;
use super::overlay::{BRIDGE, OVERLAY};
use crate::resource::{Resource, instance::MANAGED_NETWORK};
use crate::store::mirror::View;
use stampede_netlink::nftables::{
    Chain, ChainKind, DataType, Element, ElementData, Expression, Family, Field, Hook, Place, Rule, Set, SetData, Side,
    Value, Verdict,
};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::watch;

/// The field of the network.
pub const FIELD: &str = "accountsApart";
/// Whose an address of this host is.
const ACCOUNTS: &str = "accounts";
/// Who reaches it.
const TOGETHER: &str = "together";
/// The chain of what is forwarded.
const FORWARDED: &str = "apart";
/// What a host sends itself, and what is of an account whose number takes more than 16 bits.
const HOST: u32 = 0xffff;
const STRANGER: u32 = 0xfffe;
/// Before the other rules on what is forwarded.
const EARLY: i32 = -5;

/// Whether accounts are apart. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct Apart(Arc<watch::Sender<bool>>);

impl Default for Apart {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Apart {
    pub(super) fn is_now(&self, on: bool) {
        self.0.send_if_modified(|now| std::mem::replace(now, on) != on);
    }

    pub(super) fn changes(&self) -> watch::Receiver<bool> {
        self.0.subscribe()
    }

    /// Whose each address of this host is, where that matters.
    pub(super) fn plan(&self, askers: &Askers) -> Option<Whose> {
        self.0.borrow().then(|| Whose(askers.accounts()))
    }
}

/// What the rows of networks say.
pub(super) fn is_said(networks: &View<Resource>) -> bool {
    let managed = networks.get(&MANAGED_NETWORK.to_string());
    managed.is_some_and(|managed| managed.value.get(FIELD).unwrap_or(false))
}

/// Whether an agent before this one kept them apart.
pub(super) async fn stands(kernel: &Kernel) -> bool {
    let table = kernel.netlink.inspect_table(Family::Inet, firewall::TABLE).await;
    table.is_ok_and(|table| table.is_some_and(|table| table.chains.contains_key(FORWARDED)))
}

/// The account of each of this host's addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Whose(pub BTreeMap<Ipv4Addr, u64>);

fn group(account: u64) -> u32 {
    u32::try_from(account).unwrap_or(STRANGER).min(STRANGER)
}

impl Whose {
    pub fn sets(&self) -> [Set; 2] {
        let accounts = || self.0.iter().map(|(address, account)| (*address, group(*account)));
        let account = |(address, group)| Element {
            key: vec![Value::Ipv4(address)],
            data: Some(ElementData::Values(vec![Value::Mark(group)])),
        };
        let pair = |(address, group)| Element { key: vec![Value::Ipv4(address), Value::Mark(group)], data: None };
        let own = accounts().filter(|(_, group)| *group != STRANGER);
        [
            Set {
                name: ACCOUNTS.to_owned(),
                comment: Some("whose they are".to_owned()),
                key: vec![DataType::Ipv4],
                data: Some(SetData::Values(vec![DataType::Mark])),
                elements: accounts().map(account).collect(),
            },
            Set {
                name: TOGETHER.to_owned(),
                comment: Some("whom they take packets from".to_owned()),
                key: vec![DataType::Ipv4, DataType::Mark],
                data: None,
                elements: own.map(pair).collect(),
            },
        ]
    }
}

fn chain(name: &str, place: Place, rules: Vec<Rule>) -> Chain {
    let hook = Hook { kind: ChainKind::Filter, place, priority: EARLY, drop: false };
    Chain { name: name.to_owned(), hook: Some(hook), rules }
}

/// The rules, where accounts are apart.
pub(super) fn chains() -> [Chain; 2] {
    let whose = |to| {
        let mark = Expression::MarkOf { key: vec![Field::Ipv4(Side::Source)], map: ACCOUNTS.to_owned() };
        Rule::new([Expression::from(BRIDGE), Expression::to(to), mark]).comment("whose it is")
    };
    let fine = |what| Rule::new([Expression::to(BRIDGE), what, Expression::Verdict(Verdict::Accept)]);
    // What came round by the pair of links was led, and is not from here.
    let others = |from| {
        let key = vec![Field::Ipv4(Side::Destination), Field::Mark];
        let stranger = Expression::Lookup { key, set: TOGETHER.to_owned(), negated: true };
        let way = [Expression::from(from), Expression::to(BRIDGE), stranger];
        let dropped = [Expression::Counter, Expression::Verdict(Verdict::Drop)];
        Rule::new(way.into_iter().chain(dropped).collect::<Vec<_>>()).comment("of another account")
    };
    let forwarded = vec![
        whose(OVERLAY),
        whose(BRIDGE),
        fine(Expression::Answers).comment("answers, whatever they are"),
        fine(Expression::Marked(HOST)).comment("from a host itself"),
        others(OVERLAY),
        others(BRIDGE),
    ];
    let own = Rule::new([Expression::to(OVERLAY), Expression::Mark(HOST)]).comment("from this host itself");
    [chain(FORWARDED, Place::Forward, forwarded), chain("apart-here", Place::Output, vec![own])]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_beyond_16_bits_are_nobodys_and_reach_nobody() {
        let address = |last| Ipv4Addr::new(10, 42, 7, last);
        let whose = Whose(BTreeMap::from([
            (address(2), 5),
            (address(3), u64::from(STRANGER)),
            (address(4), u64::from(HOST)),
            (address(5), u64::MAX),
        ]));
        let [accounts, together] = whose.sets();
        let groups = accounts.elements.iter().map(|element| element.data.clone());
        let mark = |mark| Some(ElementData::Values(vec![Value::Mark(mark)]));
        assert_eq!(groups.collect::<Vec<_>>(), [mark(5), mark(STRANGER), mark(STRANGER), mark(STRANGER)]);
        let pairs: Vec<_> = together.elements.iter().map(|element| element.key.clone()).collect();
        assert_eq!(pairs, [vec![Value::Ipv4(address(2)), Value::Mark(5)]]);
    }
}
