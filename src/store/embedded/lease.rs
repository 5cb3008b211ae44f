//! The leases that are: a table, and no timer of its own.

use crate::store::LeaseId;
use std::collections::HashMap;
use std::time::Duration;

/// `deadline` is by the boot clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) ttl: Duration,
    pub(super) deadline: Duration,
}

/// From its deadline on a lease is gone for everybody, whenever it is cleared away.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<LeaseId, Lease>);

impl Leases {
    pub(super) fn insert(&mut self, id: LeaseId, lease: Lease) {
        self.0.insert(id, lease);
    }

    pub(super) fn keep_alive(&mut self, id: LeaseId, now: Duration) -> Option<Duration> {
        let lease = self.0.get_mut(&id).filter(|lease| lease.deadline > now)?;
        lease.deadline = now + lease.ttl;
        Some(lease.ttl)
    }

    pub(super) fn time_to_live(&self, id: LeaseId, now: Duration) -> Option<Duration> {
        self.0.get(&id)?.deadline.checked_sub(now).filter(|left| !left.is_zero())
    }

    /// Takes it out; with `expired_at` only where its time is over by then.
    pub(super) fn remove(&mut self, id: LeaseId, expired_at: Option<Duration>) -> Option<Lease> {
        let lease = self.0.get(&id)?;
        if expired_at.is_some_and(|now| lease.deadline > now) {
            return None;
        }
        self.0.remove(&id)
    }

    pub(super) fn expired(&self, now: Duration) -> Vec<LeaseId> {
        self.0.iter().filter(|(_, lease)| lease.deadline <= now).map(|(id, _)| *id).collect()
    }

    pub(super) fn earliest(&self) -> Option<Duration> {
        self.0.values().map(|lease| lease.deadline).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_ends_at_its_deadline_even_before_it_is_cleared_away() {
        let (mut leases, id) = (Leases::default(), LeaseId(1));
        leases.insert(id, Lease { ttl: 5 * SECOND, deadline: 10 * SECOND });
        assert_eq!(leases.time_to_live(id, 9 * SECOND), Some(SECOND));
        assert!(leases.remove(id, Some(9 * SECOND)).is_none());
        assert_eq!(leases.keep_alive(id, 10 * SECOND), None);
        assert_eq!(leases.time_to_live(id, 10 * SECOND), None);
        assert_eq!(leases.expired(10 * SECOND), [id]);
        assert!(leases.remove(id, Some(10 * SECOND)).is_some());
        assert_eq!(leases.earliest(), None);
    }
}
