//! HTTP/1 on the driver's socket: `POST /NetworkDriver.Join` with a JSON body, which may come in chunks.

use super::answer::Driver;
use super::wire::Refused;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};

/// No call of Docker's comes near this.
const LARGEST_BODY: usize = 1 << 20;
/// How long one call's head and body may take to come.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// After a connection could not be taken (too many open files): a short rest.
const REST: Duration = Duration::from_millis(100);

/// Takes connections for as long as it lives.
pub async fn serve(listener: UnixListener, driver: Arc<Driver>) {
    // Connections end with the server: dropping it drops them.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(converse(stream, driver.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be taken");
                    tokio::time::sleep(REST).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn converse(stream: UnixStream, driver: Arc<Driver>) {
    let service = service_fn(move |request| {
        let driver = driver.clone();
        async move { Ok::<_, Infallible>(respond(&driver, request).await) }
    });
    // Docker keeps connections open between calls, for as long as it likes.
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended");
    }
}

async fn respond(driver: &Driver, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let call = request.uri().path().trim_start_matches('/').to_owned();
    let body = tokio::time::timeout(READ_LIMIT, Limited::new(request.into_body(), LARGEST_BODY).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => return refuse(StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}")),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body does not come".to_owned()),
    };
    match driver.answer(&call, &body).await {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(refusal @ super::answer::Refusal::UnknownCall(_)) => refuse(StatusCode::NOT_FOUND, refusal.to_string()),
        Err(refusal) => refuse(StatusCode::INTERNAL_SERVER_ERROR, refusal.to_string()),
    }
}

fn refuse(status: StatusCode, err: String) -> Response<Full<Bytes>> {
    json(status, &Refused { err })
}

fn json(status: StatusCode, answer: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(answer).unwrap_or_default();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
