//! Waking what found no host when there may be room for it.
//!
//! Following hosts and promises costs an agent what placing costs it, so it is done only while somebody waits.

use super::fleet::Fleet;
use crate::membership::{IDLE, OnDemand};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Cheap to clone; all clones share one watch.
#[derive(Clone, Debug)]
pub struct Room {
    fleet: OnDemand<Arc<Fleet>>,
    task: Arc<Mutex<Weak<Task>>>,
}

/// Tells of room as long as it lives.
#[derive(Clone, Debug)]
pub struct RoomWatch {
    changes: watch::Receiver<u64>,
    _task: Arc<Task>,
}

#[derive(Debug)]
struct Task {
    changes: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Room {
    pub(super) fn new(fleet: OnDemand<Arc<Fleet>>) -> Self {
        Self { fleet, task: Arc::default() }
    }

    /// From now on. To be called on a runtime.
    pub fn watch(&self) -> RoomWatch {
        let mut known = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        let task = known.upgrade().unwrap_or_else(|| {
            let (tell, changes) = watch::channel(0);
            let fleet = self.fleet.clone();
            let task = tokio::spawn(async move {
                let mut keep = tokio::time::interval(IDLE / 2);
                let current = fleet.get();
                let told = current.watch_room(|| tell.send_modify(|count| *count += 1));
                tokio::pin!(told);
                loop {
                    tokio::select! {
                        () = &mut told => return,
                        // In use: those that are woken place by the same fleet.
                        _ = keep.tick() => drop(fleet.get()),
                    }
                }
            });
            Arc::new(Task { changes, task })
        });
        *known = Arc::downgrade(&task);
        RoomWatch { changes: task.changes.clone(), _task: task }
    }
}

impl RoomWatch {
    /// Waits until there may be more room than when it was last asked.
    pub async fn next(&mut self) {
        if self.changes.changed().await.is_err() {
            // It lives as long as this does.
            std::future::pending::<()>().await;
        }
    }
}
