//! Finding out why a transaction failed: its failure branch reads what its compares looked at.

use crate::store::{Answer, Compare, Entry, Operation};

/// A compare that did not hold, and what was there instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub compare: Compare,
    pub found: Option<Entry>,
}

/// The key that a compare looks at.
pub fn key(compare: &Compare) -> &str {
    match compare {
        Compare::Absent { key }
        | Compare::Exists { key }
        | Compare::CreateRevision { key, .. }
        | Compare::ModRevision { key, .. } => key,
    }
}

/// A failure branch from whose answers [`failures`] tells which of `compares` did not hold.
pub fn reads(compares: &[Compare]) -> Vec<Operation> {
    compares.iter().map(|compare| Operation::get(key(compare))).collect()
}

/// Which of `compares` did not hold, by the answers to their [`reads`].
pub fn failures(compares: &[Compare], answers: &[Answer]) -> Vec<Failure> {
    compares
        .iter()
        .zip(answers)
        .filter_map(|(compare, answer)| {
            let found = match answer {
                Answer::Entries(entries) => entries.first().cloned(),
                _ => None,
            };
            (!holds(compare, found.as_ref())).then(|| Failure { compare: compare.clone(), found })
        })
        .collect()
}

fn holds(compare: &Compare, found: Option<&Entry>) -> bool {
    match compare {
        Compare::Absent { .. } => found.is_none(),
        Compare::Exists { .. } => found.is_some(),
        Compare::CreateRevision { revision, .. } => found.is_some_and(|entry| entry.create_revision == *revision),
        Compare::ModRevision { revision, .. } => found.is_some_and(|entry| entry.mod_revision == *revision),
    }
}
