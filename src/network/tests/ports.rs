//! Published ports on the real kernel: who reaches them by which way, and what happens to conversations when they change.

use super::hosts::{address, container, host_and_outside};
use super::support::{Host, Namespace, eventually, exchange, ip, store};
use crate::network::hairpin::SOURCE;
use crate::resource::assignment::{Assignment, ManagedAddress, PublicPort, Token};
use crate::resource::port::Protocol;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

fn publishing(id: &str, network: &ManagedAddress, ports: &[(u16, u16)]) -> Assignment {
    let port =
        |(public, private): &(u16, u16)| PublicPort { protocol: Protocol::Udp, public: *public, private: *private };
    Assignment {
        token: Token { generation: 1, revision: 5 },
        network: Some(network.clone()),
        ports: ports.iter().map(port).collect(),
        ..Assignment::example(id)
    }
}

pub fn impatient(socket: UdpSocket) -> UdpSocket {
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// Until it is so: whom `server` sees when `client` asks at `to`.
pub async fn sees(server: &UdpSocket, client: &UdpSocket, to: &str, expected: IpAddr) {
    eventually(&format!("{to} is reached from {expected}"), async || {
        exchange(client, server, to).is_ok_and(|from| from.ip() == expected)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_is_reached_from_everywhere_and_its_change_takes_conversations_along() {
    let store = store();
    let (host, outside) = host_and_outside(&store).await;
    let (a, b) = (address(&host, &store, "1i1").await, address(&host, &store, "1i2").await);
    let (first, second) = (container(&host, "1i1", &a).await, container(&host, "1i2", &b).await);
    let published = host.network.published();
    published.put(&publishing("1i1", &a, &[(8080, 80)]));

    let server = impatient(first.udp("0.0.0.0:80"));
    let from_outside = impatient(outside.udp("198.18.0.2:0"));
    let from_beside = impatient(second.udp("0.0.0.0:0"));
    let by_loopback = impatient(host.namespace.udp("0.0.0.0:0"));
    let from_host = impatient(host.namespace.udp("0.0.0.0:0"));
    let from_itself = impatient(first.udp("0.0.0.0:0"));
    sees(&server, &from_outside, "198.18.0.1:8080", ip("198.18.0.2")).await;
    sees(&server, &from_host, "198.18.0.1:8080", ip("198.18.0.1")).await;
    sees(&server, &by_loopback, "127.0.0.1:8080", SOURCE.into()).await;
    sees(&server, &from_beside, "198.18.0.1:8080", b.address.into()).await;
    sees(&server, &from_itself, "198.18.0.1:8080", SOURCE.into()).await;

    // A client that goes on talking is led to where the port leads now.
    let other = impatient(second.udp("0.0.0.0:80"));
    published.put(&publishing("1i1", &a, &[(8081, 80)]));
    published.put(&publishing("1i2", &b, &[(8080, 80)]));
    sees(&other, &from_outside, "198.18.0.1:8080", ip("198.18.0.2")).await;
    sees(&server, &from_outside, "198.18.0.1:8081", ip("198.18.0.2")).await;
    sees(&other, &by_loopback, "127.0.0.1:8080", SOURCE.into()).await;
    // What began before its port was open finds it.
    assert!(from_outside.send_to(b"x", "198.18.0.1:8082").is_ok());
    published.put(&publishing("1i1", &a, &[(8082, 80)]));
    sees(&server, &from_outside, "198.18.0.1:8082", ip("198.18.0.2")).await;
    published.forget("1i1");
    eventually("it is closed", async || exchange(&from_outside, &server, "198.18.0.1:8082").is_err()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_took_away_is_put_back() {
    let store = store();
    let (host, _outside) = host_and_outside(&store).await;
    let a = address(&host, &store, "1i1").await;
    let first = container(&host, "1i1", &a).await;
    host.network.published().put(&publishing("1i1", &a, &[(8080, 80)]));
    let server = impatient(first.udp("0.0.0.0:80"));
    let client = impatient(host.namespace.udp("0.0.0.0:0"));
    sees(&server, &client, "127.0.0.1:8080", IpAddr::V4(SOURCE)).await;
    for fault in [
        &["nft", "flush", "ruleset"][..],
        &["nft", "delete", "element", "inet", "stampede", "ports", "{ udp . 8080 }"],
        &["nft", "flush", "set", "inet", "stampede", "itself"],
        &["ip", "link", "del", "stampede-hp"],
        &["ip", "route", "flush", "table", "4242"],
        &["ip", "link", "set", "stampede-hp1", "down"],
    ] {
        host.namespace.tool(fault);
        // Another source port: the conversation itself may go on as it was.
        let client = impatient(host.namespace.udp("0.0.0.0:0"));
        sees(&server, &client, "127.0.0.1:8080", IpAddr::V4(SOURCE)).await;
        let itself = impatient(first.udp("0.0.0.0:0"));
        sees(&server, &itself, "198.18.0.1:8080", IpAddr::V4(SOURCE)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_listens_on_127_0_0_1_is_reached_by_no_container_with_no_rule_at_all() {
    let store = store();
    let host = Host::start("h1", Namespace::new().await, None, &store).await;
    host.until("ready", |status| status.ready).await;
    let a = address(&host, &store, "1i1").await;
    let inside = container(&host, "1i1", &a).await;
    host.network.published().put(&publishing("1i1", &a, &[(8080, 80)]));
    let server = impatient(inside.udp("0.0.0.0:80"));
    let client = impatient(host.namespace.udp("0.0.0.0:0"));
    sees(&server, &client, "127.0.0.1:8080", IpAddr::V4(SOURCE)).await;
    let only_here = impatient(host.namespace.udp("127.0.0.1:9999"));
    drop(host.network);
    host.namespace.tool(&["nft", "flush", "ruleset"]);
    inside.run(|| std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap());
    inside.tool(&["ip", "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local"]);
    inside.tool(&["ip", "route", "del", "local", "127.0.0.1", "dev", "lo", "table", "local"]);
    inside.tool(&["ip", "route", "add", "127.0.0.1/32", "via", "10.42.0.1", "dev", "sp-1i1"]);
    for target in [Ipv4Addr::LOCALHOST, SOURCE, Ipv4Addr::new(169, 254, 42, 3), Ipv4Addr::new(10, 42, 0, 1)] {
        let _ = inside.udp("0.0.0.0:0").send_to(b"x", (target, 9999));
        assert!(only_here.recv_from(&mut [0; 9]).is_err(), "by {target}");
    }
}
