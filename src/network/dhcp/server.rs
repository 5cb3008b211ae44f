//! The sockets: on the bridge alone, so that others may give addresses on other links of the host.
//!
//! Two of them: what is sent to all comes in by the first, what is sent to the gateway by the second, and what is answered goes out by
//! the second, under the gateway's address.

use super::answer::{self, Guest, Offer, Outcome};
use crate::network::dns::Askers;
use crate::network::metadata::way;
use crate::network::overlay::BRIDGE;
use crate::network::subnet::SubnetSpec;
use crate::resource::dns_name::{self, DOMAIN};
use crate::store::ledger::Ledger;
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, sockopt};
use stampede_netlink::Mac;
use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use std::time::Duration;
use tokio::net::UdpSocket;

/// The largest that is read: an Ethernet frame's.
const LARGEST: usize = 1500;
/// How often it is looked whether the bridge is still the one that the sockets are on.
const LOOK: Duration = Duration::from_secs(60);

/// What the answers are made from.
#[derive(Debug)]
pub struct Server {
    pub subnet: SubnetSpec,
    pub askers: Askers,
    pub ledger: Ledger,
}

impl Server {
    fn offer(&self) -> Offer {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.subnet.prefix)).unwrap_or(0);
        Offer { gateway: self.subnet.gateway, mask: mask.into(), domain: DOMAIN, through: way::ADDRESS }
    }

    /// Which instance of this host has it.
    fn who(&self, mac: Mac) -> Option<Guest> {
        let (id, address) = self.askers.find(|address| self.subnet.mac(address) == mac)?;
        let assignment = match self.ledger.assignment(&id) {
            Ok(assignment) => assignment?,
            Err(error) => {
                tracing::warn!(instance = id, %error, "what it is cannot be read from the ledger");
                return None;
            }
        };
        let network = assignment.network.filter(|network| network.address == address)?;
        let hostname = assignment.workload.hostname().map_or_else(|| dns_name::of_address(address), str::to_owned);
        Some(Guest { id, address, hostname, mtu: network.mtu })
    }
}

/// Both.
#[derive(Debug)]
pub struct Sockets {
    all: UdpSocket,
    own: UdpSocket,
    bridge: u32,
}

fn open(address: SocketAddrV4) -> io::Result<UdpSocket> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)?;
    setsockopt(&socket, BindToDevice, &OsString::from(BRIDGE))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_broadcast(&socket, true)?;
    sockopt::set_ip_freebind(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    UdpSocket::from_std(socket.into())
}

fn index(socket: &impl AsFd) -> io::Result<u32> {
    Ok(netdevice::name_to_index(socket, BRIDGE)?)
}

impl Sockets {
    /// Opens them on the bridge.
    ///
    /// # Errors
    /// While there is none, and where another program has the port on all links.
    pub fn open(gateway: Ipv4Addr) -> io::Result<Self> {
        let all = open(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, answer::SERVER_PORT))?;
        let own = open(SocketAddrV4::new(gateway, answer::SERVER_PORT))?;
        let bridge = index(&all)?;
        Ok(Self { all, own, bridge })
    }

    /// Answers until a socket fails, or the bridge is another.
    pub async fn serve(&self, server: &Server) -> io::Error {
        let offer = server.offer();
        let (mut first, mut second) = (vec![0; LARGEST], vec![0; LARGEST]);
        let mut look = tokio::time::interval(LOOK);
        loop {
            let received = tokio::select! {
                received = self.all.recv(&mut first) => received.map(|length| &first[..length]),
                received = self.own.recv(&mut second) => received.map(|length| &second[..length]),
                _ = look.tick() => match index(&self.all) {
                    Ok(bridge) if bridge == self.bridge => continue,
                    Ok(_) => Err(io::Error::other("the bridge is another one now")),
                    Err(error) => Err(error),
                },
            };
            let packet = match received {
                Ok(packet) => packet,
                // What was sent before could not be taken where it went.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => return error,
            };
            match answer::answer(packet, &offer, |mac| server.who(mac)) {
                Outcome::Answer { packet, to } => {
                    if let Err(error) = self.own.send_to(&packet, to).await {
                        tracing::debug!(%to, %error, "an answer about addresses cannot be sent");
                    }
                }
                Outcome::Declined(instance) => {
                    tracing::warn!(instance, "somebody else has its address, it says; it is given no other");
                }
                Outcome::Nothing => {}
            }
        }
    }
}
