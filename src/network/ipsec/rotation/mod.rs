//! Which associations there should be, and when halves come and go. No I/O: what is known goes in, actions come out.
//!
//! ```text
//!   own half:    made ──▶ ways in for it at this host ──▶ published ──▶ used by the peers ──▶ (5 min) ──▶ wiped
//!   peer's half: seen in its record ──▶ ways in for it ──▶ way out under it ──▶ no more in its record,
//!                                                          a newer one heard ──▶ (5 min) ──▶ forgotten
//! ```
//! *In*: an association for each own live half × each of the peer's. They are there before an own half is published and before a way
//! out under the peer's new half is made, so whatever either end chooses, the other understands.
//! *Out*: the peer's newest half × the newest own half that the peer has used; a packet under a half says that its host knows it. The
//! way out before stays for another second, for what is on its way into it.
//! Where the peer has used none of this agent's halves, a way out that is there stays (the agent was restarted and took it over): as
//! long as the peer lists the half it is for, or, restarted as well, says that its kernel still takes that in and says nothing newer
//! (it may be cut off from the store); else half a minute at most. Where there is none, the oldest published half is tried, which
//! the peer has had the longest time to learn of, then the newer ones.
//!
//! **Each pair of halves is installed at most once in each direction**, noted before it is done. One that is missing (somebody flushed, an
//! installation failed) is never put back: a key would begin its sequence anew, or take old packets again. A new half takes its place.
//!
//! Halves are known by their public keys and ordered by when they were seen, never by generation alone: a record that goes back in time
//! brings nothing new and is passed over, until its host, which sees it too, answers with a half that nobody has seen.

mod peer;
#[cfg(test)]
mod tests;

use super::{
    derive::{self, Way},
    half::PublicHalf,
    record::MOST_HALVES,
};
use peer::Peer;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How long a half lives.
pub const PERIOD: Duration = Duration::from_secs(24 * 3600);
/// How long an old half stays after everybody who can be reached has used a newer one: packets on their way, clocks, retries.
pub const GRACE: Duration = Duration::from_secs(5 * 60);
/// How long a way out that was taken over stays when the peer no longer lists the half it is for, and how long a half is tried on a peer
/// that has used none.
const TAKEN_OVER: Duration = Duration::from_secs(30);
/// How long the way out before stays beside the one that is used now: a packet for which the kernel had chosen it must have left.
const LEAVING: Duration = Duration::from_secs(1);
/// Between two rotations that something lost asked for, at least; doubled each time, up to [`MOST_PAUSE`].
const PAUSE: Duration = Duration::from_secs(1);
const MOST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// Why a new half is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// This agent has none yet.
    Start,
    /// The newest is a day old.
    Age,
    /// An association is gone, or was never made.
    Lost,
    /// This host's record is not what it wrote.
    WentBack,
    /// Somebody asked for it.
    Asked,
}

/// An association by what tells it apart for this host: the peer, the direction, the SPI.
pub type Name = (String, Way, u32);
/// The associations that the kernel has, with how many packets went through each. Taken after the actions of the last step were made.
pub type View = BTreeMap<Name, u64>;

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Make a half of this generation and hand it to [`Rotation::add`].
    Rotate { generation: u32, reason: Reason },
    /// Make an association from an own half and one of the peer's.
    Install { host: String, way: Way, own: PublicHalf, peer: PublicHalf, spi: u32 },
    /// Remove an association.
    Remove(Name),
    /// Write these halves into this host's record.
    Publish(Vec<PublicHalf>),
    /// Wipe the private part of the own half of this generation.
    Forget { generation: u32 },
    /// Send the peer something through the overlay: it waits for a packet under its new half.
    Probe { host: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Own {
    half: PublicHalf,
    born: Duration,
    /// It stood in the record as the store has it.
    published: bool,
    /// Since when everybody reachable has used a newer one.
    surpassed: Option<Duration>,
}

/// All that an agent knows of keys; see the module's text. Times are since boot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rotation {
    number: u32,
    /// Live, the newest last.
    own: Vec<Own>,
    /// The highest generation that this host is known to have had.
    generation: u32,
    /// This host's record as the store has it; `None` until it was read.
    record: Option<Vec<PublicHalf>>,
    peers: BTreeMap<String, Peer>,
    /// Ways out that were there when this agent looked for the first time.
    taken_over: Option<BTreeSet<Name>>,
    /// All records were read once: who has none is no peer.
    listed: bool,
    wanted: Option<Reason>,
    rotated: Option<Duration>,
    pause: Duration,
}

impl Rotation {
    /// For a host with this number, before anything is known.
    pub fn new(number: u32) -> Self {
        Self {
            number,
            own: Vec::new(),
            generation: 0,
            record: None,
            peers: BTreeMap::new(),
            taken_over: None,
            listed: false,
            wanted: None,
            rotated: None,
            pause: PAUSE,
        }
    }

    /// The live halves, the newest last.
    pub fn halves(&self) -> Vec<PublicHalf> {
        self.own.iter().map(|own| own.half).collect()
    }

    /// A new half, as [`Action::Rotate`] asked.
    pub fn add(&mut self, half: PublicHalf, now: Duration) {
        self.generation = self.generation.max(half.generation);
        self.own.push(Own { half, born: now, published: false, surpassed: None });
        self.wanted = None;
        self.rotated = Some(now);
    }

    /// A new half as soon as may be.
    pub fn ask(&mut self) {
        self.want(Reason::Asked);
    }

    fn want(&mut self, reason: Reason) {
        if self.wanted.is_none() {
            self.wanted = Some(reason);
        }
    }

    /// This host's record, as the store has it now; empty where it has none. Nothing is done before it is known.
    pub fn own_record(&mut self, halves: &[PublicHalf]) {
        self.generation = halves.iter().map(|half| half.generation).fold(self.generation, u32::max);
        self.record = Some(halves.to_vec());
        let newest_published = self.own.iter().rposition(|own| own.published);
        for own in &mut self.own {
            own.published |= halves.contains(&own.half);
        }
        if newest_published.is_some_and(|place| !halves.contains(&self.own[place].half)) {
            self.want(Reason::WentBack);
        }
    }

    /// Generations (modulo 32) that peers may still send under, since an agent before this one left ways in for them.
    pub fn lingering(&self, view: &View) -> BTreeSet<u32> {
        let is_own = |generation: &u32| self.own.iter().any(|own| own.half.generation % 32 == *generation);
        let ways_in = view.keys().filter(|(_, way, _)| *way == Way::In);
        ways_in.map(|(.., spi)| derive::generations(*spi).1).filter(|generation| !is_own(generation)).collect()
    }

    /// A peer's record, once its seal was found good; whether it said anything new or what is known. `lingering` is what it says of
    /// itself as [`Self::lingering`] does.
    pub fn peer_record(
        &mut self,
        host: &str,
        number: u32,
        halves: &[PublicHalf],
        lingering: Option<&BTreeSet<u32>>,
    ) -> bool {
        let peer = self.peers.entry(host.to_owned()).or_insert_with(|| Peer::new(number));
        if peer.number != number {
            peer.leave();
            peer.number = number;
            self.let_go(host);
        }
        let early = self.taken_over.is_none();
        self.peers.get_mut(host).is_some_and(|peer| peer.record(halves, lingering, early))
    }

    /// Nothing that was there before counts any more towards this host.
    fn let_go(&mut self, host: &str) {
        if let Some(taken_over) = &mut self.taken_over {
            taken_over.retain(|(to, ..)| to != host);
        }
    }

    /// A peer's record was deleted: it left the cluster.
    pub fn peer_gone(&mut self, host: &str) {
        if let Some(peer) = self.peers.get_mut(host) {
            peer.leave();
        }
        self.let_go(host);
    }

    /// All records were read: associations with hosts that have none go.
    pub fn all_listed(&mut self) {
        self.listed = true;
    }

    /// What is to be done now. `reachable` are the peers that are alive or were heard lately: an old half waits for them only.
    pub fn step(&mut self, view: &View, reachable: &BTreeSet<String>, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.record.is_none() {
            return actions;
        }
        let out = |(_, way, _): &&Name| *way == Way::Out;
        self.taken_over.get_or_insert_with(|| view.keys().filter(out).cloned().collect());
        self.look(view, now);
        self.retire(view, reachable, now, &mut actions);
        self.rotate(now, view, &mut actions);
        self.ways_in(view, &mut actions);
        let differs = self.record.as_ref().is_some_and(|record| *record != self.halves());
        if !self.own.is_empty() && differs && self.ready_to_publish(view) {
            actions.push(Action::Publish(self.halves()));
        }
        self.ways_out(view, now, &mut actions);
        actions
    }

    /// What the kernel has tells who used what, and what got lost.
    fn look(&mut self, view: &View, now: Duration) {
        let number = self.number;
        let mut lost = false;
        for (host, peer) in &mut self.peers {
            lost |= peer.look(host, number, &self.own, view, now);
        }
        if lost {
            self.want(Reason::Lost);
        }
    }

    /// Old halves, and what there is of hosts that are gone.
    fn retire(&mut self, view: &View, reachable: &BTreeSet<String>, now: Duration, actions: &mut Vec<Action>) {
        if self.listed {
            let orphans = view.keys().filter(|(host, ..)| self.peers.get(host).is_none_or(Peer::left));
            actions.extend(orphans.cloned().map(Action::Remove));
        }
        let waiting: Vec<_> = self
            .peers
            .iter()
            .filter(|(host, peer)| reachable.contains(*host) && !peer.left())
            .map(|(_, peer)| peer.used)
            .collect();
        let newest = self.own.len().saturating_sub(1);
        for own in self.own.iter_mut().take(newest) {
            let surpassed = waiting.iter().all(|used| used.is_some_and(|used| used > own.half.generation));
            own.surpassed = if surpassed { own.surpassed.or(Some(now)) } else { None };
        }
        let ripe = |since: Option<Duration>| since.is_some_and(|since| now.saturating_sub(since) >= GRACE);
        let excess = self.excess();
        let mut place = 0;
        let mut gone = Vec::new();
        self.own.retain(|own| {
            let keep = place >= newest || !(excess.contains(&place) || ripe(own.surpassed));
            place += 1;
            if !keep {
                gone.push(own.half);
            }
            keep
        });
        for (host, peer) in &mut self.peers {
            for half in &gone {
                actions.extend(peer.drop_own(host, self.number, half, view).map(Action::Remove));
            }
            actions.extend(peer.retire(host, self.number, &self.own, view, now).into_iter().map(Action::Remove));
        }
        actions.extend(gone.iter().map(|half| Action::Forget { generation: half.generation }));
    }

    /// The places of own halves that are too many, of those before the newest. What a peer sends under, or is sent, goes last: one that is
    /// cut off from the store may know of nothing newer.
    fn excess(&self) -> BTreeSet<usize> {
        let over = self.own.len().saturating_sub(MOST_HALVES);
        if over == 0 {
            return BTreeSet::new();
        }
        let in_use: BTreeSet<u32> = self.peers.values().flat_map(Peer::in_use).collect();
        let mut places: Vec<usize> = (0..self.own.len() - 1).collect();
        places.sort_by_key(|place| (in_use.contains(&(self.own[*place].half.generation % 32)), *place));
        places.into_iter().take(over).collect()
    }

    fn rotate(&mut self, now: Duration, view: &View, actions: &mut Vec<Action>) {
        let since = self.rotated.map(|last| now.saturating_sub(last));
        if since.is_some_and(|since| since < self.pause) {
            return;
        }
        let reason = match (self.own.last(), self.wanted) {
            (None, _) => Reason::Start,
            // One that nobody knows yet will do, and the one before stays until the store is back; unless it is broken itself.
            (Some(newest), _) if !newest.published => {
                let half = newest.half;
                if !self.peers.values().any(|peer| peer.broken(&half)) {
                    self.wanted = None;
                    return;
                }
                self.own.pop();
                for (host, peer) in &mut self.peers {
                    actions.extend(peer.drop_own(host, self.number, &half, view).map(Action::Remove));
                }
                actions.push(Action::Forget { generation: half.generation });
                Reason::Lost
            }
            (Some(_), Some(reason)) => reason,
            (Some(newest), None) if now.saturating_sub(newest.born) >= PERIOD => Reason::Age,
            _ => return,
        };
        // What keeps getting lost is asked for ever more slowly; a while without is forgiven.
        let often = since.is_some_and(|since| since < 2 * self.pause);
        self.pause = if often { (2 * self.pause).min(MOST_PAUSE) } else { PAUSE };
        actions.push(Action::Rotate { generation: self.generation.wrapping_add(1), reason });
    }

    fn ways_in(&mut self, view: &View, actions: &mut Vec<Action>) {
        for (host, peer) in &mut self.peers {
            for own in &self.own {
                peer.ways_in(host, self.number, &own.half, view, actions);
            }
        }
    }

    /// All that peers may send under the newest half arrives, but where making it so has failed.
    fn ready_to_publish(&self, view: &View) -> bool {
        let Some(newest) = self.own.last() else { return false };
        self.peers.iter().all(|(host, peer)| peer.halves().all(|half| peer.settled(host, &newest.half, half, view)))
    }

    fn ways_out(&mut self, view: &View, now: Duration, actions: &mut Vec<Action>) {
        let mut lost = false;
        let none = BTreeSet::new();
        let taken_over = self.taken_over.as_ref().unwrap_or(&none);
        for (host, peer) in &mut self.peers {
            if peer.used.is_none() && peer.holds(host, taken_over, view, now) {
                continue;
            }
            lost |= peer.way_out(host, self.number, &self.own, view, now, actions);
        }
        if lost {
            self.want(Reason::Lost);
        }
    }
}

/// The SPI of a pair, for packets that go this way.
fn spi(way: Way, own_number: u32, own: &PublicHalf, peer_number: u32, peer: &PublicHalf) -> u32 {
    match way {
        Way::In => derive::spi(peer.generation, own.generation, peer_number),
        Way::Out => derive::spi(own.generation, peer.generation, own_number),
    }
}
