//! What happened lately, and those who follow it.
//!
//! A follower has a place of its own in the one history, so nobody keeps a queue for it: who is slow is not waited for, and in
//! the end told that the history is compacted.

use super::Live;
use crate::store::draft::Written;
use crate::store::{Change, Error, Revision, Watch, WatchEvent};
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// As many revisions are kept, unless they are large.
const REVISIONS: usize = 8192;
/// As many bytes of values are kept.
const BYTES: usize = 64 << 20;
/// A follower takes so many at a time.
const AT_ONCE: usize = 256;

/// Every revision after `compacted`.
#[derive(Debug)]
pub(super) struct History {
    compacted: Revision,
    log: VecDeque<(Revision, Vec<Change>)>,
    bytes: usize,
}

fn bytes(changes: &[Change]) -> usize {
    let value = |change: &Change| match change {
        Change::Put(entry) => entry.value.len(),
        Change::Deleted { .. } => 0,
    };
    changes.iter().map(|change| change.key().len() + value(change)).sum()
}

impl History {
    pub(super) fn after(revision: Revision) -> Self {
        Self { compacted: revision, log: VecDeque::new(), bytes: 0 }
    }

    pub(super) fn push(&mut self, written: &Written) {
        for (revision, changes) in &written.revisions {
            self.bytes += bytes(changes);
            self.log.push_back((*revision, changes.clone()));
        }
        while self.log.len() > REVISIONS || self.bytes > BYTES {
            if !self.forget_oldest() {
                break;
            }
        }
    }

    /// Forgets everything up to and with `revision`.
    pub(super) fn compact(&mut self, revision: Revision) {
        while self.log.front().is_some_and(|(oldest, _)| *oldest <= revision) {
            self.forget_oldest();
        }
        self.compacted = self.compacted.max(revision);
    }

    /// Whether there was one.
    fn forget_oldest(&mut self) -> bool {
        let Some((revision, changes)) = self.log.pop_front() else { return false };
        self.bytes -= bytes(&changes);
        self.compacted = revision;
        true
    }

    /// Whether all since `from` is still there.
    pub(super) fn check(&self, from: Revision) -> Result<(), Error> {
        if from <= self.compacted { Err(Error::Compacted { revision: self.compacted }) } else { Ok(()) }
    }

    /// From `from` on what concerns `prefix`, not too much of it, and where to go on.
    fn events(&self, prefix: &str, from: Revision) -> Result<(VecDeque<WatchEvent>, Revision), Error> {
        self.check(from)?;
        let (mut found, mut next) = (VecDeque::new(), from);
        for (revision, changes) in self.log.range(self.log.partition_point(|(revision, _)| *revision < from)..) {
            let changes: Vec<Change> =
                changes.iter().filter(|change| change.key().starts_with(prefix)).cloned().collect();
            if !changes.is_empty() {
                found.push_back(WatchEvent::Changed { revision: *revision, changes });
            }
            next = Revision(revision.0 + 1);
            if found.len() == AT_ONCE {
                break;
            }
        }
        Ok((found, next))
    }
}

/// One watch's place in the history.
pub(super) struct Follower {
    live: Arc<RwLock<Live>>,
    newest: watch::Receiver<Revision>,
    prefix: String,
    next: Revision,
    pending: VecDeque<WatchEvent>,
    ended: bool,
}

impl Follower {
    pub(super) fn new(
        live: Arc<RwLock<Live>>,
        newest: watch::Receiver<Revision>,
        prefix: &str,
        next: Revision,
    ) -> Self {
        Self { live, newest, prefix: prefix.to_owned(), next, pending: VecDeque::new(), ended: false }
    }

    pub(super) fn into_watch(self) -> Watch {
        futures::stream::unfold(self, |mut this| async { this.event().await.map(|event| (event, this)) }).boxed()
    }

    async fn event(&mut self) -> Option<Result<WatchEvent, Error>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            // Seen before it is looked at, so that nothing comes unnoticed in between.
            self.newest.borrow_and_update();
            let looked = {
                let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
                live.history.events(&self.prefix, self.next)
            };
            match looked {
                Ok((found, next)) if found.is_empty() => {
                    self.next = next;
                    self.newest.changed().await.ok()?;
                }
                Ok((found, next)) => (self.pending, self.next) = (found, next),
                Err(error) => {
                    self.ended = true;
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn written(revision: i64, size: usize) -> Written {
        let deleted = Change::Deleted { key: "k".repeat(size), revision: Revision(revision) };
        Written {
            revision: Revision(revision),
            entries: BTreeMap::new(),
            revisions: vec![(Revision(revision), vec![deleted])],
        }
    }

    #[test]
    fn it_forgets_what_is_old_and_says_so() {
        let mut history = History::after(Revision(10));
        let last = 10 + REVISIONS as i64 + 5;
        (11..=last).for_each(|revision| history.push(&written(revision, 1)));
        let Err(Error::Compacted { revision }) = history.events("", Revision(15)) else { panic!() };
        assert_eq!(revision, Revision(15));
        let (found, next) = history.events("", Revision(16)).unwrap();
        assert_eq!((found.len(), next), (AT_ONCE, Revision(16 + AT_ONCE as i64)));
        assert_eq!(history.events("other", Revision(16)).unwrap(), (VecDeque::new(), Revision(last + 1)));
    }

    #[test]
    fn large_values_shorten_it() {
        let mut history = History::after(Revision(0));
        (1..=100).for_each(|revision| history.push(&written(revision, 1 << 20)));
        assert_eq!(history.log.len(), BYTES >> 20);
        assert!(history.check(Revision(100)).is_ok());
    }
}
