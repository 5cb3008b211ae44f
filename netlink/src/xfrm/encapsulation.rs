//! The socket that takes in ESP in UDP.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
};

use nix::{libc, setsockopt_impl, sockopt_impl, sys::socket::SetSockOpt};

sockopt_impl!(
    /// UDP_ENCAP of linux/udp.h
    Encapsulation,
    SetOnly,
    libc::IPPROTO_UDP,
    libc::UDP_ENCAP,
    i32
);

/// UDP_ENCAP_ESPINUDP
const ESP_IN_UDP: i32 = 2;

/// Opens a socket at this address and port whose ESP packets the kernel hands to their associations. They are taken in only while it
/// is open: keep it, also across restarts (systemd's descriptor store).
pub fn encapsulation_socket(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    Encapsulation.set(&socket, &ESP_IN_UDP)?;
    Ok(socket)
}
