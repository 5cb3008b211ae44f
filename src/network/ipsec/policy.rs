//! Which packets must be in ESP: the kernel's policies, which stand before anything could be sent in plain text.
//!
//! ```text
//!   out, to any address, UDP to the overlay's port    dropped          (two of them: IPv4, IPv6)
//!   in, from any address, UDP to the overlay's port   through an association of ours, else dropped
//!   out, from here to a peer, UDP to that port        through an association of ours, else dropped
//!   where plain text is taken from a peer that does not encrypt, out to it and in from it: passed
//! ```
//! The first two kinds need nothing but this file, and are there before the overlay is. So a peer that is not known, or
//! has no association, gets nothing; and what a stranger sends does not come in.

use super::super::kernel::{Error, Kernel};
use super::super::mesh::PORT;
use super::encryptor::Encryptor;
use crate::environment::{Backoff, Environment};
use stampede_netlink::{
    Outcome, Prefix,
    xfrm::{Action, Direction, PRIORITIES, PolicyChange, PolicySpec, Selector, Template},
};
use std::net::IpAddr;
use std::time::Duration;

/// Of one peer; the lower number wins.
const PEER: u32 = *PRIORITIES.start();
/// Of everybody.
const EVERYBODY: u32 = PEER + 1;

/// What stands whatever is known of others.
pub fn closed(ipv6: bool) -> Vec<PolicySpec> {
    let families = if ipv6 { &[true, false][..] } else { &[true] };
    let both = |ipv4: &bool| {
        let overlay = Selector::everything(*ipv4).udp_to(PORT);
        let ours = Action::Protect(vec![Template::transport(*ipv4)]);
        [
            PolicySpec::new(Direction::Out, overlay, Action::Block, EVERYBODY),
            PolicySpec::new(Direction::In, overlay, ours, EVERYBODY),
        ]
    };
    families.iter().flat_map(both).collect()
}

/// What goes to this peer goes through an association.
pub fn towards(own: IpAddr, peer: IpAddr) -> PolicySpec {
    let between = Selector::between(Prefix::host(own), Prefix::host(peer)).udp_to(PORT);
    PolicySpec::new(Direction::Out, between, Action::Protect(vec![Template::transport(own.is_ipv4())]), PEER)
}

/// What goes to this peer and what comes from it goes in plain text.
pub fn plain(own: IpAddr, peer: IpAddr) -> [PolicySpec; 2] {
    let way = |direction, from, to| {
        let between = Selector::between(Prefix::host(from), Prefix::host(to)).udp_to(PORT);
        PolicySpec::new(direction, between, Action::Pass, PEER)
    };
    [way(Direction::Out, own, peer), way(Direction::In, peer, own)]
}

/// Closes the port, and leaves the policies of peers as they are.
pub async fn close(encryptor: &dyn Encryptor) -> Result<Outcome<PolicyChange>, Error> {
    let mut desired = closed(encryptor.has_ipv6());
    let there =
        encryptor.policies().await?.into_iter().filter(|policy| policy.is_ours() && policy.spec.priority == PEER);
    desired.extend(there.map(|policy| policy.spec));
    encryptor.reconcile_policies(&desired).await
}

/// Takes away what an agent left that encrypted, for one that does not; gives up never, since nothing comes through before.
pub async fn leave(kernel: &Kernel, environment: &Environment) {
    let mut backoff = Backoff::new(environment, Duration::from_millis(100), Duration::from_secs(60));
    while let Err(error) = try_leave(kernel).await {
        tracing::warn!(%error, "what was left of encryption cannot be taken away yet, and lets nothing through to other hosts");
        backoff.wait().await;
    }
}

async fn try_leave(kernel: &Kernel) -> Result<(), Error> {
    // A kernel without IPsec has nothing left.
    let Ok(xfrm) = kernel.xfrm() else { return Ok(()) };
    if !xfrm.policies().await?.iter().any(stampede_netlink::xfrm::Policy::is_ours) {
        return Ok(());
    }
    tracing::warn!("encryption was on here and is off now: policies and associations are taken away");
    // The policies last: while they are there it is known that there may be more.
    xfrm.reconcile_associations(&[]).await?.into_result()?;
    xfrm.reconcile_policies(&[]).await?.into_result().map(drop)
}
