//! Which of the hosts that can take an instance gets it: one of the best few by chance. Pure but for the dice.
//!
//! Always the best one would send all agents that place at the same moment to the same host, where all but one conflict.

use super::filter::{Candidate, Promised};
use crate::environment::Environment;
use crate::membership::record::Capacity;
use std::cmp::Ordering;

/// From how many of the best one is picked.
pub const BEST: usize = 3;
/// What an instance that asked for less is counted as, or those without limits would all land on one host.
const LEAST_MEMORY_MB: u64 = 64;
const LEAST_CPU_MILLIS: u64 = 50;

/// How much of a host is promised: the larger part of memory and processors. Comparable between hosts, 0 is empty.
pub fn load(capacity: Capacity, promised: Promised) -> f64 {
    let part = |promised: u64, instances: usize, least: u64, capacity: u64| {
        let counted = promised.max((instances as u64).saturating_mul(least));
        counted as f64 / capacity.max(1) as f64
    };
    let memory = part(promised.share.memory_mb, promised.instances, LEAST_MEMORY_MB, capacity.memory_mb);
    let cpu = part(promised.share.cpu_millis, promised.instances, LEAST_CPU_MILLIS, capacity.cpu_millis);
    memory.max(cpu)
}

/// The least loaded first, at most [`BEST`].
pub fn best<'a>(able: &[&'a Candidate]) -> Vec<&'a Candidate> {
    let mut scored: Vec<(f64, &Candidate)> =
        able.iter().map(|candidate| (load(candidate.view.host.capacity, candidate.promised), *candidate)).collect();
    scored.sort_by(|(one, a), (other, b)| {
        one.partial_cmp(other).unwrap_or(Ordering::Equal).then_with(|| a.view.host.id.cmp(&b.view.host.id))
    });
    scored.truncate(BEST);
    scored.into_iter().map(|(_, candidate)| candidate).collect()
}

/// One of them.
pub fn pick<'a>(environment: &Environment, able: &[&'a Candidate]) -> Option<&'a Candidate> {
    let best = best(able);
    best.get(environment.below(best.len())).copied()
}
