//! A set of hosts, by their places in the index, from which some can be drawn by chance without a look at all of them.

use super::index::Dice;
use std::collections::HashMap;

#[derive(Debug, Default)]
pub struct Pool {
    members: Vec<usize>,
    places: HashMap<usize, usize>,
}

impl Pool {
    /// One without members.
    pub fn none() -> &'static Self {
        static NONE: std::sync::LazyLock<Pool> = std::sync::LazyLock::new(Pool::default);
        &NONE
    }

    pub fn insert(&mut self, member: usize) {
        if !self.places.contains_key(&member) {
            self.places.insert(member, self.members.len());
            self.members.push(member);
        }
    }

    pub fn remove(&mut self, member: usize) {
        if let Some(place) = self.places.remove(&member) {
            self.members.swap_remove(place);
            if let Some(moved) = self.members.get(place) {
                self.places.insert(*moved, place);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// `most` of them by chance, perhaps one twice; all, where they are no more than that.
    pub fn draw(&self, most: usize, dice: Dice<'_>) -> Vec<usize> {
        if self.len() <= most {
            return self.members.clone();
        }
        // One throw for all of them: a throw costs more than a look.
        let mut state = dice(usize::MAX) as u64;
        let drawn = (0..most).filter_map(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            self.members.get((mixed(state) % self.len() as u64) as usize).copied()
        });
        drawn.collect()
    }
}

/// splitmix64: all that is needed of chance here.
fn mixed(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn it_holds_what_was_put_in_and_not_taken_out(steps in prop::collection::vec((any::<bool>(), 0..20usize), 0..60)) {
            let (mut pool, mut set) = (Pool::default(), BTreeSet::new());
            for (put, member) in steps {
                if put {
                    pool.insert(member);
                    set.insert(member);
                } else {
                    pool.remove(member);
                    set.remove(&member);
                }
                prop_assert_eq!(pool.len(), set.len());
                prop_assert_eq!(&pool.draw(20, &mut |_| 0).into_iter().collect::<BTreeSet<_>>(), &set);
                prop_assert!(pool.draw(2, &mut |bound| bound - 1).iter().all(|one| set.contains(one)));
            }
        }
    }
}
