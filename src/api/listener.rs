//! Connections: who is at the other end, and how long they may take.
//!
//! TLS and plain text come in at the same port: TLS begins with a byte that no request begins with (0x16, a handshake).
//! Within TLS, ALPN tells agents of the cluster from everyone else, before a certificate is shown: see
//! [`crate::membership::trust::tls`]. As long as this host has no certificate, who begins TLS is told so by an alert.

use super::agents::{self, Agent};
use super::events::Closing;
use super::{Context, router};
use crate::membership::Trust;
use crate::membership::trust::certificate::agent_in;
use crate::membership::trust::tls::AGENT;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::Semaphore;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const CONNECTIONS: usize = 4096;
/// To say the first byte, and to send a request's head.
const HEAD: Duration = Duration::from_secs(30);
const HEAD_SIZE: usize = 64 * 1024;
const STREAMS: u32 = 128;
/// For requests under way when the agent stops.
const FAREWELL: Duration = Duration::from_secs(5);
/// Milliseconds for what was sent to be taken.
const UNREAD: u32 = 120_000;
const HANDSHAKE: u8 = 0x16;
/// A fatal alert of TLS 1.0, which every client reads: handshake_failure.
const ALERT: [u8; 7] = [0x15, 3, 1, 0, 2, 2, 40];

/// Where connections come from.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

/// Who is at the other end of a connection; in each request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// By the Unix socket; `root` or the user that the agent itself runs as.
    Unix { root: bool },
    /// In plain text from there.
    Tcp { from: IpAddr },
    /// By TLS, from there.
    Tls { from: IpAddr },
}

enum Stream {
    Tcp(TcpStream, IpAddr),
    Unix(tokio::net::UnixStream, bool),
}

/// Answers what comes in, until `shutdown`; then lets what is under way end, for a moment.
pub async fn serve(listener: impl Into<Listener>, context: Arc<Context>, shutdown: CancellationToken) {
    let listener = listener.into();
    let (router, agents) = (router(context.clone()), agents::router(context.clone()));
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let stream = tokio::select! {
            () = shutdown.cancelled() => break,
            stream = listener.accept() => stream,
        };
        let stream = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Mostly too many open files: it passes when others close theirs.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(context.environment.jitter(Duration::from_millis(200))).await;
                continue;
            }
        };
        let (router, agents) = (router.clone(), agents.clone());
        let (context, shutdown) = (context.clone(), shutdown.clone());
        tokio::spawn(async move {
            match stream {
                Stream::Unix(stream, root) => converse(stream, Peer::Unix { root }, router, &shutdown).await,
                Stream::Tcp(stream, from) => match begin(stream, from, &context).await {
                    Some(Begun::Plain(stream)) => converse(stream, Peer::Tcp { from }, router, &shutdown).await,
                    Some(Begun::User(stream)) => converse(stream, Peer::Tls { from }, router, &shutdown).await,
                    Some(Begun::Agent(stream, agent)) => converse(stream, agent, agents, &shutdown).await,
                    None => {}
                },
            }
            drop(place);
        });
    }
    // From here on, who knocks finds nobody.
    drop(listener);
    let ended = room.acquire_many(CONNECTIONS as u32);
    if tokio::time::timeout(FAREWELL, ended).await.is_err() {
        tracing::info!("some connections did not end in time");
    }
}

impl Listener {
    async fn accept(&self) -> std::io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                // Answers are small and awaited.
                stream.set_nodelay(true)?;
                // Who takes nothing of what was sent is let go, however long it stays on the line.
                rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD)?;
                Ok(Stream::Tcp(stream, from.ip()))
            }
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred()?.uid();
                let root = uid == 0 || uid == rustix::process::geteuid().as_raw();
                Ok(Stream::Unix(stream, root))
            }
        }
    }
}

/// A connection whose other end is known as far as it can be before a request.
enum Begun {
    Plain(TcpStream),
    User(Box<TlsStream<TcpStream>>),
    Agent(Box<TlsStream<TcpStream>>, Agent),
}

/// Finds out how the other end speaks, and has it prove what it must.
async fn begin(stream: TcpStream, from: IpAddr, context: &Context) -> Option<Begun> {
    let mut first = [0];
    match tokio::time::timeout(HEAD, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == HANDSHAKE => {}
        Ok(Ok(1)) => return Some(Begun::Plain(stream)),
        _ => return None,
    }
    match tokio::time::timeout(HEAD, handshake(stream, from, context)).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => {
            // Also who wants another authority's certificate, and scanners.
            tracing::debug!(%from, %error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

async fn handshake(mut stream: TcpStream, from: IpAddr, context: &Context) -> std::io::Result<Option<Begun>> {
    let Some(tls) = context.trust.as_ref().and_then(Trust::tls) else {
        tracing::info!(%from, "TLS was tried, but this host has no certificate yet; the log says what it waits for");
        stream.write_all(&ALERT).await?;
        return Ok(None);
    };
    let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let agent = start.client_hello().alpn().is_some_and(|mut offered| offered.any(|it| it == AGENT));
    if !agent {
        return Ok(Some(Begun::User(Box::new(start.into_stream(tls.api.clone()).await?))));
    }
    let stream = match start.into_stream(tls.agents.clone()).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%from, %error, "an agent could not prove that it is of this cluster");
            return Ok(None);
        }
    };
    let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    match shown.and_then(agent_in) {
        Some((host, identity)) => {
            let agent = Agent { host: host.into(), identity: identity.into() };
            Ok(Some(Begun::Agent(Box::new(stream), agent)))
        }
        None => {
            tracing::warn!(%from, "a certificate of the cluster's authority that is of no agent is refused");
            Ok(None)
        }
    }
}

/// `peer` goes with each request.
async fn converse<S, P>(stream: S, peer: P, router: axum::Router, shutdown: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + std::fmt::Debug + Send + Sync + 'static,
{
    let known = peer.clone();
    let closing = Closing(shutdown.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(closing.clone());
        router.clone().oneshot(request.map(Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_SIZE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_SIZE as u32)
        .keep_alive_interval(HEAD)
        .keep_alive_timeout(HEAD);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(FAREWELL, connection).await {
                Ok(result) => result,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = result {
        // Clients vanish all the time.
        tracing::debug!(peer = ?known, %error, "a connection ended badly");
    }
}
