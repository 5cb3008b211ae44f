//! What happens to every request before and after it is answered.

use super::Context;
use super::authentication::Principal;
use super::error::ApiError;
use super::exchange::{self, Answer};
use super::listener::Peer;
use super::request::{self, Request, text};
use super::{body, browser, cluster, csrf, events, gzip, session, streams, ui};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

/// For an answer, whatever it waits for.
const PATIENCE: Duration = Duration::from_secs(60);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SCHEMAS: HeaderName = HeaderName::from_static("x-api-schemas");
const WAIT: HeaderName = HeaderName::from_static("x-stampede-wait");
/// From a page that asks for keys itself: a browser that is challenged does, before the page hears of it.
const NO_CHALLENGE: HeaderName = HeaderName::from_static("x-api-no-challenge");
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
            if browser::wanted(&parts) {
                browser::error_page(&context, &parts, &error, &id).await
            } else {
                error.response(&id)
            }
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
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    if parts.headers.contains_key(NO_CHALLENGE) {
        headers.remove(header::WWW_AUTHENTICATE);
    }
    if let Some(cookie) = csrf::token(&context.environment, &parts.headers) {
        headers.append(header::SET_COOKIE, cookie);
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
    if let Some(answer) = session::answer(context, parts, &mut body).await {
        return answer;
    }
    if let Some(answer) = browser::open(parts).await {
        return Ok(answer);
    }
    if let Some(answer) = ui::open(&context.environment, parts) {
        return answer;
    }
    let principal = match streams::bearer(context, parts)? {
        Some(principal) => {
            reached(context, parts)?;
            principal
        }
        None => sign_in(context, parts).await?,
    };
    csrf::check(parts)?;
    let version = path.split('/').find(|segment| !segment.is_empty());
    let mut request = Request::new(parts, principal);
    let page = browser::wanted(parts);
    if page {
        // Tags are of the JSON.
        request.preconditions.none_match = None;
    }
    if version == Some("v1") && events::concerns(&request) {
        return events::answer(context, parts, request, body).await;
    }
    if let Some(kind) = streams::concerns(&request).filter(|_| version == Some("v1")) {
        return streams::answer(context, parts, request, kind, body).await;
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
    if page {
        return Ok(browser::page(context, parts, Some(&request.principal), answer).await);
    }
    Ok(respond(answer, &parts.headers).await)
}

/// How a request came in, where it may.
pub enum Reached {
    Root,
    Unix,
    Tcp(IpAddr),
}

impl Reached {
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Root | Self::Unix => None,
            Self::Tcp(from) => Some(*from),
        }
    }

    fn is_here(&self) -> bool {
        self.address().is_none_or(|from| from.is_loopback())
    }
}

/// Where no key is asked for, only by this machine's own names: a page of elsewhere whose name was made to lead here
/// (DNS rebinding) would be let in by a browser.
fn own_name(parts: &Parts) -> Result<(), ApiError> {
    let asked = parts.uri.authority().map(|authority| authority.as_str()).or(text(&parts.headers, header::HOST));
    let Some(name) = asked.and_then(|asked| asked.parse::<Authority>().ok()) else {
        return Err(ApiError::forbidden("say the host that is asked, in the header Host"));
    };
    let name = name.host().trim_matches(['[', ']']);
    if name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()) {
        return Ok(());
    }
    Err(ApiError::forbidden(
        "without a key this API answers to localhost and 127.0.0.1 alone; ask by one of these names, or sign in",
    ))
}

/// Plain text over a wire is refused before any key in it is looked at.
pub fn reached(context: &Context, parts: &Parts) -> Result<Reached, ApiError> {
    match parts.extensions.get::<Peer>() {
        Some(Peer::Unix { root: true }) => Ok(Reached::Root),
        Some(Peer::Unix { root: false }) => Ok(Reached::Unix),
        Some(Peer::Tls { from }) => Ok(Reached::Tcp(from.to_canonical())),
        Some(Peer::Tcp { from }) if from.to_canonical().is_loopback() || context.settings.allow_plain_text => {
            Ok(Reached::Tcp(from.to_canonical()))
        }
        _ => Err(ApiError::forbidden(
            "plain text is answered only to this host itself: use https:// with the cluster's authority \
             (`stampede ca show` on a host prints it), or have the operator allow plain text on a network that is \
             trusted (api.plain_text)",
        )),
    }
}

/// Who asks: by a key, by a browser's session where there is none, or root.
pub async fn sign_in(context: &Context, parts: &Parts) -> Result<Principal, ApiError> {
    let reached = reached(context, parts)?;
    let given = text(&parts.headers, header::AUTHORIZATION);
    if !given.is_some_and(super::authentication::is_basic) {
        if let Reached::Root = reached {
            return Ok(Principal::ADMIN);
        }
        if let Some(token) = session::token(parts) {
            return context.sessions.principal(&context.authenticator, token).await;
        }
        if context.settings.no_auth && reached.is_here() {
            own_name(parts)?;
            return Ok(Principal::ADMIN);
        }
    }
    context.authenticator.authenticate(given, reached.address()).await
}

pub async fn respond(answer: Answer, asked: &HeaderMap) -> Response {
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
