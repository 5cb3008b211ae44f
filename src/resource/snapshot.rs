//! Snapshots of volumes, as layers: what is written to lies on what was there, and a snapshot is a layer that nobody writes to
//! any more.
//!
//! ```text
//!  image ◄── 0                     the disk as it was made; written to
//!  image ◄── 0* ◄── 1              a snapshot of it: 0 stays as it is, 1 is written to
//!  image ◄── 0* ◄── 1* ◄── 2       another
//!                ▲── 3             back to the first: 2 goes, and 3 is written to
//! ```
//! Which layers there are is part of the volume's row: an instance's, for its own disk. The files follow from that, by number; a layer
//! that is not among them any more is taken away. So a host that is cut off in the middle goes on from whatever is there.

use super::Resource;
use crate::environment::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The type that they are shown as.
pub const BASE: &str = "snapshot";
pub const VOLUME: &str = "volumeId";
pub const REVERT: &str = "revert";
/// Of a volume's row, or an instance's.
const LAYERS: &str = "layers";
/// Most of one volume.
pub const MOST: usize = 16;
/// The longest way from what is written to down to the first.
pub const DEEPEST: usize = 40;

const NUMBER_BITS: u32 = 20;

/// The layers of a volume. One that says nothing of them has the first alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Layers {
    /// What is written to.
    pub active: u32,
    /// The last number that was given.
    pub last: u32,
    /// Layers and what each lies on; the first, 0, lies on no other.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    below: Vec<(u32, u32)>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub snapshots: Vec<Snapshot>,
    /// Why its host cannot do what is to be done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// One snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// Of its layer.
    pub number: u32,
    pub created: Timestamp,
    /// Its host has done it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub made: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
}

impl Eq for Snapshot {}

impl Layers {
    pub fn of(row: &Resource) -> Self {
        row.get(LAYERS).unwrap_or_default()
    }

    pub fn set(&self, row: &mut Resource) {
        row.set(LAYERS, if *self == Self::default() { Value::Null } else { json!(self) });
    }

    /// What is written to becomes `snapshot`, and something new on it is written to.
    pub fn take(&mut self, snapshot: Snapshot) {
        self.last += 1;
        self.below.push((self.last, self.active));
        self.snapshots.push(Snapshot { number: self.active, ..snapshot });
        self.active = self.last;
    }

    /// What was written since is given up, and something new on that layer is written to.
    pub fn revert(&mut self, number: u32) {
        self.last += 1;
        self.below.push((self.last, number));
        self.active = self.last;
        self.prune();
    }

    /// A snapshot is one no more. What others lie on stays.
    pub fn remove(&mut self, number: u32) {
        self.snapshots.retain(|one| one.number != number);
        self.prune();
    }

    /// What lay on `over` lies on `under` now, which has all that was in it.
    pub fn merged(&mut self, over: u32, under: u32) {
        self.below.iter_mut().filter(|(_, below)| *below == over).for_each(|(_, below)| *below = under);
        self.prune();
    }

    fn below(&self, layer: u32) -> Option<u32> {
        self.below.iter().find(|(one, _)| *one == layer).map(|(_, below)| *below)
    }

    /// From `layer` down to the first.
    fn down_from(&self, layer: u32) -> Vec<u32> {
        let mut chain = vec![layer];
        while let Some(below) = self.below(chain[chain.len() - 1]).filter(|below| !chain.contains(below)) {
            chain.push(below);
        }
        chain
    }

    /// From what is written to down to the first.
    pub fn chain(&self) -> Vec<u32> {
        self.down_from(self.active)
    }

    /// The same for who is told of it: nothing, where it is the first alone.
    pub fn told(&self) -> Vec<u32> {
        let chain = self.chain();
        if chain == [0] { Vec::new() } else { chain }
    }

    /// All that there are.
    pub fn all(&self) -> BTreeSet<u32> {
        let tops = self.snapshots.iter().map(|one| one.number).chain([self.active]);
        tops.flat_map(|top| self.down_from(top)).collect()
    }

    fn prune(&mut self) {
        let all = self.all();
        self.below.retain(|(layer, _)| all.contains(layer));
    }

    /// Two layers, the one on the other, of which nobody asks any more what only the lower one had: the two can become the lower one, while
    /// the guest runs.
    pub fn mergeable(&self) -> Option<(u32, u32)> {
        let mut lying: BTreeMap<u32, usize> = BTreeMap::new();
        self.below.iter().for_each(|(_, below)| *lying.entry(*below).or_default() += 1);
        let kept = |layer: u32| self.snapshots.iter().any(|one| one.number == layer);
        let chain = self.chain();
        let pair = chain.windows(2).find(|pair| {
            let alone = pair.iter().all(|layer| lying.get(layer) == Some(&1) && !kept(*layer));
            alone && pair[0] != self.active
        })?;
        Some((pair[0], pair[1]))
    }

    pub fn find(&self, number: u32) -> Option<&Snapshot> {
        self.snapshots.iter().find(|one| one.number == number)
    }

    /// Its host has done all that was to be done.
    pub fn done(&mut self) {
        self.failure = None;
        self.snapshots.iter_mut().for_each(|one| one.made = true);
    }
}

/// Under which number one is shown.
pub fn id(volume: u64, number: u32) -> u64 {
    (volume << NUMBER_BITS) | u64::from(number)
}

/// Of which volume it is, and its number there.
pub fn parse_id(id: u64) -> (u64, u32) {
    let number = u32::try_from(id & ((1 << NUMBER_BITS) - 1)).unwrap_or(u32::MAX);
    (id >> NUMBER_BITS, number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            number: 0,
            created: Timestamp(1),
            made: true,
            size_mb: None,
            name: None,
            description: None,
            data: Map::new(),
        }
    }

    #[test]
    fn a_snapshot_stays_as_it_was() {
        let mut layers = Layers::default();
        assert_eq!((layers.chain(), layers.mergeable()), (vec![0], None));
        layers.take(snapshot());
        layers.take(snapshot());
        assert_eq!(layers.chain(), [2, 1, 0]);
        layers.revert(0);
        assert_eq!(layers.chain(), [3, 0]);
        assert_eq!(layers.all(), BTreeSet::from([0, 1, 3]), "what was written since is given up");
        layers.remove(1);
        assert_eq!(layers.all(), BTreeSet::from([0, 3]));
        layers.remove(0);
        assert_eq!((layers.all(), layers.mergeable()), (BTreeSet::from([0, 3]), None));
        layers.take(snapshot());
        assert_eq!((layers.chain(), layers.mergeable()), (vec![4, 3, 0], None));
        layers.remove(3);
        assert_eq!(layers.mergeable(), Some((3, 0)));
        layers.merged(3, 0);
        assert_eq!((layers.chain(), layers.all()), (vec![4, 0], BTreeSet::from([0, 4])));
    }

    proptest! {
        #[test]
        fn whatever_is_done_no_snapshot_changes_and_the_way_down_stays_short(steps in prop::collection::vec((0..3_u8, any::<prop::sample::Index>()), 0..60)) {
            let mut layers = Layers::default();
            // What each layer holds: the writes in it and below.
            let mut content: BTreeMap<u32, Vec<u32>> = BTreeMap::from([(0, vec![0])]);
            let mut taken: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            for (step, which) in steps {
                let numbers: Vec<u32> = layers.snapshots.iter().map(|one| one.number).collect();
                let chosen = (!numbers.is_empty()).then(|| numbers[which.index(numbers.len())]);
                match (step, chosen) {
                    (0, _) if numbers.len() < MOST => {
                        let before = layers.active;
                        taken.insert(before, content[&before].clone());
                        layers.take(snapshot());
                        content.insert(layers.active, content[&before].iter().copied().chain([layers.active]).collect());
                    }
                    (1, Some(number)) => {
                        layers.revert(number);
                        content.insert(layers.active, content[&number].iter().copied().chain([layers.active]).collect());
                    }
                    (2, Some(number)) => {
                        layers.remove(number);
                        taken.remove(&number);
                    }
                    _ => {}
                }
                while let Some((over, under)) = layers.mergeable() {
                    prop_assert!(!taken.contains_key(&over) && !taken.contains_key(&under));
                    content.insert(under, content[&over].clone());
                    layers.merged(over, under);
                }
                for (number, was) in &taken {
                    prop_assert_eq!(&content[number], was);
                    prop_assert!(layers.all().contains(number));
                }
                prop_assert!(layers.chain().len() <= 2 * MOST + 3);
                prop_assert_eq!(layers.chain().last().copied(), Some(0));
            }
        }

        #[test]
        fn ids_are_taken_apart_again(volume in 0..1_u64 << 40, number in 0..1_u32 << NUMBER_BITS) {
            prop_assert_eq!(parse_id(id(volume, number)), (volume, number));
        }
    }
}
