//! What happens to every request before and after it is answered.

use super::Context;
use super::authentication::Principal;
use super::error::ApiError;
use super::exchange::{self, Answer};
use super::listener::Peer;
use super::request::{self, Request, text};
use super::{body, cluster, csrf, events, gzip};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// For an answer, whatever it waits for.
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SCHEMAS: HeaderName = HeaderName::from_static("x-api-schemas");
const WAIT: HeaderName = HeaderName::from_static("x-stampede-wait");
const STALE: HeaderName = HeaderName::from_static("x-stampede-stale");

/// The API, for [`super::serve`] or any other server that tells the [`Peer`] in each request's extensions.
pub fn router(context: Arc<Context>) -> Router {
    Router::new().fallback(answer).with_state(context)
}

async fn answer(State(context): State<Arc<Context>>, request: axum::extract::Request) -> Response {
    let id = context.environment.uuid().to_string();
    let (parts, body) = request.into_parts();
    let guarded = AssertUnwindSafe(tokio::time::timeout(PATIENCE, handle(&context, &parts, body))).catch_unwind();
    let result = match guarded.await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(ApiError::unavailable("no answer within a minute")),
        // The panic itself is in the log by its hook.
        Err(_) => Err(ApiError::internal()),
    };
    let (method, path) = (&parts.method, parts.uri.path());
    let mut response = match result {
        Ok(response) => response,
        Err(error) => {
            if error.status.is_server_error() {
                tracing::warn!(id, %method, path, status = error.status.as_u16(), detail = error.detail, "a request failed");
            }
            error.response(&id)
        }
    };
    tracing::debug!(id, %method, path, status = response.status().as_u16(), "answered");
    let headers = response.headers_mut();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    set(REQUEST_ID, &id);
    set(SCHEMAS, &format!("{}/v1/schemas", request::origin(&parts)));
    set(header::CACHE_CONTROL, "no-cache");
    if let Some(cookie) = csrf::token(&context.environment, &parts.headers) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

async fn handle(context: &Arc<Context>, parts: &Parts, mut body: Body) -> Result<Response, ApiError> {
    let path = parts.uri.path();
    if path.trim_end_matches('/') == "/ping" {
        return Ok("pong".into_response());
    }
    if let Some(answer) = cluster::join(context, parts, &mut body).await {
        return Ok(respond(answer?, &parts.headers).await);
    }
    let principal = sign_in(context, parts).await?;
    csrf::check(&parts.method, &parts.headers)?;
    let version = path.split('/').find(|segment| !segment.is_empty());
    let request = Request::new(parts, principal);
    if version == Some("v1") && events::concerns(&request) {
        return events::answer(context, parts, request, body).await;
    }
    let answer = match version {
        None => exchange::versions(&request)?,
        Some("v1") => {
            let bytes = body::read(body).await?;
            exchange::answer(context, &request, bytes).await?
        }
        Some("cluster") => {
            let bytes = body::read(body).await?;
            cluster::answer(context, &request, &bytes).await?
        }
        Some(other) => {
            return Err(ApiError::not_found(format!("there is no /{other:.40}; everything is below {}", request.base)));
        }
    };
    Ok(respond(answer, &parts.headers).await)
}

/// Who asks. Plain text over a wire is refused before any key in it is looked at.
pub async fn sign_in(context: &Context, parts: &Parts) -> Result<Principal, ApiError> {
    let peer = parts.extensions.get::<Peer>();
    let given = text(&parts.headers, header::AUTHORIZATION);
    let from = match peer {
        Some(Peer::Unix { root }) => {
            let signs_in = given.is_some_and(super::authentication::is_basic);
            if *root && !signs_in {
                return Ok(Principal::ADMIN);
            }
            None
        }
        Some(Peer::Tls { from }) => Some(from.to_canonical()),
        Some(Peer::Tcp { from }) if from.to_canonical().is_loopback() || context.settings.allow_plain_text => {
            Some(from.to_canonical())
        }
        _ => {
            return Err(ApiError::forbidden(
                "plain text is answered only to this host itself: use https:// with the cluster's authority \
                 (`stampede ca show` on a host prints it), or have the operator allow plain text on a network that is \
                 trusted (api.plain_text)",
            ));
        }
    };
    context.authenticator.authenticate(given, from).await
}

async fn respond(answer: Answer, asked: &HeaderMap) -> Response {
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    if let Some(stale) = answer.stale {
        headers.insert(STALE, HeaderValue::from(stale.as_secs()));
    }
    if let Some(etag) = answer.etag.and_then(|etag| HeaderValue::try_from(etag).ok()) {
        headers.insert(header::ETAG, etag);
    }
    if let Some(ended) = answer.waited {
        headers.insert(WAIT, HeaderValue::from_static(ended.name()));
    }
    gzip::fill(response, asked, answer.body).await
}

impl Answer {
    /// Writes it.
    pub fn json(status: StatusCode, value: &impl serde::Serialize) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(value).map_err(|error| {
            tracing::error!(%error, "an answer could not be written");
            ApiError::internal()
        })?;
        Ok(Self { status, body, stale: None, etag: None, waited: None })
    }
}
