//! Addresses of a link.
//!
//! An address with a lifetime is dropped by the kernel itself when the time is over and nobody renewed it: this is what
//! fences a floating address when everything of ours is dead. A wish with a lifetime is therefore renewed each time.

use std::{fmt, net::IpAddr};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope, CacheInfo},
};

use crate::{
    Error, Netlink, Outcome,
    socket::{NLM_F_CREATE, NLM_F_REPLACE},
};

/// INFINITY_LIFE_TIME of net/addrconf.h.
const FOREVER: u32 = u32::MAX;

/// An address as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressSpec {
    /// The address, and the network it is in by the prefix length.
    pub address: IpAddr,
    /// Bits of the network.
    pub prefix_length: u8,
    /// Seconds until the kernel drops it unless it is renewed; `None` for ever.
    pub valid_for: Option<u32>,
    /// No route to the prefix comes with it (IFA_F_NOPREFIXROUTE).
    pub no_prefix_route: bool,
}

impl AddressSpec {
    /// An address for ever.
    pub fn new(address: IpAddr, prefix_length: u8) -> Self {
        Self { address, prefix_length, valid_for: None, no_prefix_route: false }
    }
}

impl fmt::Display for AddressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_length)?;
        match self.valid_for {
            Some(seconds) => write!(f, " valid for {seconds} s"),
            None => Ok(()),
        }
    }
}

/// An address as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The link's index.
    pub link: u32,
    /// Address, prefix and the seconds that are left.
    pub spec: AddressSpec,
    /// An IPv6 link-local address, which the kernel makes itself.
    pub link_local: bool,
}

/// What becomes of addresses on the link that are not desired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They stay: the link is not ours alone.
    Keep,
    /// They go, but for IPv6 link-local ones.
    Remove,
}

/// One change of a link's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Add it.
    Add(AddressSpec),
    /// It is there; set its lifetime and flags.
    Renew(AddressSpec),
    /// Remove it.
    Remove(AddressSpec),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add(spec) => write!(f, "add address {spec}"),
            Self::Renew(spec) => write!(f, "renew address {spec}"),
            Self::Remove(spec) => write!(f, "remove address {spec}"),
        }
    }
}

fn same_address(a: &AddressSpec, b: &AddressSpec) -> bool {
    (a.address, a.prefix_length) == (b.address, b.prefix_length)
}

/// The changes from the addresses of one link to those desired; of two wishes for one address the first counts.
///
/// What goes, goes first: an address with another prefix length is in the way of the new one's role as primary.
pub fn plan(current: &[Address], desired: &[AddressSpec], others: Others) -> Vec<Change> {
    let undesired = |address: &&Address| {
        others == Others::Remove && !address.link_local && !desired.iter().any(|wish| same_address(wish, &address.spec))
    };
    let mut changes: Vec<_> = current.iter().filter(undesired).map(|address| Change::Remove(address.spec)).collect();
    for (place, wish) in desired.iter().enumerate() {
        if desired.iter().take(place).any(|earlier| same_address(earlier, wish)) {
            continue;
        }
        match current.iter().find(|address| same_address(&address.spec, wish)) {
            None => changes.push(Change::Add(*wish)),
            Some(address) if wish.valid_for.is_some() || address.spec.valid_for.is_some() => {
                changes.push(Change::Renew(*wish));
            }
            Some(_) => {}
        }
    }
    changes
}

impl Netlink {
    /// All addresses of the namespace.
    pub async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump("list addresses", &request, read).await
    }

    /// Makes the addresses of the link with this index as they should be. Each failure is in the outcome.
    pub async fn ensure_addresses(
        &self,
        link: u32,
        desired: &[AddressSpec],
        others: Others,
    ) -> Result<Outcome<Change>, Error> {
        self.ensure_addresses_as_of(link, || desired.to_vec(), others).await
    }

    /// The same; what is desired is asked for after the look at what is there, right before it is made so: a lifetime that was reckoned
    /// before is too long by as much as the look took.
    pub async fn ensure_addresses_as_of(
        &self,
        link: u32,
        desired: impl FnOnce() -> Vec<AddressSpec>,
        others: Others,
    ) -> Result<Outcome<Change>, Error> {
        let mut current = self.addresses().await?;
        current.retain(|address| address.link == link);
        let message = |change: &Change| match change {
            Change::Add(spec) | Change::Renew(spec) => {
                (RouteNetlinkMessage::NewAddress(write(link, spec)), NLM_F_CREATE | NLM_F_REPLACE, false)
            }
            Change::Remove(spec) => (RouteNetlinkMessage::DelAddress(write(link, spec)), 0, true),
        };
        let is_news = |change: &Change| !matches!(change, Change::Renew(_));
        self.make_telling(plan(&current, &desired(), others), message, is_news).await
    }

    /// Removes one address from the link with this index; false if it was not there.
    pub async fn remove_address(&self, link: u32, spec: &AddressSpec) -> Result<bool, Error> {
        let request = RouteNetlinkMessage::DelAddress(write(link, spec));
        match self.one(request, 0, &format!("remove address {spec}")).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn write(link: u32, spec: &AddressSpec) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = link;
    message.header.prefix_len = spec.prefix_length;
    message.header.scope = if spec.address.is_loopback() { AddressScope::Host } else { AddressScope::Universe };
    message.header.family = if spec.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.attributes.push(AddressAttribute::Local(spec.address));
    message.attributes.push(AddressAttribute::Address(spec.address));
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_valid = spec.valid_for.unwrap_or(FOREVER);
    lifetime.ifa_preferred = lifetime.ifa_valid;
    message.attributes.push(AddressAttribute::CacheInfo(lifetime));
    if spec.no_prefix_route {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Noprefixroute));
    }
    message
}

pub(crate) fn read(message: RouteNetlinkMessage) -> Option<Address> {
    let (RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message)) = message else {
        return None;
    };
    let (mut local, mut remote, mut valid_for, mut no_prefix_route) = (None, None, None, false);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            AddressAttribute::Address(address) => remote = Some(*address),
            AddressAttribute::CacheInfo(info) => valid_for = Some(info.ifa_valid).filter(|valid| *valid != FOREVER),
            AddressAttribute::Flags(flags) => no_prefix_route = flags.contains(AddressFlags::Noprefixroute),
            _ => {}
        }
    }
    // IFA_ADDRESS is the peer's address on point-to-point links, and the only one IPv6 sends.
    let address = local.or(remote)?;
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let spec = AddressSpec { address, prefix_length: message.header.prefix_len, valid_for, no_prefix_route };
    Some(Address { link: message.header.index, spec, link_local })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn specs() -> impl Strategy<Value = Vec<AddressSpec>> {
        let one = (0..4u8, 24..26u8, prop::option::of(5..9u32)).prop_map(|(host, prefix_length, valid_for)| {
            AddressSpec { valid_for, ..AddressSpec::new(IpAddr::from([10, 42, 0, host]), prefix_length) }
        });
        prop::collection::vec(one, 0..6)
    }

    fn apply(mut current: Vec<Address>, changes: &[Change]) -> Vec<Address> {
        for change in changes {
            match change {
                Change::Add(spec) => {
                    assert!(!current.iter().any(|address| same_address(&address.spec, spec)), "added twice");
                    current.push(Address { link: 1, spec: *spec, link_local: false });
                }
                Change::Renew(spec) => {
                    let address = current.iter_mut().find(|address| same_address(&address.spec, spec));
                    address.expect("renewed one that is there").spec = *spec;
                }
                Change::Remove(spec) => current.retain(|address| !same_address(&address.spec, spec)),
            }
        }
        current
    }

    proptest! {
        #[test]
        fn a_plan_reaches_what_is_desired(before in specs(), after in specs()) {
            let made = apply(vec![], &plan(&[], &before, Others::Remove));
            let changes = plan(&made, &after, Others::Remove);
            let kept = plan(&made, &after, Others::Keep);
            prop_assert!(!kept.iter().any(|change| matches!(change, Change::Remove(_))));
            let made = apply(made, &changes);
            for wish in &after {
                prop_assert!(made.iter().any(|address| same_address(&address.spec, wish)));
            }
            prop_assert!(made.iter().all(|address| after.iter().any(|wish| same_address(wish, &address.spec))));
            let again = plan(&made, &after, Others::Remove);
            prop_assert!(again.iter().all(|change| matches!(change, Change::Renew(spec) if spec.valid_for.is_some())));
        }
    }
}
