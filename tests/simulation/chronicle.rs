//! What happened in a run: its fingerprint, its counts, who runs where, and what should not have been.

use stampede::compute::simulated::{Running, Why, Witness};
use stampede::environment::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// Shared by all who see something. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Chronicle(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    print: Fingerprint,
    trace: bool,
    counts: BTreeMap<String, u64>,
    violations: Vec<String>,
    /// What runs: by its uuid, the hosts and containers.
    alive: BTreeMap<String, Vec<(String, Running)>>,
    /// When anything last befell a host, or all.
    troubled: BTreeMap<String, Instant>,
    /// Instances that a client asked to stop, start or go away.
    touched: BTreeSet<String>,
    /// Hosts that an operator wanted empty, with what stays there.
    emptied: BTreeSet<String>,
    /// On their way off a drained host: which, and under which drain.
    leaving: BTreeMap<u64, (String, Timestamp)>,
    /// How often the store went back.
    restores: u64,
    begun: u64,
    /// What ever ran, by its uuid.
    ever: BTreeSet<String>,
}

/// FNV-1a over all that is told.
#[derive(Debug)]
struct Fingerprint(u64);

impl Write for Fingerprint {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// Everywhere.
pub const ALL: &str = "all";

impl Chronicle {
    pub fn new(trace: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            began: Instant::now(),
            print: Fingerprint(0xcbf2_9ce4_8422_2325),
            trace,
            counts: BTreeMap::new(),
            violations: Vec::new(),
            alive: BTreeMap::new(),
            troubled: BTreeMap::new(),
            touched: BTreeSet::new(),
            emptied: BTreeSet::new(),
            leaving: BTreeMap::new(),
            restores: 0,
            begun: 0,
            ever: BTreeSet::new(),
        })))
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Something happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        self.inner().note(what);
    }

    /// One more of a kind.
    pub fn count(&self, kind: &str) {
        *self.inner().counts.entry(kind.to_owned()).or_default() += 1;
    }

    /// A trouble befalls `place`: a host, or [`ALL`].
    pub fn trouble(&self, kind: &str, place: &str) {
        let mut inner = self.inner();
        inner.note(format_args!("TROUBLE {kind} at {place}"));
        *inner.counts.entry(kind.to_owned()).or_default() += 1;
        inner.troubled.insert(place.to_owned(), Instant::now());
    }

    /// Since when `place` was left alone, if ever it was not.
    pub fn troubled(&self, place: &str) -> Option<Instant> {
        let inner = self.inner();
        inner.troubled.get(place).copied().max(inner.troubled.get(ALL).copied())
    }

    /// A client wants something else of it from now on.
    pub fn touch(&self, instance: &str) {
        self.inner().touched.insert(instance.to_owned());
    }

    /// All that is on `host` may be stopped from now on.
    pub fn may_end_all_on(&self, host: &str) {
        self.inner().emptied.insert(host.to_owned());
    }

    /// The store went back: what was on its way may be anywhere.
    pub fn went_back(&self) {
        let mut inner = self.inner();
        inner.leaving.clear();
        inner.restores += 1;
    }

    /// How often the store went back.
    pub fn restores(&self) -> u64 {
        self.inner().restores
    }

    /// An instance is told to leave `host`, as `since` was asked; how many are on their way off it so.
    pub fn leaves(&self, id: u64, host: &str, since: Timestamp) -> usize {
        let mut inner = self.inner();
        let drain = (host.to_owned(), since);
        inner.leaving.insert(id, drain.clone());
        inner.leaving.values().filter(|leaving| **leaving == drain).count()
    }

    /// Whether it is on its way.
    pub fn is_leaving(&self, id: u64) -> bool {
        self.inner().leaving.contains_key(&id)
    }

    /// It is up again, or no longer to be.
    pub fn arrives(&self, id: u64) {
        self.inner().leaving.remove(&id);
    }

    /// What must not be.
    pub fn violation(&self, what: fmt::Arguments<'_>) {
        let mut inner = self.inner();
        inner.note(format_args!("VIOLATION {what}"));
        let at = inner.began.elapsed();
        inner.violations.push(format!("at {:.3} s: {what}", at.as_secs_f64()));
    }

    pub fn violations(&self) -> Vec<String> {
        self.inner().violations.clone()
    }

    pub fn fingerprint(&self) -> u64 {
        self.inner().print.0
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.inner().counts.clone()
    }

    /// How often anything began to run.
    pub fn begun(&self) -> u64 {
        self.inner().begun
    }

    /// Where the instance with this uuid runs.
    pub fn running(&self, uuid: &str) -> Vec<(String, Running)> {
        self.inner().alive.get(uuid).cloned().unwrap_or_default()
    }

    /// Whether it ever ran anywhere.
    pub fn has_run(&self, uuid: &str) -> bool {
        self.inner().ever.contains(uuid)
    }

    /// All that runs.
    pub fn all_running(&self) -> Vec<(String, Running)> {
        self.inner().alive.values().flatten().cloned().collect()
    }
}

impl Inner {
    fn note(&mut self, what: fmt::Arguments<'_>) {
        let at = self.began.elapsed();
        // Writing into it cannot fail.
        let _ = writeln!(self.print, "{} {what}", at.as_millis());
        if self.trace {
            println!("{:9.3} {what}", at.as_secs_f64());
        }
    }
}

/// Looks on at one host.
#[derive(Debug)]
pub struct Onlooker {
    pub chronicle: Chronicle,
    pub host: String,
}

impl Witness for Onlooker {
    fn began(&self, what: &Running) {
        let chronicle = &self.chronicle;
        chronicle.note(format_args!("{} runs on {} ({})", what.instance, self.host, what.external_id));
        let mut inner = chronicle.inner();
        inner.begun += 1;
        inner.ever.insert(what.uuid.clone());
        let others = inner.alive.entry(what.uuid.clone()).or_default();
        // What found room after the snapshot may find it once more; the older is ended when its host hears of it.
        let overtaken = |other: &Running| !what.exclusive && other.token.generation != what.token.generation;
        let twice = others.iter().find(|(_, other)| !overtaken(other));
        let twice = twice.map(|(host, other)| (host.clone(), other.external_id.clone()));
        others.push((self.host.clone(), what.clone()));
        let same = |(_, other): &&(String, Running)| {
            other.address.is_some() && other.address == what.address && other.uuid != what.uuid
        };
        let address = inner.alive.values().flatten().find(same).map(|(host, other)| (host.clone(), other.clone()));
        drop(inner);
        if let Some((host, other)) = twice {
            chronicle.violation(format_args!(
                "{} runs twice: {other} on {host}, and now {} on {}",
                what.instance, what.external_id, self.host
            ));
        }
        if let Some((host, other)) = address {
            let address = what.address.unwrap();
            chronicle.violation(format_args!(
                "{address} is held twice: by {} on {host}, and now by {} on {}",
                other.instance, what.instance, self.host
            ));
        }
    }

    fn ended(&self, what: &Running, why: Why) {
        let chronicle = &self.chronicle;
        chronicle.note(format_args!("{} ended on {} ({}): {why:?}", what.instance, self.host, what.external_id));
        let asked = {
            let mut inner = chronicle.inner();
            if let Some(others) = inner.alive.get_mut(&what.uuid) {
                others.retain(|(_, other)| other.external_id != what.external_id);
            }
            inner.alive.retain(|_, others| !others.is_empty());
            inner.touched.contains(&what.instance) || inner.emptied.contains(&self.host)
        };
        let ours = matches!(why, Why::Stopped | Why::Removed | Why::Killed);
        if asked || !ours {
            return;
        }
        if !what.exclusive {
            chronicle.violation(format_args!(
                "{} stays with its host, nobody asked for its end, and it was ended on {} ({why:?})",
                what.instance, self.host
            ));
        } else if chronicle.troubled(&self.host).is_none() {
            chronicle.violation(format_args!(
                "{} was ended on {} ({why:?}), which nothing ever befell",
                what.instance, self.host
            ));
        }
    }
}
