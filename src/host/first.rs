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
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long Docker is waited for; longer than a burst of starts takes it. Past that the unit is begun all the same, and
/// whatever is asked for meanwhile is heard.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many are under way on this host.
#[derive(Clone, Debug, Default)]
pub struct Firsts(Arc<AtomicUsize>);

impl Firsts {
    /// Whether one is under way.
    pub fn busy(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
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
        let _under_way = UnderWay::new(self);
        let (on, what) = (driver.clone(), assignment.clone());
        if assignment.exclusive.is_some() {
            // Beside systemd, which takes longer to bring up its supervisor than Docker to make it.
            tokio::spawn(async move {
                if let Err(error) = on.ensure_created(&what).await {
                    tracing::debug!(instance = what.id, error = chain(&error), "left to its supervisor");
                }
            });
            return None;
        }
        // Not cut short: Docker would go on without us, and the next who looks would meet it half done.
        let work = tokio::spawn(async move { make(&*on, &what).await });
        let found = match tokio::time::timeout(PATIENCE, work).await {
            Ok(Ok(Ok(found))) => found?,
            Ok(Ok(Err(error))) => {
                tracing::debug!(instance = assignment.id, error = chain(&error), "left to its supervisor");
                return None;
            }
            Ok(Err(_)) | Err(_) => {
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
        };
        if let Err(error) = ledger.put_report(&assignment.id, &report) {
            tracing::warn!(instance = assignment.id, error = chain(&error), "that it runs cannot be written down");
            return None;
        }
        Some(phase)
    }
}

/// Makes and starts it; what Docker says of it then.
async fn make(driver: &dyn Driver, assignment: &Assignment) -> Result<Option<Observed>, compute::Error> {
    let created = driver.ensure_created(assignment).await?;
    if !created.running {
        driver.start(&created.external_id).await?;
    }
    driver.look(&created.external_id).await
}

/// Counts for as long as it lives.
struct UnderWay<'a>(&'a Firsts);

impl<'a> UnderWay<'a> {
    fn new(firsts: &'a Firsts) -> Self {
        firsts.0.fetch_add(1, Ordering::Relaxed);
        Self(firsts)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
