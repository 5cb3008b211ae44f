//! Something that is started when it is first asked for and dropped when nobody asked for a while.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// See the module's text. Cheap to clone; all clones share what was started.
pub struct OnDemand<T> {
    slot: Arc<Mutex<Option<Used<T>>>>,
    idle: Duration,
    start: Arc<dyn Fn() -> T + Send + Sync>,
}

struct Used<T> {
    value: T,
    last: Instant,
}

impl<T> Clone for OnDemand<T> {
    fn clone(&self) -> Self {
        Self { slot: self.slot.clone(), idle: self.idle, start: self.start.clone() }
    }
}

impl<T> fmt::Debug for OnDemand<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDemand").field("started", &self.is_started()).field("idle", &self.idle).finish()
    }
}

impl<T> OnDemand<T> {
    /// Whether there is one now.
    pub fn is_started(&self) -> bool {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

impl<T: Clone + Send + 'static> OnDemand<T> {
    pub fn new(idle: Duration, start: impl Fn() -> T + Send + Sync + 'static) -> Self {
        Self { slot: Arc::default(), idle, start: Arc::new(start) }
    }

    /// The one there is, or a new one. To be called on a runtime.
    pub fn get(&self) -> T {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = slot.as_mut() {
            used.last = Instant::now();
            return used.value.clone();
        }
        let value = (self.start)();
        *slot = Some(Used { value: value.clone(), last: Instant::now() });
        let (weak, idle) = (Arc::downgrade(&self.slot), self.idle);
        tokio::spawn(async move {
            let mut due = Instant::now() + idle;
            loop {
                tokio::time::sleep_until(due).await;
                let Some(slot) = weak.upgrade() else { return };
                let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
                match slot.as_ref() {
                    Some(used) if used.last + idle > Instant::now() => due = used.last + idle,
                    _ => {
                        *slot = None;
                        return;
                    }
                }
            }
        });
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test(start_paused = true)]
    async fn kept_while_used_and_dropped_when_idle() {
        let starts = Arc::new(AtomicUsize::new(0));
        let counted = starts.clone();
        let demand = OnDemand::new(Duration::from_secs(600), move || counted.fetch_add(1, Ordering::SeqCst));
        for _ in 0..5 {
            assert_eq!(demand.get(), 0);
            tokio::time::sleep(Duration::from_secs(400)).await;
        }
        assert!(demand.is_started());
        tokio::time::sleep(Duration::from_secs(601)).await;
        assert!(!demand.is_started());
        assert_eq!(demand.get(), 1);
    }
}
