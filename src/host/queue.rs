//! Which instances are to be looked at: each in one slot, never in two at once, looked at again where something happened
//! meanwhile.

use futures::FutureExt;
use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::task::JoinSet;

const AFTER_PANIC: Duration = Duration::from_secs(5);

/// When to look again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Only when something happens.
    OnChange,
    After(Duration),
}

/// See the module's text.
#[derive(Debug)]
pub struct Queue {
    most: usize,
    waiting: BTreeSet<String>,
    /// Those being looked at, and whether something happened since.
    busy: HashMap<String, bool>,
    tasks: JoinSet<(String, Again)>,
    timers: JoinSet<String>,
}

impl Queue {
    /// `most` are looked at side by side.
    pub fn new(most: usize) -> Self {
        Self { most, waiting: BTreeSet::new(), busy: HashMap::new(), tasks: JoinSet::new(), timers: JoinSet::new() }
    }

    /// Something happened to `id`.
    pub fn wake(&mut self, id: String) {
        match self.busy.get_mut(&id) {
            Some(again) => *again = true,
            None => {
                self.waiting.insert(id);
            }
        }
    }

    /// Starts as many looks as there is room for.
    pub fn start<F>(&mut self, mut look: impl FnMut(String) -> F)
    where
        F: Future<Output = Again> + Send + 'static,
    {
        while self.busy.len() < self.most {
            let Some(id) = self.waiting.pop_first() else { return };
            self.busy.insert(id.clone(), false);
            let work = look(id.clone());
            self.tasks.spawn(async move {
                // A panic is a defect, but this instance's alone.
                let again = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
                    tracing::error!(instance = id, "looking at it ended in a panic");
                    Again::After(AFTER_PANIC)
                });
                (id, again)
            });
        }
    }

    /// Waits for a look to end or a timer to run out; never returns where there is neither.
    pub async fn step(&mut self) {
        let (tasks, timers) = (&mut self.tasks, &mut self.timers);
        tokio::select! {
            // An aborted task is only seen while everything ends.
            Some(Ok((id, again))) = tasks.join_next() => self.ended(id, again),
            Some(Ok(id)) = timers.join_next() => self.wake(id),
            else => std::future::pending().await,
        }
    }

    fn ended(&mut self, id: String, again: Again) {
        let woken = self.busy.remove(&id).unwrap_or(false);
        match (woken, again) {
            (true, _) => self.wake(id),
            (false, Again::After(pause)) => {
                self.timers.spawn(async move {
                    tokio::time::sleep(pause).await;
                    id
                });
            }
            (false, Again::OnChange) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pending(queue: &Queue) -> usize {
        queue.waiting.len() + queue.busy.len()
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_never_looked_at_twice_at_once_and_no_wake_is_lost() {
        let mut queue = Queue::new(4);
        let (inside, looks) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let look = |_: String| {
            let (inside, looks) = (inside.clone(), looks.clone());
            async move {
                assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0, "two looks at one instance");
                tokio::time::sleep(Duration::from_millis(10)).await;
                inside.fetch_sub(1, Ordering::SeqCst);
                looks.fetch_add(1, Ordering::SeqCst);
                Again::OnChange
            }
        };
        queue.wake("1i1".into());
        queue.start(look);
        queue.wake("1i1".into());
        queue.wake("1i1".into());
        while pending(&queue) > 0 {
            queue.start(look);
            queue.step().await;
        }
        assert_eq!(looks.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn it_looks_again_after_a_while_where_asked_to() {
        let mut queue = Queue::new(1);
        queue.wake("1i1".into());
        queue.start(|_| async { Again::After(Duration::from_secs(3)) });
        queue.step().await;
        assert_eq!(pending(&queue), 0);
        let before = tokio::time::Instant::now();
        queue.step().await;
        assert_eq!(pending(&queue), 1);
        assert!(before.elapsed() >= Duration::from_secs(3));
    }
}
