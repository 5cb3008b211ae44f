//! What happened in a run: its fingerprint, its counts, who runs where, and what should not have been.

use stampede::compute::simulated::{Running, Why, Witness};
use stampede::environment::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;
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
    /// Hosts where no slice can be closed to a start that comes late.
    unsealed: BTreeSet<String>,
    /// Since when each container runs.
    since: BTreeMap<String, Instant>,
    shown: Vec<Shown>,
}

/// A start that came late where nothing keeps it out: it is known that it shows for as long as it takes to see and kill it
/// (docs/reliability.md). What runs on is a violation.
#[derive(Debug)]
struct Shown {
    external_id: String,
    since: Instant,
    what: String,
}

/// A supervisor looks ten times a second, and kills.
const SHOWS: Duration = Duration::from_secs(2);

impl Shown {
    fn is_too_long(&self) -> bool {
        self.since.elapsed() > SHOWS
    }
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
            unsealed: BTreeSet::new(),
            since: BTreeMap::new(),
            shown: Vec::new(),
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
        self.count_more(kind, 1);
    }

    /// So many more of a kind.
    pub fn count_more(&self, kind: &str, more: u64) {
        *self.inner().counts.entry(kind.to_owned()).or_default() += more;
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

    /// What should not have been, and what shows for too long already.
    pub fn violations(&self) -> Vec<String> {
        let inner = self.inner();
        let shown = inner.shown.iter().filter(|shown| shown.is_too_long()).map(|shown| shown.what.clone());
        inner.violations.iter().cloned().chain(shown).collect()
    }

    /// On `host` nothing keeps out a start that comes late.
    pub fn cannot_seal(&self, host: &str) {
        self.inner().unsealed.insert(host.to_owned());
    }

    /// `one` runs beside `other`, which began before it: a violation, unless one of them is a start that came late where that
    /// cannot be helped, and ends at once.
    fn beside(&self, one: (&str, &Running), other: (&str, &Running), what: fmt::Arguments<'_>) {
        let mut inner = self.inner();
        let late = |(host, running): (&str, &Running)| {
            let since = inner.since.get(&running.external_id);
            running.exclusive && inner.unsealed.contains(host) && since.is_some_and(|since| since.elapsed() <= SHOWS)
        };
        let Some((_, late)) = [one, other].into_iter().find(|it| late(*it)) else {
            drop(inner);
            return self.violation(what);
        };
        let what = format!("at {:.3} s, and not for a moment: {what}", inner.began.elapsed().as_secs_f64());
        inner.shown.push(Shown { external_id: late.external_id.clone(), since: Instant::now(), what });
        *inner.counts.entry("late start shown".to_owned()).or_default() += 1;
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
    /// It has ended: so has what it showed.
    fn no_longer(&mut self, external_id: &str) {
        self.since.remove(external_id);
        let (over, shown) = std::mem::take(&mut self.shown).into_iter().partition(|it| it.external_id == external_id);
        self.shown = shown;
        self.violations.extend(over.into_iter().filter(Shown::is_too_long).map(|it: Shown| it.what));
    }

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
        inner.since.insert(what.external_id.clone(), Instant::now());
        let others = inner.alive.entry(what.uuid.clone()).or_default();
        // What found room after the snapshot may find it once more; the older is ended when its host hears of it.
        let overtaken = |other: &Running| !what.exclusive && other.token.generation != what.token.generation;
        let twice = others.iter().find(|(_, other)| !overtaken(other));
        let twice = twice.cloned();
        others.push((self.host.clone(), what.clone()));
        let same = |(_, other): &&(String, Running)| {
            other.address.is_some() && other.address == what.address && other.uuid != what.uuid
        };
        let address = inner.alive.values().flatten().find(same).map(|(host, other)| (host.clone(), other.clone()));
        drop(inner);
        if let Some((host, other)) = twice {
            let text = format_args!(
                "{} runs twice: {} on {host}, and now {} on {}",
                what.instance, other.external_id, what.external_id, self.host
            );
            chronicle.beside((&self.host, what), (&host, &other), text);
        }
        if let Some((host, other)) = address {
            let address = what.address.unwrap();
            let text = format_args!(
                "{address} is held twice: by {} on {host}, and now by {} on {}",
                other.instance, what.instance, self.host
            );
            chronicle.beside((&self.host, what), (&host, &other), text);
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
            inner.no_longer(&what.external_id);
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
