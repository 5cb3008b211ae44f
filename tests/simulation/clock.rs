//! Clocks over tokio's own, which is paused: each host has one that is a little wrong.

use stampede::environment::{Clock, Timestamp};
use std::sync::atomic::{AtomicI64, Ordering};
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
