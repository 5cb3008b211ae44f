//! The rows of a type in the order of their numbers, kept beside its mirror: so that a page of a long list costs what is on it.

use crate::resource::Resource;
use crate::store::mirror::{Changes, Mirror};
use std::collections::BTreeMap;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::Arc;

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub from: From,
    pub descending: bool,
    pub limit: usize,
}

/// In the list's own order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    Start,
    After(u64),
    Before(u64),
}

/// See the module's text.
#[derive(Debug)]
pub struct Ordered {
    changes: Changes,
    rows: Numbered,
}

#[derive(Debug, Default)]
struct Numbered(BTreeMap<u64, Arc<Resource>>);

type Rows<'a> = Box<dyn Iterator<Item = &'a Arc<Resource>> + 'a>;

impl Ordered {
    pub fn of(mirror: &Mirror<Resource>) -> Self {
        Self { changes: mirror.changes(), rows: Numbered::default() }
    }

    /// Takes in what the mirror has heard since.
    pub fn refresh(&mut self, mirror: &Mirror<Resource>) {
        for key in self.changes.take() {
            let Ok(id) = key.parse() else { continue };
            match mirror.get(&key) {
                Some(item) => self.rows.0.insert(id, item.value),
                None => self.rows.0.remove(&id),
            };
        }
    }

    /// The rows of that part that `keep` lets through, and one on either side where there is one: whether the list goes on.
    pub fn cut(&self, cut: Cut, keep: &mut dyn FnMut(&Resource) -> bool) -> Vec<Arc<Resource>> {
        self.rows.cut(cut, keep)
    }
}

impl Numbered {
    fn cut(&self, cut: Cut, keep: &mut dyn FnMut(&Resource) -> bool) -> Vec<Arc<Resource>> {
        let Cut { from, descending, limit } = cut;
        let (on, back, beside) = match from {
            From::Start => (Unbounded, false, None),
            From::After(id) => (Excluded(id), false, Some(Included(id))),
            From::Before(id) => (Excluded(id), true, Some(Included(id))),
        };
        let mut found: Vec<Arc<Resource>> = Vec::with_capacity(limit.saturating_add(2));
        let mut take = |rows: Rows<'_>, most: usize| {
            found.extend(rows.filter(|row| keep(row)).take(most).cloned());
        };
        take(self.go(on, back != descending), limit.saturating_add(1));
        if let Some(beside) = beside {
            take(self.go(beside, back == descending), 1);
        }
        found
    }

    fn go(&self, from: Bound<u64>, down: bool) -> Rows<'_> {
        if down {
            Box::new(self.0.range((Unbounded, from)).rev().map(|(_, row)| row))
        } else {
            Box::new(self.0.range((from, Unbounded)).map(|(_, row)| row))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn row(id: u64) -> Arc<Resource> {
        let row = json!({"id": id, "kind": "image", "uuid": "u", "created": 1, "state": "active"});
        Arc::new(serde_json::from_value(row).unwrap())
    }

    proptest! {
        #[test]
        fn a_part_is_what_the_whole_has_there(
            ids in proptest::collection::btree_set(1_u64..60, 0..40),
            (limit, descending) in (1_usize..12, any::<bool>()),
            from in prop_oneof![Just(From::Start), (0_u64..62).prop_map(From::After), (0_u64..62).prop_map(From::Before)],
            keeps in 1_u64..4,
        ) {
            let rows = Numbered(ids.iter().map(|id| (*id, row(*id))).collect());
            let mut keep = |row: &Resource| row.id.is_multiple_of(keeps);
            let mut part: Vec<u64> =
                rows.cut(Cut { from, descending, limit }, &mut keep).iter().map(|row| row.id).collect();
            let mut whole: Vec<u64> = ids.into_iter().filter(|id| id.is_multiple_of(keeps)).collect();
            if descending {
                whole.reverse();
            }
            let before = |one: u64, other: u64| if descending { one > other } else { one < other };
            let (first, last) = match from {
                From::Start => (0, limit + 1),
                From::After(id) => {
                    let behind = whole.partition_point(|row| !before(id, *row));
                    (behind.saturating_sub(1), behind + limit + 1)
                }
                From::Before(id) => {
                    let to = whole.partition_point(|row| before(*row, id));
                    (to.saturating_sub(limit + 1), to + 1)
                }
            };
            part.sort_unstable_by(|one, other| if descending { other.cmp(one) } else { one.cmp(other) });
            prop_assert_eq!(part, &whole[first..last.min(whole.len())]);
        }
    }
}
