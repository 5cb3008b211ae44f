//! What the stores of one agent have in common: which member they use, and a suspicion that it is silent.
//!
//! An agent at rest asks nothing over the connection that its watches are on, so that it would learn only by pings that the
//! member behind it is lost, and etcd takes no more of them than one in five seconds. But it keeps a lease alive, often. So whoever
//! gets no answer tells the others, who then ask.

use super::EtcdOptions;
use crate::environment::Environment;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// No member was chosen yet.
const NONE: usize = usize::MAX;

/// See the module's text. Clones are of the same; for stores with the same endpoints.
#[derive(Clone, Debug)]
pub struct Members(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: AtomicUsize,
    suspicion: watch::Sender<u64>,
}

impl Default for Members {
    fn default() -> Self {
        Self(Arc::new(Shared { current: AtomicUsize::new(NONE), suspicion: watch::Sender::new(0) }))
    }
}

impl Members {
    /// The member to use; the first time any of them.
    pub(super) fn current(&self, options: &EtcdOptions, environment: &Environment) -> usize {
        let any = environment.below(options.endpoints.len());
        match self.0.current.compare_exchange(NONE, any, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => any,
            Err(chosen) => chosen,
        }
    }

    /// On from this member to the next, unless somebody else was quicker; all others shall look how theirs are.
    pub(super) fn leave(&self, member: usize, of: usize) {
        let next = (member + 1) % of.max(1);
        // Who was quicker has chosen another already.
        let _ = self.0.current.compare_exchange(member, next, Ordering::Relaxed, Ordering::Relaxed);
        self.0.suspicion.send_modify(|count| *count += 1);
    }

    /// The member to use now.
    pub(super) fn now(&self) -> usize {
        self.0.current.load(Ordering::Relaxed)
    }

    /// Tells of each suspicion from now on.
    pub(super) fn suspicion(&self) -> watch::Receiver<u64> {
        self.0.suspicion.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_go_on_to_the_next_member_once() {
        let environment = Environment::system().unwrap();
        let options = EtcdOptions { endpoints: vec![String::new(); 3], ..EtcdOptions::default() };
        let (one, two) = (options.members.clone(), options.members.clone());
        let first = one.current(&options, &environment);
        assert_eq!(two.current(&options, &environment), first);
        let suspicion = two.suspicion();
        one.leave(first, 3);
        two.leave(first, 3);
        assert_eq!(two.now(), (first + 1) % 3);
        assert!(suspicion.has_changed().unwrap());
    }
}
