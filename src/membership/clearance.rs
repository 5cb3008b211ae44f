//! Before anything exclusive is started: is this host's claim on it its own, for certain, and for how long?

use super::Membership;
use super::fence::Fence;
use crate::resource::assignment::Token;
use crate::store::{self, Answer, Entry, Operation, Revision, Transaction, key};
use std::time::Duration;
use tokio::sync::watch;

/// How long the first deadline may take, once keepalives come as often as they must.
const PATIENCE: Duration = Duration::from_secs(2);

impl Membership {
    /// Whether this host runs anything exclusive; from then on the fence's deadline is kept.
    pub fn set_exclusive(&self, exclusive: bool) {
        self.shared.exclusive.send_if_modified(|known| std::mem::replace(known, exclusive) != exclusive);
    }

    /// The fence's deadline as last published by this agent, and its changes.
    pub fn fence(&self) -> watch::Receiver<Option<Fence>> {
        self.shared.fence.clone()
    }

    /// The fence, where it holds now.
    pub fn holding(&self) -> Option<Fence> {
        let now = self.shared.environment.clock.boottime();
        self.shared.fence.borrow().filter(|fence| fence.holds(now))
    }

    /// The life of this host in which it may run `instance` under the claim `token`; `None` where it may not, or not yet.
    ///
    /// Both are read at once, after the deadline was there: as long as the deadline is of this same life, nobody can have
    /// taken the claim away.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn clearance(&self, instance: &str, token: Token) -> Result<Option<i64>, store::Error> {
        self.set_exclusive(true);
        let clock = self.shared.environment.clock.clone();
        let mut fence = self.fence();
        let holding = fence.wait_for(|fence| fence.is_some_and(|fence| fence.holds(clock.boottime())));
        let Ok(Ok(Some(life))) =
            tokio::time::timeout(PATIENCE, holding).await.map(|held| held.map(|held| held.map(|fence| fence.life)))
        else {
            return Ok(None);
        };
        let name = self.host().name.clone();
        let read =
            Transaction::new().then(Operation::get(key::alive(&name))).then(Operation::get(key::on(&name, instance)));
        let outcome = self.shared.store.commit(read).await?;
        let created = |at: usize| outcome.answers.get(at).and_then(entry).map(|entry| entry.create_revision);
        let cleared = created(0) == Some(Revision(life)) && created(1) == Some(Revision(token.revision));
        Ok(cleared.then_some(life))
    }
}

fn entry(answer: &Answer) -> Option<&Entry> {
    match answer {
        Answer::Entries(entries) => entries.first(),
        _ => None,
    }
}
