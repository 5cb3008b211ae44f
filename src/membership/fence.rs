//! `<run>/deadline`: until when this host may run what must not run twice.
//!
//! A host counts F = 0.4 TTL from when its last *confirmed* keepalive was *sent*, on CLOCK_BOOTTIME, and writes the moment into
//! this file. Whoever stands by exclusive work reads it for itself and ends the work when it is past: it needs neither
//! agent nor store for that. Whoever takes the work over waits F after it saw the host's lease gone, so that the end comes first.
//!
//! ```text
//! keepalive sent ──── F ────► deadline: killed
//!        lease ends, at the earliest ──── F ────► taken over, at the earliest
//! ```
//! Killing takes time as well, so it begins a tenth of F early ([`lead`]).
//!
//! It is bound to one *life* of the host: the create_revision of its `alive/`. Within one life the deadline may be trusted
//! however late it is read: a confirmation proves that `alive/`, and with it each claim, never went away. A deadline of
//! *another* life proves nothing to who did not look before its own deadline: see [`look`].

use super::identity::{self, Error};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The share of the TTL in which a host fences itself, and which a takeover waits, in tenths.
const TENTHS: u32 = 4;

/// F for a lease of `ttl`.
pub fn wait(ttl: Duration) -> Duration {
    ttl * TENTHS / 10
}

/// How much before the deadline the killing begins.
pub fn lead(ttl: Duration) -> Duration {
    wait(ttl) / 10
}

/// A deadline, as published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The create_revision of `alive/<host>`.
    pub life: i64,
    /// On CLOCK_BOOTTIME, the lead already taken off.
    pub deadline: Duration,
}

impl Fence {
    pub fn holds(&self, now: Duration) -> bool {
        now < self.deadline
    }
}

/// What follows for exclusive work that was allowed under `own`, where `found` was read from the file before `now` was.
///
/// `Some`: it may go on until then. `None`: it must end.
pub fn look(own: Fence, found: Option<Fence>, now: Duration) -> Option<Fence> {
    match found {
        // It never went away.
        Some(found) if found.life == own.life && found.holds(now) => Some(found),
        // Another life, begun while the old deadline was not over: nobody can have taken anything over in between.
        Some(found) if found.life != own.life && own.holds(now) && found.holds(now) => Some(found),
        _ => own.holds(now).then_some(own),
    }
}

/// `fence/<host>`: its F, for those who take over from it. Written with each `alive/`, and there longer than that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wait {
    pub wait_millis: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    boot_id: String,
    life: i64,
    deadline_millis: u64,
}

/// The file.
#[derive(Clone, Debug)]
pub struct DeadlineFile {
    path: PathBuf,
    boot_id: String,
    in_place: bool,
}

impl DeadlineFile {
    pub fn new(run: &Path, boot_id: &str) -> Self {
        Self { path: run.join("deadline"), boot_id: boot_id.to_owned(), in_place: false }
    }

    /// The same, written as it lies: for simulations, where nobody reads it meanwhile and a kernel's time counts.
    #[must_use]
    pub fn in_place(self, in_place: bool) -> Self {
        Self { in_place, ..self }
    }

    /// What it says of this boot; `None` where it says nothing.
    pub fn read(&self) -> Option<Fence> {
        let bytes = std::fs::read(&self.path).ok()?;
        let record: Record = serde_json::from_slice(&bytes).ok()?;
        let deadline = Duration::from_millis(record.deadline_millis);
        (record.boot_id == self.boot_id).then_some(Fence { life: record.life, deadline })
    }

    /// # Errors
    /// Where it cannot be written: what reads it ends in time, as if no keepalive had been confirmed.
    pub fn write(&self, fence: Fence) -> Result<(), Error> {
        // Rounded down.
        let deadline_millis = super::lease::millis(fence.deadline);
        let record = Record { boot_id: self.boot_id.clone(), life: fence.life, deadline_millis };
        let failed = |source| Error::File { action: "write", path: self.path.clone(), source };
        let bytes = serde_json::to_vec(&record).map_err(|error| failed(error.into()))?;
        if self.in_place {
            return std::fs::write(&self.path, bytes).map_err(failed);
        }
        identity::replace(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fence(life: i64, seconds: u64) -> Fence {
        Fence { life, deadline: Duration::from_secs(seconds) }
    }

    #[test]
    fn times() {
        assert_eq!(wait(Duration::from_secs(10)), Duration::from_secs(4));
        assert_eq!(wait(Duration::from_secs(3)), Duration::from_millis(1200));
        assert_eq!(lead(Duration::from_secs(10)), Duration::from_millis(400));
    }

    #[test]
    fn only_the_same_life_excuses_a_late_look() {
        let at = Duration::from_secs;
        let own = fence(5, 10);
        assert_eq!(look(own, Some(fence(5, 14)), at(12)), Some(fence(5, 14)));
        assert_eq!(look(own, Some(fence(6, 14)), at(9)), Some(fence(6, 14)));
        assert_eq!(look(own, Some(fence(6, 14)), at(10)), None, "taken over, perhaps, and back");
        assert_eq!(look(own, Some(fence(5, 11)), at(12)), None);
        assert_eq!(look(own, None, at(9)), Some(own));
        assert_eq!(look(own, None, at(10)), None);
    }

    proptest! {
        #[test]
        fn past_every_deadline_nothing_goes_on(
            life in 0..3_i64, own in 0..100_u64, found in proptest::option::of((0..3_i64, 0..100_u64)), now in 0..100_u64
        ) {
            let found = found.map(|(life, seconds)| fence(life, seconds));
            let own = fence(life, own);
            let now = Duration::from_secs(now);
            if let Some(allowed) = look(own, found, now) {
                prop_assert!(allowed.holds(now));
                prop_assert!(allowed == own || Some(allowed) == found);
            }
        }
    }

    #[test]
    fn an_earlier_boots_file_says_nothing() {
        let run = tempfile::tempdir().unwrap();
        let file = DeadlineFile::new(run.path(), "a");
        assert_eq!(file.read(), None);
        file.write(fence(5, 10)).unwrap();
        assert_eq!(file.read(), Some(fence(5, 10)));
        assert_eq!(DeadlineFile::new(run.path(), "b").read(), None);
        std::fs::write(run.path().join("deadline"), "{").unwrap();
        assert_eq!(file.read(), None);
    }
}
