//! Whether the peers are heard: what their associations counted, whom to send something, and who was silent too long.
//!
//! Every [`PERIOD`] a host sends something to eight of its peers in turn, and to those from which nothing came since it sent
//! to them. So from a peer that is well something comes at least as often as it takes to go round, without anything that is
//! asked for or answered. A peer that lives and is silent for much longer than that is called so, and new keys are tried with it, ever
//! more seldom.

use super::{
    derive::Way,
    rotation::{Name, View},
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two rounds.
pub const PERIOD: Duration = Duration::from_secs(10);
/// Peers in a round.
const ROUND: usize = 8;
/// So many times what it takes to go round is too long.
const MISSED: u32 = 6;
/// From whom something came within this time is there, whatever the store says.
const LATELY: Duration = Duration::from_secs(120);
/// Between two tries with new keys.
const AGAIN: Duration = Duration::from_secs(60);
const MOST_AGAIN: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone)]
struct Heard {
    /// When something came; at first, when it was first seen.
    last: Duration,
    /// Since when something has come without too long a break.
    since: Option<Duration>,
    /// Something was sent and nothing came since.
    waiting: bool,
    tried: Option<Duration>,
    pause: Duration,
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Pulse {
    counted: View,
    peers: BTreeMap<String, Heard>,
    /// The last one of the last round.
    turn: String,
    rounded: Option<Duration>,
    /// When new keys were tried last, with whomever.
    tried: Option<Duration>,
}

impl Pulse {
    /// Takes in what the kernel counts for these peers now.
    pub fn look(&mut self, view: &View, peers: &BTreeSet<String>, now: Duration) {
        self.peers.retain(|host, _| peers.contains(host));
        for host in peers {
            let new = Heard { last: now, since: None, waiting: false, tried: None, pause: AGAIN };
            self.peers.entry(host.clone()).or_insert(new);
        }
        let limit = self.limit();
        let before = std::mem::replace(&mut self.counted, view.clone());
        let grew = |way| {
            let more = |name: &Name, packets: u64| packets > before.get(name).copied().unwrap_or(0);
            view.iter()
                .filter(move |(name, packets)| name.1 == way && more(name, **packets))
                .map(|((host, ..), _)| host)
        };
        for host in grew(Way::Out) {
            self.peers.entry(host.clone()).and_modify(|heard| heard.waiting = true);
        }
        // What came counts over what was sent in the same time.
        for host in grew(Way::In) {
            self.peers.entry(host.clone()).and_modify(|heard| {
                let since = heard.since.filter(|_| now.saturating_sub(heard.last) < limit).or(Some(now));
                *heard = Heard { last: now, since, waiting: false, tried: None, pause: AGAIN };
            });
        }
    }

    /// Those from whom something came lately.
    pub fn lately(&self, now: Duration) -> impl Iterator<Item = &String> {
        let lately = move |heard: &Heard| heard.since.is_some() && now.saturating_sub(heard.last) < LATELY;
        self.peers.iter().filter(move |(_, heard)| lately(heard)).map(|(host, _)| host)
    }

    /// Whom to send something now; nobody before the next round is due.
    pub fn round(&mut self, now: Duration) -> BTreeSet<String> {
        if self.rounded.is_some_and(|last| now.saturating_sub(last) < PERIOD) {
            return BTreeSet::new();
        }
        self.rounded = Some(now);
        let behind = self.peers.keys().filter(|host| **host > self.turn);
        let before = self.peers.keys().filter(|host| **host <= self.turn);
        let turn: Vec<_> = behind.chain(before).take(ROUND).cloned().collect();
        self.turn = turn.last().cloned().unwrap_or_default();
        let waiting = self.peers.iter().filter(|(_, heard)| heard.waiting).map(|(host, _)| host.clone());
        waiting.chain(turn).collect()
    }

    /// Since when something has come from a host, and when it last did; `None` where nothing has, or not for too long.
    pub fn heard(&self, host: &str, now: Duration) -> Option<(Duration, Duration)> {
        let heard = self.peers.get(host).filter(|heard| now.saturating_sub(heard.last) < self.limit())?;
        Some((heard.since?, heard.last))
    }

    /// Whether something should have come from a host by now.
    pub fn is_overdue(&self, host: &str, now: Duration) -> bool {
        self.peers.get(host).is_some_and(|heard| now.saturating_sub(heard.last) >= self.limit())
    }

    fn limit(&self) -> Duration {
        let rounds = u32::try_from(self.peers.len().div_ceil(ROUND)).unwrap_or(u32::MAX);
        PERIOD * rounds.max(1) * MISSED
    }

    /// Those of the living that were silent too long, and for how long.
    pub fn silent(&self, alive: &BTreeSet<String>, now: Duration) -> BTreeMap<String, Duration> {
        let silence = |heard: &Heard| now.saturating_sub(heard.last);
        let silent = |(host, heard): &(&String, &Heard)| alive.contains(*host) && silence(heard) >= self.limit();
        self.peers.iter().filter(silent).map(|(host, heard)| (host.clone(), silence(heard))).collect()
    }

    /// Of the silent those that new keys are to be tried with now. A new half is one for all: whoever falls silent soon after it was
    /// made, as all do where this host is the one that is cut off, waits until it is time for another.
    pub fn due(&mut self, silent: &BTreeMap<String, Duration>, now: Duration) -> Vec<String> {
        let lately = self.tried.filter(|tried| now.saturating_sub(*tried) < AGAIN);
        let mut due = Vec::new();
        for host in silent.keys() {
            let Some(heard) = self.peers.get_mut(host) else { continue };
            heard.tried = heard.tried.or(lately);
            if heard.tried.is_some_and(|tried| now.saturating_sub(tried) < heard.pause) {
                continue;
            }
            if heard.tried.replace(now).is_some() {
                heard.pause = (2 * heard.pause).min(MOST_AGAIN);
            }
            due.push(host.clone());
            self.tried = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn peers(count: usize) -> BTreeSet<String> {
        (0..count).map(|peer| format!("h{peer:02}")).collect()
    }

    fn view(host: &str, came: u64, went: u64) -> View {
        View::from([((host.to_owned(), Way::In, 1), came), ((host.to_owned(), Way::Out, 2), went)])
    }

    #[test]
    fn eight_in_turn_and_who_does_not_answer() {
        let mut pulse = Pulse::default();
        pulse.look(&View::new(), &peers(20), seconds(100));
        assert_eq!(pulse.round(seconds(100)), peers(8));
        assert!(pulse.round(seconds(109)).is_empty());
        pulse.look(&view("h03", 0, 1), &peers(20), seconds(109));
        let second = pulse.round(seconds(110));
        assert_eq!(second.len(), 9);
        assert!(second.contains("h03") && second.contains("h08") && second.contains("h15"));
        // Something came: no more waiting. And round it goes.
        pulse.look(&view("h03", 1, 2), &peers(20), seconds(119));
        let third = pulse.round(seconds(120));
        assert_eq!((third.len(), third.contains("h19"), third.contains("h03")), (8, true, true));
    }

    #[test]
    fn who_lives_and_is_silent_is_told_and_tried_ever_more_seldom() {
        let mut pulse = Pulse::default();
        let (all, alive) = (peers(2), BTreeSet::from(["h00".to_owned()]));
        pulse.look(&view("h00", 5, 0), &all, seconds(100));
        assert_eq!(pulse.lately(seconds(130)).collect::<Vec<_>>(), ["h00"]);
        assert_eq!(pulse.heard("h00", seconds(130)), Some((seconds(100), seconds(100))));
        assert_eq!((pulse.heard("h01", seconds(130)), pulse.is_overdue("h01", seconds(130))), (None, false));
        assert!(pulse.heard("h00", seconds(160)).is_none() && pulse.is_overdue("h00", seconds(160)));
        assert!(pulse.silent(&alive, seconds(159)).is_empty());
        let silent = pulse.silent(&alive, seconds(160));
        assert_eq!(silent, BTreeMap::from([("h00".to_owned(), seconds(60))]));
        let mut tries = Vec::new();
        for now in 160..1160 {
            if !pulse.due(&silent, seconds(now)).is_empty() {
                tries.push(now - 160);
            }
        }
        assert_eq!(tries, [0, 60, 180, 420, 900]);
        pulse.look(&view("h00", 6, 0), &all, seconds(1160));
        // After so long it is another time.
        assert_eq!(pulse.heard("h00", seconds(1170)), Some((seconds(1160), seconds(1160))));
        assert!(pulse.silent(&alive, seconds(1200)).is_empty());
        // Who left is forgotten.
        pulse.look(&view("h00", 6, 0), &peers(0), seconds(1300));
        assert_eq!(pulse.lately(seconds(1300)).count(), 0);
    }

    #[test]
    fn one_new_half_is_for_all_that_fall_silent() {
        let (mut pulse, all) = (Pulse::default(), peers(2));
        pulse.look(&view("h00", 5, 0), &all, seconds(100));
        let both = view("h00", 5, 0).into_iter().chain(view("h01", 5, 0)).collect();
        pulse.look(&both, &all, seconds(103));
        let mut due = |now| {
            let silent = pulse.silent(&all, seconds(now));
            pulse.due(&silent, seconds(now))
        };
        assert_eq!(due(160), ["h00"]);
        assert!(due(163).is_empty() && due(219).is_empty());
        assert_eq!(due(220), ["h00", "h01"]);
        assert!(due(339).is_empty());
        assert_eq!(due(340), ["h00", "h01"]);
    }
}
