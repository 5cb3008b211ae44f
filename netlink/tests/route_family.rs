//! Links, addresses, routes and neighbours on the real kernel, each test in namespaces of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;

use stampede_netlink::{
    Error, Mac, Prefix,
    address::{AddressSpec, Others},
    link::{Change, LinkKind, LinkSpec, PortFlags, Settings, VethSpec, Vxlan},
    pin::Pin,
    route::{PROTOCOL, RouteSpec},
    rule::RuleSpec,
    sysctl::{Family, Setting},
};
use support::{Namespace, changed, exchange, ip};

fn bridge() -> LinkSpec {
    LinkSpec {
        mtu: Some(1380),
        mac: Some(Mac([2, 0x42, 10, 42, 0, 1])),
        alias: Some("stampede: the managed network".to_owned()),
        ..LinkSpec::new("stampede0", LinkKind::Bridge)
    }
}

fn vxlan(host: u8) -> LinkSpec {
    let local = ip(&format!("198.18.0.{host}"));
    let vxlan = Vxlan { vni: 42, port: 4790, local, learning: false, group_policy: false };
    LinkSpec { mtu: Some(1380), mac: Some(overlay_mac(host)), ..LinkSpec::new("stampede-vx", LinkKind::Vxlan(vxlan)) }
}

fn overlay_mac(host: u8) -> Mac {
    Mac([2, 0x53, 0, 0, 0, host])
}

fn veth(name: &str, last: u8, master: Option<u32>) -> VethSpec {
    VethSpec {
        name: name.to_owned(),
        peer: format!("{name}p"),
        mtu: 1380,
        mac: None,
        peer_mac: Mac([2, 0x42, 10, 42, 0, last]),
        master,
        port: if master.is_some() { PortFlags::isolated() } else { PortFlags::default() },
        alias: Some(format!("stampede: {name}")),
    }
}

/// The network driver and the agent are two processes that make the same bridge.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_make_the_same_link_at_once() {
    for _ in 0..20 {
        let host = Namespace::new().await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let netlink = host.netlink.clone();
            tasks.spawn(async move {
                let index = netlink.ensure_link(&bridge()).await.unwrap().index;
                let address = AddressSpec::new(ip("10.42.0.1"), 32);
                netlink.ensure_addresses(index, &[address], Others::Keep).await.unwrap().into_result().unwrap();
                index
            });
        }
        let indexes = tasks.join_all().await;
        assert!(indexes.iter().all(|index| *index == indexes[0]), "{indexes:?}");
    }
}

#[tokio::test]
async fn a_second_run_changes_nothing() {
    let host = Namespace::new().await;
    let netlink = &host.netlink;
    for round in 0..2 {
        let ensured = netlink.ensure_link(&bridge()).await.unwrap();
        assert_eq!(ensured.changes.is_empty(), round == 1, "{:?}", ensured.changes);
        let ensured = netlink.ensure_link(&vxlan(1)).await.unwrap();
        assert_eq!(ensured.changes.is_empty(), round == 1, "{:?}", ensured.changes);
        let port = LinkSpec {
            mtu: Some(1380),
            master: Some("stampede0".to_owned()),
            port: PortFlags { isolated: Some(true), learning: Some(false), unicast_flood: Some(true) },
            ..LinkSpec::new("v0", LinkKind::Veth { peer: "v0p".to_owned() })
        };
        let ensured = netlink.ensure_link(&port).await.unwrap();
        assert_eq!(ensured.changes.is_empty(), round == 1, "{:?}", ensured.changes);
    }
    let link = netlink.link_by_name("v0").await.unwrap().unwrap();
    assert_eq!(link.port, PortFlags { isolated: Some(true), learning: Some(false), unicast_flood: Some(true) });
    // What somebody changes by hand is seen and put right, and nothing else.
    host.tool(&["ip", "link", "set", "stampede0", "mtu", "1400", "down"]);
    let ensured = netlink.ensure_link(&bridge()).await.unwrap();
    let settings = Settings { mtu: Some(1380), up: Some(true), ..Settings::default() };
    assert_eq!(ensured.changes, [Change::Set(settings)]);
    assert!(host.tool(&["ip", "link", "show", "stampede0"]).contains("alias stampede: the managed network"));
}

#[tokio::test]
async fn a_vxlan_device_with_another_address_is_made_anew_and_another_kind_is_left_alone() {
    let host = Namespace::new().await;
    let before = host.netlink.ensure_link(&vxlan(1)).await.unwrap();
    let after = host.netlink.ensure_link(&vxlan(2)).await.unwrap();
    assert_eq!(after.changes[..2], [Change::Delete { index: before.index }, Change::Create]);
    assert_ne!(before.index, after.index);
    assert!(host.netlink.ensure_link(&vxlan(2)).await.unwrap().changes.is_empty());

    let clash = LinkSpec::new("stampede-vx", LinkKind::Bridge);
    let error = host.netlink.ensure_link(&clash).await.unwrap_err();
    assert!(matches!(&error, Error::KindDiffers { found, .. } if found == "vxlan"), "{error}");
    assert!(host.netlink.delete_link("stampede-vx").await.unwrap());
    assert!(!host.netlink.delete_link("stampede-vx").await.unwrap());
}

#[tokio::test]
async fn an_underlay_over_ipv6_is_read_back_as_it_was_made() {
    let host = Namespace::new().await;
    let kind = LinkKind::Vxlan(Vxlan { vni: 1, port: 4790, local: ip("fd00::1"), learning: true, group_policy: true });
    let desired = LinkSpec::new("vx6", kind);
    host.netlink.ensure_link(&desired).await.unwrap();
    assert!(host.netlink.ensure_link(&desired).await.unwrap().changes.is_empty());
}

#[tokio::test]
async fn a_veth_pair_is_whole_after_one_call_and_a_taken_name_is_told() {
    let host = Namespace::new().await;
    let master = host.netlink.ensure_link(&bridge()).await.unwrap().index;
    let spec = veth("v1", 7, Some(master));
    host.netlink.create_veth(&spec).await.unwrap();
    let near = host.netlink.link_by_name("v1").await.unwrap().unwrap();
    assert_eq!((near.mtu, near.up, near.master, near.port.isolated), (1380, true, Some(master), Some(true)));
    assert_eq!(near.alias.as_deref(), Some("stampede: v1"));
    let far = host.netlink.link_by_name("v1p").await.unwrap().unwrap();
    assert_eq!((far.mtu, far.mac, far.up), (1380, Some(spec.peer_mac), false));
    assert_eq!((near.lower, far.lower), (Some(far.index), Some(near.index)));

    let error = host.netlink.create_veth(&spec).await.unwrap_err();
    assert!(error.is_exists(), "{error}");
    assert!(error.to_string().starts_with("create veth v1 with peer v1p: File exists"), "{error}");

    // The second message fails (no port without a bridge): nothing stays behind.
    let half = VethSpec { master: None, port: PortFlags::isolated(), ..veth("v2", 8, None) };
    let error = host.netlink.create_veth(&half).await.unwrap_err();
    assert!(error.to_string().starts_with("isolate and set up veth v2: "), "{error}");
    assert_eq!(host.netlink.link_by_name("v2").await.unwrap(), None);
}

#[tokio::test]
async fn the_kernels_own_words_are_kept() {
    let host = Namespace::new().await;
    host.netlink.ensure_link(&bridge()).await.unwrap();
    let settings = Settings { mtu: Some(9), ..Settings::default() };
    let error = host.netlink.set_link("stampede0", &settings).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "set mtu 9 of link stampede0: Invalid argument (os error 22): mtu less than device minimum"
    );
    let error = host.netlink.set_link("gone", &settings).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

#[tokio::test]
async fn addresses_are_made_as_desired_and_lifetimes_renewed() {
    let host = Namespace::new().await;
    let index = host.netlink.ensure_link(&bridge()).await.unwrap().index;
    let gateway = AddressSpec::new(ip("10.42.0.1"), 32);
    let floating = AddressSpec { valid_for: Some(30), ..AddressSpec::new(ip("10.42.9.9"), 32) };
    let six = AddressSpec { no_prefix_route: true, ..AddressSpec::new(ip("fd00:42::1"), 64) };
    let ensure = async |desired: &[AddressSpec], others| {
        changed(host.netlink.ensure_addresses(index, desired, others).await.unwrap())
    };
    assert_eq!(ensure(&[gateway, floating, six], Others::Remove).await, 3);
    assert_eq!(ensure(&[gateway, six], Others::Keep).await, 0);
    assert_eq!(ensure(&[gateway, floating, six], Others::Remove).await, 1, "the lifetime is renewed");
    let all = host.netlink.addresses().await.unwrap();
    let found = all.iter().find(|address| address.spec.address == floating.address).unwrap();
    assert!(found.spec.valid_for.is_some_and(|left| (20..=30).contains(&left)), "{found:?}");
    assert_eq!(ensure(&[gateway], Others::Remove).await, 2);
    assert!(!host.netlink.remove_address(index, &floating).await.unwrap());
}

#[tokio::test]
async fn only_our_routes_are_touched() {
    let host = Namespace::new().await;
    host.netlink.ensure_link(&bridge()).await.unwrap();
    host.up("stampede0", &[("10.42.0.1", 32)]).await;
    host.tool(&["ip", "route", "add", "10.99.0.0/16", "dev", "stampede0"]);
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let guard = RouteSpec::unreachable(prefix("10.42.0.0/16"));
    let own = RouteSpec { source: Some(ip("10.42.0.1")), ..RouteSpec::on(prefix("10.42.0.0/26"), "stampede0") };
    let via =
        RouteSpec { via: Some(ip("10.42.7.1")), onlink: true, ..RouteSpec::on(prefix("10.42.7.0/26"), "stampede0") };
    let other_table = RouteSpec { table: 1000, metric: 5, ..RouteSpec::on(prefix("10.42.8.0/26"), "stampede0") };
    let six = RouteSpec { metric: 1024, ..RouteSpec::on(prefix("fd00:42:7::/64"), "stampede0") };
    let six_guard = RouteSpec::unreachable(prefix("fd00:42::/32"));
    let desired = [guard.clone(), own.clone(), via.clone(), other_table, six, six_guard];
    let reconcile = async |desired: &[RouteSpec]| host.netlink.reconcile_routes(desired).await.unwrap();
    assert_eq!(changed(reconcile(&desired).await), 6);
    assert!(reconcile(&desired).await.is_unchanged());

    // A block that changes from here to there is replaced, also between kinds.
    let moved = RouteSpec { via: Some(ip("10.42.9.1")), ..via };
    assert_eq!(changed(reconcile(&[guard.clone(), RouteSpec::unreachable(own.destination), moved.clone()]).await), 5);
    assert_eq!(changed(reconcile(&[guard.clone(), own, moved]).await), 1);

    // Somebody else's route in our place, and a link that is not there: told, and the rest is done.
    let taken = RouteSpec::on(prefix("10.99.0.0/16"), "stampede0");
    let nowhere = RouteSpec::on(prefix("10.42.3.0/26"), "gone");
    let outcome = reconcile(&[guard.clone(), taken, nowhere]).await;
    assert_eq!(outcome.failed.len(), 2);
    assert!(outcome.failed.iter().any(|(_, error)| error.is_exists()), "{:?}", outcome.failed);
    assert!(outcome.failed.iter().any(|(_, error)| error.is_not_found()), "{:?}", outcome.failed);
    assert_eq!(changed(reconcile(&[]).await), 1);
    let left = host.netlink.routes().await.unwrap();
    assert!(left.iter().all(|route| route.protocol != PROTOCOL), "{left:?}");
    assert!(host.tool(&["ip", "route"]).contains("10.99.0.0/16"));
}

#[tokio::test]
async fn what_a_rule_finds_local_is_taken_in_and_answered_for() {
    let (host, other) = (Namespace::new().await, Namespace::new().await);
    host.netlink.create_veth(&veth("v0", 2, None)).await.unwrap();
    host.netlink.move_link("v0p", other.fd()).await.unwrap();
    host.up("v0", &[("198.18.0.1", 24)]).await;
    other.up("v0p", &[("198.18.0.2", 24)]).await;
    other.tool(&["ip", "route", "add", "169.254.169.254/32", "dev", "v0p"]);
    let prefix: Prefix = "169.254.169.254/32".parse().unwrap();
    let routes = [RouteSpec { table: 1000, ..RouteSpec::local(prefix, "v0") }];
    let rule = RuleSpec {
        priority: 1000,
        source: None,
        destination: Some(prefix),
        from: Some("v0".to_owned()),
        mark: None,
        table: 1000,
    };
    for count in [1, 0] {
        assert_eq!(changed(host.netlink.reconcile_routes(&routes).await.unwrap()), count);
        assert_eq!(changed(host.netlink.reconcile_rules(std::slice::from_ref(&rule)).await.unwrap()), count);
    }
    let (server, client) = (host.udp("0.0.0.0:7000"), other.udp("0.0.0.0:0"));
    client.send_to(b"x", "169.254.169.254:7000").unwrap();
    assert_eq!(server.recv_from(&mut [0; 9]).unwrap().1.ip(), ip("198.18.0.2"), "no link has the address");
    assert_eq!(changed(host.netlink.reconcile_routes(&[]).await.unwrap()), 1);
}

/// Whoever claims another's addresses is sent nothing that is the other's.
#[tokio::test]
async fn a_pinned_address_stays_where_it_is() {
    let (host, owner, thief) = (Namespace::new().await, Namespace::new().await, Namespace::new().await);
    let bridge_index = host.netlink.ensure_link(&bridge()).await.unwrap().index;
    host.up("stampede0", &[("10.42.0.1", 24)]).await;
    for (name, last, namespace) in [("v2", 2, &owner), ("v3", 3, &thief)] {
        host.netlink.create_veth(&veth(name, last, Some(bridge_index))).await.unwrap();
        host.netlink.move_link(&format!("{name}p"), namespace.fd()).await.unwrap();
        namespace.up(&format!("{name}p"), &[(&format!("10.42.0.{last}"), 24)]).await;
    }
    let (at_host, at_owner) = (host.udp("10.42.0.1:7000"), owner.udp("10.42.0.2:7000"));
    let own = Mac([2, 0x42, 10, 42, 0, 2]);
    thief.tool(&["ip", "link", "set", "v3p", "address", &own.to_string()]);
    thief.tool(&["ip", "address", "add", "10.42.0.2/32", "dev", "v3p"]);
    let at_thief = thief.udp("10.42.0.2:7000");
    at_thief.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let claimed = || {
        at_thief.send_to(b"here I am", "10.42.0.1:7000").unwrap();
        at_host.recv_from(&mut [0; 9]).unwrap();
        at_host.send_to(b"secret", "10.42.0.2:7000").unwrap();
        at_thief.recv_from(&mut [0; 9]).is_ok()
    };
    assert!(claimed(), "without a pin the bridge believes the last who spoke");
    let port = host.netlink.link_index("v2").await.unwrap();
    let pin = Pin { bridge: bridge_index, port, address: ip("10.42.0.2"), mac: own };
    for _ in 0..2 {
        host.netlink.pin(&pin).await.unwrap();
        assert_eq!(host.netlink.pinned(bridge_index).await.unwrap().get(&own), Some(&port));
        assert!(host.netlink.neighbours(bridge_index).await.unwrap().contains(&(pin.address, own)));
    }
    assert!(!claimed());
    assert_eq!(at_owner.recv_from(&mut [0; 9]).unwrap().0, 6, "whose it is gets it");
    for _ in 0..2 {
        host.netlink.unpin(bridge_index, pin.address, own).await.unwrap();
        assert!(host.netlink.neighbours(bridge_index).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn an_unreachable_route_answers_at_once() {
    let host = Namespace::new().await;
    let other = Namespace::new().await;
    host.netlink.create_veth(&veth("v0", 2, None)).await.unwrap();
    host.netlink.move_link("v0p", other.fd()).await.unwrap();
    host.up("v0", &[("198.18.0.1", 24)]).await;
    other.up("v0p", &[("198.18.0.2", 24)]).await;
    host.tool(&["ip", "route", "add", "default", "via", "198.18.0.2"]);
    let socket = host.udp("0.0.0.0:0");
    assert!(socket.send_to(b"x", "10.42.3.3:9").is_ok(), "the default route takes it");
    let guard = RouteSpec::unreachable("10.42.0.0/16".parse().unwrap());
    changed(host.netlink.reconcile_routes(&[guard]).await.unwrap());
    let error = socket.send_to(b"x", "10.42.3.3:9").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::HostUnreachable);
}

#[tokio::test]
async fn settings_of_the_kernel_are_written_once() {
    let host = Namespace::new().await;
    host.netlink.ensure_link(&bridge()).await.unwrap();
    let settings = [
        (Setting::Interface(Family::Ipv4, "stampede0", "proxy_arp_pvlan"), "1"),
        (Setting::Interface(Family::Ipv4, "stampede0", "send_redirects"), "0"),
        (Setting::Neighbour(Family::Ipv4, "stampede0", "proxy_delay"), "0"),
        (Setting::Interface(Family::Ipv6, "stampede0", "disable_ipv6"), "1"),
    ];
    for (setting, value) in &settings {
        assert!(host.run(|| setting.ensure(value)).unwrap(), "{setting:?}");
        assert!(!host.run(|| setting.ensure(value)).unwrap(), "{setting:?}");
    }
    let gone = Setting::Interface(Family::Ipv4, "gone", "proxy_arp");
    assert!(matches!(host.run(|| gone.ensure("1")), Err(Error::Sysctl { action: "read", .. })));
}

/// Two hosts as the design has them: a bridge with isolated ports, blocks by route, peers by VXLAN with static
/// neighbours and forwarding entries.
#[tokio::test]
async fn containers_of_two_hosts_reach_each_other_over_vxlan() {
    let hosts = [Namespace::new().await, Namespace::new().await];
    let [a, b] = &hosts;
    // The underlay: a cable between the two.
    a.netlink.create_veth(&veth("wire", 2, None)).await.unwrap();
    a.netlink.move_link("wirep", b.fd()).await.unwrap();
    a.up("wire", &[("198.18.0.1", 24)]).await;
    b.up("wirep", &[("198.18.0.2", 24)]).await;

    let mut containers = Vec::new();
    for (host, number, peer) in [(a, 1u8, 2u8), (b, 2, 1)] {
        let netlink = &host.netlink;
        host.sysctl("ipv4/ip_forward", "1");
        let master = netlink.ensure_link(&bridge()).await.unwrap().index;
        host.up("stampede0", &[("10.42.0.1", 32)]).await;
        host.sysctl("ipv4/conf/stampede0/proxy_arp", "1");
        host.sysctl("ipv4/conf/stampede0/proxy_arp_pvlan", "1");
        host.sysctl("ipv4/neigh/stampede0/proxy_delay", "0");
        for round in 0..2 {
            let overlay = netlink.ensure_link(&vxlan(number)).await.unwrap().index;
            let block = |host: u8| Prefix::new(ip(&format!("10.42.{host}.0")), 26).unwrap();
            let router = ip(&format!("10.42.{peer}.0"));
            let routes = [
                RouteSpec::unreachable("10.42.0.0/16".parse().unwrap()),
                RouteSpec::on(block(number), "stampede0"),
                RouteSpec { via: Some(router), onlink: true, ..RouteSpec::on(block(peer), "stampede-vx") },
            ];
            let expected = if round == 0 { (3, 1, 1) } else { (0, 0, 0) };
            let neighbours = BTreeMap::from([(router, overlay_mac(peer))]);
            let forwarding = BTreeMap::from([(overlay_mac(peer), ip(&format!("198.18.0.{peer}")))]);
            let made = (
                changed(netlink.reconcile_routes(&routes).await.unwrap()),
                changed(netlink.reconcile_neighbours(overlay, &neighbours).await.unwrap()),
                changed(netlink.reconcile_forwarding(overlay, &forwarding).await.unwrap()),
            );
            assert_eq!(made, expected, "round {round}");
        }
        for place in [2u8, 3] {
            let name = format!("c{number}{place}");
            netlink.create_veth(&veth(&name, number * 16 + place, Some(master))).await.unwrap();
            let container = Namespace::new().await;
            netlink.move_link(&format!("{name}p"), container.fd()).await.unwrap();
            container.up(&format!("{name}p"), &[(&format!("10.42.{number}.{place}"), 16)]).await;
            container.tool(&["ip", "route", "add", "default", "via", "10.42.0.1"]);
            containers.push(container);
        }
    }
    let [a2, a3, b2, _] = containers.as_slice() else { panic!("four containers") };
    let client = a2.udp("10.42.1.2:0");
    // Across the hosts, and to a neighbour on the same host, whose port is as isolated: both by route.
    for (server, address) in [(b2, "10.42.2.2:7777"), (a3, "10.42.1.3:7777")] {
        let from = exchange(&client, &server.udp(address), address).unwrap();
        assert_eq!(from, client.local_addr().unwrap());
    }
    // Without the forwarding entry nothing gets across.
    let overlay = a.netlink.link_index("stampede-vx").await.unwrap();
    assert_eq!(changed(a.netlink.reconcile_forwarding(overlay, &BTreeMap::new()).await.unwrap()), 1);
    let server = b2.udp("10.42.2.2:7777");
    server.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
    assert!(exchange(&client, &server, "10.42.2.2:7777").is_err());
}
