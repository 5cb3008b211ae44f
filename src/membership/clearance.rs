//! Before anything exclusive is started: is this host's claim on it its own, for certain, and for how long?

use super::Membership;
use super::fence::Fence;
use crate::resource::assignment::Token;
use crate::store::{self, Answer, Entry, Operation, Revision, Transaction, key};
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long the first deadline may take, once keepalives come as often as they must.
const PATIENCE: Duration = Duration::from_secs(2);

/// Claims of which this host's agent may have said that what ran under them has ended. That may be what a takeover goes by,
/// so nothing is started under one of them before it was read from the store again: a keepalive that was sent before the
/// word, and confirmed after it, proves nothing.
#[derive(Debug, Default)]
pub(super) struct GivenUp(Mutex<HashSet<Token>>);

impl GivenUp {
    fn tokens(&self) -> MutexGuard<'_, HashSet<Token>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Membership {
    /// Before it is looked at whether what ran under these claims has ended, so that it can be said.
    pub fn give_up(&self, tokens: impl IntoIterator<Item = Token>) {
        self.shared.given_up.tokens().extend(tokens);
    }

    /// Whether it may have been said that what ran under this claim has ended, and the claim was not read since.
    pub fn has_given_up(&self, token: Token) -> bool {
        self.shared.given_up.tokens().contains(&token)
    }

    /// Whether this host runs anything exclusive; from then on the fence's deadline is kept.
    pub fn set_exclusive(&self, exclusive: bool) {
        self.shared.set_fenced(|fenced| fenced.instances = exclusive);
    }

    /// Whether this host has floating addresses, or is to have some: the same.
    pub fn set_floating(&self, floating: bool) {
        self.shared.set_fenced(|fenced| fenced.addresses = floating);
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
        // What is said from now on is not known to what is read.
        self.shared.given_up.tokens().remove(&token);
        let cleared = self.read_clearance(instance, token, life).await;
        if !matches!(cleared, Ok(Some(_))) {
            self.give_up([token]);
        }
        cleared
    }

    async fn read_clearance(&self, instance: &str, token: Token, life: i64) -> Result<Option<i64>, store::Error> {
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
