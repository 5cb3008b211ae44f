use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn route() -> impl Strategy<Value = RouteSpec> {
    let shape = (0..4u8, prop::sample::select(vec![0u8, 16, 24, 26, 32]), any::<bool>());
    (shape, 0..2u32, 254..256u32, prop::option::of(1..3u8)).prop_map(
        |((block, length, unicast), metric, table, via)| {
            let destination = Prefix::new(IpAddr::from([10, 42, block, 0]), length).unwrap();
            let route = if unicast { RouteSpec::on(destination, "v0") } else { RouteSpec::unreachable(destination) };
            let via = via.filter(|_| unicast).map(|host| IpAddr::from([10, 42, 0, host]));
            RouteSpec { metric, table, via, ..route }
        },
    )
}

/// A table as the kernel keeps one: removing takes the exact route, replacing the first one with the key.
fn apply(mut table: Vec<RouteSpec>, changes: &[Change]) -> Vec<RouteSpec> {
    for change in changes {
        match change {
            Change::Add(spec) => {
                assert!(table.iter().all(|route| route.key() != spec.key()), "EEXIST: {spec}");
                table.push(spec.clone());
            }
            Change::Replace(spec) => {
                let place = table.iter().position(|route| route.key() == spec.key()).expect("one to replace");
                table[place] = spec.clone();
            }
            Change::Remove(spec) => {
                let place = table.iter().position(|route| route == spec).expect("ESRCH");
                table.remove(place);
            }
        }
    }
    table
}

proptest! {
    #[test]
    fn a_plan_reaches_what_is_desired_and_a_second_one_is_empty(
        current in prop::collection::hash_set(route(), 0..10),
        desired in prop::collection::vec(route(), 0..10),
    ) {
        let current: Vec<_> = current.into_iter().collect();
        let made = apply(current.clone(), &plan(&current, &desired));
        let keys: HashSet<_> = desired.iter().map(RouteSpec::key).collect();
        prop_assert_eq!(made.len(), keys.len());
        prop_assert!(made.iter().all(|route| desired.iter().find(|wish| wish.key() == route.key()) == Some(route)));
        prop_assert_eq!(plan(&made, &desired), vec![]);
    }

    /// While blocks come and go under a guard, no address of the guarded network is ever without a route that is ours.
    #[test]
    fn the_guard_is_there_before_what_it_guards_and_longer(blocks in prop::collection::hash_set(0..8u8, 0..8)) {
        let guard = RouteSpec::unreachable("10.42.0.0/16".parse().unwrap());
        let mut desired: Vec<_> = blocks
            .iter()
            .map(|block| RouteSpec::on(Prefix::new(IpAddr::from([10, 42, *block, 0]), 26).unwrap(), "v0"))
            .collect();
        desired.push(guard.clone());
        let up = plan(&[], &desired);
        prop_assert_eq!(&up[0], &Change::Add(guard.clone()));
        let down = plan(&desired, &[]);
        prop_assert_eq!(down.last(), Some(&Change::Remove(guard)));
    }
}
