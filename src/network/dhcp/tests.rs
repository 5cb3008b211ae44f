//! The sockets on the real kernel: who asks without an address, and who renews.

use super::*;
use crate::network::tests::hosts::{address, container, host_and_outside};
use crate::network::tests::support::store;
use crate::resource::assignment::Assignment;
use dhcproto::v4::{DhcpOption, Flags, Message, MessageType};
use dhcproto::{Decodable, Decoder, Encodable};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use stampede_netlink::Mac;
use std::ffi::OsString;
use std::net::{Ipv4Addr, UdpSocket};

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn who_has_no_address_yet_is_given_its_own_and_strangers_none() {
    let store = store();
    let (host, _outside) = host_and_outside(&store).await;
    let place = address(&host, &store, "1i1").await;
    let inside = container(&host, "1i1", &place).await;
    let directory = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(directory.path()).unwrap();
    let assignment = Assignment { network: Some(place.clone()), account: Some(5), ..Assignment::example("1i1") };
    ledger.put_assignment(&assignment).unwrap();
    let server = Server { subnet: SubnetSpec::default(), askers: Askers::new(&[assignment]), ledger };
    // The sockets are of the namespace in which they are made; tokio takes them here.
    let runtime = tokio::runtime::Handle::current();
    let sockets = host.namespace.run(|| {
        let _within = runtime.enter();
        Sockets::open(server.subnet.gateway).unwrap()
    });
    let task = tokio::spawn(async move { sockets.serve(&server).await });

    inside.tool(&["ip", "address", "flush", "dev", "sp-1i1"]);
    let client = inside.run(|| {
        let client = UdpSocket::bind("0.0.0.0:68").unwrap();
        setsockopt(&client, BindToDevice, &OsString::from("sp-1i1")).unwrap();
        client
    });
    client.set_broadcast(true).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    let nobody = Ipv4Addr::UNSPECIFIED;
    let ask = |mac: Mac, has: Ipv4Addr, kind, to: Ipv4Addr| {
        let mut message = Message::new_with_id(7, has, nobody, nobody, nobody, &mac.0);
        message.set_flags(Flags::default().set_broadcast());
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        client.send_to(&message.to_vec().unwrap(), (to, 67)).unwrap();
        let mut buffer = [0; 1500];
        let (length, from) = client.recv_from(&mut buffer).ok()?;
        assert_eq!(from.to_string(), "10.42.0.1:67");
        let answer = Message::decode(&mut Decoder::new(&buffer[..length])).unwrap();
        Some((answer.opts().msg_type().unwrap(), answer.yiaddr()))
    };
    let (mac, all): (Mac, _) = (place.mac.parse().unwrap(), Ipv4Addr::BROADCAST);
    assert_eq!(ask(mac, nobody, MessageType::Discover, all), Some((MessageType::Offer, place.address)));
    assert_eq!(ask(Mac([2, 9, 9, 9, 9, 9]), nobody, MessageType::Discover, all), None, "who that is nobody knows");
    inside.as_container("sp-1i1", &place.address.to_string()).await;
    let renewed = ask(mac, place.address, MessageType::Request, Ipv4Addr::new(10, 42, 0, 1));
    assert_eq!(renewed, Some((MessageType::Ack, place.address)));
    task.abort();
}
