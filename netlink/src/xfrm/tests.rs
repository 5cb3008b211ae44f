use std::net::IpAddr;

use netlink_packet_core::Emitable;
use netlink_packet_core::ParseableParametrized;
use netlink_packet_xfrm::{XfrmAttrs, XfrmMessage};
use proptest::prelude::*;

use super::{
    message::{DELETE_ASSOCIATION, DELETE_POLICY, NEW_ASSOCIATION, NEW_POLICY},
    *,
};
use crate::Prefix;

fn address(ipv4: bool) -> BoxedStrategy<IpAddr> {
    if ipv4 {
        any::<[u8; 4]>().prop_map(IpAddr::from).boxed()
    } else {
        any::<[u8; 16]>().prop_map(IpAddr::from).boxed()
    }
}

fn selector(ipv4: bool) -> impl Strategy<Value = Selector> {
    let prefix = move || (address(ipv4), 0..=32u8).prop_map(|(address, length)| Prefix::new(address, length).unwrap());
    let port = prop::option::of(any::<u16>());
    (prefix(), prefix(), any::<u8>(), port.clone(), port, any::<u32>()).prop_map(
        |(source, destination, protocol, source_port, destination_port, interface)| Selector {
            source,
            destination,
            protocol,
            source_port,
            destination_port,
            interface,
        },
    )
}

fn lifetimes() -> impl Strategy<Value = Lifetimes> {
    let limit = || prop::option::of(1..u64::MAX);
    let limits = move || (limit(), limit()).prop_map(|(soft, hard)| Limits { soft, hard });
    (limits(), limits(), limits(), limits()).prop_map(|(bytes, packets, since_added, since_used)| Lifetimes {
        bytes,
        packets,
        since_added,
        since_used,
    })
}

fn mark() -> impl Strategy<Value = Mark> {
    (any::<u32>(), any::<u32>()).prop_map(|(value, mask)| Mark { value, mask })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Transport), Just(Mode::Tunnel)]
}

prop_compose! {
    fn association()(ipv4 in any::<bool>())(
        destination in address(ipv4),
        source in address(ipv4),
        selector in selector(ipv4),
        (spi, mark, mode) in (any::<u32>(), mark(), mode()),
        material in any::<[[u8; 18]; 2]>(),
        short in any::<bool>(),
        replay_window in 1..4096u32,
        ports in prop::option::of(any::<[u16; 2]>()),
        lifetimes in lifetimes(),
        (request_id, interface_id) in any::<(u32, u32)>(),
    ) -> AssociationSpec {
        let whole: [u8; 36] = material.concat().try_into().unwrap();
        let half: [u8; 20] = whole[..20].try_into().unwrap();
        AssociationSpec {
            id: AssociationId { destination, spi, mark },
            source,
            key: if short { AeadKey::aes128(&half) } else { AeadKey::aes256(&whole) },
            mode,
            selector,
            replay_window,
            encapsulation: ports.map(|[source_port, destination_port]| UdpEncapsulation { source_port, destination_port }),
            lifetimes,
            request_id,
            interface_id,
        }
    }
}

prop_compose! {
    fn policy()(ipv4 in any::<bool>())(
        selector in selector(ipv4),
        direction in prop_oneof![Just(Direction::In), Just(Direction::Out), Just(Direction::Forward)],
        action in prop_oneof![
            Just(Action::Block),
            Just(Action::Pass),
            prop::collection::vec(template(ipv4), 1..4).prop_map(Action::Protect),
        ],
        (priority, interface_id, mark) in (any::<u32>(), any::<u32>(), mark()),
        lifetimes in lifetimes(),
    ) -> PolicySpec {
        PolicySpec { id: PolicyId { selector, direction, mark, interface_id }, action, priority, lifetimes }
    }
}

prop_compose! {
    fn template(ipv4: bool)(
        source in address(ipv4),
        destination in address(ipv4),
        (spi, request_id, mode, optional) in (any::<u32>(), any::<u32>(), mode(), any::<bool>()),
    ) -> Template {
        Template { source, destination, spi, request_id, mode, optional }
    }
}

fn read(kind: u16, payload: &[u8]) -> Understood {
    understand(kind, payload).expect("what we write is understood")
}

/// What another codec makes of our bytes, and the bytes that it makes of that.
fn other_codec(kind: u16, payload: &[u8]) -> (XfrmMessage, Vec<u8>) {
    let message = XfrmMessage::parse_with_param(payload, kind).expect("another codec understands it");
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    (message, bytes)
}

proptest! {
    #[test]
    fn an_association_is_read_as_it_was_written(spec in association()) {
        let message = message::write_association(NEW_ASSOCIATION, &spec).unwrap();
        let Understood::Association(found) = read(NEW_ASSOCIATION, &message.payload) else { panic!("another kind") };
        prop_assert_eq!(&found.spec, &spec);
        prop_assert_eq!((found.bytes, found.sent, found.received, found.forged), (0, 0, 0, 0));
        let (parsed, bytes) = other_codec(NEW_ASSOCIATION, &message.payload);
        let XfrmMessage::AddSa(parsed) = parsed else { panic!("{parsed:?}") };
        prop_assert_eq!(parsed.user_sa_info.id.spi, spec.id.spi);
        prop_assert_eq!(parsed.user_sa_info.reqid, spec.request_id);
        if let IpAddr::V4(destination) = spec.id.destination {
            prop_assert_eq!(parsed.user_sa_info.id.daddr.to_ipv4(), destination);
        }
        prop_assert!(parsed.nlas.iter().any(|attribute| matches!(attribute,
            XfrmAttrs::ReplayStateEsn(replay) if replay.replay_window == spec.replay_window)));
        prop_assert_eq!(read(NEW_ASSOCIATION, &bytes), Understood::Association(found));
    }

    #[test]
    fn a_policy_is_read_as_it_was_written(spec in policy()) {
        let message = message::write_policy(NEW_POLICY, &spec).unwrap();
        let Understood::Policy(found) = read(NEW_POLICY, &message.payload) else { panic!("another kind") };
        prop_assert_eq!(&found.spec, &spec);
        let (_, bytes) = other_codec(NEW_POLICY, &message.payload);
        prop_assert_eq!(read(NEW_POLICY, &bytes), Understood::Policy(found));
    }

    #[test]
    fn names_say_the_same_to_another_codec(association in association(), policy in policy()) {
        let name = message::name_association(DELETE_ASSOCIATION, &association.id).unwrap();
        prop_assert_eq!(&other_codec(DELETE_ASSOCIATION, &name.payload).1, &name.payload);
        let name = message::name_policy(DELETE_POLICY, &policy.id).unwrap();
        prop_assert_eq!(&other_codec(DELETE_POLICY, &name.payload).1, &name.payload);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(kind in 0x10..0x30u16, bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = understand(kind, &bytes);
    }

    #[test]
    fn a_message_that_was_bent_or_cut_does_not_panic(
        spec in association(), policy in policy(), at in any::<prop::sample::Index>(), byte in any::<u8>(), end in any::<prop::sample::Index>(),
    ) {
        let association = message::write_association(NEW_ASSOCIATION, &spec).unwrap();
        let policy = message::write_policy(NEW_POLICY, &policy).unwrap();
        for (kind, message) in [(NEW_ASSOCIATION, &association), (NEW_POLICY, &policy)] {
            let mut bytes = message.payload.clone();
            let place = at.index(bytes.len());
            bytes[place] = byte;
            bytes.truncate(end.index(bytes.len() + 1));
            let _ = understand(kind, &bytes);
        }
    }

    #[test]
    fn a_plan_of_associations_reaches_what_is_desired_and_begins_no_key_anew(
        current in prop::collection::btree_map(0..6u32, (0..3u8, 0..2u32, 0..2u64), 0..6),
        desired in prop::collection::btree_map(0..6u32, (0..3u8, 0..2u32, 0..2u64), 0..6),
    ) {
        // Key, window and lifetime make the difference between replace, refuse and update.
        let make = |(spi, (key, window, limit)): (&u32, &(u8, u32, u64))| {
            let key = AeadKey::aes256(&[*key + 1; 36]);
            let mut spec = AssociationSpec::new([198, 18, 0, 1].into(), [198, 18, 0, 2].into(), *spi, key);
            spec.replay_window = 1024 + window;
            spec.lifetimes.bytes.soft = Some(1 + limit);
            spec
        };
        let mut table: Vec<_> = current.iter().map(make).map(there).collect();
        let wishes: Vec<_> = desired.iter().map(make).collect();
        let plan = plan_associations(&table, &wishes);
        for change in plan.changes {
            let place = |id: &AssociationId| table.iter().position(|found| found.spec.id == *id);
            match change {
                AssociationChange::Add(spec) => {
                    assert!(place(&spec.id).is_none());
                    let before = current.get(&spec.id.spi).map(|(key, ..)| AeadKey::aes256(&[key + 1; 36]));
                    prop_assert_ne!(before, Some(spec.key.clone()));
                    table.push(there(spec));
                }
                AssociationChange::Update(spec) => {
                    let place = place(&spec.id).expect("one to update");
                    prop_assert_eq!(table[place].spec.replay_window, spec.replay_window);
                    prop_assert_eq!(&table[place].spec.key, &spec.key);
                    table[place].spec = spec;
                }
                AssociationChange::Remove(id) => drop(table.remove(place(&id).expect("one to remove"))),
            }
        }
        for wish in &wishes {
            let found = table.iter().find(|found| found.spec.id == wish.id).map(|found| &found.spec);
            prop_assert!(found == Some(wish) || plan.refused.contains(wish));
        }
        prop_assert_eq!(table.len(), wishes.len());
        prop_assert!(plan_associations(&table, &wishes).changes.is_empty());
    }

    #[test]
    fn a_plan_of_policies_is_safe_at_every_step(
        current in prop::collection::btree_map(0..5u8, 0..3u8, 0..5),
        desired in prop::collection::btree_map(0..5u8, 0..3u8, 0..5),
    ) {
        let make = |(place, action): (&u8, &u8)| {
            let host = Prefix::host([198, 18, 0, *place].into());
            let action = match action {
                0 => Action::Block,
                1 => Action::Pass,
                _ => Action::Protect(vec![Template::transport(true)]),
            };
            PolicySpec::new(Direction::Out, Selector::between(host, host), action, *PRIORITIES.start())
        };
        let mut table: Vec<_> = current.iter().map(make).map(|spec| Policy { spec, index: 8 }).collect();
        let wishes: Vec<_> = desired.iter().map(make).collect();
        let changes = plan_policies(&table, &wishes);
        let (mut opened, mut unblocked) = (false, false);
        for change in changes {
            let place = |id: &PolicyId| table.iter().position(|found| found.spec.id == *id);
            match change {
                PolicyChange::Add(spec) | PolicyChange::Replace(spec) => {
                    prop_assert!(!unblocked);
                    prop_assert!(!(opened && spec.action == Action::Block));
                    opened |= spec.action != Action::Block;
                    match place(&spec.id) {
                        Some(place) => table[place].spec = spec,
                        None => table.push(Policy { spec, index: 8 }),
                    }
                }
                PolicyChange::Remove(id) => {
                    let gone = table.remove(place(&id).expect("one to remove"));
                    prop_assert!(!(unblocked && gone.spec.action != Action::Block));
                    unblocked |= gone.spec.action == Action::Block;
                }
            }
        }
        table.sort_by_key(|policy| policy.spec.clone());
        let mut wanted = wishes.clone();
        wanted.sort();
        prop_assert_eq!(table.iter().map(|policy| policy.spec.clone()).collect::<Vec<_>>(), wanted);
        prop_assert!(plan_policies(&table, &wishes).is_empty());
    }
}

fn there(spec: AssociationSpec) -> Association {
    Association {
        spec,
        bytes: 0,
        packets: 0,
        added: 0,
        used: 0,
        sent: 0,
        received: 0,
        too_old: 0,
        replayed: 0,
        forged: 0,
    }
}

fn example() -> AssociationSpec {
    AssociationSpec::new([198, 18, 0, 1].into(), [198, 18, 0, 2].into(), 0x8010_0001, AeadKey::aes256(&[0xa5; 36]))
}

#[test]
fn no_key_is_ever_printed() {
    let spec = example();
    let texts = [
        format!("{spec:?}"),
        format!("{spec}"),
        format!("{:?}", AssociationChange::Add(spec.clone())),
        format!("{:?}", there(spec.clone())),
        format!("{:?}", plan_associations(&[], std::slice::from_ref(&spec))),
    ];
    for text in texts {
        assert!(!text.contains("a5") && !text.contains("165"), "{text}");
    }
}

#[test]
fn what_is_somebody_elses_stays() {
    let mut foreign = example();
    foreign.request_id = 7;
    assert_eq!(plan_associations(&[there(foreign.clone())], &[]), AssociationPlan::default());
    let plan = plan_associations(&[there(foreign)], &[example()]);
    assert_eq!((plan.changes, plan.refused), (vec![], vec![example()]));
    let any = Selector::everything(true);
    let spec = PolicySpec::new(Direction::Out, any, Action::Block, 12);
    assert_eq!(plan_policies(&[Policy { spec, index: 1 }], &[]), []);
}

#[test]
fn a_key_that_the_kernel_hides_is_not_replaced() {
    let mut found = there(example());
    found.spec.key = AeadKey::aes256(&[0; 36]);
    assert_eq!(plan_associations(&[found], &[example()]), AssociationPlan::default());
}

/// The file of a kernel 6.1.
#[test]
fn statistics_are_read() {
    let text = "XfrmInError             \t0\nXfrmInNoStates          \t3\nXfrmInTmplMismatch      \t2\nrubbish\nXfrmOutNoStates \tx\n";
    let statistics = Statistics::parse(text);
    assert_eq!(
        (statistics.no_association_in(), statistics.plain_text_in(), statistics.no_association_out()),
        (3, 2, 0)
    );
    assert_eq!(statistics.counters.len(), 3);
}
