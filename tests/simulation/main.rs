//! A cluster in one process, on a clock that only its own work moves, from a seed: `scripts/simulate`, docs/reliability.md.

// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agent;
mod chronicle;
mod clients;
mod clock;
mod datapath;
mod dice;
mod esp;
mod etcd;
mod guards;
mod invariants;
mod machine;
mod mortal;
mod network;
mod operators;
mod peers;
mod report;
mod run;
mod troubles;
mod wire;

use run::Setting;

/// A few, with whatever tests are run: the thousands are `scripts/simulate`'s.
#[test]
fn some_seeds_hold() {
    for seed in 1..=3 {
        let outcome = run::run(seed, Setting::default());
        assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
        assert!(outcome.starts > 10, "seed {seed}: hardly anything ran");
    }
}

/// Only where the seed governs tokio's choices too, as `scripts/simulate` builds it.
#[cfg(tokio_unstable)]
#[test]
fn the_same_seed_gives_the_same_run() {
    let print = |seed, wire| run::run(seed, Setting { wire, ..Setting::default() }).fingerprint;
    for seed in 1..=5 {
        assert_eq!(print(seed, false), print(seed, false), "seed {seed}");
    }
    for seed in 1..=2 {
        assert_eq!(print(seed, true), print(seed, true), "seed {seed} over a wire");
    }
    assert_ne!(print(1, false), print(2, false));
}

/// What `scripts/simulate` runs, as its environment tells.
#[test]
#[ignore = "scripts/simulate runs it"]
fn simulate() {
    // What the agents themselves tell, between the lines of a trace.
    if let Ok(filter) = std::env::var("STAMPEDE_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stderr).init();
    }
    assert!(report::run_all(&report::Wanted::from_environment()), "see above");
}
