use std::{collections::BTreeMap, net::Ipv4Addr};

use proptest::prelude::*;

use super::{
    batch::{NEW_ELEMENT, Structure, attributes, element_bytes, elements, frame, new_rule},
    elements::plan,
    foreign::stale,
    *,
};
use crate::{Error, Prefix, attribute::Attributes, socket::Message};

fn ports() -> Set {
    Set {
        name: "ports".to_owned(),
        comment: None,
        key: vec![DataType::Ipv4, DataType::Protocol, DataType::Port],
        data: Some(SetData::Values(vec![DataType::Ipv4, DataType::Port])),
        elements: Vec::new(),
    }
}

fn port(number: u16) -> Element {
    let address = Ipv4Addr::new(198, 18, 0, 1);
    Element {
        key: vec![Value::Ipv4(address), Value::Protocol(Protocol::Tcp), Value::Port(number)],
        data: Some(ElementData::Values(vec![Value::Ipv4(Ipv4Addr::new(10, 42, 1, 2)), Value::Port(80)])),
    }
}

#[test]
fn parts_of_a_concatenation_are_padded_to_registers() {
    let (key, data) = element_bytes(&ports(), &port(0x1234)).unwrap();
    assert_eq!(key, [198, 18, 0, 1, 6, 0, 0, 0, 0x12, 0x34, 0, 0]);
    assert_eq!(data, [10, 42, 1, 2, 0, 80, 0, 0]);
    // A key of one part is as long as it is.
    let single = Set { key: vec![DataType::Protocol], data: None, ..ports() };
    let element = Element { key: vec![Value::Protocol(Protocol::Udp)], data: None };
    assert_eq!(element_bytes(&single, &element).unwrap().0, [17]);
}

#[test]
fn a_value_of_another_type_is_an_error() {
    let mut wrong = port(1);
    wrong.key.swap(0, 2);
    assert!(matches!(element_bytes(&ports(), &wrong), Err(Error::WrongType { .. })));
    let without = Element { data: None, ..port(1) };
    assert!(matches!(element_bytes(&ports(), &without), Err(Error::WrongType { .. })));
    let verdict = Element { data: Some(ElementData::Verdict(Verdict::Drop)), ..port(1) };
    assert!(matches!(element_bytes(&ports(), &verdict), Err(Error::WrongType { .. })));
}

#[test]
fn ten_thousand_elements_go_into_attributes_below_64_kib_and_none_is_lost() {
    let all: Vec<_> = (0..10_000).map(port).collect();
    let messages = elements(NEW_ELEMENT, Family::Inet, "stampede", &ports(), &all).unwrap();
    assert!(messages.len() > 5, "{}", messages.len());
    let mut keys = Vec::new();
    for message in &messages {
        let list = attributes(&message.payload).get(3).unwrap();
        assert!(list.value.len() < 65_000);
        keys.extend(
            list.nested().map(|element| element.nested().get(1).unwrap().nested().get(1).unwrap().value.to_vec()),
        );
    }
    let expected: Vec<_> = all.iter().map(|element| element_bytes(&ports(), element).unwrap().0).collect();
    assert_eq!(keys, expected);
}

#[test]
fn a_comment_too_long_for_nft_is_an_error() {
    let rule = Rule::new([Expression::Counter]).comment("x".repeat(128));
    assert!(matches!(new_rule(Family::Inet, "t", "c", &rule, true), Err(Error::TooLarge { .. })));
    let rule = Rule::new([Expression::Counter]).comment("x".repeat(127));
    assert!(new_rule(Family::Inet, "t", "c", &rule, true).is_ok());
}

fn expression() -> impl Strategy<Value = Expression> {
    let side = prop_oneof![Just(Side::Source), Just(Side::Destination)];
    let prefix = (any::<u32>(), 0..=32u8)
        .prop_map(|(address, length)| Prefix::new(Ipv4Addr::from(address).into(), length).unwrap());
    let key = prop::collection::vec(
        prop_oneof![
            Just(Field::Ipv4(Side::Source)),
            Just(Field::Ipv6(Side::Destination)),
            Just(Field::Protocol),
            Just(Field::Port(Side::Destination)),
            Just(Field::Interface(Way::In)),
            Just(Field::Ethernet(Side::Source)),
            Just(Field::ArpSource),
        ],
        1..4,
    );
    prop_oneof![
        (side, prefix, any::<bool>()).prop_map(|(side, prefix, negated)| Expression::Address {
            side,
            with: AddressMatch::Prefix(prefix),
            negated
        }),
        "[a-z]{1,15}".prop_map(Expression::from),
        "[a-z]{1,14}".prop_map(|name| Expression::Interface {
            way: Way::Out,
            name: Interface::Prefixed(name),
            negated: true
        }),
        (any::<u16>(), any::<u16>()).prop_map(|(a, b)| Expression::Port(
            Protocol::Tcp,
            Side::Source,
            a.min(b)..=a.max(b)
        )),
        Just(Expression::State(States::ESTABLISHED | States::RELATED)),
        key.prop_map(|key| Expression::Lookup { key, set: "s".to_owned(), negated: false }),
        Just(Expression::Counter),
        Just(Expression::ClampSegmentSize),
        Just(Expression::Masquerade),
        Just(Expression::Verdict(Verdict::Jump("other".to_owned()))),
    ]
}

/// Every attribute of a message is whole: its parts fill it, up to padding, and what looks nested is read as such.
fn whole(payload: &[u8]) {
    let used: usize = Attributes::new(payload).map(|one| (one.value.len() + 4).next_multiple_of(4)).sum();
    assert_eq!(used, payload.len());
}

proptest! {
    #[test]
    fn rules_are_whole_messages(rule in prop::collection::vec(expression(), 0..8), inet in any::<bool>()) {
        let family = if inet { Family::Inet } else { Family::Ipv4 };
        match new_rule(family, "t", "c", &Rule::new(rule.clone()), true) {
            Ok(message) => {
                whole(&message.payload[4..]);
                let list = attributes(&message.payload).get(4).unwrap();
                whole(list.value);
                for one in list.nested() {
                    whole(one.value);
                    prop_assert!(one.nested().get(1).and_then(|name| name.text()).is_some_and(|name| !name.is_empty()));
                    whole(one.nested().get(2).unwrap().value);
                }
            }
            // Only a key longer than all registers is refused.
            Err(error) => prop_assert!(matches!(error, Error::TooLarge { .. }), "{error}"),
        }
    }

    #[test]
    fn a_plan_of_elements_reaches_what_is_desired(
        current in prop::collection::btree_map(0..6u8, 0..3u8, 0..6),
        desired in prop::collection::btree_map(0..6u8, 0..3u8, 0..6),
    ) {
        let mut table: BTreeMap<_, _> = current.into_iter().map(|(key, data)| (vec![key], vec![data])).collect();
        let wanted: BTreeMap<_, _> =
            desired.into_iter().map(|(key, data)| (vec![key], (vec![data], (vec![key], vec![data])))).collect();
        let (deleted, added) = plan(&table, &wanted);
        for key in deleted {
            prop_assert!(table.remove(&key).is_some(), "deleted what is not there");
        }
        for (key, data) in added {
            prop_assert!(table.insert(key.clone(), data.clone()).is_none(), "added over one that is there");
        }
        prop_assert!(table.iter().all(|(key, data)| &wanted[key].0 == data));
        prop_assert_eq!(table.len(), wanted.len());
    }

    /// Ours among others' rules, anywhere: afterwards ours stand at the head, the others in their old order.
    #[test]
    fn foreign_rules_keep_their_order(rules in prop::collection::vec(0..4u8, 0..8), wanted in 0..3u8) {
        let state = |handle: usize, number: u8| RuleState {
            handle: handle as u64 + 1,
            comment: Some(if number < 3 { format!("ours: {number}") } else { "theirs".to_owned() }),
            expressions: vec!["counter".to_owned()],
        };
        let mut chain: Vec<_> = rules.iter().enumerate().map(|(place, number)| state(place, *number)).collect();
        let expected: Vec<_> = (0..wanted).map(|number| state(100, number)).collect();
        let others: Vec<_> = chain.iter().filter(|rule| rule.comment.as_deref() == Some("theirs")).cloned().collect();
        if let Some(handles) = stale(&chain, &expected, "ours: ") {
            chain.retain(|rule| !handles.contains(&rule.handle));
            chain.splice(0..0, expected.clone());
        }
        prop_assert!(chain.iter().zip(&expected).all(|(rule, wanted)| rule.same(wanted)));
        prop_assert_eq!(&chain[expected.len()..], &others[..]);
        prop_assert_eq!(stale(&chain, &expected, "ours: "), None);
    }
}

#[test]
fn the_digest_tells_structures_apart_and_knows_nothing_of_elements() {
    let chain = |rules| Chain { name: "c".to_owned(), hook: None, rules };
    let table = |sets, rules| Table {
        family: Family::Inet,
        name: "t".to_owned(),
        comment: "a table".to_owned(),
        sets,
        chains: vec![chain(rules)],
    };
    let digest = |table: &Table| Structure::of(table).unwrap().digest();
    let plain = table(vec![ports()], vec![Rule::new([Expression::Counter])]);
    let filled = table(vec![Set { elements: vec![port(1)], ..ports() }], plain.chains[0].rules.clone());
    let other = table(vec![ports()], vec![Rule::new([Expression::Verdict(Verdict::Drop)])]);
    assert_eq!(digest(&plain), digest(&filled));
    assert_ne!(digest(&plain), digest(&other));
}

#[test]
fn a_batch_is_framed_and_carries_its_generation() {
    let framed = frame(vec![Message { kind: 1, flags: 0, payload: vec![] }], Some(7));
    assert_eq!(framed.iter().map(|message| message.kind).collect::<Vec<_>>(), [0x10, 1, 0x11]);
    assert_eq!(framed[0].payload, [0, 0, 0, 10, 8, 0, 1, 0, 0, 0, 0, 7]);
}
