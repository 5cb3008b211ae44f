//! Sockets that outlive the service: systemd keeps them (file descriptor store, systemd.service(5)) and hands them to the next
//! that starts. Outside systemd nothing is kept.

use sd_notify::NotifyState;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;

/// Where a service of systemd's is heard (sd_notify(3)).
const HEARD: &str = "NOTIFY_SOCKET";

/// Has systemd keep a socket under a name, in place of one that it keeps already.
///
/// # Errors
/// Where this is no service of systemd's, or systemd is not to be reached.
pub fn keep(name: &str, socket: &impl AsFd) -> io::Result<()> {
    if std::env::var_os(HEARD).is_none() {
        return Err(io::Error::other("this is no service of systemd's"));
    }
    forget(name)?;
    sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(name)], &[socket.as_fd()])
}

/// Has systemd keep nothing under a name any more; fine where it keeps nothing.
///
/// # Errors
/// Where systemd is not to be reached.
pub fn forget(name: &str) -> io::Result<()> {
    sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)])
}

/// What systemd kept under a name; once in a process's life.
///
/// # Errors
/// Where that is no UDP socket.
pub fn kept(name: &str) -> io::Result<Option<UdpSocket>> {
    match place(name) {
        Some(place) => listenfd::ListenFd::from_env().take_udp_socket(place),
        None => Ok(None),
    }
}

/// The same for what takes connections.
///
/// # Errors
/// Where that is no such TCP socket.
pub fn kept_listener(name: &str) -> io::Result<Option<TcpListener>> {
    match place(name) {
        Some(place) => listenfd::ListenFd::from_env().take_tcp_listener(place),
        None => Ok(None),
    }
}

fn place(name: &str) -> Option<usize> {
    std::env::var("LISTEN_FDNAMES").unwrap_or_default().split(':').position(|kept| kept == name)
}
