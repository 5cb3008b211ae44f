//! The encrypted overlay, without IKE: docs/ipsec.md explains the scheme and what an attacker gets from what.
//!
//! | part | what it does |
//! |---|---|
//! | [`secret`] | the cluster's secret, which seals records and goes into every key |
//! | [`half`] | a host's half of a key agreement: an X25519 pair and a nonce |
//! | [`record`] | what a host publishes of itself, sealed |
//! | [`derive`] | from two halves and the secret to one direction's key and SPI |
//! | [`rotation`] | which associations there should be, and when halves come and go |
//! | [`peers`] | whose records hold, and why the others do not |
//! | [`policy`] | which packets must be in ESP |
//! | [`view`] | the kernel's associations by peer and direction |
//! | [`pulse`] | whether the peers are heard |
//! | [`account`] | what went through the associations, by peer |
//! | [`capability`] | whether this kernel can do it |
//! | [`room`] | room for associations in the kernel, made before there is traffic |
//! | [`encryptor`] | what is asked of the kernel |
//! | [`engine`] | the loop that does it |
//!
//! All but the last four, and the policies' application, are pure: no socket, no clock, no store.

pub mod account;
pub mod capability;
pub mod derive;
pub mod encryptor;
pub mod engine;
pub mod half;
pub mod peers;
pub mod policy;
pub mod pulse;
pub mod record;
pub mod room;
pub mod rotation;
pub mod secret;
pub mod view;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;

/// The socket at which this host takes in ESP in UDP (RFC 3948), for wires that drop IP protocol 50. What comes there is the
/// kernel's; nobody reads from it. Packets are lost while it is not open. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EspInUdp {
    socket: Arc<UdpSocket>,
    port: u16,
}

impl EspInUdp {
    /// Opens it at all addresses of this host.
    ///
    /// # Errors
    /// Where the port is another's, or the kernel takes no ESP in UDP.
    pub fn open(port: u16, ipv4: bool) -> io::Result<Self> {
        let any: IpAddr = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = stampede_netlink::xfrm::encapsulation_socket((any, port).into())?;
        Ok(Self { socket: Arc::new(socket), port })
    }

    /// Goes on with one that an agent before opened, if it is at that port.
    pub fn inherited(socket: UdpSocket, port: u16, ipv4: bool) -> Option<Self> {
        let at = socket.local_addr().ok()?;
        (at.port() == port && at.is_ipv4() == ipv4).then(|| Self { socket: Arc::new(socket), port })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// For who keeps it over a restart of the agent.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}
