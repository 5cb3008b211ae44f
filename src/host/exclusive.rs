//! What on this host must not run twice: when it may be started, and that the fence's deadline is kept while there is any.

use crate::compute::supervisor::cgroup::Killer;
use crate::membership::Membership;
use crate::membership::fence::Fence;
use crate::resource::assignment::{Assignment, Desired, Exclusive, Token};
use crate::resource::{Resource, instance};
use crate::store;
use crate::store::ledger::Ledger;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// See the module's text.
#[derive(Debug)]
pub struct Exclusives {
    membership: Membership,
    killer: Arc<dyn Killer>,
    /// Nobody else can ever run it: the store serves one host only.
    alone: bool,
    known: Mutex<BTreeSet<String>>,
}

/// Tells when the host's life is another one than before.
#[derive(Debug)]
pub struct Lives {
    fence: watch::Receiver<Option<Fence>>,
    life: Option<i64>,
}

impl Lives {
    /// Returns with the next life; never where there is none any more.
    pub async fn next(&mut self) {
        let known = self.life;
        let next = self.fence.wait_for(|fence| fence.is_some_and(|fence| Some(fence.life) != known)).await;
        match next.map(|fence| fence.map(|fence| fence.life)) {
            Ok(life) => self.life = life,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Exclusives {
    pub fn new(membership: Membership, killer: Arc<dyn Killer>, alone: bool) -> Self {
        Self { membership, killer, alone, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From what the host ran before this agent.
    pub fn begin(&self, ledger: &Ledger) {
        // One that cannot be read is found again with its claim.
        let assignments = ledger.assignments().map(|(found, _)| found).unwrap_or_default();
        self.known().extend(assignments.into_iter().filter(is_running).map(|known| known.id));
        self.tell();
    }

    pub fn all(&self) -> Vec<String> {
        self.known().iter().cloned().collect()
    }

    pub fn lives(&self) -> Lives {
        let fence = self.membership.fence();
        let life = fence.borrow().map(|fence| fence.life);
        Lives { fence, life }
    }

    pub fn forget(&self, id: &str) {
        self.known().remove(id);
        self.tell();
    }

    fn tell(&self) {
        let any = !self.known().is_empty();
        self.membership.set_exclusive(any);
    }

    /// What its ledger is to say of this: `None` where it may not run now, and is looked at again. `down`: its unit is.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn allowed(
        &self,
        id: &str,
        resource: &Resource,
        token: Token,
        ledger: Option<&Assignment>,
        down: bool,
    ) -> Result<Option<Option<Exclusive>>, store::Error> {
        if self.alone || !instance::is_exclusive(resource) {
            return Ok(Some(None));
        }
        let known = ledger.filter(|ledger| ledger.token == token).and_then(|ledger| ledger.exclusive);
        if instance::desired(resource) != Desired::Running {
            // Its way down may take longer than the fence would leave it.
            if down {
                self.forget(id);
            }
            return Ok(Some(Some(known.unwrap_or(Exclusive { life: 0 }))));
        }
        self.known().insert(id.to_owned());
        // In one life, what was allowed once stays so, unless it was said that it has ended.
        if let (Some(known), Some(fence)) = (known, self.membership.holding())
            && known.life == fence.life
            && !self.membership.has_given_up(token)
        {
            return Ok(Some(Some(known)));
        }
        let life = self.membership.clearance(id, token).await?;
        Ok(life.map(|life| Some(Exclusive { life })))
    }

    /// Whether it may not be started after all: it was asked meanwhile whether it has ended. To be looked at when its last
    /// report is gone; who asks after that sees that it starts.
    pub fn is_given_up(&self, assignment: &Assignment) -> bool {
        assignment.exclusive.is_some() && self.membership.has_given_up(assignment.token)
    }

    /// It is about to be started: its slice takes containers again.
    pub fn lift(&self, id: &str) {
        if self.known().contains(id) {
            self.killer.lift(id);
        }
    }
}

fn is_running(known: &Assignment) -> bool {
    known.exclusive.is_some() && known.desired == Desired::Running
}

/// Whether this ledger has anything of that kind that is to run.
pub fn any(ledger: &Ledger) -> bool {
    ledger.assignments().is_ok_and(|(found, _)| found.iter().any(is_running))
}
