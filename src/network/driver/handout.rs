//! Giving out the addresses that this host keeps for Docker ([`super::super::spares`]).
//!
//! Between the request for an address and the making of its link it is promised here, in memory: whatever is lost with this
//! process, the link decides.

use super::super::spares::Kept;
use crate::environment::Environment;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long one is promised: longer than Docker takes from asking for it to making a link of it.
const PROMISE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    promised: BTreeMap<Ipv4Addr, Duration>,
    /// Given out last: who had an address a moment ago may be remembered at it, so the next one gets another.
    last: Option<Ipv4Addr>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Handout {
    directory: PathBuf,
    environment: Environment,
    state: Mutex<State>,
}

/// What became of a request.
#[derive(Debug, PartialEq, Eq)]
pub enum Given {
    Address(Ipv4Addr),
    /// None is kept here.
    NoneKept,
    /// All that are kept are in use, also a while later.
    AllUsed,
    /// The one that was asked for is.
    InUse,
    /// The one that was asked for is not kept here.
    NotKept,
}

impl Handout {
    pub fn new(directory: &Path, environment: Environment) -> Self {
        Self { directory: directory.to_owned(), environment, state: Mutex::default() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises one, the one `asked` for or any; `used` have links.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub fn give(&self, asked: Option<Ipv4Addr>, used: &BTreeSet<Ipv4Addr>) -> io::Result<Given> {
        let kept = self.kept()?.addresses;
        Ok(self.promise(asked, &kept, used, self.environment.clock.boottime()))
    }

    fn promise(
        &self,
        asked: Option<Ipv4Addr>,
        kept: &BTreeSet<Ipv4Addr>,
        used: &BTreeSet<Ipv4Addr>,
        now: Duration,
    ) -> Given {
        let mut state = self.state();
        state.promised.retain(|address, since| !used.contains(address) && now.saturating_sub(*since) < PROMISE);
        let free = |address: &&Ipv4Addr| !used.contains(*address) && !state.promised.contains_key(*address);
        let found = match asked {
            Some(asked) if !kept.contains(&asked) => return Given::NotKept,
            Some(asked) => Some(asked).filter(|asked| free(&asked)),
            None => {
                let behind = kept.iter().filter(|address| state.last.is_some_and(|last| **address > last));
                behind.chain(kept).find(free).copied()
            }
        };
        match found {
            Some(address) => {
                state.promised.insert(address, now);
                state.last = Some(address);
                Given::Address(address)
            }
            None if asked.is_some() => Given::InUse,
            None if kept.is_empty() => Given::NoneKept,
            None => Given::AllUsed,
        }
    }

    /// It has a link by now, or is not wanted any more.
    pub fn settle(&self, address: Ipv4Addr) {
        self.state().promised.remove(&address);
    }

    /// What is kept here.
    ///
    /// # Errors
    /// Where that is there and cannot be read.
    pub fn kept(&self) -> io::Result<Kept> {
        Kept::load(&self.directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 42, 7, last)
    }

    fn set(last: &[u8]) -> BTreeSet<Ipv4Addr> {
        last.iter().copied().map(address).collect()
    }

    #[test]
    fn each_is_promised_once_and_the_one_that_was_free_longest_goes_first() {
        let handout = Handout::new(Path::new("/nowhere"), Environment::system().unwrap());
        let (kept, second) = (set(&[2, 3, 4]), Duration::from_secs(1));
        let give =
            |asked: Option<u8>, used: &[u8], now: Duration| handout.promise(asked.map(address), &kept, &set(used), now);
        assert_eq!(give(None, &[], second), Given::Address(address(2)));
        assert_eq!(give(None, &[], second), Given::Address(address(3)));
        handout.settle(address(2));
        assert_eq!(give(None, &[3], second), Given::Address(address(4)), "2 was in use a moment ago");
        assert_eq!(give(Some(4), &[3], second), Given::InUse);
        assert_eq!(give(Some(9), &[3], second), Given::NotKept);
        assert_eq!(give(None, &[3], second), Given::Address(address(2)));
        assert_eq!(give(None, &[3], second), Given::AllUsed);
        assert_eq!(give(None, &[2, 3], second + PROMISE), Given::Address(address(4)), "nobody came for it");
        assert_eq!(handout.promise(None, &set(&[]), &set(&[]), second), Given::NoneKept);
    }
}
