//! `scripts/bench network`: many published ports and floating addresses, ours against `nft -f`.
//!
//! Half of the entries are ports (protocol and port → address and port), half floating addresses (address → address), in a table with the
//! rules that look them up. Each round is made in a namespace of its own, the two in turns.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use stampede_netlink::nftables::{
    Chain, ChainKind, DataType, Element, ElementData, Expression, Family, Field, Hook, Place, Protocol, Rule, Set,
    SetData, Side, Table, Target, Value,
};
use support::Namespace;

const TABLE: &str = "stampede";

/// Where entry number `at` leads.
fn instance(at: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a2a_0000 | at)
}

fn protocol(at: u32) -> Protocol {
    if at.is_multiple_of(2) { Protocol::Tcp } else { Protocol::Udp }
}

fn public(at: u32) -> u16 {
    1024 + u16::try_from(at / 2).expect("as many as there are ports")
}

fn port(at: u32, to: Ipv4Addr) -> Element {
    Element {
        key: vec![Value::Protocol(protocol(at)), Value::Port(public(at))],
        data: Some(ElementData::Values(vec![Value::Ipv4(to), Value::Port(80)])),
    }
}

fn floating_address(at: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xc612_0000 | at)
}

fn floating(at: u32) -> Element {
    let to = ElementData::Values(vec![Value::Ipv4(instance(at))]);
    Element { key: vec![Value::Ipv4(floating_address(at))], data: Some(to) }
}

fn ports(elements: Vec<Element>) -> Set {
    let data = Some(SetData::Values(vec![DataType::Ipv4, DataType::Port]));
    Set { name: "ports".into(), comment: None, key: vec![DataType::Protocol, DataType::Port], data, elements }
}

fn table(entries: u32) -> Table {
    let lookup = |key, map: &str, port| {
        let target = Target::Map { key, map: map.to_owned(), port };
        Rule::new([Expression::ToThisHost, Expression::DestinationNat(target)])
    };
    let hook = Hook { kind: ChainKind::Nat, place: Place::Prerouting, priority: -105, drop: false };
    let addresses = Set {
        name: "floating".into(),
        comment: None,
        key: vec![DataType::Ipv4],
        data: Some(SetData::Values(vec![DataType::Ipv4])),
        elements: (0..entries / 2).map(floating).collect(),
    };
    Table {
        family: Family::Inet,
        name: TABLE.into(),
        comment: "many entries".into(),
        sets: vec![ports((0..entries / 2).map(|at| port(at, instance(at))).collect()), addresses],
        chains: vec![Chain {
            name: "published".into(),
            hook: Some(hook),
            rules: vec![
                lookup(vec![Field::Ipv4(Side::Destination)], "floating", false),
                lookup(vec![Field::Protocol, Field::Port(Side::Destination)], "ports", true),
            ],
        }],
    }
}

fn port_line(at: u32, to: Option<Ipv4Addr>) -> String {
    let protocol = if protocol(at) == Protocol::Tcp { "tcp" } else { "udp" };
    let to = to.map(|to| format!(" : {to} . 80")).unwrap_or_default();
    format!("{protocol} . {}{to}", public(at))
}

/// The same as `nft -f` wants it.
fn ruleset(entries: u32) -> String {
    let mut text = format!(
        "table inet {TABLE} {{\n map ports {{\n type inet_proto . inet_service : ipv4_addr . inet_service\n elements = {{\n"
    );
    for at in 0..entries / 2 {
        writeln!(text, "{},", port_line(at, Some(instance(at)))).unwrap();
    }
    text += "}\n }\n map floating {\n type ipv4_addr : ipv4_addr\n elements = {\n";
    for at in 0..entries / 2 {
        writeln!(text, "{} : {},", floating_address(at), instance(at)).unwrap();
    }
    text += "}\n }\n chain published {\n type nat hook prerouting priority -105;\n \
             fib daddr type local meta nfproto ipv4 dnat ip to ip daddr map @floating\n \
             fib daddr type local meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports\n }\n}\n";
    text
}

fn nft(host: &Namespace, text: &str) -> Duration {
    let file = "/tmp/elements.nft";
    std::fs::write(file, text).unwrap();
    let begin = Instant::now();
    host.tool(&["nft", "-f", file]);
    begin.elapsed()
}

#[derive(Default)]
struct Times {
    load: Vec<Duration>,
    load_nft: Vec<Duration>,
    again: Vec<Duration>,
    one: Vec<Duration>,
    one_nft: Vec<Duration>,
    nothing_nft: Vec<Duration>,
}

async fn round(entries: u32, times: &mut Times) {
    let mut wanted = table(entries);
    let host = Namespace::new().await;
    let begin = Instant::now();
    host.netlink.ensure_table(&wanted).await.unwrap();
    times.load.push(begin.elapsed());

    let begin = Instant::now();
    assert!(host.netlink.ensure_table(&wanted).await.unwrap().is_unchanged());
    times.again.push(begin.elapsed());

    // One port leads elsewhere.
    let at = entries / 4;
    let (old, new, set) = (port(at, instance(at)), port(at, instance(0xffff)), ports(Vec::new()));
    let begin = Instant::now();
    host.netlink.change_elements(Family::Inet, TABLE, &set, &[old], std::slice::from_ref(&new)).await.unwrap();
    times.one.push(begin.elapsed());
    wanted.sets[0].elements[at as usize] = new;
    assert!(host.netlink.ensure_table(&wanted).await.unwrap().is_unchanged());

    let host = Namespace::new().await;
    times.load_nft.push(nft(&host, &ruleset(entries)));
    let one = format!(
        "delete element inet {TABLE} ports {{ {} }}\nadd element inet {TABLE} ports {{ {} }}\n",
        port_line(at, None),
        port_line(at, Some(instance(0xffff)))
    );
    times.one_nft.push(nft(&host, &one));
    times.nothing_nft.push(nft(&host, ""));
    // Both made as many of the same.
    let made = host.netlink.inspect_table(Family::Inet, TABLE).await.unwrap().expect("nft made it");
    assert_eq!(made.sets.len(), 2);
}

fn report(what: &str, times: &[Duration]) -> f64 {
    let mut times: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1000.0).collect();
    times.sort_by(f64::total_cmp);
    let median = times[times.len() / 2];
    println!("  {what:<52} {median:>8.2} ms   ({:.2} to {:.2})", times[0], times[times.len() - 1]);
    median
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut words = std::env::args().skip(1);
    let rounds: u8 = words.next().map_or(9, |word| word.parse().expect("a number of rounds"));
    for entries in [10_000, 50_000] {
        let mut times = Times::default();
        for _ in 0..rounds {
            round(entries, &mut times).await;
        }
        println!("{entries} entries, half of them ports, half floating addresses ({rounds} rounds)");
        let ours = report("all from nothing, ours", &times.load);
        let theirs = report("all from nothing, nft -f", &times.load_nft);
        println!("  {:<52} {:>8.2}", "ours to theirs (goal: at most 0.50)", ours / theirs);
        report("looked at again, nothing changed (0 writes)", &times.again);
        report("one port led elsewhere, ours (goal: under 1 ms)", &times.one);
        report("one port led elsewhere, nft -f", &times.one_nft);
        report("an empty file, nft -f", &times.nothing_nft);
    }
}
