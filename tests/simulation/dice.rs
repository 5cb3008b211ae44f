//! Where chance comes from: one stream of numbers for a whole run, from its seed.

use stampede::environment::Random;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Cheap to clone; all clones draw from one stream.
#[derive(Clone, Debug)]
pub struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5eed)))
    }

    /// Splitmix64.
    pub fn number(&self) -> u64 {
        let mut state = self.0.lock().unwrap();
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// `0..bound`
    pub fn below(&self, bound: usize) -> usize {
        (self.number() % bound.max(1) as u64) as usize
    }

    /// `from..=to` milliseconds.
    pub fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below((to - from + 1) as usize) as u64)
    }

    /// In so many of a hundred cases.
    pub fn percent(&self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub fn one<'a, T>(&self, among: &'a [T]) -> Option<&'a T> {
        among.get(self.below(among.len()))
    }
}

impl Random for Dice {
    fn fill(&self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&self.number().to_le_bytes()[..part.len()]);
        }
    }
}
