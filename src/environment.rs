//! What the outside hands in: clock, randomness and who this machine is.
//!
//! No room takes time, random numbers, the boot id or the machine id from the operating system by itself; all of them
//! come through [`Environment`]. The simulation hands in its own, so that every run can be had again from its seed.
//! Timers (`tokio::time`) are not here: a paused tokio clock governs them.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// Milliseconds since 1970-01-01 00:00:00 UTC, as resources carry them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The moment `span` later.
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// Where time comes from.
pub trait Clock: Debug + Send + Sync {
    /// Wall-clock time. May step; only for what people read and for limits of minutes.
    fn now(&self) -> Timestamp;
    /// Time since boot, suspended time included (CLOCK_BOOTTIME). Never steps; leases and fences count on it.
    fn boottime(&self) -> Duration;
}

/// Where randomness comes from.
pub trait Random: Debug + Send + Sync {
    /// Fills `bytes`; fit for keys and secrets.
    fn fill(&self, bytes: &mut [u8]);
}

/// Which machine this is, and which of its boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `/etc/machine-id`: 32 hexadecimal digits. Copied disks share it, so it proves nothing by itself.
    pub machine_id: String,
    /// `/proc/sys/kernel/random/boot_id`: another one after each boot.
    pub boot_id: String,
}

/// All of the above, cheap to clone.
#[derive(Clone, Debug)]
pub struct Environment {
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub identity: Identity,
}

impl Environment {
    /// The real machine.
    ///
    /// # Errors
    /// Where the machine id or the boot id cannot be read.
    pub fn system() -> std::io::Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).map(|text| text.trim().to_owned());
        Ok(Self {
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            identity: Identity {
                machine_id: read("/etc/machine-id").or_else(|_| read("/var/lib/dbus/machine-id"))?,
                boot_id: read("/proc/sys/kernel/random/boot_id")?,
            },
        })
    }

    /// A random UUID (version 4).
    pub fn uuid(&self) -> uuid::Uuid {
        let mut bytes = [0; 16];
        self.random.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A number in `0..bound`; 0 where `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        let bound = bound as u64;
        if bound == 0 { 0 } else { (u64::from_le_bytes(bytes) % bound) as usize }
    }

    /// `span` with up to half of it taken off or added, so that many agents do not come at once.
    pub fn jitter(&self, span: Duration) -> Duration {
        span / 2 + span.mul_f64(self.below(1 << 20) as f64 / f64::from(1 << 20))
    }
}

/// Exponential back-off with jitter: `first`, doubled at each call up to `most`.
#[derive(Debug)]
pub struct Backoff {
    environment: Environment,
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Backoff {
    pub fn new(environment: &Environment, first: Duration, most: Duration) -> Self {
        Self { environment: environment.clone(), first, most, next: first }
    }

    /// How long to wait now.
    pub fn next_delay(&mut self) -> Duration {
        let delay = self.environment.jitter(self.next);
        self.next = (self.next * 2).min(self.most);
        delay
    }

    /// Waits as long as it is time to.
    pub async fn wait(&mut self) {
        let delay = self.next_delay();
        tokio::time::sleep(delay).await;
    }

    /// After a success: start small again.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// The machine's.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        Timestamp(time.tv_sec * 1000 + time.tv_nsec / 1_000_000)
    }

    fn boottime(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

#[derive(Debug)]
struct SystemRandom;

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut filled = 0;
        while filled < bytes.len() {
            // getrandom(2) only fails before it is seeded or when interrupted; both pass.
            if let Ok(count) = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
                filled += count;
            }
        }
    }
}
