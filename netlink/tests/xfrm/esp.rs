//! Associations: what needs a kernel with ESP.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    net::SocketAddrV4,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use stampede_netlink::{
    Error, Mac,
    link::{LinkKind, LinkSpec, Vxlan},
    xfrm::{
        AeadKey, Association, AssociationChange, AssociationId, AssociationSpec, Lifetimes, Limits, Mark, Statistics,
        UdpEncapsulation, Xfrm, XfrmEvent, XfrmMonitor, encapsulation_socket,
    },
};

use super::{
    ONE, PORT, TWO, closed,
    support::{Namespace, changed, exchange, ip},
    towards, until, wired, xfrm,
};

const ENCAPSULATED: u16 = 14790;
const INNER: [&str; 2] = ["10.42.7.1", "10.42.8.1"];
const ESP: u8 = 50;
const UDP: u8 = 17;

fn key(byte: u8) -> AeadKey {
    AeadKey::aes256(&[byte; 36])
}

/// One direction; the selector lets nothing out of it but the overlay's packets of this sender.
fn direction(from: &str, to: &str, spi: u32, byte: u8) -> AssociationSpec {
    let mut spec = AssociationSpec::new(ip(from), ip(to), spi, key(byte));
    spec.selector = spec.selector.udp_to(PORT);
    spec
}

fn both() -> [AssociationSpec; 2] {
    [direction(ONE, TWO, 0x8210_0001, 1), direction(TWO, ONE, 0x8210_0002, 2)]
}

/// The same with ESP in UDP.
fn encapsulated() -> [AssociationSpec; 2] {
    let ports = UdpEncapsulation { source_port: ENCAPSULATED, destination_port: ENCAPSULATED };
    both().map(|spec| AssociationSpec { encapsulation: Some(ports), ..spec })
}

/// A VXLAN device towards the other host, and the address of each host in it.
async fn overlay(host: &Namespace, own: usize) {
    let outer = [ONE, TWO];
    let mac = |host: usize| Mac([2, 0, 2, 0, 0, u8::try_from(host + 1).unwrap()]);
    let kind =
        LinkKind::Vxlan(Vxlan { vni: 42, port: PORT, local: ip(outer[own]), learning: false, group_policy: false });
    let spec = LinkSpec { mtu: Some(1380), mac: Some(mac(own)), ..LinkSpec::new("overlay", kind) };
    host.netlink.ensure_link(&spec).await.unwrap();
    let index = host.up("overlay", &[(INNER[own], 16)]).await;
    let other = 1 - own;
    let neighbours = BTreeMap::from([(ip(INNER[other]), mac(other))]);
    changed(host.netlink.reconcile_neighbours(index, &neighbours).await.unwrap());
    changed(host.netlink.reconcile_forwarding(index, &BTreeMap::from([(mac(other), ip(outer[other]))])).await.unwrap());
}

/// Both hosts with overlay and policies, and no associations yet.
async fn hosts() -> (Namespace, Namespace) {
    let (one, two) = wired().await;
    for (host, own, peer) in [(&one, ONE, TWO), (&two, TWO, ONE)] {
        let policies: Vec<_> = closed().into_iter().chain([towards(own, peer)]).collect();
        changed(xfrm(host).reconcile_policies(&policies).await.unwrap());
    }
    overlay(&one, 0).await;
    overlay(&two, 1).await;
    (one, two)
}

async fn associate(hosts: [&Namespace; 2], specs: &[AssociationSpec]) {
    for host in hosts {
        assert_eq!(changed(xfrm(host).reconcile_associations(specs).await.unwrap()), specs.len());
    }
}

/// Sees every packet of a host's links.
struct Sniffer(File);

impl Sniffer {
    fn new(host: &Namespace) -> Self {
        let open = || socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, SockProtocol::EthAll);
        Self(File::from(host.run(|| open().unwrap())))
    }

    /// The IPv4 packets since the last call that are to or from the underlay's addresses.
    fn underlay(&mut self) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(length) = self.0.read(&mut buffer) {
            let Some(packet) = buffer[..length].get(14..) else { continue };
            if packet.len() > 20 && packet[0] >> 4 == 4 && packet[12..14] == [198, 18] {
                packets.push(packet.to_vec());
            }
        }
        packets
    }
}

fn protocols(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut seen: Vec<_> = packets.iter().map(|packet| packet[9]).collect();
    seen.dedup();
    seen
}

/// A word there and back through the overlay.
fn talk(one: &Namespace, two: &Namespace) -> std::io::Result<()> {
    let server = two.udp(&format!("{}:7000", INNER[1]));
    let client = one.udp(&format!("{}:0", INNER[0]));
    exchange(&client, &server, &format!("{}:7000", INNER[1])).map(drop)
}

async fn association(xfrm: &Xfrm, spec: &AssociationSpec) -> Association {
    xfrm.association(&spec.id).await.unwrap().expect("an association")
}

#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn associations_are_read_back_as_they_were_made_and_a_second_run_changes_nothing() {
    let host = Namespace::new().await;
    let xfrm = xfrm(&host);
    let [plain, _] = both();
    let [_, mut rich] = encapsulated();
    rich.replay_window = 2048;
    rich.id.mark = Mark { value: 5, mask: 0xff };
    rich.interface_id = 3;
    rich.lifetimes = Lifetimes {
        bytes: Limits { soft: Some(1 << 40), hard: Some(1 << 41) },
        since_added: Limits { soft: Some(86_400), hard: None },
        ..Lifetimes::default()
    };
    let mut six = AssociationSpec::new(ip("fd00::1"), ip("fd00::2"), 0x8000_0003, AeadKey::aes128(&[7; 20]));
    six.selector = six.selector.udp_to(PORT);
    let desired = vec![plain.clone(), rich.clone(), six];
    assert_eq!(changed(xfrm.reconcile_associations(&desired).await.unwrap()), 3);
    assert!(xfrm.reconcile_associations(&desired).await.unwrap().is_unchanged());
    let mut found: Vec<_> = xfrm.associations().await.unwrap().into_iter().map(|found| found.spec).collect();
    found.sort_by_key(|spec| desired.iter().position(|wish| wish.id == spec.id));
    assert_eq!(found, desired);
    assert_eq!(xfrm.association(&rich.id).await.unwrap().unwrap().spec, rich);
    assert!(xfrm.association(&AssociationId::new(ip(TWO), 1)).await.unwrap().is_none());
    let shown = host.tool(&["ip", "xfrm", "state", "list", "reqid", "183"]);
    assert!(shown.contains("rfc4106(gcm(aes))") && shown.contains("replay_window 2048"), "{shown}");
}

#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn a_key_does_not_begin_anew_and_another_takes_its_place() {
    let host = Namespace::new().await;
    let xfrm = xfrm(&host);
    let [mut spec, _] = encapsulated();
    changed(xfrm.reconcile_associations(std::slice::from_ref(&spec)).await.unwrap());
    // A limit and ports are changed in place.
    spec.lifetimes.packets.soft = Some(1 << 50);
    spec.encapsulation = Some(UdpEncapsulation { source_port: 4500, destination_port: 4501 });
    let outcome = xfrm.reconcile_associations(std::slice::from_ref(&spec)).await.unwrap();
    assert_eq!(outcome.made, [AssociationChange::Update(spec.clone())]);
    assert_eq!(association(&xfrm, &spec).await.spec, spec);
    // The window is not.
    let wider = AssociationSpec { replay_window: 4096, ..spec.clone() };
    let outcome = xfrm.reconcile_associations(std::slice::from_ref(&wider)).await.unwrap();
    assert!(matches!(&outcome.failed[..], [(_, Error::KeyInUse { .. })]), "{outcome:?}");
    assert_eq!(association(&xfrm, &spec).await.spec, spec);
    // With another key it is.
    let other = AssociationSpec { key: key(9), ..wider };
    assert_eq!(changed(xfrm.reconcile_associations(std::slice::from_ref(&other)).await.unwrap()), 2);
    assert_eq!(association(&xfrm, &other).await.spec, other);
    // What is somebody else's stays.
    let foreign = AssociationSpec { request_id: 7, ..direction(TWO, ONE, 77, 7) };
    changed(xfrm.change_associations(vec![AssociationChange::Add(foreign.clone())]).await.unwrap());
    assert_eq!(changed(xfrm.reconcile_associations(&[]).await.unwrap()), 1);
    assert_eq!(association(&xfrm, &foreign).await.spec, foreign);
}

#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn the_overlay_goes_through_esp_and_nothing_in_plain_text() {
    let (one, two) = hosts().await;
    let mut wire = Sniffer::new(&two);
    // No association: nothing goes out at all.
    let client = one.udp(&format!("{}:0", INNER[0]));
    for _ in 0..5 {
        let _ = client.send_to(b"nobody must read this", format!("{}:7000", INNER[1]));
    }
    associate([&one, &two], &both()).await;
    talk(&one, &two).unwrap();
    let packets = wire.underlay();
    assert_eq!(protocols(&packets), [ESP]);
    assert!(packets.iter().all(|packet| !packet.windows(4).any(|bytes| bytes == b"ping" || bytes == b"read")));
    assert!(one.run(|| Statistics::read().unwrap()).no_association_out() > 0);

    // Both ends count the same, and a run in between changes nothing.
    let (sender, receiver) = (xfrm(&one), xfrm(&two));
    assert!(sender.reconcile_associations(&both()).await.unwrap().is_unchanged());
    let [there, back] = both();
    let (sent, received) = (association(&sender, &there).await, association(&receiver, &there).await);
    assert!(sent.sent > 0);
    assert_eq!((sent.sent, sent.packets), (received.received, received.packets));
    assert!(association(&receiver, &back).await.used > 0);

    // The peer's association gone: it is closed again, not open.
    changed(sender.change_associations(vec![AssociationChange::Remove(there.id)]).await.unwrap());
    let _ = client.send_to(b"nobody must read this", format!("{}:7000", INNER[1]));
    changed(sender.change_associations(vec![AssociationChange::Remove(back.id)]).await.unwrap());
    assert!(protocols(&wire.underlay()).iter().all(|protocol| *protocol == ESP));
}

#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn what_is_sent_again_or_bent_is_dropped_and_counted() {
    let (one, two) = hosts().await;
    associate([&one, &two], &both()).await;
    let mut wire = Sniffer::new(&two);
    talk(&one, &two).unwrap();
    let to_two = |packet: &Vec<u8>| packet[16..20] == [198, 18, 0, 2];
    let packet = wire.underlay().into_iter().find(to_two).unwrap();
    let mut bent = packet.clone();
    *bent.last_mut().unwrap() ^= 1;
    // A new sequence number, or the window drops it before its tag is looked at.
    bent[27] = bent[27].wrapping_add(100);
    let raw: OwnedFd =
        one.run(|| socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap());
    let target = SockaddrIn::from(SocketAddrV4::new(TWO.parse().unwrap(), 0));
    for bytes in [&packet, &packet, &bent] {
        sendto(raw.as_raw_fd(), bytes, &target, MsgFlags::empty()).unwrap();
    }
    let receiver = xfrm(&two);
    let [there, _] = both();
    let counted = async {
        loop {
            let found = association(&receiver, &there).await;
            if (found.replayed, found.forged) == (2, 1) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::support::PATIENCE, counted).await.expect("two replays and a forgery counted");
    talk(&one, &two).unwrap();
}

#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn esp_goes_through_udp() {
    let (one, two) = hosts().await;
    let open = |host: &Namespace, own: &str| {
        let address = format!("{own}:{ENCAPSULATED}").parse().unwrap();
        host.run(|| encapsulation_socket(address).unwrap())
    };
    let _sockets = [open(&one, ONE), open(&two, TWO)];
    associate([&one, &two], &encapsulated()).await;
    let mut wire = Sniffer::new(&two);
    talk(&one, &two).unwrap();
    let packets = wire.underlay();
    assert_eq!(protocols(&packets), [UDP]);
    assert!(packets.iter().all(|packet| packet[22..24] == ENCAPSULATED.to_be_bytes()));
    assert!(xfrm(&one).reconcile_associations(&encapsulated()).await.unwrap().is_unchanged());
}

/// What rotation rests on: with two ways in, one end changes its way out and no packet is lost.
#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn the_way_out_changes_without_losing_a_packet() {
    let (one, two) = hosts().await;
    associate([&one, &two], &both()).await;
    let server = two.udp(&format!("{}:7000", INNER[1]));
    let client = one.udp(&format!("{}:0", INNER[0]));
    let to = format!("{}:7000", INNER[1]);
    let (sender, receiver) = (xfrm(&one), xfrm(&two));
    let [mut old, _] = both();
    for round in 0..20u8 {
        let new = direction(ONE, TWO, 0x8220_0001 + (u32::from(round) << 25), 10 + round);
        changed(receiver.change_associations(vec![AssociationChange::Add(new.clone())]).await.unwrap());
        exchange(&client, &server, &to).unwrap();
        let swap = vec![AssociationChange::Add(new.clone()), AssociationChange::Remove(old.id)];
        changed(sender.change_associations(swap).await.unwrap());
        exchange(&client, &server, &to).unwrap();
        assert!(association(&receiver, &new).await.packets > 0);
        changed(receiver.change_associations(vec![AssociationChange::Remove(old.id)]).await.unwrap());
        old = new;
    }
}

#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn what_happens_to_associations_is_told() {
    let (one, two) = hosts().await;
    let mut monitor = XfrmMonitor::open(Some(one.fd()), true).unwrap();
    let client = one.udp(&format!("{}:0", INNER[0]));
    let _ = client.send_to(b"?", format!("{}:7000", INNER[1]));
    let wanted = until(&mut monitor, |event| matches!(event, XfrmEvent::Wanted { .. })).await;
    let XfrmEvent::Wanted { selector } = wanted else { panic!("{wanted:?}") };
    assert_eq!((selector.destination.address(), selector.destination_port), (ip(TWO), Some(PORT)));

    let mut specs = both();
    specs[0].lifetimes.packets.soft = Some(1);
    associate([&one, &two], &specs).await;
    until(&mut monitor, |event| *event == XfrmEvent::AssociationAdded(specs[0].id)).await;
    talk(&one, &two).unwrap();
    talk(&one, &two).unwrap();
    until(&mut monitor, |event| *event == XfrmEvent::Expired { id: specs[0].id, hard: false }).await;
    let own = xfrm(&one);
    changed(own.change_associations(vec![AssociationChange::Remove(specs[1].id)]).await.unwrap());
    until(&mut monitor, |event| *event == XfrmEvent::AssociationGone(specs[1].id)).await;
    one.tool(&["ip", "xfrm", "state", "flush"]);
    until(&mut monitor, |event| *event == XfrmEvent::AssociationsFlushed).await;
    assert!(own.associations().await.unwrap().is_empty());
}

/// Behind a translator: where the packets come from now is told.
#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn a_peer_that_moves_behind_a_translator_is_told() {
    let (one, two) = hosts().await;
    let open = |host: &Namespace, own: &str| {
        let address = format!("{own}:{ENCAPSULATED}").parse().unwrap();
        host.run(|| encapsulation_socket(address).unwrap())
    };
    let _sockets = [open(&one, ONE), open(&two, TWO)];
    let specs = encapsulated();
    associate([&one, &two], &specs).await;
    let mut monitor = XfrmMonitor::open(Some(two.fd()), false).unwrap();
    // The sender's packets come from another port.
    let mut moved = specs[0].clone();
    moved.encapsulation = Some(UdpEncapsulation { source_port: 14791, destination_port: ENCAPSULATED });
    changed(xfrm(&one).change_associations(vec![AssociationChange::Update(moved)]).await.unwrap());
    talk(&one, &two).unwrap();
    let event = until(&mut monitor, |event| matches!(event, XfrmEvent::Moved { .. })).await;
    let XfrmEvent::Moved { id, before, now } = event else { panic!("{event:?}") };
    assert_eq!((id, before.port(), now.port()), (specs[0].id, ENCAPSULATED, 14791));
}

#[tokio::test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn two_thousand_associations_are_made_listed_and_taken_away() {
    let host = Namespace::new().await;
    let xfrm = xfrm(&host);
    let mut desired = Vec::new();
    for peer in 0..1000u32 {
        let address = format!("198.19.{}.{}", peer >> 8, peer & 255);
        let byte = u8::try_from(peer % 251).unwrap();
        desired.push(direction(ONE, &address, 0x8210_0001, byte + 1));
        desired.push(direction(&address, ONE, 0x8210_0002 + peer, byte + 1));
    }
    assert_eq!(changed(xfrm.reconcile_associations(&desired).await.unwrap()), 2000);
    assert!(xfrm.reconcile_associations(&desired).await.unwrap().is_unchanged());
    assert_eq!(xfrm.associations().await.unwrap().len(), 2000);
    desired[500].key = key(0xfe);
    assert_eq!(changed(xfrm.reconcile_associations(&desired).await.unwrap()), 2);
    assert_eq!(changed(xfrm.reconcile_associations(&[]).await.unwrap()), 2000);
}
