//! The socket: HTTP/1 at the gateway's address, within limits of size, number and time.

use super::respond::Responder;
use crate::network::limit::{Limit, Turn};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// In all, and of one asker.
const CONNECTIONS: (usize, usize) = (256, 16);
/// Connections that are not taken yet.
const BACKLOG: i32 = 128;
/// A request's head: bytes, lines, and how long it may take to come.
const HEAD_SIZE: usize = 16 << 10;
const HEAD_LINES: usize = 64;
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection is kept, and then until its last answer is sent.
const LONGEST: Duration = Duration::from_secs(60);
const FAREWELL: Duration = Duration::from_secs(5);
/// Milliseconds for what was sent to be taken.
const UNREAD: u32 = 10_000;
/// After something that comes again at once, like having no more files.
const PAUSE: Duration = Duration::from_millis(100);

/// Opens it. The address need not be there yet: it comes with the bridge.
///
/// # Errors
/// Where somebody else has the port.
pub fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Answers until the socket fails, which it does not.
pub async fn serve(listener: TcpListener, responder: Arc<Responder>) -> Infallible {
    let open = Limit::new(CONNECTIONS.0, CONNECTIONS.1);
    let mut tasks = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, source)) => {
                let source = source.ip();
                // A stranger's, and one more than it may have, is closed at once.
                let turn = responder.hears(source).then(|| open.take(source)).flatten();
                if let Some(turn) = turn {
                    tasks.spawn(converse(stream, source, responder.clone(), turn));
                }
            }
            // That one is gone already.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                tracing::warn!(%error, "no more connections for metadata can be taken");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, source: IpAddr, responder: Arc<Responder>, _turn: Turn) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_tcp_user_timeout(&stream, UNREAD);
    let service = service_fn(|request| {
        let responder = responder.clone();
        async move { Ok::<_, Infallible>(responder.respond(&request, source).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_SIZE)
        .max_headers(HEAD_LINES)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = match timeout(LONGEST, connection.as_mut()).await {
        Ok(ended) => ended,
        Err(_) => {
            connection.as_mut().graceful_shutdown();
            timeout(FAREWELL, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%source, %error, "a connection for metadata ended");
    }
}
