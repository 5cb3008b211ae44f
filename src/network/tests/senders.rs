//! Nobody sends as somebody else, not to a neighbour on the same host either.

use super::hosts::{address, container};
use super::support::{Host, Namespace, eventually, exchange, store};
use crate::network::overlay::BRIDGE;
use crate::network::senders::{Sender, admit};
use crate::resource::assignment::ManagedAddress;
use stampede_netlink::pin::Pin;
use std::net::UdpSocket;
use std::time::Duration;

/// What the network driver does once it has made a port.
async fn pin(host: &Host, name: &str, network: &ManagedAddress) {
    let kernel = host.namespace.kernel();
    let port = format!("st-{name}");
    let mac = network.mac.parse().unwrap();
    let bridge = kernel.netlink.link_index(BRIDGE).await.unwrap();
    let index = kernel.netlink.link_index(&port).await.unwrap();
    kernel.netlink.pin(&Pin { bridge, port: index, address: network.address.into(), mac }).await.unwrap();
    admit(&kernel, Sender { port, mac, address: network.address }).await.unwrap();
}

/// Whether a datagram from `source` arrives at `server`.
fn arrives(from: &Namespace, source: &str, server: &UdpSocket) -> bool {
    server.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    let to = server.local_addr().unwrap();
    // Where nothing goes out at all, it does not arrive either.
    let _ = from.udp(&format!("{source}:0")).send_to(b"x", to);
    server.recv_from(&mut [0; 9]).is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_packet_goes_nowhere() {
    let store = store();
    let host = Host::start("h1", Namespace::new().await, None, &store).await;
    host.until("ready", |status| status.ready).await;
    let (a, b, c) =
        (address(&host, &store, "1i1").await, address(&host, &store, "1i2").await, address(&host, &store, "1i3").await);
    let (forger, victim) = (container(&host, "1i1", &a).await, container(&host, "1i2", &b).await);
    let (own, other) = (a.address.to_string(), c.address.to_string());
    let server = victim.udp(&format!("{}:7000", b.address));
    forger.tool(&["ip", "addr", "add", &format!("{other}/32"), "dev", "sp-1i1"]);
    eventually("who is not held to his address passes as another", async || arrives(&forger, &other, &server)).await;

    pin(&host, "1i1", &a).await;
    pin(&host, "1i2", &b).await;
    assert!(!arrives(&forger, &other, &server), "another's address");
    assert!(arrives(&forger, &own, &server));
    let to = format!("{}:7001", b.address);
    exchange(&forger.udp(&format!("{own}:0")), &victim.udp(&to), &to).unwrap();
    // Put back as soon as somebody flushes it, from what is pinned.
    host.namespace.tool(&["nft", "delete", "table", "bridge", "stampede"]);
    eventually("the table is back", async || {
        let rules = host.namespace.tool(&["nft", "list", "ruleset", "bridge"]);
        rules.contains("\"st-1i1\"") && rules.contains("0.0.0.0")
    })
    .await;
    assert!(!arrives(&forger, &other, &server));
    assert!(arrives(&forger, &own, &server));

    // Another's hardware address, with an address of its own and without.
    forger.tool(&["ip", "link", "set", "sp-1i1", "address", &c.mac]);
    assert!(!arrives(&forger, &own, &server) && !arrives(&forger, &other, &server));
    forger.tool(&["ip", "link", "set", "sp-1i1", "address", &a.mac]);
    eventually("as itself again", async || arrives(&forger, &own, &server)).await;
    let dropped = host.namespace.tool(&["nft", "list", "chain", "bridge", "stampede", "sources"]);
    assert!(!dropped.contains("counter packets 0"), "{dropped}");
}
