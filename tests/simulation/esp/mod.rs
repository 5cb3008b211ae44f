//! The kernels of all hosts as far as they encrypt, and the wire between them: what `network::ipsec` runs over here.
//!
//! ```text
//!   agent ──▶ [guard] ──▶ kernel: policies, associations ──▶ wire ──▶ kernel ◀── agent
//! ```
//! What an agent made stays when it dies, and goes with the power. Packets go to the overlay's port all the time, between whichever
//! hosts: each meets the sender's policies, is sealed by an association, and must be opened by the receiver's under the same key.
//!
//! What must hold at every moment:
//! - once an agent has closed the port, nothing leaves to it in plain text and nothing that comes so is taken in;
//! - no key is a way out twice, on whichever host and through however many boots, nor a way in: its sequence would begin anew;
//! - what a host sends is understood from when it was for the first time, until somebody takes associations away at either end.

mod encrypting;
mod guards;
mod kernel;
mod rest;

pub use encrypting::Encrypting;
pub use guards::Bent;
pub use rest::Records;

use crate::chronicle::Chronicle;
use crate::dice::Dice;
use crate::peers::Wire;
use kernel::{Kernel, Leaves};
use stampede::environment::Clock;
use stampede_netlink::xfrm::{AeadKey, AssociationSpec, XfrmEvent};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// Bytes of a packet.
const SIZE: u64 = 100;

/// All of it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Esp {
    dice: Dice,
    chronicle: Chronicle,
    wire: Wire,
    ipv4: bool,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    kernels: BTreeMap<String, Kernel>,
    /// Every key that ever was a way out, and a way in.
    out: HashSet<AeadKey>,
    into: HashSet<AeadKey>,
    /// From whom to whom something was understood, since nobody took associations away at either end.
    understood: BTreeSet<(String, String)>,
    sums: Sums,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    sent: u64,
    arrived: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// One of the two is off.
    Off,
    Plain,
    /// The sender has no policy for it.
    Blocked,
    /// The sender has no association for it.
    Unprotected,
    /// The receiver has no such association.
    Unknown,
    /// It has one, under another key.
    Forged,
    /// What came out of it is not let in.
    Refused,
    Arrives,
}

impl Esp {
    pub fn new(dice: &Dice, chronicle: &Chronicle, wire: &Wire) -> Self {
        let (dice, chronicle, wire) = (dice.clone(), chronicle.clone(), wire.clone());
        let ipv4 = !dice.percent(20);
        Self { dice, chronicle, wire, ipv4, inner: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Where a host is for the others.
    pub fn address(&self, number: u8) -> IpAddr {
        match self.ipv4 {
            true => Ipv4Addr::new(198, 18, 0, number).into(),
            false => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()).into(),
        }
    }

    /// One more host, which is off.
    pub fn connect(&self, host: &str, number: u8) {
        self.inner().kernels.insert(host.to_owned(), Kernel::new(self.address(number)));
    }

    /// It boots, by this clock.
    pub fn power_on(&self, host: &str, clock: Arc<dyn Clock>) {
        self.inner().of(host).boot(Some(clock));
    }

    pub fn power_off(&self, host: &str) {
        let mut inner = self.inner();
        inner.of(host).boot(None);
        inner.unsettle(host);
    }

    /// Its kernel, for an agent.
    pub fn of(&self, host: &str) -> Encrypting {
        Encrypting::new(self, host)
    }

    /// Somebody takes all associations away.
    pub fn flush(&self, host: &str) {
        let mut inner = self.inner();
        let kernel = inner.of(host);
        kernel.associations.clear();
        kernel.tell(XfrmEvent::AssociationsFlushed);
        inner.unsettle(host);
    }

    /// Time that peers have to learn something of it is over in a moment: what it sends may get lost until it was understood again.
    pub fn forget(&self, host: &str) {
        self.inner().unsettle(host);
    }

    /// Somebody takes one association away.
    pub fn remove_one(&self, host: &str) {
        let mut inner = self.inner();
        let kernel = inner.of(host);
        if let Some(id) = self.dice.one(&kernel.associations).map(|association| association.spec.id) {
            kernel.remove(&id);
            // It may be one under which something is sent only later.
            kernel.spoiled = true;
        }
    }

    /// Of a hundred changes so many fail from now on, and what is done may be said to have failed.
    pub fn refuse(&self, host: &str, percent: usize) {
        let mut inner = self.inner();
        let kernel = inner.of(host);
        kernel.refuses = percent;
        kernel.spoiled |= percent > 0;
    }

    /// Its calls take up to so long from now on.
    pub fn slow(&self, host: &str, most: Duration) {
        self.inner().of(host).takes = u64::try_from(most.as_millis()).unwrap();
    }

    /// Nothing of the overlay's passes its wire from now on, though the store can be reached; or it does again.
    pub fn cut(&self, host: &str, cut: bool) {
        self.inner().of(host).cut = cut;
    }

    /// All is well again.
    pub fn heal(&self) {
        for kernel in self.inner().kernels.values_mut() {
            (kernel.refuses, kernel.takes, kernel.cut) = (0, 0, false);
        }
    }

    /// Instances of all hosts have something to say to each other, and strangers come by, for ever.
    pub async fn chat(self) {
        let hosts: Vec<String> = self.inner().kernels.keys().cloned().collect();
        loop {
            tokio::time::sleep(self.dice.millis(100, 1500)).await;
            for _ in 0..3 {
                if let (Some(from), Some(to)) = (self.dice.one(&hosts), self.dice.one(&hosts))
                    && from != to
                {
                    self.send(from, to);
                }
            }
            if let Some(to) = self.dice.one(&hosts) {
                self.forge(to);
            }
        }
    }

    /// Whether what leaves one comes to the other.
    fn connects(&self, from: &str, to: &str) -> bool {
        let cut = |inner: &Inner| [from, to].iter().any(|host| inner.kernels.get(*host).is_some_and(|it| it.cut));
        self.wire.connects(from, to) && !cut(&self.inner())
    }

    /// Sends a packet to a peer's overlay. A host on which no agent has been yet has no overlay to send from.
    pub fn send(&self, from: &str, to: &str) {
        let connects = self.connects(from, to);
        let mut inner = self.inner();
        if !inner.kernels.get(from).is_some_and(|kernel| kernel.closed) {
            return;
        }
        let (fate, places) = inner.fate(from, to);
        let way = (from.to_owned(), to.to_owned());
        match fate {
            Fate::Off => return,
            Fate::Plain => {
                return self.chronicle.violation(format_args!("{from} sends to {to} in plain text"));
            }
            _ => inner.sums.sent += 1,
        }
        if let Some(out) = places.0 {
            inner.of(from).count(out, true);
        }
        if !connects {
            return;
        }
        if let Some(into) = places.1 {
            let fits = fate != Fate::Forged;
            inner.of(to).count(into, fits);
        }
        if fate == Fate::Arrives {
            inner.sums.arrived += 1;
            inner.understood.insert(way);
        } else if inner.is_promised(&way) && self.chronicle.restores() == 0 {
            self.chronicle.violation(format_args!("what {from} sends to {to} is lost: {fate:?}"));
        }
    }

    /// A stranger's packet in plain text.
    fn forge(&self, to: &str) {
        let inner = self.inner();
        let Some(kernel) = inner.kernels.get(to).filter(|kernel| kernel.closed) else { return };
        let stranger = self.address(250);
        if kernel.takes_in(stranger, None) {
            self.chronicle.violation(format_args!("{to} takes in plain text"));
        }
    }

    /// An association is made: its key must be a new one.
    fn installed(&self, inner: &mut Inner, host: &str, spec: &AssociationSpec) {
        let out = spec.source == inner.of(host).address;
        let known = if out { &mut inner.out } else { &mut inner.into };
        if !known.insert(spec.key.clone()) {
            let way = if out { "out" } else { "in" };
            self.chronicle.violation(format_args!(
                "a key is a way {way} a second time, with its sequence begun anew: {spec} on {host}"
            ));
        }
    }

    /// What there is to say of the whole run.
    pub fn sum_up(&self) {
        let inner = self.inner();
        let Sums { sent, arrived } = inner.sums;
        let (out, into) = (inner.out.len() as u64, inner.into.len() as u64);
        self.chronicle.note(format_args!("{sent} packets sent, {arrived} arrived; {out} keys out, {into} in"));
        for (kind, count) in [("packets sent", sent), ("packets that arrived", arrived), ("keys", out)] {
            self.chronicle.count_more(kind, count);
        }
    }
}

impl Inner {
    fn of(&mut self, host: &str) -> &mut Kernel {
        self.kernels.get_mut(host).unwrap()
    }

    /// What went to and from it may get lost until it was understood again.
    fn unsettle(&mut self, host: &str) {
        self.understood.retain(|(from, to)| from != host && to != host);
    }

    /// Whether what goes this way is understood for certain.
    fn is_promised(&self, way: &(String, String)) -> bool {
        let spoiled = |host: &String| self.kernels.get(host).is_some_and(|kernel| kernel.spoiled);
        self.understood.contains(way) && !spoiled(&way.0) && !spoiled(&way.1)
    }

    /// What becomes of a packet on an open wire, and the associations that it goes through, out and in.
    fn fate(&self, from: &str, to: &str) -> (Fate, (Option<usize>, Option<usize>)) {
        let kernel = |host| self.kernels.get(host).filter(|kernel: &&Kernel| kernel.is_on());
        let (Some(sender), Some(receiver)) = (kernel(from), kernel(to)) else { return (Fate::Off, (None, None)) };
        let out = match sender.leaves(receiver.address) {
            Leaves::Plain => return (Fate::Plain, (None, None)),
            Leaves::Blocked => return (Fate::Blocked, (None, None)),
            Leaves::Unprotected => return (Fate::Unprotected, (None, None)),
            Leaves::Through(place) => place,
        };
        let sealed = &sender.associations[out].spec;
        let Some(into) = receiver.opens(sealed.id.spi) else { return (Fate::Unknown, (Some(out), None)) };
        let opened = &receiver.associations[into].spec;
        let fate = if opened.key != sealed.key {
            Fate::Forged
        } else if receiver.takes_in(sender.address, Some(opened)) {
            Fate::Arrives
        } else {
            Fate::Refused
        };
        (fate, (Some(out), Some(into)))
    }
}

impl Kernel {
    /// A packet went through an association, or was found to be forged there.
    fn count(&mut self, place: usize, fits: bool) {
        let association = &mut self.associations[place];
        if fits {
            association.packets += 1;
            association.bytes += SIZE;
        } else {
            association.forged += 1;
        }
    }
}
