//! Network namespaces for tests: each test has its own, on the real kernel, and nothing touches the machine's.
//!
//! A namespace lives as long as somebody holds its descriptor, so nothing is left behind, however a test ends.
#![allow(dead_code, reason = "each test binary uses its part of this")]

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use stampede_netlink::{
    Netlink, Outcome,
    address::{AddressSpec, Others},
    link::Settings,
    namespace,
};

pub const PATIENCE: Duration = Duration::from_secs(5);

/// A network namespace with its handle; `lo` is up.
pub struct Namespace {
    file: File,
    pub netlink: Netlink,
}

impl Namespace {
    pub async fn new() -> Self {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let file = made.join().unwrap();
        let netlink = Netlink::open_in(file.as_fd()).unwrap();
        netlink.set_link("lo", &Settings { up: Some(true), ..Settings::default() }).await.unwrap();
        Self { file, netlink }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Runs something blocking inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        namespace::run_in(self.fd(), work).unwrap()
    }

    /// Writes a file under /proc/sys/net.
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap());
    }

    pub async fn up(&self, link: &str, addresses: &[(&str, u8)]) -> u32 {
        self.netlink.set_link(link, &Settings { up: Some(true), ..Settings::default() }).await.unwrap();
        let index = self.netlink.link_index(link).await.unwrap();
        let specs: Vec<_> = addresses.iter().map(|(address, length)| AddressSpec::new(ip(address), *length)).collect();
        changed(self.netlink.ensure_addresses(index, &specs, Others::Remove).await.unwrap());
        index
    }

    pub fn udp(&self, address: &str) -> UdpSocket {
        let address: SocketAddr = address.parse().unwrap();
        let socket = self.run(|| UdpSocket::bind(address)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub fn listen(&self, address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| TcpListener::bind(address)).unwrap()
    }

    pub fn connect(&self, address: &str) -> std::io::Result<TcpStream> {
        let address: SocketAddr = address.parse().unwrap();
        self.run(|| TcpStream::connect_timeout(&address, PATIENCE))
    }

    /// Runs a test tool inside and gives its output; fails if it fails.
    #[allow(clippy::disallowed_types, reason = "test tools are what people look with; the product runs none")]
    pub fn tool(&self, command: &[&str]) -> String {
        let output = self.run(|| std::process::Command::new(command[0]).args(&command[1..]).output()).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The number of changes made; all must have succeeded.
pub fn changed<C: std::fmt::Debug>(outcome: Outcome<C>) -> usize {
    assert!(outcome.failed.is_empty(), "{} failed, first {:?}", outcome.failed.len(), outcome.failed[0]);
    outcome.made.len()
}

/// Sends a datagram one way and back, like a ping; gives the address that the server saw.
pub fn exchange(client: &UdpSocket, server: &UdpSocket, to: &str) -> std::io::Result<SocketAddr> {
    client.send_to(b"ping", to)?;
    let mut buffer = [0; 64];
    let (length, from) = server.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], b"ping");
    server.send_to(b"pong", from)?;
    let (length, _) = client.recv_from(&mut buffer)?;
    assert_eq!(&buffer[..length], b"pong");
    Ok(from)
}

/// Sends a word over a connection and gives what comes back from [`answer`].
pub fn ask(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.write_all(b"?").unwrap();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Answers one connection with who it came from.
pub fn answer(listener: &TcpListener) {
    let (mut stream, from) = listener.accept().unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    stream.write_all(from.ip().to_string().as_bytes()).unwrap();
}
