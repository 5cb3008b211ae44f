//! Many runs, and what there is to say of them.

use crate::guards::Guard;
use crate::run::{Outcome, run};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub from: u64,
    pub seeds: u64,
    pub without: Option<Guard>,
    pub trace: bool,
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
        Self { from, seeds, without, trace: text("TRACE").is_some(), threads }
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
}

impl Sums {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.simulated += outcome.simulated;
        self.hosts += outcome.hosts;
        self.starts += outcome.starts;
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

/// Runs them all and prints what came of it; whether nothing was violated.
pub fn run_all(wanted: &Wanted) -> bool {
    let (next, sums) = (AtomicU64::new(wanted.from), Mutex::new(Sums::default()));
    let found = AtomicBool::new(false);
    let began = now();
    std::thread::scope(|scope| {
        for _ in 0..wanted.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = wanted.without.is_some() && found.load(Ordering::Relaxed);
                    if seed >= wanted.from + wanted.seeds || over {
                        return;
                    }
                    let outcome = run(seed, wanted.without, wanted.trace);
                    if !outcome.violations.is_empty() {
                        found.store(true, Ordering::Relaxed);
                        tell(seed, wanted.without, &outcome.violations);
                    }
                    sums.lock().unwrap().add(seed, outcome);
                }
            });
        }
    });
    let took = now().saturating_sub(began);
    let sums = sums.into_inner().unwrap();
    sum_up(&sums, took);
    sums.failed.is_empty()
}

fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn tell(seed: u64, without: Option<Guard>, violations: &[String]) {
    let guard = without.map(|guard| format!(" --without {}", guard.name())).unwrap_or_default();
    println!("seed {seed}: violated");
    violations.iter().take(8).for_each(|violation| println!("    {violation}"));
    println!("    again, with a trace: scripts/simulate --seed {seed}{guard} --trace");
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
    println!("{} violations", sums.failed.len());
    println!("{} passed, {} failed", sums.passed, sums.failed.len());
}
