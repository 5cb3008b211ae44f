//! The first start of an instance, by the agent itself.
//!
//! People wait for a start, nobody waits for its supervisor: systemd's work for a unit and the supervisor's own beginning
//! would take processor time that Docker needs in that moment. So the agent makes and starts the container, writes down
//! that it runs, and has the unit begun after that; where several first starts are under way, once they are over. The
//! supervisor goes on from what is written: it takes over what runs, and what has ended meanwhile it does not start again.
//!
//! Where this fails the supervisor does all of it, and says why it cannot. Exclusive work is made only: it starts under its
//! supervisor's timer or not at all.

use super::chain;
use crate::compute::{self, Driver, Observed};
use crate::environment::Environment;
use crate::resource::assignment::Assignment;
use crate::store::ledger::{Ledger, Phase, Report};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long Docker is waited for; longer than a burst of starts takes it. Past that the unit is begun all the same, and
/// whatever is asked for meanwhile is heard.
const PATIENCE: Duration = Duration::from_secs(10);

/// Those that are under way on this host.
#[derive(Clone, Debug, Default)]
pub struct Firsts {
    /// How many are waited for.
    waited_for: Arc<AtomicUsize>,
    /// What Docker was asked for and has not done, waited for or not, by instance.
    asked: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Firsts {
    /// Whether one is under way that is waited for.
    pub fn busy(&self) -> bool {
        self.waited_for.load(Ordering::Relaxed) > 0
    }

    /// Whether Docker may make or start it yet, since it was asked to: until that is over nobody can say that it does not run.
    pub fn goes_on(&self, id: &str) -> bool {
        asked(&self.asked).contains_key(id)
    }

    /// Starts it, and writes down that it runs (or has run already); `None` where that is left to its supervisor.
    pub async fn start(
        &self,
        driver: &Arc<dyn Driver>,
        ledger: &Ledger,
        environment: &Environment,
        assignment: &Assignment,
    ) -> Option<Phase> {
        let begun = environment.clock.boottime();
        let _waited_for = WaitedFor::new(&self.waited_for);
        let (on, what) = (driver.clone(), assignment.clone());
        let under_way = Asked::new(&self.asked, &assignment.id);
        if assignment.workload.is_machine() {
            // Its image may have to come first; and what a qemu takes to start makes a supervisor's own start small.
            return None;
        }
        if assignment.exclusive.is_some() {
            // Beside systemd, which takes longer to bring up its supervisor than Docker to make it.
            tokio::spawn(async move {
                let _under_way = under_way;
                if let Err(error) = on.ensure_created(&what).await {
                    tracing::debug!(instance = what.id, error = chain(&error), "left to its supervisor");
                }
            });
            return None;
        }
        // Not cut short: Docker would go on without us, and the next who looks would meet it half done.
        let waiting = CancellationToken::new();
        let given_up = waiting.clone();
        let work = tokio::spawn(async move {
            let _under_way = under_way;
            make(&*on, &what, &given_up).await
        });
        let found = match tokio::time::timeout(PATIENCE, work).await {
            Ok(Ok(Ok(found))) => found?,
            Ok(Ok(Err(error))) => {
                tracing::debug!(instance = assignment.id, error = chain(&error), "left to its supervisor");
                return None;
            }
            Ok(Err(_)) | Err(_) => {
                waiting.cancel();
                tracing::warn!(instance = assignment.id, "Docker takes its time; left to its supervisor");
                return None;
            }
        };
        let phase = Phase::Running { external_id: found.external_id, started_at: found.started_at.unwrap_or_default() };
        let taken = environment.clock.boottime().saturating_sub(begun);
        let report = Report {
            boot_id: environment.identity.boot_id.clone(),
            generation: assignment.generation,
            phase: phase.clone(),
            timings: vec![("start".to_owned(), u64::try_from(taken.as_millis()).unwrap_or(u64::MAX))],
            short_runs: 0,
            left: false,
        };
        if let Err(error) = ledger.put_report(&assignment.id, &report) {
            tracing::warn!(instance = assignment.id, error = chain(&error), "that it runs cannot be written down");
            return None;
        }
        Some(phase)
    }
}

/// Makes it and, unless that was given up meanwhile, starts it; what Docker says of it then.
async fn make(
    driver: &dyn Driver,
    assignment: &Assignment,
    given_up: &CancellationToken,
) -> Result<Option<Observed>, compute::Error> {
    let created = driver.ensure_created(assignment).await?;
    if given_up.is_cancelled() {
        return Ok(None);
    }
    if !created.running {
        driver.start(&created.external_id).await?;
    }
    driver.look(&created.external_id).await
}

fn asked(all: &Mutex<BTreeMap<String, usize>>) -> MutexGuard<'_, BTreeMap<String, usize>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts for as long as it lives.
struct WaitedFor<'a>(&'a AtomicUsize);

impl<'a> WaitedFor<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for WaitedFor<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Docker is at it for as long as this lives.
struct Asked {
    all: Arc<Mutex<BTreeMap<String, usize>>>,
    id: String,
}

impl Asked {
    fn new(all: &Arc<Mutex<BTreeMap<String, usize>>>, id: &str) -> Self {
        *asked(all).entry(id.to_owned()).or_default() += 1;
        Self { all: all.clone(), id: id.to_owned() }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut all = asked(&self.all);
        if let Some(count) = all.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::simulated::{Gait, NoWitness, Simulated};

    #[tokio::test(start_paused = true)]
    async fn what_is_not_waited_for_any_more_is_not_started_and_known_until_docker_is_done_with_it() {
        let environment = Environment::system().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        let daemon = Simulated::new(&environment, "h1", Gait::default(), Arc::new(NoWitness));
        let driver: Arc<dyn Driver> = Arc::new(daemon.clone());
        driver.pull(&Assignment::example("1i1"), &|_| {}).await.unwrap();
        let firsts = Firsts::default();
        let start = |id| {
            let (firsts, driver, ledger, environment) = (&firsts, &driver, &ledger, &environment);
            async move { firsts.start(driver, ledger, environment, &Assignment::example(id)).await }
        };
        assert!(matches!(start("1i1").await, Some(Phase::Running { .. })));
        assert!(!firsts.goes_on("1i1") && !firsts.busy());

        daemon.hang();
        assert_eq!(start("1i2").await, None);
        assert!(firsts.goes_on("1i2") && !firsts.goes_on("1i1") && !firsts.busy());
        daemon.answer();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!firsts.goes_on("1i2"));
        let made = driver.observe("1i2").await.unwrap().unwrap();
        assert!(!made.running, "it was made while nobody waited any more, and not started");
    }
}
