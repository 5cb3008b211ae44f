//! What published ports take, on the real kernel: connections that are led by a map and forgotten, rules, and the expressions for it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use stampede_netlink::{
    Mac,
    conntrack::Flow,
    link::{PortFlags, VethSpec},
    nftables::{
        Chain, ChainKind, DataType, Element, ElementData, Expression, Family, Field, Hook, Place, Protocol, Rule, Set,
        SetData, Side, Table, Target, Value,
    },
    rule::RuleSpec,
};
use support::{Namespace, changed, exchange};

/// One port of UDP, which leads to another of 127.0.0.1.
fn table(public: u16, private: u16) -> Table {
    let key = vec![Field::Protocol, Field::Port(Side::Destination)];
    let set = Set {
        name: "ports".to_owned(),
        comment: None,
        key: vec![DataType::Protocol, DataType::Port],
        data: Some(SetData::Values(vec![DataType::Ipv4, DataType::Port])),
        elements: vec![Element {
            key: vec![Value::Protocol(Protocol::Udp), Value::Port(public)],
            data: Some(ElementData::Values(vec![Value::Ipv4([198, 18, 0, 1].into()), Value::Port(private)])),
        }],
    };
    let chain = |name: &str, kind, priority, expressions: Vec<Expression>| Chain {
        name: name.to_owned(),
        hook: Some(Hook { kind, place: Place::Prerouting, priority, drop: false }),
        rules: vec![Rule::new(expressions)],
    };
    let led = Expression::DestinationNat(Target::Map { key, map: "ports".to_owned(), port: true });
    Table {
        family: Family::Inet,
        name: "stampede".to_owned(),
        comment: "a test".to_owned(),
        sets: vec![set],
        chains: vec![
            chain("raw", ChainKind::Filter, -300, vec![Expression::from("other"), Expression::Untracked]),
            chain("led", ChainKind::Nat, -105, vec![Expression::ToThisHost, led]),
            chain("mark", ChainKind::Filter, -50, vec![Expression::Led, Expression::Mark(0x1000_0000)]),
            chain("marked", ChainKind::Filter, -300, vec![Expression::Marked(0x2000_0000), Expression::Untracked]),
        ],
    }
}

async fn wired() -> [Namespace; 2] {
    let [host, client] = [Namespace::new().await, Namespace::new().await];
    let spec = VethSpec {
        name: "wire".to_owned(),
        peer: "wirep".to_owned(),
        mtu: 1500,
        mac: None,
        peer_mac: Mac([2, 0x99, 0, 0, 0, 1]),
        master: None,
        port: PortFlags::default(),
        alias: None,
    };
    host.netlink.create_veth(&spec).await.unwrap();
    host.netlink.move_link(&spec.peer, client.fd()).await.unwrap();
    host.up("wire", &[("198.18.0.1", 24)]).await;
    client.up("wirep", &[("198.18.0.2", 24)]).await;
    [host, client]
}

#[tokio::test]
async fn a_connection_is_led_as_it_began_until_it_is_forgotten() {
    let [host, client] = wired().await;
    host.netlink.ensure_table(&table(8080, 80)).await.unwrap();
    let listed = host.tool(&["nft", "list", "table", "inet", "stampede"]);
    for line in [
        "iifname \"other\" notrack",
        "fib daddr type local meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports",
        "ct direction original",
        "ct status dnat",
        "meta mark set",
        "0x10000000",
        "meta mark & 0x20000000 == 0x20000000 notrack",
    ] {
        assert!(listed.contains(line), "missing: {line}\n{listed}");
    }
    let (one, two) = (host.udp("198.18.0.1:80"), host.udp("198.18.0.1:81"));
    let from = client.udp("198.18.0.2:4000");
    exchange(&from, &one, "198.18.0.1:8080").unwrap();
    let is_led = |flow: &Flow| flow.original.destination.port() == 8080;
    let flows: Vec<Flow> = host.netlink.flows().await.unwrap().into_iter().filter(is_led).collect();
    let [flow] = &flows[..] else { panic!("{flows:?}") };
    assert_eq!(flow.protocol, Protocol::Udp);
    assert_eq!(flow.original.source, "198.18.0.2:4000".parse().unwrap());
    assert_eq!(flow.reply.source, "198.18.0.1:80".parse().unwrap());

    host.netlink.ensure_table(&table(8080, 81)).await.unwrap();
    exchange(&from, &one, "198.18.0.1:8080").unwrap();
    assert_eq!(host.netlink.forget_flows(&flows).await.unwrap(), 1);
    assert_eq!(host.netlink.forget_flows(&flows).await.unwrap(), 0, "what is gone is no error");
    exchange(&from, &two, "198.18.0.1:8080").unwrap();
    assert_eq!(host.netlink.flows().await.unwrap().into_iter().filter(is_led).count(), 1);
}

#[tokio::test]
async fn rules_are_put_once_and_others_are_left_alone() {
    let host = Namespace::new().await;
    let rule = RuleSpec {
        priority: 4242,
        source: "127.0.0.0/8".parse().ok(),
        destination: "10.42.0.0/16".parse().ok(),
        from: None,
        mark: None,
        table: 4242,
    };
    let marked = RuleSpec { source: None, from: Some("stampede0".to_owned()), mark: Some(0x1000_0000), ..rule.clone() };
    host.tool(&["ip", "rule", "add", "from", "10.9.0.0/16", "lookup", "77", "pref", "77"]);
    let both = [rule.clone(), marked.clone()];
    assert_eq!(changed(host.netlink.reconcile_rules(&both).await.unwrap()), 2);
    assert_eq!(changed(host.netlink.reconcile_rules(&both).await.unwrap()), 0);
    let listed = host.tool(&["ip", "rule", "show"]);
    assert!(listed.contains("4242:\tfrom 127.0.0.0/8 to 10.42.0.0/16 lookup 4242"), "{listed}");
    assert!(listed.contains("fwmark 0x10000000/0x10000000 iif stampede0"), "{listed}");
    assert_eq!(changed(host.netlink.reconcile_rules(&[RuleSpec { table: 7, ..rule }]).await.unwrap()), 3);
    assert_eq!(changed(host.netlink.reconcile_rules(&[]).await.unwrap()), 1);
    assert!(host.tool(&["ip", "rule", "show"]).contains("lookup 77"));
}
