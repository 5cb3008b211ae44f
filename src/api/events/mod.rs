//! `/v1/subscribe`: what happens, as it happens, to whoever wants to know. A WebSocket on GET, a stream of lines on POST.
//!
//! ```text
//! feed        the cluster's changes, once for this node
//!   subscriber  one client's: what it may see, in its words (names, include), from where it left off
//!     outlet      to the client, at its pace; who does not read is sent away with a word
//! ```
//! Each event carries a `revision`: everything up to it was told. A client that comes again, to any host, with
//! `since=<revision>` goes on there.

mod feed;
mod names;
mod outlet;
mod subscriber;

pub use feed::Hub;

use super::Context;
use super::body;
use super::error::ApiError;
use super::request::{self, Request};
use crate::resource::types;
use crate::resource::types::subscribe::EVENT_NAMES;
use crate::resource::validation::{self, InvalidCode};
use crate::store::{Error, Revision, key};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{HeaderValue, Method, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use feed::{Backlog, Place};
use names::Names;
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::sync::Arc;
use subscriber::Subscriber;
use tokio_util::sync::CancellationToken;

/// Subscribers that one node has at most.
pub const MOST: usize = 512;

/// That the agent stops; in each request's extensions.
#[derive(Clone, Debug)]
pub struct Closing(pub CancellationToken);

/// Whether a request is for here.
pub fn concerns(request: &Request) -> bool {
    matches!(request.path.as_slice(), [only] if only.eq_ignore_ascii_case("subscribe"))
}

/// Answers with a stream of events.
pub async fn answer(
    context: &Arc<Context>,
    parts: &Parts,
    mut request: Request,
    body: Body,
) -> Result<Response, ApiError> {
    let upgrade = match request.method {
        Method::GET | Method::HEAD => Some(upgrade(parts).await?),
        Method::POST => None,
        _ => return Err(ApiError::not_allowed(&request.method, &["GET", "POST"])),
    };
    let input = body::parse(&request.content_type, body::read(body).await?).await?;
    adopt(&mut request, &input);
    let names = names(&request)?;
    let since = since(&request)?;
    let permit = context.subscribers.clone().try_acquire_owned().map_err(|_| {
        let message = format!("this host has {MOST} subscribers already; ask another host, or try again later");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })?;
    let place = context.hub.join().await?;
    let backlog = backlog(context, since, &place).await?;
    let (outlet, inlet) = outlet::pair();
    let subscriber = Subscriber {
        context: context.clone(),
        parts: parts.clone(),
        request,
        names,
        outlet,
        place,
        since,
        heard: HashMap::new(),
        _permit: permit,
    };
    tokio::spawn(subscriber.run(backlog));
    Ok(match upgrade {
        Some(upgrade) => upgrade.on_upgrade(move |socket| inlet.into_socket(socket)),
        None => {
            let text = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            (StatusCode::CREATED, [text], inlet.into_body()).into_response()
        }
    })
}

/// The way to a WebSocket.
async fn upgrade(parts: &Parts) -> Result<WebSocketUpgrade, ApiError> {
    request::same_site(parts)?;
    let mut parts = parts.clone();
    WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|rejection| {
        let message = "open this address as a WebSocket (ws:// or wss://), or POST to it for a stream of lines";
        let status = StatusCode::UPGRADE_REQUIRED;
        ApiError { detail: Some(rejection.body_text()), ..ApiError::new(status, message) }
    })
}

/// What the body says counts as if it were in the address.
fn adopt(request: &mut Request, input: &Map<String, Value>) {
    for (name, value) in input {
        let values = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
        for value in values {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            request.query.push((name.clone(), text));
        }
    }
}

fn names(request: &Request) -> Result<Names, ApiError> {
    let given: Vec<&str> =
        request.query.iter().filter(|(name, _)| name == EVENT_NAMES).map(|(_, value)| value.as_str()).collect();
    // Commas part names; what is between them is checked by the type's own declaration.
    let parted: Vec<&str> = given.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    if let Some(declared) = types::find("subscribe") {
        let mut input = Map::new();
        input.insert(EVENT_NAMES.into(), Value::from(parted.clone()));
        validation::action(declared, &input)?;
    }
    Names::read(parted.into_iter())
}

fn since(request: &Request) -> Result<Option<Revision>, ApiError> {
    let Some(given) = request.parameter("since").filter(|given| !given.is_empty()) else { return Ok(None) };
    match given.trim().parse() {
        Ok(revision) if revision >= 0 => Ok(Some(Revision(revision))),
        _ => Err(ApiError {
            field: Some("since".into()),
            ..ApiError::invalid(InvalidCode::InvalidFormat, "since is an event's revision, a whole number")
        }),
    }
}

/// What was missed since then.
async fn backlog(context: &Context, since: Option<Revision>, place: &Place) -> Result<Option<Backlog>, ApiError> {
    let Some(since) = since else { return Ok(None) };
    if since >= place.after {
        // Other hosts may be a moment ahead of this one, but not of the store.
        let now = context.store.get(&key::cluster()).await?.revision;
        return if since > now { Err(gone("the cluster's store went back to an earlier state")) } else { Ok(None) };
    }
    match Backlog::open(context.store.as_ref(), since, place.after).await {
        Ok(backlog) => Ok(Some(backlog)),
        Err(Error::Compacted { revision }) => {
            Err(gone(&format!("the store's history before revision {revision} was let go")))
        }
        Err(error) => Err(error.into()),
    }
}

fn gone(why: &str) -> ApiError {
    let message = format!("{why}: subscribe without since, and list again what you follow");
    ApiError::with_code(StatusCode::GONE, "RevisionGone", message)
}
