//! Two hosts, a store and two kernels, in every order of events up to a number of mishaps; and two or three in random orders with many.

use super::*;
use crate::network::ipsec::secret::SecretName;
use proptest::prelude::*;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

const HOSTS: [&str; 3] = ["h1", "h2", "h3"];

/// The key of one direction, as far as it matters: the sender's half, the receiver's half.
type Key = ([u8; 32], [u8; 32]);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Host {
    rotation: Rotation,
    /// Private halves in memory, by generation.
    private: BTreeSet<u32>,
    /// The kernel's associations: their key, and packets through them.
    kernel: BTreeMap<Name, (Key, u64)>,
    /// How far it has read the store's log.
    seen: usize,
}

/// A host's record: its halves, and what it says of agents before.
type Record = (Vec<PublicHalf>, BTreeSet<u32>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    hosts: Vec<Host>,
    /// Every version of each host's record, in order.
    log: Vec<(usize, Record)>,
    /// Keys that were ever installed, each way.
    installed: BTreeSet<(Way, Key)>,
    halves: u16,
    now: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// One look, and all actions that come of it.
    Step(usize),
    /// One look and only so many of its actions, then the agent dies and starts again.
    Crash(usize, usize),
    /// The next record of the log is read.
    Read(usize),
    /// A packet.
    Send(usize),
    Ask(usize),
    /// All the kernel's associations go.
    Flush(usize),
    Restart(usize),
    Reboot(usize),
    /// The store's record of the host becomes its first again.
    WentBack(usize),
    /// The store forgets the host's record.
    Deleted(usize),
    /// Six minutes in which everybody has read and done everything.
    Time,
}

impl World {
    fn of(hosts: u32) -> Self {
        let host = |number| Host {
            rotation: Rotation::new(number),
            private: BTreeSet::new(),
            kernel: BTreeMap::new(),
            seen: 0,
        };
        let mut world = Self {
            hosts: (1..=hosts).map(host).collect(),
            log: Vec::new(),
            installed: BTreeSet::new(),
            halves: 0,
            now: Duration::from_secs(3600),
        };
        for host in 0..world.hosts.len() {
            world.start(host);
        }
        world
    }

    fn others(&self, of: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.hosts.len()).filter(move |at| *at != of)
    }

    /// A new agent reads what the store has, whole.
    fn start(&mut self, at: usize) {
        let mut rotation = Rotation::new(u32::try_from(at).unwrap() + 1);
        let latest = |host| self.log.iter().rev().find(|(of, _)| *of == host).map(|(_, record)| record.clone());
        rotation.own_record(&latest(at).unwrap_or_default().0);
        for other in self.others(at) {
            if let Some((halves, lingering)) = latest(other).filter(|(halves, _)| !halves.is_empty()) {
                rotation.peer_record(HOSTS[other], u32::try_from(other).unwrap() + 1, &halves, Some(&lingering));
            }
        }
        rotation.all_listed();
        let host = &mut self.hosts[at];
        host.rotation = rotation;
        host.private.clear();
        host.seen = self.log.len();
    }

    fn view(&self, at: usize) -> View {
        self.hosts[at].kernel.iter().map(|(name, (_, packets))| (name.clone(), *packets)).collect()
    }

    fn look(&mut self, at: usize) -> Vec<Action> {
        let reachable = self.others(at).map(|other| HOSTS[other].to_owned()).collect();
        let view = self.view(at);
        self.hosts[at].rotation.step(&view, &reachable, self.now)
    }

    fn make(&mut self, at: usize, action: Action) {
        match action {
            Action::Rotate { generation, .. } => {
                self.halves += 1;
                let mut public = [0; 32];
                public[..2].copy_from_slice(&self.halves.to_be_bytes());
                let half = PublicHalf { generation, public, nonce: public, secret: SecretName([0; 8]) };
                let host = &mut self.hosts[at];
                host.private.insert(generation);
                host.rotation.add(half, self.now);
            }
            Action::Install { host, way, own, peer, spi } => {
                let key = if way == Way::Out { (own.public, peer.public) } else { (peer.public, own.public) };
                assert!(self.hosts[at].private.contains(&own.generation), "a key from a half that was wiped");
                assert!(
                    self.installed.insert((way, key)),
                    "a key is installed a second time: its sequence begins anew"
                );
                // The kernel refuses what is there.
                self.hosts[at].kernel.entry((host, way, spi)).or_insert((key, 0));
            }
            Action::Remove(name) => {
                self.hosts[at].kernel.remove(&name);
            }
            Action::Publish(halves) => {
                for half in &halves {
                    assert!(self.hosts[at].private.contains(&half.generation), "a half is published that was wiped");
                }
                let latest = self.log.iter().rev().find(|(of, _)| *of == at);
                if latest.is_none_or(|(_, (before, _))| *before != halves) {
                    let lingering = self.hosts[at].rotation.lingering(&self.view(at));
                    self.log.push((at, (halves, lingering)));
                }
            }
            Action::Forget { generation } => {
                self.hosts[at].private.remove(&generation);
            }
            Action::Probe { .. } => {
                self.send(at);
            }
        }
    }

    /// Reads one record; false if there is none.
    fn read(&mut self, at: usize) -> bool {
        let Some((of, (halves, lingering))) = self.log.get(self.hosts[at].seen).cloned() else { return false };
        let host = &mut self.hosts[at];
        host.seen += 1;
        if of == at {
            host.rotation.own_record(&halves);
        } else if halves.is_empty() {
            host.rotation.peer_gone(HOSTS[of]);
        } else {
            host.rotation.peer_record(HOSTS[of], u32::try_from(of).unwrap() + 1, &halves, Some(&lingering));
        }
        true
    }

    /// A packet through each way out that there is: `None` for none, else whether all were understood. Nothing ever leaves in plain text: that is
    /// the policies' part, and no event here touches them.
    fn send(&mut self, from: usize) -> Option<bool> {
        let mut understood = None;
        let outs: Vec<_> = self.hosts[from].kernel.keys().filter(|(_, way, _)| *way == Way::Out).cloned().collect();
        for out in outs {
            let key = self.hosts[from].kernel.get_mut(&out).map(|(key, packets)| {
                *packets += 1;
                *key
            });
            let arriving = (HOSTS[from].to_owned(), Way::In, out.2);
            let to = HOSTS.iter().position(|host| *host == out.0).unwrap();
            let fits = match self.hosts[to].kernel.get_mut(&arriving) {
                Some((other, packets)) if Some(*other) == key => {
                    *packets += 1;
                    true
                }
                _ => false,
            };
            understood = Some(understood.unwrap_or(true) && fits);
        }
        understood
    }

    /// Everybody reads and does everything, until nothing changes.
    fn settle(&mut self) {
        for _ in 0..60 {
            let before = self.fingerprint();
            for at in 0..self.hosts.len() {
                while self.read(at) {}
                for action in self.look(at) {
                    self.make(at, action);
                }
            }
            if self.fingerprint() == before {
                return;
            }
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut still = self.clone();
        // How often something was sent is no change.
        for host in &mut still.hosts {
            host.kernel.values_mut().for_each(|(_, packets)| *packets = (*packets).min(1));
        }
        still.hash(&mut hasher);
        hasher.finish()
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Step(at) => {
                for action in self.look(at) {
                    self.make(at, action);
                }
            }
            Event::Crash(at, count) => {
                for action in self.look(at).into_iter().take(count) {
                    self.make(at, action);
                }
                self.start(at);
            }
            Event::Read(at) => drop(self.read(at)),
            Event::Send(at) => drop(self.send(at)),
            Event::Ask(at) => self.hosts[at].rotation.ask(),
            Event::Flush(at) => self.hosts[at].kernel.clear(),
            Event::Restart(at) => self.start(at),
            Event::Reboot(at) => {
                self.hosts[at].kernel.clear();
                self.start(at);
            }
            Event::WentBack(at) => {
                if let Some(first) = self.log.iter().find(|(of, _)| *of == at).cloned() {
                    self.log.push(first);
                }
            }
            Event::Deleted(at) => self.log.push((at, Record::default())),
            Event::Time => {
                // What was asked for waits for its pause, and what is replaced leaves after it.
                for _ in 0..3 {
                    self.settle();
                    self.now += LEAVING.max(PAUSE);
                }
                self.settle();
                self.now += Duration::from_secs(6 * 60);
            }
        }
    }

    /// With nothing more going wrong both ends agree, old keys are gone, and it is quiet.
    fn comes_right(&self, how: &[Event]) {
        let mut world = self.clone();
        for _ in 0..8 {
            world.apply(Event::Time);
            for at in 0..world.hosts.len() {
                world.send(at);
            }
        }
        world.settle();
        let hosts = world.hosts.len();
        for (at, name) in HOSTS.iter().take(hosts).enumerate() {
            assert_eq!(world.send(at), Some(true), "{name} is not understood after {how:?}");
            let host = &world.hosts[at];
            let kernel: Vec<_> = host.kernel.keys().collect();
            assert_eq!(kernel.len(), 2 * (hosts - 1), "{name} still has {kernel:?} after {how:?}");
            assert_eq!(host.private.len(), 1, "{name} still has old halves after {how:?}");
            let latest = world.log.iter().rev().find(|(of, _)| *of == at).map(|(_, (halves, _))| halves);
            assert_eq!(latest, Some(&host.rotation.halves()), "after {how:?}");
        }
        let written = world.log.len();
        world.apply(Event::Time);
        assert_eq!(world.log.len(), written, "it is not quiet after {how:?}");
        for at in 0..hosts {
            assert_eq!(world.look(at), [], "it is not quiet after {how:?}");
        }
    }
}

fn agreed(hosts: u32) -> World {
    let mut world = World::of(hosts);
    for _ in 0..4 {
        world.apply(Event::Time);
    }
    world
}

/// Every order of `mishaps` (at most `most` of them) among all that goes on by itself, each state once. Gives how many states there were.
fn explore(start: &World, mishaps: &[Event], most: usize, calm: bool) -> usize {
    let ordinary = [Event::Step(0), Event::Step(1), Event::Read(0), Event::Read(1), Event::Send(0), Event::Send(1)];
    let mut seen = HashSet::new();
    let mut waiting = vec![(start.clone(), most, Vec::new())];
    while let Some((world, left, how)) = waiting.pop() {
        if !seen.insert((world.fingerprint(), left)) {
            continue;
        }
        if calm {
            for at in 0..2 {
                assert_eq!(world.clone().send(at), Some(true), "a packet is lost after {how:?}");
            }
        }
        // Coming right takes a hundred steps: tried from every fourth state; the other checks are in each.
        if left == 0 && world.fingerprint() % 4 == 0 {
            world.comes_right(&how);
        }
        let mishaps = if left == 0 { &[] } else { mishaps };
        for (event, cost) in ordinary.iter().map(|event| (*event, 0)).chain(mishaps.iter().map(|event| (*event, 1))) {
            let mut next = world.clone();
            next.apply(event);
            let how = how.iter().copied().chain([event]).collect();
            waiting.push((next, left - cost, how));
        }
    }
    seen.len()
}

#[test]
fn two_hosts_that_meet_agree() {
    let world = agreed(2);
    world.comes_right(&[]);
    for host in &world.hosts {
        assert_eq!(host.kernel.len(), 2);
    }
}

/// Rotations by both at once, restarts, agents that die in the middle of their work, records read late: no packet is lost.
#[test]
fn rotation_and_restart_lose_no_packet() {
    let mishaps =
        [Event::Ask(0), Event::Ask(1), Event::Restart(0), Event::Crash(0, 1), Event::Crash(1, 2), Event::Time];
    let states = explore(&agreed(2), &mishaps, 2, true);
    assert!(states > 500, "{states}");
}

/// What goes wrong with the kernel's associations and the store's records: it comes right, and no key begins anew.
#[test]
fn what_is_lost_and_what_goes_back_comes_right() {
    let mishaps = [Event::Flush(0), Event::WentBack(0), Event::Deleted(1), Event::Time];
    let states = explore(&agreed(2), &mishaps, 2, false);
    assert!(states > 300, "{states}");
}

/// The same with hosts that start again and rotate.
#[test]
fn hosts_that_start_again_come_right() {
    let mishaps = [Event::Reboot(0), Event::Restart(1), Event::Ask(1), Event::Flush(1)];
    let states = explore(&agreed(2), &mishaps, 2, false);
    assert!(states > 300, "{states}");
}

fn event(hosts: usize) -> impl Strategy<Value = Event> {
    let at = move || 0..hosts;
    prop_oneof![
        8 => at().prop_map(Event::Step),
        6 => at().prop_map(Event::Read),
        6 => at().prop_map(Event::Send),
        2 => Just(Event::Time),
        1 => at().prop_map(Event::Ask),
        1 => at().prop_map(Event::Flush),
        1 => at().prop_map(Event::Restart),
        1 => at().prop_map(Event::Reboot),
        1 => at().prop_map(Event::WentBack),
        1 => at().prop_map(Event::Deleted),
        1 => (at(), 0..5usize).prop_map(|(at, count)| Event::Crash(at, count)),
    ]
}

/// Two or three hosts, and up to sixty events.
fn events() -> impl Strategy<Value = (u32, Vec<Event>)> {
    let events =
        |hosts: u32| prop::collection::vec(event(hosts as usize), 0..60).prop_map(move |events| (hosts, events));
    (2..=3_u32).prop_flat_map(events)
}

#[test]
fn a_half_of_the_same_generation_does_not_hold_what_was_taken_over() {
    let mut world = agreed(2);
    use Event::{Crash, Restart, Step, Time, WentBack};
    let how =
        [Time, Restart(1), Restart(0), Time, WentBack(0), Step(0), Restart(0), Crash(1, 1), WentBack(1), Restart(1)];
    how.into_iter().for_each(|event| world.apply(event));
    world.comes_right(&how);
}

proptest! {
    #[test]
    fn many_mishaps_in_random_order_come_right((hosts, events) in events()) {
        let mut world = World::of(hosts);
        for event in &events {
            world.apply(*event);
        }
        world.comes_right(&events);
    }

    #[test]
    fn rotations_and_restarts_in_random_order_lose_no_packet((hosts, events) in events()) {
        let mut world = agreed(hosts);
        let calm = |event: &Event| !matches!(event, Event::Flush(_) | Event::Reboot(_) | Event::WentBack(_) | Event::Deleted(_));
        for event in events.iter().filter(|event| calm(event)) {
            world.apply(*event);
            for at in 0..world.hosts.len() {
                prop_assert_eq!(world.clone().send(at), Some(true));
            }
        }
        world.comes_right(&events);
    }
}

#[test]
fn a_day_makes_a_new_half_and_a_store_that_is_away_keeps_the_old() {
    let mut world = agreed(2);
    let before: Vec<_> = world.hosts.iter().map(|host| host.rotation.halves()).collect();
    world.now += PERIOD;
    // No record is read or written for days: what was agreed stays.
    for _ in 0..20 {
        for at in 0..2 {
            for action in world.look(at) {
                if !matches!(action, Action::Publish(_)) {
                    world.make(at, action);
                }
            }
            assert_eq!(world.send(at), Some(true));
        }
        world.now += PERIOD;
    }
    for (host, before) in world.hosts.iter().zip(&before) {
        assert_eq!(host.rotation.halves().len(), 2, "one more half, which waits for the store");
        assert_eq!(host.rotation.halves()[0], before[0]);
    }
    world.comes_right(&[]);
}

#[test]
fn a_peer_that_leaves_takes_its_associations_along() {
    let mut world = agreed(2);
    world.hosts[0].rotation.peer_gone("h2");
    world.apply(Event::Step(0));
    assert!(world.hosts[0].kernel.is_empty());
    // And a record of before does not bring it back.
    let old = world.log.iter().find(|(of, _)| *of == 1).cloned().unwrap().1;
    assert!(!world.hosts[0].rotation.peer_record("h2", 2, &old.0, Some(&old.1)));
    assert_eq!(world.look(0), []);
}

/// An agent that starts again and again, and to which nothing comes meanwhile: it sends under what its first made.
#[test]
fn a_peer_that_starts_often_unheard_is_understood() {
    let mut world = agreed(2);
    let restart = [Event::Restart(0), Event::Step(0), Event::Step(0), Event::Step(0)];
    let reads = [Event::Read(1), Event::Step(1), Event::Step(1)];
    for time in 0..MOST_HALVES + 2 {
        for event in restart.iter().chain(&reads) {
            world.apply(*event);
        }
        assert_eq!(world.clone().send(0), Some(true), "after {} restarts", time + 1);
    }
    world.comes_right(&[]);
}

/// Halves that are made one after another, while a peer cannot read of them.
#[test]
fn a_peer_that_reads_nothing_is_understood_and_understands() {
    let mut world = agreed(2);
    for time in 0..MOST_HALVES + 2 {
        for event in [Event::Ask(0), Event::Step(0), Event::Step(0), Event::Read(0), Event::Step(0)] {
            world.apply(event);
        }
        world.now += 2 * MOST_PAUSE;
        for at in 0..2 {
            world.apply(Event::Step(at));
            assert_eq!(world.send(at), Some(true), "h{} after {} halves", at + 1, time + 1);
        }
    }
    assert_eq!(world.hosts[0].rotation.halves().len(), MOST_HALVES);
    world.comes_right(&[]);
}

/// A peer that sends nothing, and does not know yet of a half that was made long after the one that is tried on it.
#[test]
fn a_newer_half_is_not_tried_at_once_on_a_peer_that_used_none() {
    let of = |at, steps: usize| vec![Event::Step(at); steps];
    for before in [2 * TAKEN_OVER, TAKEN_OVER - LEAVING] {
        let mut world = World::of(2);
        // The other never reads that its own is published, and so sends nothing.
        let begins = [of(0, 2), vec![Event::Read(1)], of(1, 3), vec![Event::Read(0); 2], of(0, 3)].concat();
        begins.into_iter().for_each(|event| world.apply(event));
        assert_eq!(world.send(0), Some(true));
        world.now += before;
        let rotates = [of(0, 1), vec![Event::Ask(0)], of(0, 3), vec![Event::Read(0)], of(0, 2)].concat();
        rotates.into_iter().for_each(|event| world.apply(event));
        assert_eq!(world.hosts[0].rotation.record.as_ref().map(Vec::len), Some(2), "the newer half is published");
        world.now += 2 * LEAVING;
        of(0, 2).into_iter().for_each(|event| world.apply(event));
        assert_eq!(world.send(0), Some(true));
        world.comes_right(&[]);
    }
}

/// Both were restarted, and the peer is cut off from the store before it reads of this agent's half: it still takes in what it took.
#[test]
fn a_way_out_stays_as_long_as_a_peer_that_is_cut_off_takes_it_in() {
    let mut world = agreed(2);
    let of = |at, steps: usize| vec![Event::Step(at); steps];
    let peer = [vec![Event::Restart(1)], of(1, 3)].concat();
    let this = [vec![Event::Restart(0)], of(0, 3), vec![Event::Read(0)], of(0, 2)].concat();
    peer.into_iter().chain(this).for_each(|event| world.apply(event));
    for _ in 0..10 {
        world.now += TAKEN_OVER;
        of(0, 2).into_iter().for_each(|event| world.apply(event));
        assert_eq!(world.send(0), Some(true));
        assert_eq!(world.send(1), Some(true));
    }
    world.comes_right(&[]);
}

/// A peer whose kernel has nothing of before is not waited for any longer than it was.
#[test]
fn a_way_out_goes_soon_where_the_peer_booted() {
    let mut world = agreed(2);
    let steps = [vec![Event::Reboot(1)], vec![Event::Step(1); 3], vec![Event::Restart(0)], vec![Event::Step(0); 3]];
    steps.concat().into_iter().chain([Event::Read(0)]).for_each(|event| world.apply(event));
    let before: Vec<_> = world.hosts[0].kernel.keys().filter(|(_, way, _)| *way == Way::Out).cloned().collect();
    for _ in 0..2 {
        for event in [Event::Step(0), Event::Read(1), Event::Step(1), Event::Read(0), Event::Step(0)] {
            world.apply(event);
        }
        world.now += TAKEN_OVER;
    }
    world.apply(Event::Step(0));
    assert!(before.iter().any(|out| !world.hosts[0].kernel.contains_key(out)), "it is still held");
    world.comes_right(&[]);
}

/// What is lost again and again is asked for ever more slowly.
#[test]
fn what_keeps_failing_does_not_rotate_without_end() {
    let mut world = agreed(2);
    let before = world.halves;
    for _ in 0..600 {
        world.hosts[0].kernel.clear();
        world.settle();
        world.now += Duration::from_secs(1);
    }
    assert!(world.halves - before < 12, "{} rotations in ten minutes", world.halves - before);
    world.comes_right(&[]);
}
