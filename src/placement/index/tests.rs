use super::*;
use crate::membership::record::Capability;
use crate::placement::filter::Promised;
use crate::placement::filter::tests::{candidate, change, host, joined, memory, rule, view, wanted};
use crate::placement::record::Promise;
use proptest::prelude::*;

fn index(candidates: Vec<Candidate>) -> Index {
    let mut index = Index::default();
    candidates.into_iter().for_each(|candidate| index.put(candidate));
    index
}

fn never(_: &str) -> Option<Refusal> {
    None
}

/// A small generator: the same seed, the same throws.
fn dice(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    move |bound| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    }
}

fn labelled(id: u64, memory_mb: u64, labels: &[(&str, &str)]) -> Candidate {
    let mut one = candidate(id, memory_mb, 0);
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    change(&mut one, |host| host.labels = labels);
    one
}

fn chosen(index: &Index, wanted: &Wanted, seed: u64) -> Result<String, Vec<String>> {
    index.choose(wanted, &never, &mut dice(seed)).map(|candidate| candidate.view.host.name.clone())
}

#[test]
fn every_host_says_why_not_and_many_are_summed_up() {
    let few = index((1..=3).map(|id| candidate(id, 4096, 2896)).collect());
    let reasons = chosen(&few, &wanted(4096), 1).unwrap_err();
    assert_eq!(reasons.len(), 3);
    assert_eq!(reasons[2], "h3: asked for 4096 MB, 1200 MB free");
    let mut many: Vec<Candidate> = (1..=1000).map(|id| candidate(id, 4096, 2896)).collect();
    many[999].view.alive = None;
    let reasons = chosen(&index(many), &wanted(4096), 1).unwrap_err();
    assert_eq!(reasons.len(), 17);
    assert!(reasons[16].starts_with("984 more: "), "{}", reasons[16]);
    assert!(reasons[16].contains("too little memory"), "{}", reasons[16]);
    assert_eq!(chosen(&index(Vec::new()), &wanted(1), 1).unwrap_err(), ["there are no such hosts"]);
}

#[test]
fn only_the_requested_host_answers() {
    let all = index((1..=3).map(|id| candidate(id, 100, 0)).collect());
    let request = |requested| Wanted { requested_host: Some(requested), ..wanted(10) };
    assert_eq!(chosen(&all, &request(2), 1).unwrap(), "h2");
    assert_eq!(chosen(&all, &request(9), 1).unwrap_err(), ["1h9: there is no such host"]);
    let too_much = Wanted { requested_host: Some(2), ..wanted(101) };
    assert_eq!(chosen(&all, &too_much, 1).unwrap_err(), ["h2: asked for 101 MB, 100 MB free"]);
    let by_name = Wanted { constraints: vec![rule("name=h3")], ..wanted(10) };
    assert_eq!(chosen(&all, &by_name, 1).unwrap(), "h3");
    let refused = all.choose(&request(2), &|_| Some(Refusal::new("x", "no address")), &mut dice(1)).unwrap_err();
    assert_eq!(refused, ["h2: no address"]);
}

#[test]
fn the_one_host_in_a_thousand_is_found() {
    let mut all: Vec<Candidate> = (1..=1000).map(|id| labelled(id, 100, &[("gpu", "false")])).collect();
    all[700] = labelled(701, 100, &[("gpu", "true")]);
    joined(&mut all[300], "1i5", Promise { name: Some("db".into()), ..Promise::default() });
    let all = index(all);
    for seed in 0..20 {
        let hard = Wanted { constraints: vec![rule("gpu=true")], ..wanted(10) };
        assert_eq!(chosen(&all, &hard, seed).unwrap(), "h701");
        let soft = Wanted { constraints: vec![rule("gpu~=true")], ..wanted(10) };
        assert_eq!(chosen(&all, &soft, seed).unwrap(), "h701");
        let too_large = Wanted { constraints: vec![rule("gpu~=true"), rule("gpu!=none")], ..wanted(101) };
        assert!(chosen(&all, &too_large, seed).is_err());
        let near = Wanted { affinity: vec![rule("name=db")], ..wanted(10) };
        assert_eq!(chosen(&all, &near, seed).unwrap(), "h301");
        let not_there = Wanted { affinity: vec![rule("name~=nobody")], ..wanted(10) };
        assert!(chosen(&all, &not_there, seed).is_ok());
    }
}

#[test]
fn the_last_room_is_found_in_a_full_cluster() {
    let mut all: Vec<Candidate> = (1..=2000).map(|id| candidate(id, 100, 100)).collect();
    all[1234] = candidate(1235, 100, 50);
    let all = index(all);
    for seed in 0..10 {
        assert_eq!(chosen(&all, &wanted(50), seed).unwrap(), "h1235");
        assert!(chosen(&all, &wanted(51), seed).is_err());
    }
}

/// Places `count` like `wanted` one after the other; how many each host got.
fn fill(index: &mut Index, wanted: &Wanted, count: usize) -> BTreeMap<String, usize> {
    let mut got: BTreeMap<String, usize> = BTreeMap::new();
    let mut dice = dice(7);
    for number in 0..count {
        let mut on = index.choose(wanted, &never, &mut dice).unwrap().clone();
        *got.entry(on.view.host.name.clone()).or_default() += 1;
        joined(&mut on, &format!("1i{number}"), wanted.promise.clone());
        index.put(on);
    }
    got
}

#[test]
fn instances_spread_over_hosts_of_one_kind() {
    let mut six = index((1..=6).map(|id| candidate(id, 4096, 0)).collect());
    let got = fill(&mut six, &wanted(0), 60);
    assert!(got.len() == 6 && got.values().all(|count| (7..=13).contains(count)), "{got:?}");
    let mut many = index((1..=500).map(|id| candidate(id, 4096, 0)).collect());
    let got = fill(&mut many, &wanted(64), 5000);
    assert!(got.len() == 500 && got.values().all(|count| (5..=15).contains(count)), "{got:?}");
}

#[test]
fn packing_fills_a_host_before_the_next() {
    let mut many = index((1..=100).map(|id| candidate(id, 1000, 0)).collect());
    let packing = Wanted { policy: Policy::Packing, ..wanted(100) };
    // Ten fit on a host; the dice choose among three.
    let got = fill(&mut many, &packing, 100);
    assert!(got.len() <= 13, "{got:?}");
}

#[test]
fn spread_over_zones_first_and_racks_within() {
    let zones = ["a", "b", "c"];
    let all = (0..90).map(|id| {
        let rack = format!("{}{}", zones[id as usize % 3], id % 2);
        // Zone a has far more room: spreading is not about that.
        labelled(id + 1, if id % 3 == 0 { 100_000 } else { 1000 }, &[("zone", zones[id as usize % 3]), ("rack", &rack)])
    });
    let mut index = index(all.collect());
    let promise =
        Promise { share: memory(10), labels: BTreeMap::from([("app".into(), "web".into())]), ..Promise::default() };
    let wanted =
        Wanted { spread_by: vec!["zone".into(), "rack".into()], ..Wanted::new(Capability::Container, promise) };
    let got = fill(&mut index, &wanted, 30);
    let mut zone_counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut rack_counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for (name, count) in &got {
        let id: usize = name[1..].parse::<usize>().unwrap() - 1;
        *zone_counts.entry(zones[id % 3]).or_default() += count;
        *rack_counts.entry((id % 3, id % 2)).or_default() += count;
    }
    assert_eq!(zone_counts.values().copied().collect::<Vec<_>>(), [10, 10, 10]);
    assert!(rack_counts.values().all(|count| *count == 5), "{rack_counts:?}");
}

#[test]
fn hosts_come_and_go() {
    let mut all = index((1..=50).map(|id| labelled(id, 100, &[("zone", "a")])).collect());
    for id in 1..=49 {
        all.remove(&format!("h{id}"));
    }
    let in_zone = Wanted { constraints: vec![rule("zone=a")], ..wanted(1) };
    assert_eq!(chosen(&all, &in_zone, 1).unwrap(), "h50");
    let mut gone = all.choose(&in_zone, &never, &mut dice(1)).unwrap().clone();
    gone.view.alive = None;
    gone.view.alive_created = None;
    all.put(gone);
    assert_eq!(chosen(&all, &in_zone, 1).unwrap_err(), ["h50: disconnected"]);
    all.remove("h50");
    assert_eq!(all.len(), 0);
    assert!(all.open.is_empty() && all.by_label.is_empty() && all.by_free.is_empty() && all.by_id.is_empty());
}

fn any_host() -> impl Strategy<Value = (u64, Vec<u64>, bool, usize, bool)> {
    (0..400u64, prop::collection::vec(0..200u64, 0..4), any::<bool>(), 0..4usize, prop::bool::weighted(0.9))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_is_asked_no_rule_is_broken_and_none_that_could_is_overlooked(
        hosts in prop::collection::vec(any_host(), 0..90),
        asked in 0..300u64,
        zone in prop::option::of((0..4usize, any::<bool>(), any::<bool>())),
        alone in any::<bool>(),
        near in prop::option::of(any::<bool>()),
        packing in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let promise = |memory_mb: u64, even: bool| Promise {
            share: memory(memory_mb),
            labels: BTreeMap::from([("app".to_owned(), if even { "web" } else { "db" }.to_owned())]),
            ..Promise::default()
        };
        let all: Vec<Candidate> = hosts.iter().zip(1..).map(|((capacity, taken, even, zone, alive), id)| {
            let mut host = host(id, *capacity);
            host.labels = BTreeMap::from([("zone".to_owned(), format!("z{zone}"))]);
            let mut one = Candidate::new(view(host), Promised::default());
            for (at, taken) in taken.iter().enumerate() {
                joined(&mut one, &format!("1i{at}"), promise(*taken, *even));
            }
            if !alive {
                one.view.alive = None;
                one.view.alive_created = None;
            }
            one
        }).collect();
        let index = index(all.clone());
        let mut wanted = Wanted::new(Capability::Container, promise(asked, true));
        if let Some((zone, equal, soft)) = zone {
            wanted.constraints.push(Constraint { key: "zone".into(), value: format!("z{zone}"), equal, soft });
        }
        if alone {
            wanted.promise.avoids.push(rule("app=db"));
        }
        if let Some(soft) = near {
            wanted.affinity.push(Constraint { soft, ..rule("app=web") });
        }
        if packing {
            wanted.policy = Policy::Packing;
        }
        wanted.spread_by.push("zone".into());
        let able = all.iter().filter(|one| refusal(one, &wanted).is_none()).count();
        let first = index.choose(&wanted, &never, &mut dice(seed));
        prop_assert_eq!(first.is_ok(), able > 0);
        if let Ok(one) = &first {
            prop_assert!(refusal(one, &wanted).is_none());
            prop_assert!(one.promised.sum().memory_mb + asked <= one.capacity().memory_mb || asked == 0);
            // The same throws, the same host.
            let again = index.choose(&wanted, &never, &mut dice(seed)).unwrap();
            prop_assert_eq!(&one.view.host.name, &again.view.host.name);
        }
        // Taking all out again leaves nothing behind.
        let mut index = index;
        for one in &all {
            index.remove(&one.view.host.name);
        }
        prop_assert!(index.open.is_empty() && index.tenants.is_empty() && index.groups.is_empty());
        prop_assert!(index.by_label.is_empty() && index.by_free.is_empty() && index.by_name.is_empty());
    }
}
