//! The kernels of all hosts as far as they lead packets: what floating addresses, published ports and links come to.
//!
//! ```text
//!   agent ──▶ [guard] ──▶ kernel: addresses with lifetimes, one table of rules ──▶ who is where, asked at each change
//! ```
//! What an agent made stays when it dies, and goes with the power. An address goes by itself when its lifetime is over, up to a
//! second late, as Linux does.
//!
//! What must hold at every moment: a floating address is in effect (the host has it, or leads it without asking whether it has)
//! on one host at most.

mod guards;
mod kernel;
mod leading;
mod rest;

pub use guards::Bent;
pub use leading::Leading;

use crate::chronicle::Chronicle;
use crate::dice::Dice;
use kernel::Kernel;
use stampede::environment::Clock;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// All of them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Datapaths {
    dice: Dice,
    chronicle: Chronicle,
    kernels: Arc<Mutex<BTreeMap<String, Kernel>>>,
}

impl Datapaths {
    pub fn new(dice: &Dice, chronicle: &Chronicle) -> Self {
        Self { dice: dice.clone(), chronicle: chronicle.clone(), kernels: Arc::default() }
    }

    fn kernels(&self) -> MutexGuard<'_, BTreeMap<String, Kernel>> {
        self.kernels.lock().unwrap()
    }

    fn look<T>(&self, host: &str, look: impl FnOnce(&mut Kernel) -> T) -> T {
        look(self.kernels().get_mut(host).unwrap())
    }

    /// One more host, which is off.
    pub fn connect(&self, host: &str) {
        self.kernels().insert(host.to_owned(), Kernel::default());
    }

    /// It boots, by this clock.
    pub fn power_on(&self, host: &str, clock: Arc<dyn Clock>) {
        self.look(host, |kernel| *kernel = Kernel::booted(clock));
    }

    pub fn power_off(&self, host: &str) {
        self.look(host, |kernel| *kernel = Kernel::default());
    }

    /// Its kernel, for an agent.
    pub fn of(&self, host: &str) -> Leading {
        Leading::new(self, host)
    }

    /// Somebody flushes its rules. Who listens for that is not simulated: the agent's next look finds it.
    pub fn flush(&self, host: &str) {
        self.look(host, Kernel::flush);
    }

    /// Of a hundred changes so many fail from now on, and what is done may be said to have failed.
    pub fn refuse(&self, host: &str, percent: usize) {
        self.look(host, |kernel| kernel.refuses = percent);
    }

    /// Its calls take up to so long from now on.
    pub fn slow(&self, host: &str, most: Duration) {
        self.look(host, |kernel| kernel.takes = u64::try_from(most.as_millis()).unwrap());
    }

    /// All is well again.
    pub fn heal(&self) {
        for kernel in self.kernels().values_mut() {
            (kernel.refuses, kernel.takes) = (0, 0);
        }
    }

    /// `host` has been given an address, or other rules.
    fn changed(&self, host: &str, address: Ipv4Addr) {
        let kernels = self.kernels();
        if !kernels[host].is_in_effect(address) {
            return;
        }
        let other = kernels.iter().find(|(name, kernel)| *name != host && kernel.is_in_effect(address));
        if let Some((other, _)) = other {
            self.chronicle.violation(format_args!("the floating address {address} is on {other}, and now on {host}"));
        }
    }
}
