//! Sockets that outlive the service: systemd keeps them (file descriptor store, systemd.service(5)) and hands them to the next
//! that starts. Outside systemd nothing is kept.

use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::io;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Mutex, OnceLock, PoisonError};

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
    take(name, ListenFd::take_udp_socket)
}

/// The same for what takes connections.
///
/// # Errors
/// Where that is no such TCP socket.
pub fn kept_listener(name: &str) -> io::Result<Option<TcpListener>> {
    take(name, ListenFd::take_tcp_listener)
}

fn take<T>(name: &str, take: impl FnOnce(&mut ListenFd, usize) -> io::Result<Option<T>>) -> io::Result<Option<T>> {
    // It is handed over once: whoever looks first takes it out of the process's environment.
    static KEPT: OnceLock<Mutex<ListenFd>> = OnceLock::new();
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let Some(place) = names.split(':').position(|kept| kept == name) else { return Ok(None) };
    let kept = KEPT.get_or_init(|| Mutex::new(ListenFd::from_env()));
    take(&mut kept.lock().unwrap_or_else(PoisonError::into_inner), place)
}
