//! The sockets: UDP and TCP at the gateway's address alone. What is known is answered where it is heard; what has to wait does so
//! in a task of its own, within limits.

use super::batch::{self, Inbox};
use super::respond::{Open, Responder, Said};
use super::wire::Transport;
use crate::network::limit::{Limit, Turn};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Questions that wait for the store or for a name server.
const WAITING: (usize, usize) = (1024, 256);
const CONNECTIONS: (usize, usize) = (256, 16);
/// Connections that are not taken yet.
const BACKLOG: i32 = 128;
/// Batches of datagrams that are answered before others have their turn, however much comes.
const AT_A_STRETCH: usize = 16;
/// How long a connection may say nothing, and how long one message may take.
const IDLE: Duration = Duration::from_secs(10);
const MESSAGE: Duration = Duration::from_secs(5);
/// After something that comes again at once, like having no more files.
const PAUSE: Duration = Duration::from_millis(100);

/// Both doors.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    /// Opens them. The address need not be there yet: it comes with the bridge.
    ///
    /// # Errors
    /// Where somebody else has the port.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let udp = socket(SocketType::DGRAM)?;
        rustix::net::bind(&udp, &address)?;
        let tcp = socket(SocketType::STREAM)?;
        sockopt::set_socket_reuseaddr(&tcp, true)?;
        // A port by chance (in tests) is the same for both.
        let udp = UdpSocket::from_std(udp.into())?;
        rustix::net::bind(&tcp, &udp.local_addr()?)?;
        rustix::net::listen(&tcp, BACKLOG)?;
        Ok(Self { udp, tcp: TcpListener::from_std(tcp.into())? })
    }

    /// Those that were opened earlier; `None` where they are at another address.
    ///
    /// # Errors
    /// Where they cannot be used.
    pub fn inherited(
        udp: std::net::UdpSocket,
        tcp: std::net::TcpListener,
        address: SocketAddr,
    ) -> io::Result<Option<Self>> {
        if udp.local_addr()? != address || tcp.local_addr()? != address {
            return Ok(None);
        }
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok(Some(Self { udp: UdpSocket::from_std(udp)?, tcp: TcpListener::from_std(tcp)? }))
    }

    /// Both, to be kept by somebody else too.
    pub fn parts(&self) -> (&UdpSocket, &TcpListener) {
        (&self.udp, &self.tcp)
    }

    #[cfg(test)]
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Answers until a socket fails.
    pub async fn serve(self, responder: Arc<Responder>) -> io::Error {
        let waiting = Limit::new(WAITING.0, WAITING.1);
        tokio::select! {
            error = datagrams(Arc::new(self.udp), &responder, &waiting) => error,
            error = connections(self.tcp, &responder, &waiting) => error,
        }
    }
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    Ok(socket)
}

async fn datagrams(socket: Arc<UdpSocket>, responder: &Arc<Responder>, waiting: &Limit) -> io::Error {
    let mut tasks = JoinSet::new();
    let mut inbox = Inbox::new();
    let mut batches = 0_usize;
    loop {
        match inbox.receive(&socket).await {
            Ok(()) => {}
            Err(error) if is_passing(&error) => continue,
            Err(error) => return error,
        }
        let mut answers = Vec::new();
        for (packet, source) in inbox.datagrams() {
            let asker = IpAddr::V4(*source.ip());
            match responder.hear(packet, asker, Transport::Udp) {
                Said::Nothing => {}
                Said::Now(answer) => answers.push((answer, source)),
                Said::Later(open) => match waiting.take(asker) {
                    Some(turn) => {
                        tasks.spawn(later(socket.clone(), source.into(), responder.clone(), *open, turn));
                    }
                    None => answers.extend(Responder::too_much(&open).map(|answer| (answer, source))),
                },
            }
        }
        batch::send(&socket, &answers);
        while tasks.try_join_next().is_some() {}
        batches = batches.wrapping_add(1);
        if batches.is_multiple_of(AT_A_STRETCH) {
            tokio::task::yield_now().await;
        }
    }
}

async fn later(socket: Arc<UdpSocket>, source: SocketAddr, responder: Arc<Responder>, open: Open, turn: Turn) {
    if let Some(answer) = responder.look(open).await {
        let _ = timeout(MESSAGE, socket.send_to(&answer, source)).await;
    }
    drop(turn);
}

/// An error that says nothing of the socket.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted, NetworkUnreachable,
    };
    matches!(
        error.kind(),
        Interrupted | ConnectionRefused | ConnectionReset | ConnectionAborted | HostUnreachable | NetworkUnreachable
    )
}

async fn connections(listener: TcpListener, responder: &Arc<Responder>, waiting: &Limit) -> io::Error {
    let open = Limit::new(CONNECTIONS.0, CONNECTIONS.1);
    let mut tasks = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                // A stranger's, and one more than it may have, is closed at once.
                let turn = responder.hears(source.ip()).then(|| open.take(source.ip())).flatten();
                let Some(turn) = turn else { continue };
                tasks.spawn(converse(stream, source.ip(), responder.clone(), waiting.clone(), turn));
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "no more connections can be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// One connection: a question, its answer, the next one.
async fn converse(mut stream: TcpStream, source: IpAddr, responder: Arc<Responder>, waiting: Limit, _turn: Turn) {
    loop {
        let Ok(Ok(length)) = timeout(IDLE, stream.read_u16()).await else { return };
        let mut packet = vec![0; usize::from(length)];
        let Ok(Ok(_)) = timeout(MESSAGE, stream.read_exact(&mut packet)).await else { return };
        let answer = match responder.hear(&packet, source, Transport::Tcp) {
            Said::Nothing => return,
            Said::Now(answer) => Some(answer),
            Said::Later(open) => match waiting.take(source) {
                Some(_turn) => responder.look(*open).await,
                None => Responder::too_much(&open),
            },
        };
        let Some(answer) = answer else { return };
        let Ok(length) = u16::try_from(answer.len()) else { return };
        let framed = [&length.to_be_bytes(), answer.as_slice()].concat();
        let Ok(Ok(())) = timeout(MESSAGE, stream.write_all(&framed)).await else { return };
    }
}
