//! Ids: numbers that the whole cluster gives away once only.
//!
//! `counter/<name>` holds the next free number. An agent reserves runs of 100 by compare-and-swap and hands them out from
//! memory; what it did not use when it ends is never used. Where a run is used up within seconds the next one is twice as
//! long: agents that make much at the same time would else wait for each other here. Numbers start at 1.

use crate::environment::{Backoff, Environment};
use crate::store::{self, Answer, Compare, Entry, Operation, Store, Transaction, key};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;

/// How many numbers an agent reserves at a time, and at most where it uses many.
const RUN: u64 = 100;
const LONGEST_RUN: u64 = 6400;
/// A run that lasted less than this was too short.
const SHORT: Duration = Duration::from_secs(5);
/// Who loses to another tries again at once with what the refusal told, as often as this. Each loss is somebody's gain: of so
/// many agents that ask at the same moment all have their numbers after so many rounds.
const AT_ONCE: usize = 16;
/// Tries before a reservation gives up; with back-off behind the first of them, about ten seconds of conflicts.
const TRIES: usize = AT_ONCE + 20;

/// A step of a counter that a transaction is to take.
#[derive(Debug)]
pub struct Step {
    /// The numbers that are ours once the transaction succeeded.
    pub numbers: Range<u64>,
    pub compare: Compare,
    pub operation: Operation,
}

/// How to take `count` numbers of the counter `name`, which stands at `entry`.
///
/// # Errors
/// Where the counter cannot be read.
pub fn step(name: &str, entry: Option<&Entry>, count: u64) -> Result<Step, store::Error> {
    let key = key::counter(name);
    let (first, compare) = match entry {
        None => (1, Compare::Absent { key: key.clone() }),
        Some(entry) => {
            (store::decode::<u64>(entry)?, Compare::ModRevision { key: key.clone(), revision: entry.mod_revision })
        }
    };
    let end = first.checked_add(count).ok_or_else(|| store::Error::Unreadable {
        key: key.clone(),
        message: format!("no numbers are left after {first}"),
    })?;
    let operation = Operation::put(&key, store::encode(&key, &end)?);
    Ok(Step { numbers: first..end, compare, operation })
}

/// Takes `count` numbers at once. After an unknown outcome some may be lost; none is ever given twice.
///
/// # Errors
/// What the store answers; [`store::Error::Unavailable`] where others were always faster.
pub async fn reserve(
    store: &dyn Store,
    environment: &Environment,
    name: &str,
    count: u64,
) -> Result<Range<u64>, store::Error> {
    let key = key::counter(name);
    let mut backoff = Backoff::new(environment, Duration::from_millis(5), Duration::from_secs(1));
    let mut entry = store.get(&key).await?.entry;
    for attempt in 1..=TRIES {
        let step = step(name, entry.as_ref(), count)?;
        let transaction = Transaction::new().when(step.compare).then(step.operation).or_else(Operation::get(&key));
        let outcome = store.commit(transaction).await?;
        if outcome.succeeded {
            return Ok(step.numbers);
        }
        entry = if attempt <= AT_ONCE {
            outcome.answers.into_iter().find_map(|answer| match answer {
                Answer::Entries(entries) => entries.into_iter().next(),
                _ => None,
            })
        } else {
            backoff.wait().await;
            // Not what the refusal told: that is as old as the wait was long, and would lose again.
            store.get(&key).await?.entry
        };
    }
    Err(store::Error::Unavailable { message: format!("too many take numbers of the counter {name} at once") })
}

/// Hands out numbers of one counter.
#[derive(Debug)]
pub struct Counter {
    store: Arc<dyn Store>,
    environment: Environment,
    name: String,
    /// Held over the reservation, so that many callers make one.
    run: Mutex<Run>,
}

#[derive(Debug)]
struct Run {
    /// What is reserved and not given yet.
    rest: Range<u64>,
    /// How long the next one is to be.
    next: u64,
    /// When it was reserved.
    since: Duration,
}

impl Counter {
    pub fn new(store: Arc<dyn Store>, environment: &Environment, name: impl Into<String>) -> Self {
        Self {
            store,
            environment: environment.clone(),
            name: name.into(),
            run: Mutex::new(Run { rest: 0..0, next: RUN, since: Duration::ZERO }),
        }
    }

    /// The next number that nobody has.
    ///
    /// # Errors
    /// As [`reserve`].
    pub async fn next(&self) -> Result<u64, store::Error> {
        let mut run = self.run.lock().await;
        if run.rest.is_empty() {
            let now = self.environment.clock.boottime();
            let short = !run.since.is_zero() && now.saturating_sub(run.since) < SHORT;
            run.next = if short { (run.next * 2).min(LONGEST_RUN) } else { RUN };
            run.rest = reserve(self.store.as_ref(), &self.environment, &self.name, run.next).await?;
            run.since = now;
        }
        let number = run.rest.start;
        run.rest.start += 1;
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::simulated::{Simulated, Weather};
    use std::collections::BTreeSet;

    /// 40 agents want numbers at the same time, again and again, and a message takes up to 5 ms.
    #[tokio::test(start_paused = true)]
    async fn many_that_want_numbers_at_once_all_get_them() {
        const AGENTS: u64 = 40;
        const TIMES: u64 = 20;
        let environment = Environment::system().unwrap();
        let server = Simulated::new(&environment);
        server.set_weather(Weather { latency: Duration::from_millis(5), ..Weather::still() });
        let mut agents = tokio::task::JoinSet::new();
        for agent in 0..AGENTS {
            let (store, environment) = (server.client(&format!("agent-{agent}")), environment.clone());
            agents.spawn(async move {
                let mut all = Vec::new();
                for _ in 0..TIMES {
                    all.push(reserve(&store, &environment, "instance", 10).await.unwrap());
                }
                all
            });
        }
        let given: Vec<u64> = agents.join_all().await.into_iter().flatten().flatten().collect();
        assert_eq!(given.len() as u64, AGENTS * TIMES * 10);
        assert_eq!(given.iter().collect::<BTreeSet<_>>().len(), given.len(), "a number was given twice");
        assert_eq!(given.iter().max(), Some(&(AGENTS * TIMES * 10)), "a number was lost");
    }
}
