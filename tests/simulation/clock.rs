//! Clocks over tokio's own, which is paused: each host has one that is a little wrong.

use stampede::environment::{Clock, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// 2026-01-01
const EPOCH: i64 = 1_767_225_600_000;

/// One boot's clock.
#[derive(Debug)]
pub struct HostClock {
    /// When the run began.
    pub origin: Instant,
    /// When this boot began.
    pub booted: Instant,
    /// How much faster this host's time goes, in millionths.
    pub drift: i64,
    /// How far off its wall clock is, in milliseconds; may step.
    pub skew: AtomicI64,
}

impl HostClock {
    pub fn step(&self, millis: i64) {
        self.skew.store(millis, Ordering::Relaxed);
    }
}

impl Clock for HostClock {
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.origin.elapsed().as_millis()).unwrap();
        Timestamp(EPOCH + passed + self.skew.load(Ordering::Relaxed))
    }

    fn boottime(&self) -> Duration {
        let passed = i64::try_from(self.booted.elapsed().as_micros()).unwrap();
        // Every boot has taken a while.
        Duration::from_secs(20) + Duration::from_micros((passed + passed * self.drift / 1_000_000).unsigned_abs())
    }
}

/// The clock of a part of a host, for which whole days pass in a moment.
#[derive(Debug)]
pub struct Leaping {
    clock: Arc<HostClock>,
    days: AtomicU64,
}

impl Leaping {
    pub fn new(clock: &Arc<HostClock>) -> Self {
        Self { clock: clock.clone(), days: AtomicU64::new(0) }
    }

    /// One is over; in a boot no more than that, for what a half waits for its peers would be over with the next.
    pub fn leap(&self) {
        self.days.store(1, Ordering::Relaxed);
    }
}

impl Clock for Leaping {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn boottime(&self) -> Duration {
        self.clock.boottime() + Duration::from_secs(24 * 3600 * self.days.load(Ordering::Relaxed))
    }
}

/// Time that stands still: to whoever goes by it, no deadline ever passes.
#[derive(Debug)]
pub struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        Timestamp(EPOCH)
    }

    fn boottime(&self) -> Duration {
        Duration::ZERO
    }
}
