//! The socket outlives the agent: systemd keeps it, who connects meanwhile waits in it, and the next agent answers.

use crate::systemd::keep;
use std::io;
use std::net::{SocketAddr, TcpListener};

const NAME: &str = "stampede-metadata";

/// What an agent before this one opened, where it is at this address; once in a process's life.
pub(super) fn take(address: SocketAddr) -> Option<TcpListener> {
    let usable = |listener: TcpListener| -> io::Result<Option<TcpListener>> {
        listener.set_nonblocking(true)?;
        Ok((listener.local_addr()? == address).then_some(listener))
    };
    match keep::kept_listener(NAME).and_then(|kept| kept.map(usable).transpose()) {
        Ok(kept) => kept.flatten(),
        Err(error) => {
            tracing::warn!(%error, "what systemd kept is no socket for metadata");
            None
        }
    }
}

/// Has systemd keep it. Outside systemd, and where it is not to be reached, who asks while the agent starts again is refused.
pub(super) fn give(listener: &TcpListener) {
    if let Err(error) = keep::keep(NAME, listener) {
        tracing::debug!(%error, "nobody keeps the socket for metadata");
    }
}

/// Has systemd keep none, so that the port is free.
pub fn forget() {
    let _ = keep::forget(NAME);
}
