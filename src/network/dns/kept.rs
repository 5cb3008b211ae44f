//! The sockets outlive the agent: systemd keeps them, what is asked meanwhile waits in them, and the next agent answers it.

use super::server::Sockets;
use crate::systemd::keep;
use std::net::SocketAddr;

const UDP: &str = "stampede-dns-udp";
const TCP: &str = "stampede-dns-tcp";

/// What an agent before this one opened, where it is both sockets at this address; once in a process's life.
pub(super) fn take(address: SocketAddr) -> Option<Sockets> {
    let taken = keep::kept(UDP).and_then(|udp| Ok(udp.zip(keep::kept_listener(TCP)?)));
    let sockets = taken.and_then(|taken| taken.map(|(udp, tcp)| Sockets::inherited(udp, tcp, address)).transpose());
    match sockets {
        Ok(sockets) => sockets.flatten(),
        Err(error) => {
            tracing::warn!(%error, "what systemd kept are no sockets for names");
            None
        }
    }
}

/// Has systemd keep them. Outside systemd, and where it is not to be reached, questions fail while the agent starts again.
pub(super) fn give(sockets: &Sockets) {
    let (udp, tcp) = sockets.parts();
    if let Err(error) = keep::keep(UDP, udp).and_then(|()| keep::keep(TCP, tcp)) {
        tracing::debug!(%error, "nobody keeps the sockets for names");
    }
}

/// Has systemd keep none, so that the port is free.
pub fn forget() {
    for name in [UDP, TCP] {
        let _ = keep::forget(name);
    }
}
