//! Which of the hosts that can take an instance is the better one. Pure.

use super::filter::{Candidate, Policy, Wanted};
use crate::resource::constraint::Constraint;
use std::cmp::Ordering;

/// What an instance that asked for less is counted as, or those without limits would all land on one host.
const LEAST_MEMORY_MB: u64 = 64;
const LEAST_CPU_MILLIS: u64 = 50;

/// The smaller the better: first wishes that it does not meet, then how many of its like are there, then how full it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    unmet: usize,
    like: Vec<u64>,
    load: f64,
}

impl Score {
    /// `like` counts those of its like that share the candidate's value of a label, for each that it is spread by.
    pub fn of(candidate: &Candidate, wanted: &Wanted, like: Vec<u64>) -> Self {
        let load = load(candidate);
        let load = if wanted.policy == Policy::Packing { -load } else { load };
        Self { unmet: unmet(candidate, wanted), like, load }
    }

    pub fn order(&self, other: &Self) -> Ordering {
        self.rank(other).then_with(|| self.load.partial_cmp(&other.load).unwrap_or(Ordering::Equal))
    }

    /// Without how full they are: a wish is never given up for a little less load.
    pub fn rank(&self, other: &Self) -> Ordering {
        (self.unmet, &self.like).cmp(&(other.unmet, &other.like))
    }
}

/// How much of a host is promised: the largest part of memory, processors and disk. Comparable between hosts, 0 is empty.
fn load(candidate: &Candidate) -> f64 {
    let (capacity, promised) = (candidate.capacity(), &candidate.promised);
    let part = |promised: u64, least: u64, capacity: u64| {
        let counted = promised.max((candidate.promised.count() as u64).saturating_mul(least));
        counted as f64 / capacity.max(1) as f64
    };
    let sum = promised.sum();
    let memory = part(sum.memory_mb, LEAST_MEMORY_MB, capacity.memory_mb);
    let cpu = part(sum.cpu_millis, LEAST_CPU_MILLIS, capacity.cpu_millis);
    let disk = if sum.disk_mb == 0 { 0.0 } else { part(sum.disk_mb, 0, capacity.disk_mb) };
    memory.max(cpu).max(disk)
}

/// How many wishes are not met there.
fn unmet(candidate: &Candidate, wanted: &Wanted) -> usize {
    let there = |rule: &Constraint| {
        candidate.promised.tenants().any(|(_, other)| rule.holds(other.name.as_deref(), &other.labels))
    };
    let soft = |rules: &'_ [Constraint], met: &dyn Fn(&Constraint) -> bool| {
        rules.iter().filter(|rule| rule.soft && !met(rule)).count()
    };
    soft(&wanted.constraints, &|rule| candidate.satisfies(rule))
        + soft(&wanted.affinity, &there)
        + soft(&wanted.anti_affinity, &|rule| !there(rule))
}
