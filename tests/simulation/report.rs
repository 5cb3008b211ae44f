//! Many runs, and what there is to say of them.

use crate::guards::Guard;
use crate::run::{Outcome, Setting, run};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// In so many seeds at the most a guard that is taken away is missed.
const MOST: u64 = 2000;
/// How far it is, is told after so many.
const TOLD: u64 = 100;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub from: u64,
    pub seeds: u64,
    pub without: Option<Guard>,
    pub trace: bool,
    pub wire: bool,
    /// See [`Setting::network`].
    pub network: bool,
    /// Each guard is taken away in turn.
    pub guards: bool,
    pub threads: usize,
}

impl Wanted {
    /// From the variables that `scripts/simulate` sets.
    pub fn from_environment() -> Self {
        let text = |name: &str| std::env::var(format!("SIMULATE_{name}")).ok().filter(|text| !text.is_empty());
        let number = |name: &str| text(name).map(|text| text.parse::<u64>().expect("a number"));
        let without = text("WITHOUT").map(|name| {
            let found = Guard::ALL.iter().find(|guard| guard.name() == name);
            *found.unwrap_or_else(|| panic!("there is no guard {name}"))
        });
        let (from, seeds) = match number("SEED") {
            Some(seed) => (seed, 1),
            None => (number("FROM").unwrap_or(1), number("SEEDS").unwrap_or(100)),
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let flag = |name: &str| text(name).is_some();
        // A guard of what is led is missed only by those who use that.
        let network = flag("NETWORK") || without.is_some_and(Guard::is_of_network);
        let (trace, wire, guards) = (flag("TRACE"), flag("WIRE"), flag("GUARDS"));
        Self { from, seeds, without, trace, wire, network, guards, threads }
    }
}

impl Wanted {
    fn setting(&self) -> Setting {
        Setting { without: self.without, trace: self.trace, wire: self.wire, network: self.network }
    }
}

/// Sums over all runs.
#[derive(Debug, Default)]
struct Sums {
    passed: u64,
    failed: Vec<(u64, Vec<String>)>,
    simulated: Duration,
    hosts: usize,
    starts: u64,
    counts: BTreeMap<String, u64>,
    fingerprint: u64,
}

impl Sums {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.simulated += outcome.simulated;
        self.hosts += outcome.hosts;
        self.starts += outcome.starts;
        // In whatever order they end.
        self.fingerprint ^= outcome.fingerprint;
        for (kind, count) in outcome.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        if outcome.violations.is_empty() {
            self.passed += 1;
        } else {
            self.failed.push((seed, outcome.violations));
        }
    }
}

/// Does what is asked for and prints what came of it; whether all is as it should be.
pub fn run_all(wanted: &Wanted) -> bool {
    let began = now();
    let sums = seeds(wanted, wanted.seeds, &|sums: &Sums, seed, violations: &[String]| {
        if !violations.is_empty() {
            tell(seed, wanted, violations);
        }
        let done = sums.passed + sums.failed.len() as u64;
        if done.is_multiple_of(TOLD) && done < wanted.seeds {
            println!("  {done} of {} seeds, {} violations", wanted.seeds, sums.failed.len());
        }
    });
    sum_up(&sums, now().saturating_sub(began));
    let (mut passed, mut failed) = (sums.passed, sums.failed.len() as u64);
    if wanted.guards {
        for guard in Guard::ALL.iter().filter(|guard| guard.is_of_network() == wanted.network) {
            if is_missed(wanted, *guard) { passed += 1 } else { failed += 1 }
        }
    }
    println!("{passed} passed, {failed} failed");
    failed == 0
}

/// Runs `count` seeds, on all processors, and tells of each; without a guard, only until one is found that misses it.
fn seeds(wanted: &Wanted, count: u64, told: &(dyn Fn(&Sums, u64, &[String]) + Sync)) -> Sums {
    let (next, sums) = (AtomicU64::new(wanted.from), Mutex::new(Sums::default()));
    let found = AtomicBool::new(false);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let over = wanted.without.is_some() && found.load(Ordering::Relaxed);
            if seed >= wanted.from + count || over {
                return;
            }
            let outcome = run(seed, wanted.setting());
            found.fetch_or(!outcome.violations.is_empty(), Ordering::Relaxed);
            let violations = outcome.violations.clone();
            let mut sums = sums.lock().unwrap();
            sums.add(seed, outcome);
            told(&sums, seed, &violations);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..wanted.threads {
            scope.spawn(work);
        }
    });
    let mut sums = sums.into_inner().unwrap();
    sums.failed.sort();
    sums
}

/// Whether its absence is found within so many seeds.
fn is_missed(wanted: &Wanted, guard: Guard) -> bool {
    let without = Wanted { without: Some(guard), ..wanted.clone() };
    let mut sums = seeds(&Wanted { from: guard.seed(), ..without.clone() }, 1, &|_, _, _| ());
    if sums.failed.is_empty() {
        sums = seeds(&without, MOST, &|_, _, _| ());
    }
    let (name, what) = (guard.name(), guard.what());
    match sums.failed.first() {
        Some((seed, violations)) => {
            let tried = sums.passed + 1;
            println!("without {name} ({what}): found by seed {seed}, after {tried}: {}", violations[0]);
            true
        }
        None => {
            println!("without {name} ({what}): NOT found in {} seeds", sums.passed);
            false
        }
    }
}

fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn tell(seed: u64, wanted: &Wanted, violations: &[String]) {
    let guard = wanted.without.map(|guard| format!(" --without {}", guard.name())).unwrap_or_default();
    let wire = if wanted.wire { " --wire" } else { "" };
    println!("seed {seed}: violated");
    violations.iter().take(8).for_each(|violation| println!("    {violation}"));
    println!("    again, with a trace: scripts/simulate --seed {seed}{wire}{guard} --trace");
}

fn sum_up(sums: &Sums, took: Duration) {
    let seeds = sums.passed + sums.failed.len() as u64;
    let hours = sums.simulated.as_secs_f64() / 3600.0;
    println!(
        "{seeds} seeds, {hours:.1} simulated hours, {} hosts, {} starts, in {:.1} s ({:.3} s a seed)",
        sums.hosts,
        sums.starts,
        took.as_secs_f64(),
        took.as_secs_f64() / seeds.max(1) as f64
    );
    for (kind, count) in &sums.counts {
        println!("  {count:>9}  {kind}");
    }
    println!("{} violations; fingerprint {:016x}", sums.failed.len(), sums.fingerprint);
}
