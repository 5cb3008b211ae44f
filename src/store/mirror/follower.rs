//! What keeps a mirror as its prefix is: lists, watches, and now and then looks whether the watch told everything.
//!
//! The audit does not disturb: a list at revision r goes into the view while the watch goes on, and what the watch then tells up to
//! r is in already. But it must tell it: keys that the audit had to change are owed by the watch, and where they do not
//! come, it is given up for a new one.

use super::{Freshness, Shared};
use crate::environment::{Backoff, Environment};
use crate::store::{Difference, Entry, Error, Revision, Store, Watch, WatchEvent, key};
use futures::{FutureExt, StreamExt};
use serde::de::DeserializeOwned;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// An audit this often, against watches that lose events silently.
const AUDIT: Duration = Duration::from_secs(300);
/// A watch that is this far behind an audit has lost something.
const GRACE: Duration = Duration::from_secs(10);
/// A list that is this old when its watch stands is looked over. Less than what counts as recent to who reads.
const LATE: Duration = Duration::from_millis(500);
/// The delays after failures. A watch that lasted longer than the most was a good one: the next failure is a first one.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

pub(super) struct Follower<T> {
    shared: Arc<Shared<T>>,
    store: Arc<dyn Store>,
    environment: Environment,
}

/// What the watch still has to tell of what an audit found.
#[derive(Default)]
struct Owed {
    keys: BTreeSet<String>,
    until: Option<Instant>,
}

impl<T: DeserializeOwned + Debug + Send + Sync + 'static> Follower<T> {
    pub(super) fn new(shared: Arc<Shared<T>>, store: Arc<dyn Store>, environment: &Environment) -> Self {
        Self { shared, store, environment: environment.clone() }
    }

    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(&self.environment, BACKOFF.0, BACKOFF.1);
        let mut told = false;
        loop {
            let error = match self.list().await {
                Ok((watch, listed)) => {
                    if std::mem::take(&mut told) && !self.shared.one_of_many {
                        tracing::info!(prefix = self.shared.prefix, "the store is followed again");
                    }
                    let began = Instant::now();
                    let error = self.follow(watch, listed).await;
                    if began.elapsed() > BACKOFF.1 {
                        backoff.reset();
                    }
                    error
                }
                Err(error) => error,
            };
            self.blind();
            // A compacted history is everyday: nothing to tell.
            if !matches!(error, Error::Compacted { .. }) && !std::mem::replace(&mut told, true) {
                if self.shared.one_of_many {
                    tracing::debug!(prefix = self.shared.prefix, %error, "cannot follow the store");
                } else {
                    tracing::warn!(prefix = self.shared.prefix, %error, "cannot follow the store; showing what is known");
                }
            }
            tokio::select! {
                () = backoff.wait() => {}
                () = self.shared.hurry.notified() => {}
            }
        }
    }

    fn blind(&self) {
        let now = self.environment.clock.boottime();
        self.shared.freshness.send_modify(|freshness| {
            freshness.stale_since.get_or_insert(now);
        });
    }

    /// Nothing is missed up to now.
    fn heard(&self, besides: impl FnOnce(&mut Freshness)) {
        let now = self.environment.clock.boottime();
        self.shared.freshness.send_modify(|freshness| {
            freshness.heard = now;
            besides(freshness);
        });
    }

    /// What is listed is shown even where the watch then does not come about; it stays marked stale.
    async fn list(&self) -> Result<(Watch, Revision), Error> {
        let begun = self.environment.clock.boottime();
        let snapshot = self.store.range(&self.shared.prefix).await?;
        self.shared.replace(&snapshot.entries, snapshot.revision);
        let mut listed = snapshot.revision;
        let watch = self.store.watch(&self.shared.prefix, Revision(listed.0 + 1)).await?;
        // What was written until the watch stood is still to come: where that took long, what is shown is older than it is said to be.
        if self.environment.clock.boottime().saturating_sub(begun) > LATE {
            listed = self.audit(listed).await?.0;
        }
        self.heard(|freshness| freshness.stale_since = None);
        Ok((watch, listed))
    }

    /// `listed` is the revision up to which everything is in, whatever the watch still tells of it.
    async fn follow(&self, mut watch: Watch, mut listed: Revision) -> Error {
        let mut owed = Owed::default();
        let mut audit = Instant::now() + self.environment.jitter(AUDIT);
        loop {
            let alarm = owed.until.unwrap_or(audit);
            tokio::select! {
                event = watch.next() => {
                    if let Err(error) = self.told(event, listed, &mut owed) {
                        return error;
                    }
                }
                () = self.shared.asked.notified() => {
                    self.store.attend().await;
                    // A watch that was ended now says so, after all that had come.
                    while let Some(event) = watch.next().now_or_never() {
                        if let Err(error) = self.told(event, listed, &mut owed) {
                            return error;
                        }
                    }
                    self.heard(|_| ());
                }
                () = tokio::time::sleep_until(alarm) => {
                    if !owed.keys.is_empty() {
                        let message = format!("the watch lost a change to {:?}", owed.keys.first());
                        return Error::Unavailable { message };
                    }
                    match self.audit(listed).await {
                        Ok((revision, keys)) => {
                            listed = revision;
                            owed.until = (!keys.is_empty()).then(|| Instant::now() + GRACE);
                            owed.keys = keys;
                        }
                        Err(error) => return error,
                    }
                    audit = Instant::now() + self.environment.jitter(AUDIT);
                }
            }
        }
    }

    fn told(&self, event: Option<Result<WatchEvent, Error>>, listed: Revision, owed: &mut Owed) -> Result<(), Error> {
        let event = event.unwrap_or_else(|| Err(Error::Unavailable { message: "the watch ended".into() }));
        self.event(event?, listed, owed)
    }

    fn event(&self, event: WatchEvent, listed: Revision, owed: &mut Owed) -> Result<(), Error> {
        match event {
            WatchEvent::Changed { revision, changes } if revision <= listed => {
                for change in &changes {
                    owed.keys.remove(key::last(&self.shared.prefix, change.key()));
                }
                if owed.keys.is_empty() {
                    owed.until = None;
                }
            }
            WatchEvent::Changed { revision, changes } => {
                let known = self.shared.freshness.borrow().revision;
                if revision <= known {
                    let message = format!("the watch went back from revision {known} to {revision}");
                    return Err(Error::Unavailable { message });
                }
                self.shared.apply(&changes, revision);
            }
            WatchEvent::Progress { revision } => {
                self.heard(|freshness| freshness.revision = freshness.revision.max(revision));
            }
        }
        Ok(())
    }

    /// Compares the view with all that was written since `listed`; where they differ, lists all. Up to which revision
    /// everything is in then, and the keys that were not as they should be.
    async fn audit(&self, listed: Revision) -> Result<(Revision, BTreeSet<String>), Error> {
        let known = self.shared.freshness.borrow().revision;
        let difference = self.store.changed_since(&self.shared.prefix, listed).await?;
        if difference.revision >= known && self.agrees(&difference) {
            return Ok((difference.revision, BTreeSet::new()));
        }
        let snapshot = self.store.range(&self.shared.prefix).await?;
        if snapshot.revision < known {
            // A restored backup: what is watched is another history.
            let message = format!("the store went back from revision {known} to {}", snapshot.revision);
            return Err(Error::Unavailable { message });
        }
        Ok((snapshot.revision, self.shared.replace(&snapshot.entries, snapshot.revision)))
    }

    fn agrees(&self, difference: &Difference) -> bool {
        let view = self.shared.view.read().unwrap_or_else(PoisonError::into_inner);
        let there = |entry: &Entry| {
            let item = view.get(key::last(&self.shared.prefix, &entry.key));
            item.is_some_and(|item| item.mod_revision == entry.mod_revision)
        };
        difference.count == view.len() && difference.written.iter().all(there)
    }
}
