//! What is known of one peer, and what there should be towards it.

use super::{Action, GRACE, LEAVING, MOST_HALVES, Name, Own, TAKEN_OVER, View, spi};
use crate::network::ipsec::{
    derive::{Way, generations},
    half::PublicHalf,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Halves of a peer that can be sent under: what it lists, and what its agents before listed.
const MOST_KNOWN: usize = 2 * MOST_HALVES;
/// Public keys that were retired and do not come back; so many are remembered.
const MOST_RETIRED: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Known {
    half: PublicHalf,
    /// It stands in the peer's record.
    listed: bool,
    /// It was known before this agent first looked at the kernel: what was taken over may be for it.
    early: bool,
    /// A packet came under it.
    heard: bool,
    /// Since when it is not listed and a newer one was heard.
    surpassed: Option<Duration>,
}

/// What became of one direction of a pair. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
enum Once {
    #[default]
    Never,
    Installed,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) number: u32,
    /// In the order in which they were first seen.
    known: Vec<Known>,
    retired: Vec<[u8; 32]>,
    /// By the own half's and the peer's public key.
    pairs: BTreeMap<([u8; 32], [u8; 32], Way), Once>,
    /// The newest own generation under which it sent something.
    pub(super) used: Option<u32>,
    /// When it used one for the first time.
    answered: Option<Duration>,
    /// The own half that is tried on it while it has used none, and since when.
    tried: Option<([u8; 32], Duration)>,
    /// Generations that its kernel still takes in for an agent before, as its record says; older versions say nothing.
    lingering: Option<BTreeSet<u32>>,
    /// Since when a way out is held that the peer may understand no more.
    held: Option<Duration>,
    /// The SPI of the way out that is used, and since when.
    leads: Option<(u32, Duration)>,
}

impl Peer {
    pub(super) fn new(number: u32) -> Self {
        Self {
            number,
            known: Vec::new(),
            retired: Vec::new(),
            pairs: BTreeMap::new(),
            used: None,
            answered: None,
            tried: None,
            lingering: None,
            held: None,
            leads: None,
        }
    }

    /// It left: none of its halves counts any more, nor comes back.
    pub(super) fn leave(&mut self) {
        self.retired.extend(self.known.drain(..).map(|known| known.half.public));
        self.used = None;
        self.answered = None;
        self.tried = None;
        self.lingering = None;
        self.held = None;
        self.leads = None;
    }

    pub(super) fn left(&self) -> bool {
        self.known.is_empty()
    }

    /// The own generations (modulo 32) under which it sends, and is sent.
    pub(super) fn in_use(&self) -> impl Iterator<Item = u32> {
        let out = self.leads.map(|(spi, _)| generations(spi).0);
        self.used.map(|generation| generation % 32).into_iter().chain(out)
    }

    pub(super) fn halves(&self) -> impl Iterator<Item = &PublicHalf> {
        self.known.iter().map(|known| &known.half)
    }

    /// Takes a record in; false for one that went back: nothing in it is new, and the newest that is known is missing. `early`: this
    /// agent has not looked at the kernel yet.
    pub(super) fn record(&mut self, halves: &[PublicHalf], lingering: Option<&BTreeSet<u32>>, early: bool) -> bool {
        let known = |half: &PublicHalf, known: &[Known]| known.iter().any(|it| it.half.public == half.public);
        let new: Vec<_> = halves
            .iter()
            .filter(|half| !known(half, &self.known) && !self.retired.contains(&half.public))
            .copied()
            .collect();
        let newest_listed = self.known.last().is_some_and(|newest| halves.contains(&newest.half));
        if new.is_empty() && !newest_listed {
            return false;
        }
        for known in &mut self.known {
            known.listed = halves.contains(&known.half);
        }
        let known = |half| Known { half, listed: true, early, heard: false, surpassed: None };
        self.known.extend(new.into_iter().map(known));
        self.lingering = lingering.cloned();
        true
    }

    fn once(&self, own: &PublicHalf, peer: &PublicHalf, way: Way) -> Once {
        self.pairs.get(&(own.public, peer.public, way)).copied().unwrap_or_default()
    }

    fn set(&mut self, own: &PublicHalf, peer: &PublicHalf, way: Way, once: Once) {
        self.pairs.insert((own.public, peer.public, way), once);
    }

    fn name(&self, host: &str, number: u32, own: &PublicHalf, peer: &PublicHalf, way: Way) -> Name {
        (host.to_owned(), way, spi(way, number, own, self.number, peer))
    }

    /// What the peer sends under this pair arrives, or will never.
    pub(super) fn settled(&self, host: &str, own: &PublicHalf, peer: &PublicHalf, view: &View) -> bool {
        match self.once(own, peer, Way::In) {
            Once::Never => false,
            Once::Installed => view.contains_key(&self.name(host, 0, own, peer, Way::In)),
            Once::Gone => true,
        }
    }

    /// Something from this peer to that own half got lost.
    pub(super) fn broken(&self, own: &PublicHalf) -> bool {
        self.halves().any(|half| self.once(own, half, Way::In) == Once::Gone)
    }

    /// Notes what was used; true if something that was installed is missing.
    pub(super) fn look(&mut self, host: &str, number: u32, own: &[Own], view: &View, now: Duration) -> bool {
        let mut lost = false;
        for place in 0..self.known.len() {
            let half = self.known[place].half;
            for own in own {
                for way in [Way::In, Way::Out] {
                    if self.once(&own.half, &half, way) != Once::Installed {
                        continue;
                    }
                    match view.get(&self.name(host, number, &own.half, &half, way)) {
                        None => {
                            self.set(&own.half, &half, way, Once::Gone);
                            lost = true;
                        }
                        Some(packets) if way == Way::In && *packets > 0 => {
                            self.known[place].heard = true;
                            self.used = self.used.max(Some(own.half.generation));
                            self.answered = self.answered.or(Some(now));
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        lost
    }

    /// The associations of an own half that is no more.
    pub(super) fn drop_own<'a>(
        &mut self,
        host: &'a str,
        number: u32,
        own: &'a PublicHalf,
        view: &'a View,
    ) -> impl Iterator<Item = Name> + use<'a> {
        let mut names = Vec::new();
        for known in &self.known {
            for way in [Way::In, Way::Out] {
                if self.once(own, &known.half, way) == Once::Installed {
                    names.push(self.name(host, number, own, &known.half, way));
                }
            }
        }
        // Its private key is gone, so no pair of it can come again.
        self.pairs.retain(|(public, ..), _| *public != own.public);
        names.into_iter().filter(|name| view.contains_key(name))
    }

    /// The peer's halves that are no more, and what an agent before this one left.
    pub(super) fn retire(&mut self, host: &str, number: u32, own: &[Own], view: &View, now: Duration) -> Vec<Name> {
        let mut names = Vec::new();
        let mut newer_heard = false;
        for known in self.known.iter_mut().rev() {
            let surpassed = newer_heard && !known.listed;
            known.surpassed = if surpassed { known.surpassed.or(Some(now)) } else { None };
            newer_heard |= known.heard;
        }
        let all = self.known.clone();
        let excess = excess(&all);
        let mut kept = Vec::new();
        for (place, known) in all.iter().enumerate() {
            // Two halves whose SPIs are the same cannot both live: only a host that lost its count makes such.
            let clash = all[place + 1..].iter().any(|later| later.half.generation % 32 == known.half.generation % 32);
            let ripe = known.surpassed.is_some_and(|since| now.saturating_sub(since) >= GRACE);
            if !(clash || ripe || excess.contains(&place)) {
                kept.push(known.clone());
                continue;
            }
            for own in own {
                for way in [Way::In, Way::Out] {
                    if self.once(&own.half, &known.half, way) == Once::Installed {
                        let name = self.name(host, number, &own.half, &known.half, way);
                        self.set(&own.half, &known.half, way, Once::Gone);
                        names.extend(view.contains_key(&name).then_some(name));
                    }
                }
            }
            self.retired.push(known.half.public);
        }
        self.known = kept;
        let forget = self.retired.len().saturating_sub(MOST_RETIRED);
        self.retired.drain(..forget);
        // Ways in of the agent before go a while after the peer has used one of this one's.
        let over = self.answered.is_some_and(|since| now.saturating_sub(since) >= GRACE);
        if over && own.len() == 1 {
            let ours: Vec<_> =
                self.known.iter().map(|known| self.name(host, 0, &own[0].half, &known.half, Way::In)).collect();
            let left = view.keys().filter(|name| name.0 == host && name.1 == Way::In && !ours.contains(name));
            names.extend(left.cloned().collect::<Vec<_>>());
        }
        names.sort();
        names.dedup();
        names
    }

    pub(super) fn ways_in(
        &mut self,
        host: &str,
        number: u32,
        own: &PublicHalf,
        view: &View,
        actions: &mut Vec<Action>,
    ) {
        let halves: Vec<_> = self.halves().copied().collect();
        for half in halves {
            if self.once(own, &half, Way::In) != Once::Never {
                continue;
            }
            self.set(own, &half, Way::In, Once::Installed);
            self.install(host, number, own, &half, Way::In, view, actions);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "a pair, where it belongs, and what is there")]
    fn install(
        &self,
        host: &str,
        number: u32,
        own: &PublicHalf,
        half: &PublicHalf,
        way: Way,
        view: &View,
        actions: &mut Vec<Action>,
    ) {
        let name = self.name(host, number, own, half, way);
        // Of an agent before this one, 32 generations ago, or of a half that clashes.
        if view.contains_key(&name) && !actions.contains(&Action::Remove(name.clone())) {
            actions.push(Action::Remove(name.clone()));
        }
        actions.push(Action::Install { host: host.to_owned(), way, own: *own, peer: *half, spi: name.2 });
    }

    /// The one way out; true if there is none because all that could be were lost.
    pub(super) fn way_out(
        &mut self,
        host: &str,
        number: u32,
        own: &[Own],
        view: &View,
        now: Duration,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some(half) = self.known.iter().rev().find(|known| known.listed).map(|known| known.half) else {
            return false;
        };
        let lost = |own: &&Own| self.once(&own.half, &half, Way::Out) == Once::Gone;
        let mut published = own.iter().rev().filter(|own| own.published).peekable();
        if published.peek().is_none() {
            return false;
        }
        let usable: Vec<_> = published.filter(|own| !lost(own)).collect();
        let used = usable.iter().find(|own| Some(own.half.generation) == self.used);
        let chosen = used.copied().or_else(|| try_next(&mut self.tried, &usable, now));
        let Some(chosen) = chosen.map(|own| own.half) else { return true };
        let name = self.name(host, number, &chosen, &half, Way::Out);
        if self.once(&chosen, &half, Way::Out) == Once::Never {
            // Whatever the peer chooses to answer with arrives.
            if own.iter().filter(|own| own.published).all(|own| self.settled(host, &own.half, &half, view)) {
                self.set(&chosen, &half, Way::Out, Once::Installed);
                self.install(host, number, &chosen, &half, Way::Out, view, actions);
            }
            return false;
        }
        if let Some(packets) = view.get(&name) {
            let since = self.leads.filter(|(spi, _)| *spi == name.2).map_or(now, |(_, since)| since);
            self.leads = Some((name.2, since));
            let over = now.saturating_sub(since) >= LEAVING;
            let others =
                view.keys().filter(|other| other.0 == host && other.1 == Way::Out && **other != name).filter(|_| over);
            for other in others {
                self.gone_out(number, own, other.2);
                actions.push(Action::Remove(other.clone()));
            }
            if *packets == 0 {
                actions.push(Action::Probe { host: host.to_owned() });
            }
        }
        false
    }

    /// Whether a way out stays that an agent before this one made, until the peer uses a half of this one's: as long as the peer lists the
    /// half it is for; or was restarted too, still takes it in, and has said nothing since this agent looked first: it may not have read
    /// of this agent's halves; and a little longer.
    pub(super) fn holds(&mut self, host: &str, taken_over: &BTreeSet<Name>, view: &View, now: Duration) -> bool {
        let there = |name: &&Name| name.0 == host && view.contains_key(*name);
        let receivers: BTreeSet<u32> = taken_over.iter().filter(there).map(|(.., spi)| generations(*spi).1).collect();
        if receivers.is_empty() {
            return false;
        }
        // One that came later may have the same generation, after a record that went back.
        let fits = |known: &Known| known.listed && known.early;
        let listed = |receiver| self.known.iter().any(|known| fits(known) && known.half.generation % 32 == receiver);
        let is_silent = self.known.iter().all(|known| known.early);
        let lingers = self.lingering.as_ref().is_some_and(|lingering| !lingering.is_disjoint(&receivers));
        if receivers.iter().any(|receiver| listed(*receiver)) || lingers && is_silent {
            self.held = None;
            return true;
        }
        now.saturating_sub(*self.held.get_or_insert(now)) < TAKEN_OVER
    }

    /// Notes that the way out under this SPI is taken away.
    fn gone_out(&mut self, number: u32, own: &[Own], taken: u32) {
        let halves: Vec<_> = self.halves().copied().collect();
        for half in halves {
            for own in own {
                let installed = self.once(&own.half, &half, Way::Out) == Once::Installed;
                if installed && spi(Way::Out, number, &own.half, self.number, &half) == taken {
                    self.set(&own.half, &half, Way::Out, Once::Gone);
                }
            }
        }
    }
}

/// The places of those that are too many. A peer whose agent starts again and again while it cannot be heard sends under what one of
/// the first made: what it neither lists nor was ever heard under goes first.
fn excess(known: &[Known]) -> BTreeSet<usize> {
    let over = known.len().saturating_sub(MOST_KNOWN);
    let mut places: Vec<usize> = (0..known.len()).collect();
    places.sort_by_key(|place| (known[*place].listed || known[*place].heard, *place));
    places.into_iter().take(over).collect()
}

/// Of own halves that the peer has not used, the newest first, the one to send under: the oldest, which the peer has had the longest time to
/// learn of, and after a while without an answer the next.
fn try_next<'a>(tried: &mut Option<([u8; 32], Duration)>, usable: &[&'a Own], now: Duration) -> Option<&'a Own> {
    let place = tried.and_then(|(public, _)| usable.iter().position(|own| own.half.public == public));
    let next = match (place, *tried) {
        // As long as there is no newer one its time does not run: of one that is still to come the peer has to learn first.
        (Some(0), _) => usable.first().copied(),
        (Some(place), Some((_, since))) if now.saturating_sub(since) < TAKEN_OVER => return usable.get(place).copied(),
        (Some(place), _) => usable.get(place - 1).copied(),
        (None, _) => usable.last().copied(),
    };
    *tried = next.map(|own| (own.half.public, now));
    next
}
