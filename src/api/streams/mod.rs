//! `/v1/containers/<id>/logs`, `/exec` and `/stats`: what is said between a person and an instance that runs, at any host.
//!
//! ```text
//! client ◄─► front, text ◄─ conversation ─┬─ source   the instance is here: Docker
//!                                         └─ peer     it is there: its agent is asked by mutual TLS, and a WebSocket carries
//!                                                     the conversation: at its other end, `front` and `source` again
//! ```
//! A connection a stream, all the way: TCP holds up who writes faster than the other reads, a few pieces wait in between, and
//! what breaks one stream breaks no other. Each stream ends with a last word ([`conversation::End`]) and a WebSocket's closing
//! that says why. Who asks is signed in and looked at where it asks; between agents, the asking one answers for it.

pub mod conversation;
mod front;
mod peer;
mod source;
mod text;
mod token;
pub mod wire;
mod wish;

use super::Context;
use super::authentication::Principal;
use super::error::ApiError;
use super::events::Closing;
use super::exchange::Exchange;
use super::reader::Reader;
use super::request::{self, Request};
use super::{agents, body, router};
use crate::compute::streams::Streams;
use crate::membership::record::Capability;
use crate::resource::declaration::Type;
use crate::resource::{Resource, date, identifier, instance, types};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::WebSocketUpgrade;
use axum::http::{Method, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use conversation::{Conversation, End, Told};
use form_urlencoded::Serializer;
use front::{Form, Pace};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, mpsc::WeakSender};
use tokio_util::sync::CancellationToken;
pub use wish::Kind;
use wish::{Wish, upgrade_required};

/// Streams that one node holds at most, for clients and for other agents together.
pub const MOST: usize = 512;
/// Where agents ask each other for them.
pub const PATH: &str = "/agent/v1/streams";
/// Bytes in a message between agents.
const MESSAGE: usize = 1 << 20;
/// Bytes in a client's.
const INPUT: usize = 128 * 1024;
/// How often it is looked whether the key still opens.
const KEY: Duration = Duration::from_secs(10);
const INSTANCE: &str = "instance";

/// What runs on this host.
#[derive(Clone, Debug)]
pub struct Local {
    /// The host's name.
    pub host: String,
    /// Of containers, and of virtual machines.
    pub streams: Arc<dyn Streams>,
    pub consoles: Arc<dyn Streams>,
}

impl Local {
    async fn open(&self, id: &str, uuid: &str, kind: Kind, wish: Wish) -> Result<Conversation, ApiError> {
        let streams = if kind.is_console() { &self.consoles } else { &self.streams };
        source::open(streams.as_ref(), id, uuid, wish).await
    }
}

/// The streams that a row has addresses for.
pub fn links(declared: &Type, row: &Resource, principal: &Principal) -> impl Iterator<Item = &'static str> {
    let there = declared.base == INSTANCE && row.removed.is_none() && row.fields.contains_key("hostId");
    let of_its_kind = |kind: Kind| kind.is_console() == instance::is_machine(row);
    let may: [bool; 5] = Kind::ALL.map(|kind| there && of_its_kind(kind) && may(kind, declared, row, principal));
    Kind::ALL.into_iter().zip(may).filter(|(_, may)| *may).map(|(kind, _)| kind.name())
}

/// A public row is shown to all; what it says is for its owner.
fn may(kind: Kind, declared: &Type, row: &Resource, principal: &Principal) -> bool {
    let reads = !kind.acts() && principal.sees_all();
    reads || principal.may_write(declared, row)
}

/// Which stream a path below `/v1` is of.
fn kind_of<'a>(mut path: impl Iterator<Item = &'a str>) -> Option<Kind> {
    let (collection, _, kind, None) = (path.next()?, path.next()?, path.next()?, path.next()) else { return None };
    types::find_address(collection).filter(|declared| declared.base == INSTANCE)?;
    Kind::named(kind)
}

pub fn concerns(request: &Request) -> Option<Kind> {
    kind_of(request.path.iter().map(String::as_str))
}

/// Who opens a stream by a token in its address instead of a key.
///
/// # Errors
/// 401 where the token is not good.
pub fn bearer(context: &Context, parts: &Parts) -> Result<Option<Principal>, ApiError> {
    let path = parts.uri.path().split('/').filter(|segment| !segment.is_empty()).skip(1);
    if parts.method != Method::GET || kind_of(path).is_none() {
        return Ok(None);
    }
    token::read(context, parts)
}

/// GET opens a stream; POST makes an address that opens it without a key.
pub async fn answer(
    context: &Arc<Context>,
    parts: &Parts,
    request: Request,
    kind: Kind,
    body: Body,
) -> Result<Response, ApiError> {
    let exchange = Exchange { context, request: &request, reader: Reader::new(&context.cache, &request.principal) };
    let [collection, id, _] = request.path.as_slice() else { return Err(ApiError::internal()) };
    let declared = types::find_address(collection).ok_or_else(ApiError::internal)?;
    // Where it is has to be true: it may have been placed at another host a moment ago.
    let row = exchange.current_row(declared, id).await?.row;
    let declared = types::of(declared, &row);
    if !may(kind, declared, &row, &request.principal) {
        let message = format!("{} is for its owner and for admins", kind.name());
        return Err(ApiError::forbidden(message));
    }
    match request.method {
        Method::GET => open(context, parts, &request, kind, &row).await,
        Method::POST => address(context, &request, kind, body).await,
        _ => Err(ApiError::not_allowed(&request.method, &["GET", "POST"])),
    }
}

async fn open(
    context: &Arc<Context>,
    parts: &Parts,
    request: &Request,
    kind: Kind,
    row: &Resource,
) -> Result<Response, ApiError> {
    let wish = Wish::read(kind, &request.query)?;
    let by_token = request.parameter(token::PARAMETER).is_some();
    let upgrade = match parts.headers.contains_key(header::UPGRADE) {
        true => Some(upgrade(parts, by_token, INPUT).await?),
        false if kind.acts() => return Err(upgrade_required(None)),
        false => None,
    };
    let place = place(context)?;
    let conversation = begin(context, kind, wish, row, &request.query).await?;
    let conversation = Conversation { place: Some(place), ..conversation };
    let signs_in = (!by_token).then(|| parts.clone());
    tokio::spawn(watch(context.clone(), closing(parts), signs_in, conversation.last.clone()));
    let form = if request.parameter("raw") == Some("true") { Form::Raw } else { Form::Framed };
    match (upgrade, kind) {
        (Some(upgrade), _) => {
            Ok(upgrade.on_upgrade(move |socket| front::hold(socket, conversation, form, Pace::CLIENT)))
        }
        (None, Kind::Stats) => text::figures(conversation).await,
        (None, _) => Ok(text::output(conversation)),
    }
}

/// With the instance where it is: here, or on another host.
async fn begin(
    context: &Context,
    kind: Kind,
    wish: Wish,
    row: &Resource,
    query: &[(String, String)],
) -> Result<Conversation, ApiError> {
    let id = identifier::format(INSTANCE, row.id);
    let host = match row.get::<u64>("hostId") {
        Some(host) => context.cache.get("host", host).await?.value,
        None => None,
    };
    let host = host.map(|known| known.row);
    let simulated = host.as_ref().and_then(|host| host.get::<BTreeSet<Capability>>("capabilities"));
    if simulated.is_some_and(|offers| offers.contains(&Capability::Simulated)) {
        let message = format!("{id} is simulated: it only says that it runs, writes nothing and takes no commands");
        return Err(ApiError::with_code(StatusCode::CONFLICT, "Simulated", message));
    }
    let Some(host) = host.and_then(|host| host.name.clone()) else {
        let message = format!("{id} is on no host (it is {}): wait until it runs (?wait=running)", row.state);
        return Err(ApiError::with_code(StatusCode::CONFLICT, "NotPlaced", message));
    };
    match &context.local {
        Some(local) if local.host == host => local.open(&id, &row.uuid, kind, wish).await,
        _ => {
            let parameters = Serializer::new(String::new())
                .extend_pairs(query.iter().filter(|(name, _)| name != token::PARAMETER))
                .finish();
            peer::open(context, &host, &format!("{}/{id}/{}?{parameters}", kind.name(), row.uuid)).await
        }
    }
}

fn place(context: &Context) -> Result<OwnedSemaphorePermit, ApiError> {
    context.streams.clone().try_acquire_owned().map_err(|_| {
        let message = format!("this host holds {MOST} streams already; end some, or ask another host");
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message)
    })
}

fn closing(parts: &Parts) -> CancellationToken {
    parts.extensions.get::<Closing>().map_or_else(CancellationToken::new, |closing| closing.0.clone())
}

/// Ends a stream when the agent stops, or the key that opened it opens no more.
async fn watch(context: Arc<Context>, closing: CancellationToken, signs_in: Option<Parts>, last: WeakSender<Told>) {
    let end = loop {
        tokio::select! {
            () = closing.cancelled() => break End::closing(),
            () = tokio::time::sleep(KEY) => {}
        }
        if last.upgrade().is_none_or(|told| told.is_closed()) {
            return;
        }
        if let Some(parts) = &signs_in
            && let Err(error) = router::sign_in(&context, parts).await
            && error.status != StatusCode::SERVICE_UNAVAILABLE
        {
            break End::new("Unauthorized", error.message.unwrap_or_else(|| "sign in again".into()));
        }
    };
    if let Some(told) = last.upgrade() {
        let _ = told.send(Told::End(end)).await;
    }
}

/// The way to a WebSocket. A page of another site is refused as its reader, and not where it was given a token.
async fn upgrade(parts: &Parts, by_token: bool, most: usize) -> Result<WebSocketUpgrade, ApiError> {
    if !by_token {
        request::same_site(parts)?;
    }
    let mut parts = parts.clone();
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
    let upgrade = upgrade.map_err(|rejection| upgrade_required(Some(rejection.body_text())))?;
    Ok(upgrade.max_message_size(most).max_frame_size(most))
}

/// What the body says counts as if it were in the address.
async fn address(context: &Context, request: &Request, kind: Kind, body: Body) -> Result<Response, ApiError> {
    let input = body::parse(&request.content_type, body::read(body).await?).await?;
    let mut query = request.query.clone();
    query.retain(|(name, _)| name != token::PARAMETER);
    for (name, value) in input {
        let values = value.as_array().map_or_else(|| std::slice::from_ref(&value), Vec::as_slice);
        query.extend(
            values
                .iter()
                .filter(|value| !value.is_null())
                .map(|value| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))),
        );
    }
    Wish::read(kind, &query)?;
    let token = token::make(context, &request.principal, &request.path, &query)?;
    query.push((token::PARAMETER.into(), token.text.clone()));
    let parameters = Serializer::new(String::new()).extend_pairs(&query).finish();
    // http becomes ws, and https wss.
    let base = request.address().replacen("http", "ws", 1);
    let told = json!({
        "type": "streamAccess",
        "links": {},
        "actions": {},
        "url": format!("{base}?{parameters}"),
        "token": token.text,
        "expires": date::format(token.expires),
        "expiresTS": token.expires.0,
    });
    let json = (header::CONTENT_TYPE, "application/json; charset=utf-8");
    Ok((StatusCode::CREATED, [json], told.to_string()).into_response())
}

/// An address at which the screen of the virtual machine that was asked for is open to whoever has it, for half a minute.
///
/// # Errors
/// 503 where this host has no secret to sign it with.
pub fn screen(context: &Context, request: &Request) -> Result<Value, ApiError> {
    let mut path = request.path.clone();
    path.push(Kind::Vnc.name().to_owned());
    // noVNC wants bytes as they are.
    let mut query = vec![("raw".to_owned(), "true".to_owned())];
    let token = token::make(context, &request.principal, &path, &query)?;
    query.push((token::PARAMETER.to_owned(), token.text));
    let parameters = Serializer::new(String::new()).extend_pairs(&query).finish();
    let base = request.base.replacen("http", "ws", 1);
    Ok(json!({
        "type": "instanceConsole",
        "links": {},
        "actions": {},
        "kind": "websocket-vnc",
        "url": format!("{base}/{}?{parameters}", path.join("/")),
        // The socket behind it is open to nobody else.
        "password": "",
    }))
}

/// To another agent, which has looked at who asks. `path` is what comes behind [`PATH`].
pub async fn answer_agent(context: &Arc<Context>, parts: &Parts, path: [&str; 3]) -> Result<Response, ApiError> {
    let [kind, id, uuid] = path;
    let kind = Kind::named(kind).ok_or_else(|| ApiError::not_found("this agent knows no such stream"))?;
    let local = context.local.as_ref().ok_or_else(ApiError::internal)?;
    let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let wish = Wish::read(kind, &pairs.into_owned().collect::<Vec<_>>())?;
    let upgrade = upgrade(parts, true, MESSAGE).await?;
    let place = place(context)?;
    let conversation = local.open(id, uuid, kind, wish).await?;
    let conversation = Conversation { place: Some(place), ..conversation };
    if let Some(agent) = parts.extensions.get::<agents::Agent>() {
        tracing::debug!(instance = id, kind = kind.name(), asked = %agent.host, "a stream for another host's client");
    }
    tokio::spawn(watch(context.clone(), closing(parts), None, conversation.last.clone()));
    Ok(upgrade.on_upgrade(move |socket| front::hold(socket, conversation, Form::Framed, Pace::AGENT)))
}
