//! The way between one agent and the store.

use std::sync::Arc;
use tokio::sync::watch;

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Way {
    #[default]
    Open,
    /// What is sent over it is lost, either way.
    Cut,
    /// The agent stands still: what it would send goes when it goes on, and so does what it would hear.
    Held,
    /// The agent is no more: nothing that it waits for ever comes.
    Dead,
}

/// See the module's text. Cheap to clone; all clones are one way.
#[derive(Clone, Debug)]
pub struct Link(Arc<watch::Sender<Way>>);

impl Default for Link {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Way::Open)))
    }
}

impl Link {
    pub fn set(&self, way: Way) {
        self.0.send_if_modified(|now| {
            // From death there is no way back.
            let changes = *now != way && *now != Way::Dead;
            if changes {
                *now = way;
            }
            changes
        });
    }

    pub fn way(&self) -> Way {
        *self.0.borrow()
    }

    /// Waits until something can be sent or heard; whether it comes through. Never returns to the dead.
    pub async fn pass(&self) -> bool {
        match self.way() {
            Way::Open => return true,
            Way::Cut => return false,
            Way::Held | Way::Dead => {}
        }
        self.until(|way| matches!(way, Way::Open | Way::Cut)).await == Way::Open
    }

    /// Waits until the agent goes on, for what needs no way. Never returns to the dead.
    pub async fn awake(&self) {
        if matches!(self.way(), Way::Held | Way::Dead) {
            self.until(|way| matches!(way, Way::Open | Way::Cut)).await;
        }
    }

    /// Waits until it is so.
    pub async fn until(&self, so: impl Fn(Way) -> bool) -> Way {
        let mut way = self.0.subscribe();
        loop {
            let now = *way.borrow_and_update();
            if so(now) {
                return now;
            }
            // The sender is ours, so it changes or never returns.
            if way.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
