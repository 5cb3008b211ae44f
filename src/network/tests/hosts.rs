//! Hosts with the network running, as namespaces on the real kernel.

use super::support::{Host, Namespace, PATIENCE, cable, environment, eventually, exchange, ip, store};
use crate::network::kernel::Kernel;
use crate::network::overlay::{BRIDGE, OVERLAY};
use crate::network::{Network, NetworkConfig};
use crate::resource::assignment::ManagedAddress;
use crate::store::{Store, Transaction, key};
use stampede_netlink::{
    link::{PortFlags, VethSpec},
    nftables::Family,
    route::PROTOCOL,
};
use std::sync::Arc;
use std::time::Duration;

/// Two hosts with a cable between them.
pub async fn two_hosts(store: &Arc<dyn Store>) -> [Host; 2] {
    let (a, b) = (Namespace::new().await, Namespace::new().await);
    cable(&a, &b, "wire", ["198.18.0.1", "198.18.0.2"], 24).await;
    let hosts =
        [Host::start("h1", a, Some("198.18.0.1"), store).await, Host::start("h2", b, Some("198.18.0.2"), store).await];
    for host in &hosts {
        host.until("ready", |status| status.ready).await;
    }
    hosts
}

/// One host, and a machine at the other end of its cable that is none.
pub async fn host_and_outside(store: &Arc<dyn Store>) -> (Host, Namespace) {
    let (namespace, outside) = (Namespace::new().await, Namespace::new().await);
    cable(&namespace, &outside, "wire", ["198.18.0.1", "198.18.0.2"], 24).await;
    let host = Host::start("h1", namespace, None, store).await;
    host.until("ready", |status| status.ready).await;
    (host, outside)
}

/// An address by the allocator, written as a placement would.
pub async fn address(host: &Host, store: &Arc<dyn Store>, instance: &str) -> ManagedAddress {
    let reserved = host.network.allocator().reserve(&host.name, instance).await.unwrap();
    let transaction = Transaction { compares: reserved.compares, success: reserved.operations, failure: Vec::new() };
    assert!(store.commit(transaction).await.unwrap().succeeded);
    assert!(host.network.routed(reserved.address.address, PATIENCE).await);
    reserved.address
}

/// A container on the host, as the driver and Docker would make it.
pub async fn container(host: &Host, name: &str, network: &ManagedAddress) -> Namespace {
    let netlink = &host.namespace.netlink;
    let spec = VethSpec {
        name: format!("st-{name}"),
        peer: format!("sp-{name}"),
        mtu: network.mtu,
        mac: None,
        peer_mac: network.mac.parse().unwrap(),
        master: Some(netlink.link_index(BRIDGE).await.unwrap()),
        port: PortFlags::isolated(),
        alias: None,
    };
    netlink.create_veth(&spec).await.unwrap();
    let container = Namespace::new().await;
    netlink.move_link(&spec.peer, container.fd()).await.unwrap();
    container.as_container(&spec.peer, &network.address.to_string()).await;
    container
}

/// All changes so far are made and the loop has come to rest.
async fn at_rest(host: &Host) {
    let kernel = host.namespace.kernel();
    let mut monitor = kernel.monitor().unwrap();
    eventually("the loop comes to rest", async || {
        // What the kernel tells by itself, a second or two after a link is up: that it has its address of IPv6 alone.
        host.namespace.tool(&["ip", "-6", "addr", "show", "tentative"]).is_empty()
            && tokio::time::timeout(Duration::from_millis(300), monitor.next()).await.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_reach_each_other_within_and_across_hosts_and_nobody_else() {
    let store = store();
    let [one, two] = two_hosts(&store).await;
    let (a, b, c) =
        (address(&one, &store, "1i1").await, address(&one, &store, "1i2").await, address(&two, &store, "1i3").await);
    let (first, second, far) =
        (container(&one, "1i1", &a).await, container(&one, "1i2", &b).await, container(&two, "1i3", &c).await);
    assert_eq!(a.mtu, 1380);
    // Block and route of each host reach the other by themselves.
    for (host, peer) in [(&one, &c), (&two, &a)] {
        eventually("the other's block is routed", async || {
            let routes = host.namespace.netlink.routes().await.unwrap();
            routes.iter().any(|route| {
                route.spec.device.as_deref() == Some(OVERLAY) && route.spec.destination.contains(peer.address.into())
            })
        })
        .await;
    }
    let client = first.udp(&format!("{}:0", a.address));
    for (server, address) in [(&second, &b), (&far, &c)] {
        let to = format!("{}:7000", address.address);
        assert_eq!(exchange(&client, &server.udp(&to), &to).unwrap(), client.local_addr().unwrap(), "no translation");
    }
    // The host itself reaches both, under its own address of its own block.
    let from_host = one.namespace.udp("0.0.0.0:0");
    let to = format!("{}:7001", c.address);
    let seen = exchange(&from_host, &far.udp(&to), &to).unwrap();
    assert!(
        one.network.subnet.block_of(a.address)
            == match seen.ip() {
                std::net::IpAddr::V4(seen) => one.network.subnet.block_of(seen),
                std::net::IpAddr::V6(_) => panic!("IPv6"),
            }
    );
    // Isolated: by the bridge alone the two are not neighbours; the gateway answers for each.
    let neighbours = first.tool(&["ip", "neigh", "show"]);
    assert!(!neighbours.contains(&b.mac), "{neighbours}");
    // An address of nobody's block is nobody's.
    let nobody = (0..1024)
        .map(|number| one.network.subnet.block_at(number))
        .find(|block| ![&a, &b, &c].iter().any(|taken| one.network.subnet.block_of(taken.address) == *block));
    let nobody = one.network.subnet.assignable(nobody.unwrap()).next().unwrap();
    assert!(one.namespace.udp("0.0.0.0:0").send_to(b"x", (nobody, 9)).is_err());
    let ping = first.run(|| client.send_to(b"x", (nobody, 9)).and_then(|_| client.recv_from(&mut [0; 9])));
    assert!(ping.is_err());
    assert!(!first.tool(&["ip", "neigh", "show", &nobody.to_string()]).contains("lladdr"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_as_it_should_be_is_left_alone_and_what_is_not_is_repaired_within_a_second() {
    let store = store();
    let [one, two] = two_hosts(&store).await;
    let (a, b) = (address(&one, &store, "1i1").await, address(&two, &store, "1i2").await);
    let (first, second) = (container(&one, "1i1", &a).await, container(&two, "1i2", &b).await);
    let to = format!("{}:7000", b.address);
    let server = second.udp(&to);
    server.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let client = first.udp("0.0.0.0:0");
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    eventually("they reach each other", async || exchange(&client, &server, &to).is_ok()).await;
    at_rest(&one).await;

    // A second network on the same host (an agent that starts anew) finds nothing to do.
    let kernel = one.namespace.kernel();
    let (mut links, mut rules) = (kernel.monitor().unwrap(), kernel.rules_monitor().unwrap());
    let config = NetworkConfig { underlay: Some(ip("198.18.0.1")), ..NetworkConfig::new("h1") };
    let again = Network::start(config, store.clone(), &environment(), one.namespace.kernel());
    let mut status = again.status();
    tokio::time::timeout(PATIENCE, status.wait_for(|status| status.ready)).await.unwrap().unwrap();
    let event = tokio::time::timeout(Duration::from_millis(300), links.next()).await;
    assert!(event.is_err(), "{event:?}");
    let event = tokio::time::timeout(Duration::from_millis(10), rules.next()).await;
    assert!(event.is_err(), "{event:?}");
    drop(again);

    let prefix = one.network.subnet.block_of(b.address).to_string() + "/26";
    let own = one.network.subnet.block_of(a.address).to_string() + "/26";
    let faults: &[&[&str]] = &[
        &["ip", "route", "del", &prefix],
        &["ip", "route", "del", &own],
        &["ip", "route", "del", "unreachable", "10.42.0.0/16"],
        &["ip", "link", "del", OVERLAY],
        &["ip", "link", "set", OVERLAY, "down"],
        &["ip", "link", "set", BRIDGE, "down"],
        &["ip", "addr", "flush", "dev", BRIDGE],
        &["nft", "delete", "table", "inet", "stampede"],
    ];
    for fault in faults {
        one.namespace.tool(fault);
        let since = tokio::time::Instant::now();
        eventually("all is repaired", async || {
            let links = one.namespace.netlink.links().await.unwrap();
            let up = |name| links.iter().any(|link| link.name == name && link.up);
            let routes = one.namespace.netlink.routes().await.unwrap();
            let table = one.namespace.netlink.inspect_table(Family::Inet, "stampede").await.unwrap();
            up(BRIDGE)
                && up(OVERLAY)
                && routes.iter().filter(|route| route.protocol == PROTOCOL).count() == 6
                && table.is_some_and(|table| table.chains.len() == 9)
        })
        .await;
        assert!(since.elapsed() < Duration::from_secs(1), "{fault:?} took {:?}", since.elapsed());
        eventually("they reach each other again", async || exchange(&client, &server, &to).is_ok()).await;
        at_rest(&one).await;
    }
    // A setting that somebody changed is seen with the next look, whatever its reason.
    one.namespace.run(|| std::fs::write("/proc/sys/net/ipv4/conf/stampede0/proxy_arp_pvlan", "0").unwrap());
    one.namespace.tool(&["ip", "link", "set", BRIDGE, "alias", "x"]);
    eventually("the setting is as it was", async || {
        let read = || std::fs::read_to_string("/proc/sys/net/ipv4/conf/stampede0/proxy_arp_pvlan").unwrap();
        one.namespace.run(read).trim() == "1"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packets_leave_under_the_hosts_address_and_forged_ones_do_not_come_in() {
    let store = store();
    let (host, outside) = host_and_outside(&store).await;
    let a = address(&host, &store, "1i1").await;
    let inside = container(&host, "1i1", &a).await;
    let client = inside.udp("0.0.0.0:0");
    let to = "198.18.0.2:7000";
    let seen = exchange(&client, &outside.udp(to), to).unwrap();
    assert_eq!(seen.ip(), ip("198.18.0.1"));
    // Somebody outside who calls himself a neighbour of the container's.
    outside.tool(&["ip", "addr", "add", "10.42.200.7/32", "dev", "lo"]);
    outside.tool(&["ip", "route", "add", &a.address.to_string(), "via", "198.18.0.1"]);
    let server = inside.udp(&format!("{}:7002", a.address));
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    outside.udp("10.42.200.7:0").send_to(b"x", (a.address, 7002)).unwrap();
    assert!(server.recv_from(&mut [0; 9]).is_err());
    outside.udp("198.18.0.2:0").send_to(b"x", (a.address, 7002)).unwrap();
    assert!(server.recv_from(&mut [0; 9]).is_ok(), "under his own name he may call");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_user_is_filled_and_filled_again_and_a_drop_without_it_is_told() {
    let store = store();
    let host = Host::start("h1", Namespace::new().await, None, &store).await;
    host.until("ready", |status| status.ready).await;
    // As Docker does it; with the policy alone there is no place for our rules.
    host.namespace.tool(&["iptables-nft", "-P", "FORWARD", "DROP"]);
    host.until("told", |status| status.problems.iter().any(|problem| problem.contains("DOCKER-USER"))).await;
    for _ in 0..2 {
        // Docker's own way at each start: the chain if it is not there, and a rule that returns.
        host.namespace.tool(&["iptables-nft", "-N", "DOCKER-USER"]);
        host.namespace.tool(&["iptables-nft", "-A", "DOCKER-USER", "-j", "RETURN"]);
        host.namespace.tool(&["iptables-nft", "-I", "FORWARD", "-j", "DOCKER-USER"]);
        eventually("our rules come first", async || {
            let rules = host.namespace.tool(&["iptables-nft", "-S", "DOCKER-USER"]);
            let lines: Vec<_> = rules.lines().collect();
            lines.len() == 4 && lines[1].contains("-i stampede0") && lines[2].contains("-o stampede0")
        })
        .await;
        host.until("content", |status| status.problems.is_empty()).await;
        // At once: in between the rules would be put back, and what is not empty cannot be deleted.
        host.namespace.tool(&[
            "nft",
            "flush chain ip filter FORWARD; flush chain ip filter DOCKER-USER; delete chain ip filter DOCKER-USER",
        ]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_boots_alone_knows_the_others_and_a_new_one_takes_nothing_away() {
    let store = store();
    let directory = tempfile::tempdir().unwrap();
    let config = |host: &str| NetworkConfig {
        underlay: Some(ip("198.18.0.1")),
        memory: Some(directory.path().join(format!("{host}.json"))),
        ..NetworkConfig::new(host)
    };
    let (a, b) = (Namespace::new().await, Namespace::new().await);
    cable(&a, &b, "wire", ["198.18.0.1", "198.18.0.2"], 24).await;
    let other = Host::start("h2", b, Some("198.18.0.2"), &store).await;
    let network = Network::start(config("h1"), store.clone(), &environment(), a.kernel());
    let one = Host { namespace: a, network, name: "h1".to_owned() };
    address(&one, &store, "1i1").await;
    address(&other, &store, "1i2").await;
    let ours = async |kernel: &Kernel| {
        let routes = kernel.netlink.routes().await.unwrap();
        routes.into_iter().filter(|route| route.protocol == PROTOCOL).count()
    };
    let kernel = one.namespace.kernel();
    eventually("all is routed", async || ours(&kernel).await == 6).await;
    at_rest(&one).await;
    drop(one.network);

    // The host boots, and no store answers.
    let fresh = Namespace::new().await;
    let unused = Namespace::new().await;
    cable(&fresh, &unused, "wire", ["198.18.0.1", "198.18.0.2"], 24).await;
    let silent: Arc<dyn Store> = Arc::new(super::support::Silent);
    let alone = Network::start(config("h1"), silent.clone(), &environment(), fresh.kernel());
    let kernel = fresh.kernel();
    eventually("all is routed as before", async || ours(&kernel).await == 6).await;
    let mut status = alone.status();
    tokio::time::timeout(PATIENCE, status.wait_for(|status| status.ready)).await.unwrap().unwrap();
    // One that remembers nothing takes nothing away from what runs.
    drop(alone);
    let config = NetworkConfig { memory: None, ..config("h1") };
    let blank = Network::start(config, silent, &environment(), fresh.kernel());
    let mut status = blank.status();
    let ready = tokio::time::timeout(Duration::from_secs(4), status.wait_for(|status| status.ready)).await;
    assert!(ready.is_err());
    assert_eq!(ours(&kernel).await, 6);
    assert!(fresh.netlink.link_by_name(OVERLAY).await.unwrap().is_some());
    assert!(fresh.tool(&["ip", "-o", "addr", "show", BRIDGE]).lines().count() >= 2);
}

#[tokio::test]
async fn hosts_have_numbers_of_their_own_and_keep_them() {
    use crate::network::mesh::{Mesh, Outside, Underlay, publish};
    let store = store();
    let underlay = |last: u8| Underlay { address: std::net::Ipv4Addr::new(198, 18, 0, last).into(), mtu: 1500 };
    let mut tasks = tokio::task::JoinSet::new();
    for host in 1..=8 {
        let store = store.clone();
        tasks.spawn(async move {
            publish(store.as_ref(), &format!("h{host}"), (underlay(host), Outside::default()), 1380)
                .await
                .unwrap()
                .number
        });
    }
    let mut numbers = tasks.join_all().await;
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=8).collect::<Vec<_>>());
    let before: Mesh = crate::store::decode(&store.get(&key::mesh("h3")).await.unwrap().entry.unwrap()).unwrap();
    let revision = store.get(&key::mesh("h3")).await.unwrap().revision;
    assert_eq!(publish(store.as_ref(), "h3", (underlay(3), Outside::default()), 1380).await.unwrap(), before);
    assert_eq!(store.get(&key::mesh("h3")).await.unwrap().revision, revision, "nothing was written");
    // A record that was lost comes back under the same number.
    store.commit(Transaction::new().then(crate::store::Operation::delete(key::mesh("h3")))).await.unwrap();
    let after = publish(store.as_ref(), "h3", (underlay(33), Outside::default()), 1380).await.unwrap();
    assert_eq!((after.number, after.mac), (before.number, before.mac));
}
