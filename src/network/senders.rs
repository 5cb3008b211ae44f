//! Who may send as whom: a port of the bridge sends with the addresses that are pinned to it, and with no others.
//!
//! Where an address is follows from [`super::pins`]: nobody is sent what is another's. Here is the other half: a packet that a
//! container makes by hand, with its neighbour's address or hardware address for a source, goes nowhere, not even to another
//! container of the same host. It stands where frames come into the bridge, in a table of its own, `bridge stampede`.
//!
//! ```text
//!  network driver, as it makes a port: pinned ──► its element
//!  agent, at each look, and when a port comes: what is pinned ──► all elements ──► once more, where something was pinned meanwhile
//! ```
//! An instance costs three elements: its port, its address, and none yet (0.0.0.0), with which it asks for one. A port of which
//! nothing is known yet, as where an older network driver made it, is left alone until the agent's next look.

use super::apply::Applied;
use super::kernel::{Error, Kernel};
use super::overlay::BRIDGE;
use super::subnet::SubnetSpec;
use stampede_netlink::{
    Mac,
    nftables::{
        Chain, ChainKind, DataType, Element, Expression, Family, Field, Hook, Place, Rule, Set, Side, Table, Value,
        Verdict, Way,
    },
};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The table, and its sets.
const TABLE: &str = "stampede";
const SENDERS: &str = "senders";
const PORTS: &str = "ports";
/// Before anything of the bridge's.
const FIRST: i32 = -300;
/// Looks at what is pinned, until it is as it was a look before.
const LOOKS: usize = 5;

/// A port, by name, with what is pinned to it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sender {
    pub port: String,
    pub mac: Mac,
    pub address: Ipv4Addr,
}

impl Sender {
    fn elements(&self) -> impl Iterator<Item = Element> {
        [self.address, Ipv4Addr::UNSPECIFIED].into_iter().map(|address| Element {
            key: vec![Value::Interface(self.port.clone()), Value::Ethernet(self.mac), Value::Ipv4(address)],
            data: None,
        })
    }
}

/// Who sends as whom, then the ports that are held to that.
fn sets(senders: &BTreeSet<Sender>) -> [Set; 2] {
    let set = |name: &str, comment: &str, key: &[DataType], elements| Set {
        name: name.to_owned(),
        comment: Some(comment.to_owned()),
        key: key.to_vec(),
        data: None,
        elements,
    };
    let port = |sender: &Sender| Element { key: vec![Value::Interface(sender.port.clone())], data: None };
    let all = senders.iter().flat_map(Sender::elements).collect();
    let of_whom = [DataType::Interface, DataType::Ethernet, DataType::Ipv4];
    [
        set(SENDERS, "which port sends as whom", &of_whom, all),
        set(PORTS, "which ports send as nobody else", &[DataType::Interface], senders.iter().map(port).collect()),
    ]
}

fn table(senders: &BTreeSet<Sender>) -> Table {
    let one_of = |set: &str, key: Vec<Field>| Expression::Lookup { key, set: set.to_owned(), negated: false };
    let itself = |source| one_of(SENDERS, vec![Field::Interface(Way::In), Field::Ethernet(Side::Source), source]);
    let fine = || Expression::Verdict(Verdict::Accept);
    let port = one_of(PORTS, vec![Field::Interface(Way::In)]);
    let rules = vec![
        Rule::new([itself(Field::Ipv4(Side::Source)), fine()]).comment("as itself"),
        Rule::new([Expression::IsArp, itself(Field::ArpSource), fine()]).comment("about itself"),
        // IPv6 too, which there is none of.
        Rule::new([port, Expression::Counter, Expression::Verdict(Verdict::Drop)]).comment("as somebody else"),
    ];
    let hook = Hook { kind: ChainKind::Filter, place: Place::Prerouting, priority: FIRST, drop: false };
    Table {
        family: Family::Bridge,
        name: TABLE.to_owned(),
        comment: "who sends on the managed network".to_owned(),
        sets: sets(senders).to_vec(),
        chains: vec![Chain { name: "sources".to_owned(), hook: Some(hook), rules }],
    }
}

/// All that are pinned.
async fn pinned(kernel: &Kernel, subnet: &SubnetSpec) -> Result<BTreeSet<Sender>, Error> {
    let bridge = kernel.netlink.link_index(BRIDGE).await?;
    let pins = kernel.netlink.pinned(bridge).await?;
    let links = kernel.netlink.links().await?;
    let sender = |(mac, port): (Mac, u32)| {
        let link = links.iter().find(|link| link.index == port)?;
        Some(Sender { port: link.name.clone(), mac, address: subnet.address_of(mac)? })
    };
    Ok(pins.into_iter().filter_map(sender).collect())
}

/// Makes it so that who is pinned may send, and nobody else.
pub(super) async fn apply(kernel: &Kernel, subnet: &SubnetSpec, applied: &mut Applied) {
    let mut last = None;
    for _ in 0..LOOKS {
        let now = match pinned(kernel, subnet).await {
            Ok(now) => now,
            Err(error) => return applied.note(Err(error)),
        };
        if last.as_ref() == Some(&now) {
            return;
        }
        match kernel.netlink.ensure_table(&table(&now)).await {
            Ok(outcome) => applied.note(Ok(!outcome.is_unchanged())),
            // All that it is made of is made with it: what is not found is a part of the kernel (nft_meta_bridge).
            Err(error) if error.is_unsupported() || error.is_not_found() => {
                applied.warnings.push(UNSUPPORTED.to_owned());
                return;
            }
            Err(error) => return applied.note(Err(error)),
        }
        // The network driver pins first: what it wrote and this took away again is seen now.
        last = Some(now);
    }
}

/// A port was made and pinned: it may send. The agent need not be there; where there is no table yet, everybody may.
pub(super) async fn admit(kernel: &Kernel, sender: Sender) -> Result<(), Error> {
    // In this order: no port is held to what it is not yet.
    for set in sets(&BTreeSet::from([sender])) {
        match kernel.netlink.change_elements(Family::Bridge, TABLE, &set, &[], &set.elements).await {
            Err(error) if error.is_not_found() || error.is_unsupported() => {}
            result => result?,
        }
    }
    Ok(())
}

const UNSUPPORTED: &str = "this kernel has no nftables for bridges (CONFIG_NF_TABLES_BRIDGE, CONFIG_NFT_BRIDGE_META; the module nft_meta_bridge): a packet that a container \
    forges, with the address of another of this host for its source, is not dropped";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sends_as_itself_and_as_nobody_yet() {
        let address = Ipv4Addr::new(10, 42, 7, 9);
        let mac = SubnetSpec::default().mac(address);
        assert_eq!(SubnetSpec::default().address_of(mac), Some(address));
        assert_eq!(SubnetSpec::default().address_of(Mac([2, 0x42, 1, 0, 7, 9])), None);
        let [set, ports] = sets(&BTreeSet::from([Sender { port: "st-1i54".into(), mac, address }]));
        assert_eq!(ports.elements.len(), 1);
        let last: Vec<_> = set.elements.iter().map(|element| element.key[2].clone()).collect();
        assert_eq!(last, [Value::Ipv4(address), Value::Ipv4(Ipv4Addr::UNSPECIFIED)]);
    }
}
