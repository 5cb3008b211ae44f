//! Connections: who is at the other end, and how long they may take.
//!
//! TLS has its place here: its first byte (0x16, a handshake) tells it from plain text on the same port. Until it is
//! served, who begins it is told so by a TLS alert rather than by silence.

use super::{Context, router};
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
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const CONNECTIONS: usize = 4096;
/// To say the first byte, and to send a request's head.
const HEAD: Duration = Duration::from_secs(30);
const HEAD_SIZE: usize = 64 * 1024;
const STREAMS: u32 = 128;
/// For requests under way when the agent stops.
const FAREWELL: Duration = Duration::from_secs(5);
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
}

enum Stream {
    Tcp(TcpStream, IpAddr),
    Unix(tokio::net::UnixStream, bool),
}

/// Answers what comes in, until `shutdown`; then lets what is under way end, for a moment.
pub async fn serve(listener: impl Into<Listener>, context: Arc<Context>, shutdown: CancellationToken) {
    let listener = listener.into();
    let router = router(context.clone());
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
        let (router, shutdown) = (router.clone(), shutdown.clone());
        tokio::spawn(async move {
            match stream {
                Stream::Unix(stream, root) => converse(stream, Peer::Unix { root }, router, &shutdown).await,
                Stream::Tcp(stream, from) => {
                    if let Some(stream) = plain_text(stream, from).await {
                        converse(stream, Peer::Tcp { from }, router, &shutdown).await;
                    }
                }
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

/// The connection, if it does not begin with TLS.
async fn plain_text(mut stream: TcpStream, from: IpAddr) -> Option<TcpStream> {
    let mut first = [0];
    match tokio::time::timeout(HEAD, stream.peek(&mut first)).await {
        Ok(Ok(1)) if first[0] == HANDSHAKE => {
            tracing::info!(%from, "TLS was tried, but this agent serves plain text only; use http://");
            // They may be gone already; then there is nobody to tell.
            let _told = tokio::time::timeout(FAREWELL, stream.write_all(&ALERT)).await;
            None
        }
        Ok(Ok(1)) => Some(stream),
        _ => None,
    }
}

async fn converse<S>(stream: S, peer: Peer, router: axum::Router, shutdown: &CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
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
        tracing::debug!(?peer, %error, "a connection ended badly");
    }
}
