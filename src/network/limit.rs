//! How many questions may wait at once, in all and for one asker: who asks for what takes long keeps nobody else waiting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Limit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    all: usize,
    one: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by: HashMap<IpAddr, usize>,
}

/// A place among those that wait, until it is dropped.
#[derive(Debug)]
pub struct Turn {
    limit: Arc<Inner>,
    asker: IpAddr,
}

impl Limit {
    pub fn new(all: usize, one: usize) -> Self {
        Self(Arc::new(Inner { all, one, waiting: Mutex::default() }))
    }

    /// A place for one more of `asker`; `None` where there is none.
    pub fn take(&self, asker: IpAddr) -> Option<Turn> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let own = waiting.by.get(&asker).copied().unwrap_or(0);
        if waiting.all >= self.0.all || own >= self.0.one {
            return None;
        }
        waiting.all += 1;
        waiting.by.insert(asker, own + 1);
        Some(Turn { limit: self.0.clone(), asker })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = self.limit.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.all -= 1;
        if let Some(own) = waiting.by.get_mut(&self.asker) {
            *own -= 1;
            if *own == 0 {
                waiting.by.remove(&self.asker);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_asker_leaves_room_for_others() {
        let limit = Limit::new(3, 2);
        let [one, two] = ["10.42.7.9", "10.42.7.10"].map(|address| address.parse::<IpAddr>().unwrap());
        let held = (limit.take(one), limit.take(one));
        assert!(held.0.is_some() && held.1.is_some());
        assert!(limit.take(one).is_none(), "its share is used up");
        let other = limit.take(two);
        assert!(other.is_some());
        assert!(limit.take(two).is_none(), "all are");
        drop(held);
        assert!(limit.take(two).is_some());
        drop(other);
        assert!(limit.0.waiting.lock().unwrap().by.is_empty());
    }
}
