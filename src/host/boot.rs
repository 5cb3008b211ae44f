//! After a reboot with nobody to ask: what this host was running runs again, from its own ledger.

use super::chain;
use crate::resource::assignment::{Assignment, Desired};
use crate::store::ledger::{EndReason, Ledger, Phase};
use crate::systemd::Supervision;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one start is waited for.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Starts what the ledger says was to run and whose supervisor is not there. What ended by itself, or was stopped by an
/// administrator before the cluster heard of it, stays down; and so does what may run on another host by now.
pub async fn start_known(ledger: &Ledger, supervision: &dyn Supervision) {
    let assignments = match ledger.assignments() {
        Ok((found, _)) => found,
        Err(error) => {
            tracing::error!(error = chain(&error), "the ledger cannot be read");
            return;
        }
    };
    let starts = to_start(&assignments).map(|known| async move {
        match supervision.state(&known.id).await {
            Ok(state) if state.alive() => {}
            // After the state: what ended a moment ago has said so before its unit went down.
            Ok(_) if has_ended(ledger, known) => {}
            Ok(_) => match supervision.start(&known.id, START_LIMIT).await {
                Ok(state) => tracing::info!(instance = known.id, ?state, "started from the ledger"),
                Err(error) => {
                    tracing::warn!(instance = known.id, error = chain(&error), "cannot be started from the ledger");
                }
            },
            Err(error) => tracing::warn!(instance = known.id, error = chain(&error), "its unit cannot be seen"),
        }
    });
    futures::future::join_all(starts).await;
}

/// Of those that have one address, only who was claimed for this host last. An earlier one is what a restored store does not
/// know, or what went elsewhere and left its data here; while it was down its address was given away.
fn to_start(assignments: &[Assignment]) -> impl Iterator<Item = &Assignment> {
    // Claims of one generation have the order of their revisions; a later generation is after all of them.
    let order = |known: &Assignment| (known.token.generation, known.token.revision);
    let mut newest = BTreeMap::new();
    // Docker itself starts what it started by itself, and that may have had the address of another.
    let assignments = || assignments.iter().filter(|known| known.native.is_none());
    for (address, order) in assignments().filter_map(|known| Some((known.address()?, order(known)))) {
        let last = newest.entry(address).or_insert(order);
        *last = order.max(*last);
    }
    assignments().filter(move |known| {
        let is_newest = known.address().is_none_or(|address| newest.get(&address) == Some(&order(known)));
        known.desired == Desired::Running && known.exclusive.is_none() && is_newest
    })
}

/// Whether it ended by itself, was stopped, or could not be started, since this was wanted of it.
fn has_ended(ledger: &Ledger, known: &Assignment) -> bool {
    let ended = |phase: &Phase| {
        matches!(phase, Phase::Ended { reason: EndReason::Own | EndReason::Asked, .. } | Phase::Failed { .. })
    };
    // A report that cannot be read says nothing.
    let report = ledger.report(&known.id).ok().flatten();
    report.is_some_and(|report| report.generation == known.generation && ended(&report.phase))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::assignment::{ManagedAddress, Token};
    use std::net::Ipv4Addr;

    fn claimed(id: &str, token: (u64, i64), address: u8) -> Assignment {
        let network = ManagedAddress {
            address: Ipv4Addr::new(10, 42, 0, address),
            prefix: 16,
            gateway: Ipv4Addr::new(10, 42, 0, 1),
            mac: format!("02:00:01:00:00:{address:02x}"),
            mtu: 1380,
        };
        let token = Token { generation: token.0, revision: token.1 };
        Assignment { token, network: Some(network), ..Assignment::example(id) }
    }

    #[test]
    fn one_address_is_for_who_was_claimed_last() {
        let mut known = [
            claimed("1i1", (1, 900), 5),
            claimed("1i2", (2, 100), 5),
            claimed("1i3", (2, 80), 6),
            claimed("1i4", (2, 90), 6),
            claimed("1i5", (1, 10), 7),
        ];
        let started = |known: &[Assignment]| to_start(known).map(|known| known.id.clone()).collect::<Vec<_>>();
        assert_eq!(started(&known), ["1i2", "1i4", "1i5"]);
        // Who has an address has it while it is stopped, too.
        known[1].desired = Desired::Stopped;
        assert_eq!(started(&known), ["1i4", "1i5"]);
    }
}
