use super::*;
use crate::network::ipsec::record::Sealed;
use crate::network::mesh::Encryption;
use crate::store::Revision;
use proptest::prelude::*;
use stampede_netlink::route::RouteKind;
use std::collections::BTreeSet;

fn peer(number: u32) -> Mesh {
    let underlay = Underlay { address: Ipv4Addr::from(0xc612_0000 + number).into(), mtu: 1500 };
    Mesh::new(number, underlay, 1380, Encryption::None, Sealed::default())
}

fn mesh(hosts: u32) -> BTreeMap<String, Mesh> {
    (1..=hosts).map(|number| (format!("h{number}"), peer(number))).collect()
}

fn block(revision: i64, number: u32, host: u32) -> Taken {
    let block = SubnetSpec::default().block_at(number);
    Taken { created: Revision(revision), block, host: format!("h{host}") }
}

fn view<'a>(mesh: &'a BTreeMap<String, Mesh>, blocks: &'a [Taken], subnet: &'a SubnetSpec) -> View<'a> {
    let underlay = Some(Underlay { address: Ipv4Addr::new(198, 18, 0, 1).into(), mtu: 1500 });
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    static OUTSIDE: Outside = Outside { public: None, site: None };
    let (encryption, outside) = (Mode::None, &OUTSIDE);
    View { host: "h1", subnet, underlay, outside, mtu: 1380, encryption, mesh, apart: false, refused: &NONE, blocks }
}

fn shown(plan: &Plan) -> Vec<String> {
    plan.routes.iter().map(ToString::to_string).collect()
}

#[test]
fn two_hosts_route_to_each_other_through_their_first_addresses() {
    let (mesh, subnet) = (mesh(2), SubnetSpec::default());
    let blocks = [block(5, 29, 1), block(6, 4, 2), block(9, 2, 2)];
    let plan = plan(&view(&mesh, &blocks, &subnet));
    assert_eq!(
        shown(&plan),
        [
            "unreachable 10.42.0.0/16",
            "10.42.7.64/26 dev stampede0 src 10.42.7.64",
            "10.42.1.0/26 via 10.42.1.1 dev stampede-vx src 10.42.7.64 onlink",
            "10.42.0.128/26 via 10.42.1.1 dev stampede-vx src 10.42.7.64 onlink",
        ]
    );
    let addresses: Vec<_> = plan.bridge_addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.42.0.1/32", "10.42.7.64/32"]);
    assert_eq!(plan.neighbours, BTreeMap::from([("10.42.1.1".parse().unwrap(), vtep_mac(2))]));
    assert_eq!(plan.forwarding, BTreeMap::from([(vtep_mac(2), "198.18.0.2".parse().unwrap())]));
    assert!(plan.problems.is_empty());
}

#[test]
fn a_later_block_with_a_lower_address_changes_no_source() {
    let (mesh, subnet) = (mesh(2), SubnetSpec::default());
    let before = [block(5, 29, 1), block(6, 4, 2)];
    let after = [block(5, 29, 1), block(6, 4, 2), block(7, 1, 1)];
    let (before, after) = (plan(&view(&mesh, &before, &subnet)), plan(&view(&mesh, &after, &subnet)));
    assert_eq!(before.bridge_addresses, after.bridge_addresses);
    assert!(before.routes.iter().all(|route| after.routes.contains(route)));
}

#[test]
fn a_peer_that_speaks_otherwise_is_told_and_hides_no_other() {
    let (mut mesh, subnet) = (mesh(3), SubnetSpec::default());
    mesh.get_mut("h2").unwrap().port = 4789;
    let plan = plan(&view(&mesh, &[block(1, 1, 1), block(2, 2, 2), block(3, 3, 3)], &subnet));
    assert_eq!(plan.problems.len(), 1);
    assert!(plan.problems[0].starts_with("no overlay to h2: "), "{:?}", plan.problems);
    assert_eq!(plan.forwarding.len(), 1);
}

#[test]
fn hosts_that_encrypt_and_hosts_that_do_not_refuse_each_other() {
    let (mut mesh, subnet) = (mesh(3), SubnetSpec::default());
    mesh.get_mut("h2").unwrap().encryption = Encryption::Ipsec;
    let blocks = [block(1, 1, 1), block(2, 2, 2), block(3, 3, 3)];
    for (encryption, refused) in [(Mode::None, "h2: it encrypts"), (Mode::Ipsec, "h3: it does not encrypt")] {
        let plan = plan(&View { encryption, ..view(&mesh, &blocks, &subnet) });
        assert_eq!(plan.problems.len(), 1);
        assert!(plan.problems[0].starts_with(&format!("no overlay to {refused}")), "{:?}", plan.problems);
        assert_eq!(plan.forwarding.len(), 1);
    }
    let either = plan(&View { encryption: Mode::Either, ..view(&mesh, &blocks, &subnet) });
    assert_eq!((either.problems.len(), either.forwarding.len()), (0, 2));
    mesh.get_mut("h2").unwrap().takes_plain = true;
    let none = plan(&view(&mesh, &blocks, &subnet));
    assert_eq!((none.problems.len(), none.forwarding.len()), (0, 2));
}

#[test]
fn hosts_of_other_sites_are_reached_at_their_public_addresses() {
    let (mut mesh, subnet) = (mesh(3), SubnetSpec::default());
    let there = Outside { public: Some("203.0.113.7".parse().unwrap()), site: Some("there".into()) };
    mesh.get_mut("h2").unwrap().outside = there.clone();
    let blocks = [block(1, 1, 1), block(2, 2, 2), block(3, 3, 3)];
    let addresses = |outside: &Outside| {
        let plan = plan(&View { outside, ..view(&mesh, &blocks, &subnet) });
        plan.forwarding.values().map(ToString::to_string).collect::<BTreeSet<_>>()
    };
    assert_eq!(addresses(&Outside::default()), BTreeSet::from(["203.0.113.7".into(), "198.18.0.3".into()]));
    assert_eq!(addresses(&there), BTreeSet::from(["198.18.0.2".into(), "198.18.0.3".into()]));
}

#[test]
fn who_is_refused_gets_no_route() {
    let (mesh, subnet) = (mesh(3), SubnetSpec::default());
    let refused = BTreeMap::from([("h3".to_owned(), "a wrong seal".to_owned())]);
    let blocks = [block(1, 1, 1), block(2, 2, 2), block(3, 3, 3)];
    let plan = plan(&View { refused: &refused, ..view(&mesh, &blocks, &subnet) });
    assert_eq!(plan.problems, ["no overlay to h3: a wrong seal"]);
    assert_eq!((plan.forwarding.len(), plan.routes.len()), (1, 3));
}

#[test]
fn without_a_way_to_others_the_own_blocks_are_there() {
    let subnet = SubnetSpec::default();
    let (none, blocks) = (BTreeMap::new(), [block(1, 1, 1), block(2, 2, 2)]);
    let plan = plan(&View { underlay: None, ..view(&none, &blocks, &subnet) });
    assert_eq!((plan.overlay, plan.routes.len(), plan.routed.len()), (None, 2, 1));
}

proptest! {
    /// Whatever is known: the guard is there, no block is routed twice, every route over the overlay leads to a neighbour
    /// that the overlay knows, and what comes back is sent to an address of this host.
    #[test]
    fn plans_are_whole(
        hosts in 1..6u32,
        taken in prop::collection::btree_map(0..1024u32, 1..8u32, 0..40),
        order in any::<u64>(),
    ) {
        let (mesh, subnet) = (mesh(hosts), SubnetSpec::default());
        let revision = |number: u32| i64::from((number ^ (order as u32)) & 0xff);
        let mut blocks: Vec<_> = taken.iter().map(|(number, host)| block(revision(*number), *number, *host)).collect();
        blocks.sort();
        let view = view(&mesh, &blocks, &subnet);
        let plan = plan(&view);
        prop_assert_eq!(&plan, &super::plan(&view));
        let guards = plan.routes.iter().filter(|route| route.kind == RouteKind::Unreachable).count();
        prop_assert_eq!(guards, 1);
        let destinations: BTreeSet<_> = plan.routes.iter().map(|route| route.destination).collect();
        prop_assert_eq!(destinations.len(), plan.routes.len());
        for route in plan.routes.iter().filter(|route| route.kind == RouteKind::Unicast) {
            let source = route.source.expect("a source");
            prop_assert!(plan.bridge_addresses.iter().any(|address| address.address == source));
            if let Some(via) = route.via {
                let mac = plan.neighbours.get(&via).expect("a neighbour");
                prop_assert!(plan.forwarding.contains_key(mac));
                prop_assert_eq!(route.device.as_deref(), Some(OVERLAY));
            } else {
                prop_assert_eq!(route.device.as_deref(), Some(BRIDGE));
            }
        }
        let own = blocks.iter().filter(|taken| taken.host == "h1").count();
        prop_assert_eq!(plan.routed.len(), own);
        let reachable = blocks.iter().filter(|taken| own > 0 && taken.host != "h1" && mesh.contains_key(&taken.host));
        prop_assert_eq!(plan.routes.len(), 1 + own + reachable.count());
    }
}
