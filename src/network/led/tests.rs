use super::*;
use stampede_netlink::conntrack::Way;
use std::collections::BTreeMap;

fn end(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn is_stale(led: &Led, flow: Flow) -> bool {
    let own = BTreeSet::from([Ipv4Addr::new(198, 18, 0, 1), Ipv4Addr::new(10, 42, 0, 1)]);
    !led.stale(vec![flow], &own, |address| address.octets()[..2] == [10, 42]).is_empty()
}

fn asked_by(client: &str, protocol: Transport, asked: &str, led: &str) -> Flow {
    let original = Way { source: end(client), destination: end(asked) };
    Flow::new(protocol, original, Way { source: end(led), destination: end(client) })
}

#[test]
fn only_what_is_led_elsewhere_is_forgotten() {
    let ports = BTreeMap::from([((Protocol::Tcp, 8080), end("10.42.7.9:80"))]);
    let led = Led { opened: Opened { ports, ..Opened::default() }, ..Led::default() };
    let flow = |protocol, asked: &str, led: &str| asked_by("198.18.0.9:40000", protocol, asked, led);
    let mut udp = led.clone();
    udp.opened.ports.insert((Protocol::Udp, 53), end("10.42.7.9:53"));
    let is_stale = |flow: Flow| is_stale(&led, flow);
    let udp_is_stale = |flow: Flow| super::tests::is_stale(&udp, flow);
    assert!(!is_stale(flow(Transport::Tcp, "198.18.0.1:8080", "10.42.7.9:80")), "it leads there");
    assert!(is_stale(flow(Transport::Tcp, "198.18.0.1:8080", "10.42.7.10:80")), "it leads elsewhere now");
    let itself = Way { source: end("10.42.7.9:5000"), destination: end("198.18.0.1:8080") };
    let answer = |destination| Way { source: end("10.42.7.9:80"), destination: end(destination) };
    assert!(is_stale(Flow::new(Transport::Tcp, itself, answer("10.42.7.9:5000"))), "begun without a source");
    assert!(!is_stale(Flow::new(Transport::Tcp, itself, answer("169.254.42.1:5000"))));
    assert!(is_stale(flow(Transport::Tcp, "127.0.0.1:8081", "10.42.7.9:80")), "it is closed");
    assert!(!is_stale(flow(Transport::Tcp, "198.18.0.1:8080", "198.18.0.1:8080")), "begun before it was open");
    assert!(udp_is_stale(flow(Transport::Udp, "198.18.0.1:53", "198.18.0.1:53")), "it would go past it for ever");
    assert!(!udp_is_stale(flow(Transport::Udp, "198.18.0.1:54", "198.18.0.1:54")), "the host's own");
    assert!(!is_stale(flow(Transport::Tcp, "198.18.0.2:8080", "198.18.0.2:8080")), "to another host");
    assert!(!is_stale(flow(Transport::Tcp, "198.18.0.1:5000", "172.17.0.2:80")), "another's");
}

#[test]
fn a_link_is_its_own_instances_and_leads_where_it_leads_now() {
    let source = Ipv4Addr::new(10, 42, 7, 9);
    let ways = BTreeMap::from([
        ((source, Protocol::Tcp, 20_000), Some(end("10.42.8.5:80"))),
        ((source, Protocol::Udp, 20_001), Some(end("10.42.8.5:53"))),
        ((source, Protocol::Tcp, 20_002), None),
    ]);
    let ports = BTreeMap::from([((Protocol::Tcp, 20_000), end("10.42.7.30:80"))]);
    let led = Led {
        opened: Opened { ports, ..Opened::default() },
        linked: Linked { ways, ..Linked::default() },
        floating: Floated::default(),
        gateway: Some(Ipv4Addr::new(10, 42, 0, 1)),
        ..Led::default()
    };
    let tcp = |asker: &str, asked: &str, to: &str| is_stale(&led, asked_by(asker, Transport::Tcp, asked, to));
    let (one, other) = ("10.42.7.9:4000", "10.42.7.10:4000");
    assert!(!tcp(one, "10.42.0.1:20000", "10.42.8.5:80"), "it leads there");
    assert!(tcp(one, "10.42.0.1:20000", "10.42.8.6:80"), "it led to another before");
    assert!(tcp(one, "10.42.0.1:20002", "10.42.8.5:80"), "it leads nowhere now");
    assert!(tcp(one, "10.42.0.1:20003", "10.42.8.5:80"), "it is gone");
    assert!(tcp(other, "10.42.0.1:20002", "10.42.8.5:80"), "it was another's");
    assert!(!tcp(other, "10.42.0.1:20000", "10.42.7.30:80"), "to others it is a published port");
    assert!(tcp(one, "10.42.0.1:20000", "10.42.7.30:80"), "of who has a link there, the link comes first");
    assert!(!tcp(one, "198.18.0.1:20000", "10.42.7.30:80"), "and at the gateway's address alone");
    let udp = |asked: &str, to: &str| is_stale(&led, asked_by(one, Transport::Udp, asked, to));
    assert!(udp("10.42.0.1:20001", "10.42.0.1:20001"), "it would go past it for ever");
    assert!(!udp("10.42.0.1:20002", "10.42.0.1:20002"));
}

#[test]
fn what_a_floating_address_led_is_forgotten_when_it_goes() {
    let (address, to) = (Ipv4Addr::new(198, 18, 0, 200), Ipv4Addr::new(10, 42, 7, 9));
    let floating = |there: bool| Led {
        floating: Floated {
            all: BTreeMap::from([(address, to)]),
            there: there.then_some(address).into_iter().collect(),
        },
        opened: Opened { ports: BTreeMap::from([((Protocol::Tcp, 8080), end("10.42.7.10:80"))]), ..Opened::default() },
        ..Led::default()
    };
    let with_it = BTreeSet::from([Ipv4Addr::new(198, 18, 0, 1), address]);
    let without = BTreeSet::from([Ipv4Addr::new(198, 18, 0, 1)]);
    let managed = |address: Ipv4Addr| address.octets()[..2] == [10, 42];
    let is_stale = |led: &Led, own: &BTreeSet<Ipv4Addr>, flow| !led.stale(vec![flow], own, managed).is_empty();
    let client = "198.18.0.9:40000";
    let asked = |port: u16, led: &str| asked_by(client, Transport::Tcp, &format!("{address}:{port}"), led);
    assert!(!is_stale(&floating(true), &with_it, asked(22, "10.42.7.9:22")), "it leads there, whatever the port");
    assert!(is_stale(&floating(true), &with_it, asked(8080, "10.42.7.10:80")), "it goes before a published port");
    assert!(is_stale(&floating(true), &with_it, asked(22, "10.42.7.11:22")), "it led to another");
    assert!(is_stale(&Led::default(), &with_it, asked(22, "10.42.7.9:22")), "it leads nowhere");
    assert!(is_stale(&Led::default(), &without, asked(22, "10.42.7.9:22")), "another host has it");
    let left = |under: &str| {
        let original = Way { source: end("10.42.7.9:5000"), destination: end(client) };
        Flow::new(Transport::Tcp, original, Way { source: end(client), destination: end(under) })
    };
    assert!(!is_stale(&floating(true), &with_it, left("198.18.0.200:5000")));
    assert!(!is_stale(&Led::default(), &without, left("198.18.0.1:5000")), "under its host's address");
    assert!(is_stale(&Led::default(), &without, left("198.18.0.200:5000")), "under one that another host has now");
    let names: Vec<(String, usize)> =
        floating(false).sets().into_iter().map(|set| (set.name, set.elements.len())).collect();
    assert!(names.contains(&(FLOATING.into(), 1)) && names.contains(&(LEAVING.into(), 0)), "{names:?}");
}
