//! nftables on the real kernel: what is put there, how it works on packets, and what `nft` and `iptables` say to it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use stampede_netlink::{
    Error, Mac, Prefix,
    link::{PortFlags, VethSpec},
    nftables::{
        AddressMatch, Chain, ChainKind, DataType, Difference, Element, ElementData, ElementOutcome, Expression, Family,
        Field, ForeignChain, ForeignOutcome, Hook, Interface, Place, Protocol, Refusal, Rule, Set, SetData, Side,
        States, Table, Target, Value, Verdict, Way,
    },
};
use support::{Namespace, PATIENCE, answer, ask, exchange, ip};

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn hook(kind: ChainKind, place: Place, priority: i32) -> Option<Hook> {
    Some(Hook { kind, place, priority, drop: false })
}

fn ports(elements: Vec<Element>) -> Set {
    Set {
        name: "ports".to_owned(),
        comment: Some("published ports".to_owned()),
        key: vec![DataType::Ipv4, DataType::Protocol, DataType::Port],
        data: Some(SetData::Values(vec![DataType::Ipv4, DataType::Port])),
        elements,
    }
}

fn v4(text: &str) -> Value {
    Value::Ipv4(text.parse().unwrap())
}

fn port(public: u16, to: &str, inner: u16) -> Element {
    Element {
        key: vec![v4("198.18.0.1"), Value::Protocol(Protocol::Tcp), Value::Port(public)],
        data: Some(ElementData::Values(vec![v4(to), Value::Port(inner)])),
    }
}

/// A table with everything the encoder knows.
fn table(elements: Vec<Element>) -> Table {
    let links = Set {
        name: "links".to_owned(),
        comment: None,
        key: vec![DataType::Ipv4],
        data: Some(SetData::Verdict),
        elements: vec![Element {
            key: vec![v4("10.42.1.9")],
            data: Some(ElementData::Verdict(Verdict::Jump("quarantine".to_owned()))),
        }],
    };
    let taps = Set {
        name: "taps".to_owned(),
        comment: None,
        key: vec![DataType::Interface],
        data: None,
        elements: vec![Element { key: vec![Value::Interface("tap7".to_owned())], data: None }],
    };
    let spoof = Set {
        name: "known".to_owned(),
        comment: None,
        key: vec![DataType::Interface, DataType::Ipv4],
        data: None,
        elements: vec![Element { key: vec![Value::Interface("tap7".to_owned()), v4("10.42.1.7")], data: None }],
    };
    let accounts = Set {
        name: "accounts".to_owned(),
        comment: Some("whose they are".to_owned()),
        key: vec![DataType::Ipv4],
        data: Some(SetData::Values(vec![DataType::Mark])),
        elements: vec![Element { key: vec![v4("10.42.1.7")], data: Some(ElementData::Values(vec![Value::Mark(5)])) }],
    };
    let together = Set {
        name: "together".to_owned(),
        comment: None,
        key: vec![DataType::Ipv4, DataType::Mark],
        data: None,
        elements: vec![Element { key: vec![v4("10.42.1.7"), Value::Mark(5)], data: None }],
    };
    let key = vec![Field::Ipv4(Side::Destination), Field::Protocol, Field::Port(Side::Destination)];
    let inner = prefix("10.42.0.0/16");
    let masquerade =
        [Expression::source(inner), Expression::not_to("stampede0"), Expression::Counter, Expression::Masquerade];
    let range = Expression::Address {
        side: Side::Destination,
        with: AddressMatch::Range(ip("10.43.0.1"), ip("10.43.0.9")),
        negated: true,
    };
    let tap = Expression::Interface { way: Way::In, name: Interface::Prefixed("tap".to_owned()), negated: false };
    let forward = vec![
        Rule::new([Expression::State(States::ESTABLISHED | States::RELATED), Expression::Verdict(Verdict::Accept)]),
        Rule::new([Expression::ClampSegmentSize]).comment("the overlay's MTU"),
        Rule::new([
            tap,
            Expression::Port(Protocol::Tcp, Side::Destination, 8000..=8099),
            range,
            Expression::Verdict(Verdict::Drop),
        ]),
        Rule::new([Expression::VerdictMap { key: vec![Field::Ipv4(Side::Source)], map: "links".to_owned() }]),
        Rule::new([
            Expression::Lookup { key: vec![Field::Interface(Way::In)], set: "taps".to_owned(), negated: false },
            Expression::IsIpv4(false),
            Expression::Verdict(Verdict::Drop),
        ])
        .comment("the overlay is IPv4"),
        Rule::new([
            Expression::Lookup {
                key: vec![Field::Interface(Way::In), Field::Ipv4(Side::Source)],
                set: "known".to_owned(),
                negated: true,
            },
            Expression::Counter,
        ]),
        Rule::new([Expression::source(prefix("fd00:42::/33")), Expression::Verdict(Verdict::Drop)]),
        Rule::new([Expression::source(prefix("10.42.9.9")), Expression::Reject(Refusal::Reset)]),
        Rule::new([Expression::source(prefix("10.42.9.9")), Expression::Reject(Refusal::PortUnreachable)]),
        Rule::new([
            Expression::source(prefix("10.40.0.0/13")),
            Expression::Protocol(Protocol::Icmp),
            Expression::Counter,
        ]),
        Rule::new([Expression::MarkOf { key: vec![Field::Ipv4(Side::Source)], map: "accounts".to_owned() }]),
        Rule::new([
            Expression::Answers,
            Expression::Lookup {
                key: vec![Field::Ipv4(Side::Destination), Field::Mark],
                set: "together".to_owned(),
                negated: true,
            },
            Expression::Counter,
        ]),
    ];
    Table {
        family: Family::Inet,
        name: "stampede".to_owned(),
        comment: "the managed network".to_owned(),
        sets: vec![ports(elements), links, taps, spoof, accounts, together],
        chains: vec![
            Chain {
                name: "quarantine".to_owned(),
                hook: None,
                rules: vec![Rule::new([Expression::Verdict(Verdict::Drop)])],
            },
            Chain {
                name: "prerouting".to_owned(),
                hook: hook(ChainKind::Nat, Place::Prerouting, -100),
                rules: vec![
                    Rule::new([Expression::DestinationNat(Target::Map { key, map: "ports".to_owned(), port: true })])
                        .comment("published ports"),
                    Rule::new([
                        Expression::destination(prefix("198.18.0.1")),
                        Expression::Port(Protocol::Udp, Side::Destination, 53..=53),
                        Expression::DestinationNat(Target::Address(ip("10.42.0.1"), Some(5353))),
                    ]),
                ],
            },
            Chain { name: "forward".to_owned(), hook: hook(ChainKind::Filter, Place::Forward, 0), rules: forward },
            Chain {
                name: "postrouting".to_owned(),
                hook: hook(ChainKind::Nat, Place::Postrouting, 100),
                rules: vec![
                    Rule::new(masquerade).comment("containers go out under the host's address"),
                    Rule::new([
                        Expression::source(prefix("10.42.3.3")),
                        Expression::SourceNat(Target::Address(ip("198.18.0.7"), None)),
                    ]),
                ],
            },
        ],
    }
}

#[tokio::test]
async fn a_table_is_put_once_and_nft_reads_it() {
    let host = Namespace::new().await;
    let desired = table(vec![port(8080, "10.42.1.2", 80)]);
    let outcome = host.netlink.ensure_table(&desired).await.unwrap();
    assert_eq!(outcome.replaced, Some(Difference::Absent));
    assert!(host.netlink.ensure_table(&desired).await.unwrap().is_unchanged());
    let listed = host.tool(&["nft", "list", "ruleset"]);
    println!("{listed}");
    for line in [
        "comment \"the managed network [",
        "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service",
        "comment \"published ports\"",
        "elements = { 198.18.0.1 . tcp . 8080 : 10.42.1.2 . 80 }",
        "elements = { 10.42.1.9 : jump quarantine }",
        "elements = { \"tap7\" }",
        "elements = { \"tap7\" . 10.42.1.7 }",
        "iifname . ip saddr != @known counter",
        "type nat hook prerouting priority dstnat; policy accept;",
        "dnat ip to ip daddr . meta l4proto . th dport map @ports comment \"published ports\"",
        "ip daddr 198.18.0.1 udp dport 53 dnat ip to 10.42.0.1:5353",
        "ct state established,related accept",
        "tcp flags syn tcp option maxseg size set rt mtu comment \"the overlay's MTU\"",
        "iifname \"tap*\" tcp dport 8000-8099 ip daddr != 10.43.0.1-10.43.0.9 drop",
        "ip saddr vmap @links",
        "iifname @taps meta nfproto ipv6 drop comment \"the overlay is IPv4\"",
        "ip6 saddr fd00:42::/33 drop",
        "ip saddr 10.42.9.9 meta l4proto tcp reject with tcp reset",
        "ip saddr 10.42.9.9 reject",
        "ip saddr 10.40.0.0/13 meta l4proto icmp counter packets 0 bytes 0",
        "ip saddr 10.42.0.0/16 oifname != \"stampede0\" counter packets 0 bytes 0 masquerade comment \"containers go out",
        "ip saddr 10.42.3.3 snat ip to 198.18.0.7",
        "type ipv4_addr : mark",
        "elements = { 10.42.1.7 : 0x00000005 }",
        "type ipv4_addr . mark",
        "elements = { 10.42.1.7 . 0x00000005 }",
        "meta mark set ip saddr map @accounts",
        "ct direction reply ip daddr . meta mark != @together counter",
    ] {
        assert!(listed.contains(line), "missing: {line}\n{listed}");
    }
    assert!(host.netlink.delete_table(Family::Inet, "stampede").await.unwrap());
    assert!(!host.netlink.delete_table(Family::Inet, "stampede").await.unwrap());
}

#[tokio::test]
async fn a_change_of_elements_leaves_the_rest_alone() {
    let host = Namespace::new().await;
    host.netlink.ensure_table(&table(vec![port(1, "10.42.1.1", 1), port(2, "10.42.1.2", 2)])).await.unwrap();
    let chains = host.tool(&["nft", "-a", "list", "chain", "inet", "stampede", "prerouting"]);
    let changed = table(vec![port(2, "10.42.1.3", 2), port(3, "10.42.1.3", 3)]);
    let outcome = host.netlink.ensure_table(&changed).await.unwrap();
    assert_eq!((outcome.replaced, outcome.elements), (None, ElementOutcome { added: 2, deleted: 2 }));
    assert!(host.netlink.ensure_table(&changed).await.unwrap().is_unchanged());
    assert_eq!(host.tool(&["nft", "-a", "list", "chain", "inet", "stampede", "prerouting"]), chains);
}

#[tokio::test]
async fn elements_are_added_and_deleted_without_a_look() {
    let host = Namespace::new().await;
    host.netlink.ensure_table(&table(vec![port(3, "10.42.1.3", 3)])).await.unwrap();
    let set = ports(vec![]);
    let change = async |delete: &[Element], add: &[Element]| {
        host.netlink.change_elements(Family::Inet, "stampede", &set, delete, add).await
    };
    change(&[port(3, "10.42.1.3", 3)], &[port(4, "10.42.1.4", 4)]).await.unwrap();
    change(&[], &[port(4, "10.42.1.4", 4)]).await.unwrap();
    let error = change(&[port(9, "10.42.1.3", 3)], &[port(5, "10.42.1.5", 5)]).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let listed = host.tool(&["nft", "list", "map", "inet", "stampede", "ports"]);
    assert!(listed.contains("elements = { 198.18.0.1 . tcp . 4 : 10.42.1.4 . 4 }"), "nothing half done: {listed}");
}

#[tokio::test]
async fn ten_thousand_ports_are_put_and_changed() {
    let host = Namespace::new().await;
    let many = |from: u16| table((from..from + 10_000).map(|number| port(number, "10.42.1.2", 80)).collect());
    host.netlink.ensure_table(&many(1)).await.unwrap();
    assert!(host.netlink.ensure_table(&many(1)).await.unwrap().is_unchanged());
    let outcome = host.netlink.ensure_table(&many(5001)).await.unwrap();
    assert_eq!(outcome.elements, ElementOutcome { added: 5000, deleted: 5000 });
}

#[tokio::test]
async fn what_others_do_to_our_table_is_seen_and_put_right() {
    let host = Namespace::new().await;
    let desired = table(vec![]);
    host.netlink.ensure_table(&desired).await.unwrap();
    for tampering in [
        &["nft", "flush", "chain", "inet", "stampede", "forward"][..],
        &["nft", "add", "rule", "inet", "stampede", "forward", "drop"],
        &["nft", "add", "chain", "inet", "stampede", "more"],
        &["nft", "chain", "inet", "stampede", "forward", "{ policy drop; }"],
        &["nft", "insert", "rule", "inet", "stampede", "postrouting", "return"],
    ] {
        host.tool(tampering);
        let outcome = host.netlink.ensure_table(&desired).await.unwrap();
        assert_eq!(outcome.replaced, Some(Difference::Tampered), "{tampering:?}");
        assert!(host.netlink.ensure_table(&desired).await.unwrap().is_unchanged());
    }
    host.tool(&["nft", "flush", "ruleset"]);
    assert_eq!(host.netlink.ensure_table(&desired).await.unwrap().replaced, Some(Difference::Absent));
    let mut other = desired.clone();
    other.chains[1].rules.pop();
    assert_eq!(host.netlink.ensure_table(&other).await.unwrap().replaced, Some(Difference::Structure));
}

#[tokio::test]
async fn a_batch_that_the_kernel_refuses_changes_nothing_and_says_where() {
    let host = Namespace::new().await;
    let desired = table(vec![]);
    host.netlink.ensure_table(&desired).await.unwrap();
    let before = host.tool(&["nft", "list", "ruleset"]);
    let mut broken = desired.clone();
    broken.chains[0].rules.push(Rule::new([Expression::Verdict(Verdict::Jump("nowhere".to_owned()))]));
    let error = host.netlink.ensure_table(&broken).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert!(error.to_string().starts_with("put table inet stampede, message "), "{error}");
    assert_eq!(host.tool(&["nft", "list", "ruleset"]), before);
}

fn veth(name: &str, last: u8) -> VethSpec {
    VethSpec {
        name: name.to_owned(),
        peer: format!("{name}p"),
        mtu: 1500,
        mac: None,
        peer_mac: Mac([2, 0, 0, 0, 0, last]),
        master: None,
        port: PortFlags::default(),
        alias: None,
    }
}

/// outside (198.18.0.2) ── wire ── host (198.18.0.1, 10.42.0.1) ── c0 ── container (10.42.1.2)
async fn between() -> [Namespace; 3] {
    let (outside, host, container) = (Namespace::new().await, Namespace::new().await, Namespace::new().await);
    host.sysctl("ipv4/ip_forward", "1");
    host.netlink.create_veth(&veth("wire", 1)).await.unwrap();
    host.netlink.move_link("wirep", outside.fd()).await.unwrap();
    host.netlink.create_veth(&veth("c0", 2)).await.unwrap();
    host.netlink.move_link("c0p", container.fd()).await.unwrap();
    host.up("wire", &[("198.18.0.1", 24)]).await;
    outside.up("wirep", &[("198.18.0.2", 24)]).await;
    host.up("c0", &[("10.42.0.1", 16)]).await;
    container.up("c0p", &[("10.42.1.2", 16)]).await;
    container.tool(&["ip", "route", "add", "default", "via", "10.42.0.1"]);
    [outside, host, container]
}

#[tokio::test]
async fn a_container_goes_out_under_the_hosts_address() {
    let [outside, host, container] = between().await;
    let (client, server) = (container.udp("10.42.1.2:0"), outside.udp("198.18.0.2:7777"));
    host.netlink.ensure_table(&table(vec![])).await.unwrap();
    let seen = exchange(&client, &server, "198.18.0.2:7777").unwrap();
    assert_eq!(seen.ip(), ip("198.18.0.1"));
    assert!(host.tool(&["nft", "list", "ruleset"]).contains("counter packets 1 bytes 32 masquerade"));
    // Without the table the outside has no way back, so that it was the table that did it.
    host.netlink.delete_table(Family::Inet, "stampede").await.unwrap();
    let client = container.udp("10.42.1.2:0");
    server.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    client.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    assert!(exchange(&client, &server, "198.18.0.2:7777").is_err());
}

#[tokio::test]
async fn a_published_port_leads_into_the_container_through_the_map() {
    let [outside, host, container] = between().await;
    let listener = container.listen("10.42.1.2:80");
    let server = std::thread::spawn(move || answer(&listener));
    host.netlink.ensure_table(&table(vec![])).await.unwrap();
    assert!(outside.connect("198.18.0.1:8080").is_err(), "not published yet");
    host.netlink.ensure_table(&table(vec![port(8080, "10.42.1.2", 80)])).await.unwrap();
    assert_eq!(ask(outside.connect("198.18.0.1:8080").unwrap()), "198.18.0.2");
    server.join().unwrap();
    assert!(outside.connect("198.18.0.1:8081").is_err());
}

#[tokio::test]
async fn quarantine_by_verdict_map_and_drop_take_effect() {
    let [outside, host, container] = between().await;
    let mut desired = table(vec![]);
    desired.sets[1].elements[0].key = vec![v4("10.42.1.2")];
    host.netlink.ensure_table(&desired).await.unwrap();
    let (client, server) = (container.udp("10.42.1.2:0"), outside.udp("198.18.0.2:7777"));
    server.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    assert!(exchange(&client, &server, "198.18.0.2:7777").is_err());
    desired.sets[1].elements.clear();
    let outcome = host.netlink.ensure_table(&desired).await.unwrap();
    assert_eq!(outcome.elements, ElementOutcome { added: 0, deleted: 1 });
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    exchange(&client, &server, "198.18.0.2:7777").unwrap();
}

const DOCKER_USER: ForeignChain<'static> =
    ForeignChain { family: Family::Ipv4, table: "filter", chain: "DOCKER-USER", mark: "stampede: " };

fn docker_rules(bridge: &str) -> Vec<Rule> {
    let accept = || [Expression::Counter, Expression::Verdict(Verdict::Accept)];
    let rule = |matched: Expression, way: &str| {
        let expressions: Vec<_> = std::iter::once(matched).chain(accept()).collect();
        Rule::new(expressions).comment(format!("stampede: {way} {bridge}"))
    };
    vec![rule(Expression::from(bridge), "from"), rule(Expression::to(bridge), "to")]
}

#[tokio::test]
async fn two_rules_stand_at_the_top_of_docker_user_and_iptables_still_reads_it() {
    let host = Namespace::new().await;
    let ensure = async |rules: &[Rule]| host.netlink.ensure_rules_in_foreign_chain(&DOCKER_USER, rules).await.unwrap();
    let rules = docker_rules("stampede0");
    assert_eq!(ensure(&rules).await, ForeignOutcome::MissingTable);
    host.tool(&["iptables-nft", "-A", "FORWARD", "-j", "ACCEPT"]);
    assert_eq!(ensure(&rules).await, ForeignOutcome::MissingChain);
    host.tool(&["iptables-nft", "-N", "DOCKER-USER"]);
    host.tool(&["iptables-nft", "-A", "DOCKER-USER", "-s", "192.0.2.1", "-j", "DROP"]);
    host.tool(&["iptables-nft", "-A", "DOCKER-USER", "-j", "RETURN"]);
    assert_eq!(ensure(&rules).await, ForeignOutcome::Repaired);
    assert_eq!(ensure(&rules).await, ForeignOutcome::Unchanged);
    let whole = "-N DOCKER-USER\n\
        -A DOCKER-USER -i stampede0 -m comment --comment \"stampede: from stampede0\" -j ACCEPT\n\
        -A DOCKER-USER -o stampede0 -m comment --comment \"stampede: to stampede0\" -j ACCEPT\n\
        -A DOCKER-USER -s 192.0.2.1/32 -j DROP\n\
        -A DOCKER-USER -j RETURN\n";
    let listed = || host.tool(&["iptables-nft", "-S", "DOCKER-USER"]);
    assert_eq!(listed(), whole);

    // Others put a rule before ours, delete one, flush all.
    host.tool(&["iptables-nft", "-I", "DOCKER-USER", "-j", "DROP"]);
    assert_eq!(ensure(&rules).await, ForeignOutcome::Repaired);
    host.tool(&["iptables-nft", "-D", "DOCKER-USER", "-j", "DROP"]);
    assert_eq!((ensure(&rules).await, listed().as_str()), (ForeignOutcome::Unchanged, whole));
    host.tool(&["iptables-nft", "-D", "DOCKER-USER", "2"]);
    assert_eq!((ensure(&rules).await, listed().as_str()), (ForeignOutcome::Repaired, whole));
    host.tool(&["iptables-nft", "-F", "DOCKER-USER"]);
    assert_eq!(ensure(&rules).await, ForeignOutcome::Repaired);
    assert!(host.tool(&["nft", "list", "ruleset"]).contains("comment \"stampede: from stampede0\""));

    // Another bridge: ours are exchanged. None: ours go.
    assert_eq!(ensure(&docker_rules("other0")).await, ForeignOutcome::Repaired);
    assert!(!listed().contains("stampede0"), "{}", listed());
    assert_eq!(ensure(&[]).await, ForeignOutcome::Repaired);
    assert_eq!(listed(), "-N DOCKER-USER\n");

    let unmarked = [Rule::new([Expression::Counter])];
    let error = host.netlink.ensure_rules_in_foreign_chain(&DOCKER_USER, &unmarked).await.unwrap_err();
    assert!(matches!(error, Error::Unmarked { .. }), "{error}");
}
