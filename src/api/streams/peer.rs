//! The other end is on another host: its agent is asked, by mutual TLS, and what both say is carried over.
//!
//! A connection a stream, upgraded to a WebSocket: what does not read is held up by TCP alone, and a stream that breaks
//! breaks no other. The owner's agent answers as it would its own clients ([`super::front`]).

use super::super::Context;
use super::super::error::ApiError;
use super::conversation::{self, Conversation, End, Instance, Told};
use super::front::Pace;
use super::wire::{self, Frame};
use super::{MESSAGE, PATH};
use crate::membership::record::{Alive, Host};
use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// To reach the agent.
const CONNECT: Duration = Duration::from_secs(5);
/// For its answer, which may wait for Docker.
const ANSWER: Duration = Duration::from_secs(40);
const ERROR_SIZE: usize = 64 * 1024;
/// What the other end does not take within this is lost with it.
const PATIENCE: Duration = Duration::from_secs(60);

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// Begins a conversation by the agent of `name`; `question` is what comes behind [`PATH`].
///
/// # Errors
/// What that agent answers; 503 where it does not.
pub async fn open(context: &Context, name: &str, question: &str) -> Result<Conversation, ApiError> {
    let Some(trust) = &context.trust else { return Err(silent(name, "no other host is known here")) };
    let Some((host, alive)) = context.agent_of(name).await? else { return Err(silent(name, "it is not there")) };
    let socket = match timeout(CONNECT + ANSWER, ask(trust, &host, &alive, question)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(Failure::Answered(error))) => return Err(*error),
        Ok(Err(Failure::Silent(why))) => return Err(silent(name, &why)),
        Err(_) => return Err(silent(name, "no answer in time")),
    };
    let (conversation, instance) = conversation::pair();
    tokio::spawn(carry(socket, instance, name.to_owned()));
    Ok(conversation)
}

fn silent(name: &str, why: &str) -> ApiError {
    let message = format!(
        "{name}, which it is on, does not answer; ask again when that host is active, or see where it runs then"
    );
    let error = ApiError::with_code(StatusCode::SERVICE_UNAVAILABLE, "HostUnavailable", message);
    ApiError { detail: Some(why.to_owned()), ..error }
}

enum Failure {
    Answered(Box<ApiError>),
    Silent(String),
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Silent(error.to_string())
    }
}

async fn ask(trust: &crate::membership::Trust, host: &Host, alive: &Alive, question: &str) -> Result<Socket, Failure> {
    let mut sender = timeout(CONNECT, trust.connect::<Empty<Bytes>>(host, &alive.address)).await??;
    let request = Request::get(format!("{PATH}/{question}"))
        .header(header::HOST, &alive.address)
        .header(header::CONNECTION, HeaderValue::from_static("Upgrade"))
        .header(header::UPGRADE, HeaderValue::from_static("websocket"))
        .header(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"))
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .body(Empty::new())?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(read_error(response).await);
    }
    let upgraded = TokioIo::new(hyper::upgrade::on(response).await?);
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE)).max_frame_size(Some(MESSAGE));
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, Some(config)).await)
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: Option<String>,
    detail: Option<String>,
    #[serde(rename = "fieldName")]
    field: Option<String>,
}

/// What it answered instead, to be answered here.
async fn read_error(response: Response<Incoming>) -> Failure {
    let status = response.status();
    let body = Limited::new(response.into_body(), ERROR_SIZE).collect().await.map(http_body_util::Collected::to_bytes);
    match body.ok().and_then(|body| serde_json::from_slice::<ErrorBody>(&body).ok()) {
        Some(ErrorBody { code, message, detail, field }) => Failure::Answered(Box::new(ApiError {
            code: Cow::Owned(code),
            message,
            detail,
            field,
            ..ApiError::new(status, "")
        })),
        // Also an agent of before there were streams.
        None => Failure::Silent(format!("its agent answered {status}; it may be of another version")),
    }
}

async fn carry(socket: Socket, instance: Instance, name: String) {
    let (mut sink, mut stream) = socket.split();
    let Instance { told, said } = instance;
    let end = {
        let hearing = hear(&mut stream, &told, &name);
        let saying = say(&mut sink, said);
        tokio::select! {
            end = hearing => end,
            lost = saying => lost.map(|why| End::host_unavailable(&name, why)),
        }
    };
    if let Some(end) = end {
        let _ = told.send(Told::End(end)).await;
    }
    // That the client has gone, or that its end was heard.
    let _ = timeout(CONNECT, sink.close()).await;
}

/// What the owner tells, to its end; `None` where the client has gone.
async fn hear(stream: &mut SplitStream<Socket>, told: &Sender<Told>, name: &str) -> Option<End> {
    loop {
        let next = tokio::select! {
            next = timeout(Pace::AGENT.silence, stream.next()) => next,
            () = told.closed() => return None,
        };
        let frame = match next {
            Ok(Some(Ok(Message::Binary(bytes)))) => Frame::Binary(bytes),
            Ok(Some(Ok(Message::Text(text)))) => Frame::Text(text.as_str().to_owned()),
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => {
                return Some(End::host_unavailable(name, "has ended the conversation"));
            }
            Ok(Some(Ok(_))) => continue,
            Err(_) => return Some(End::host_unavailable(name, "does not answer any more")),
        };
        match wire::read_told(frame) {
            Some(Told::End(end)) => return Some(end),
            Some(one) => told.send(one).await.ok()?,
            None => {}
        }
    }
}

/// What the client says, and that this end is there; ends with why it cannot be said, or with `None` where the client has
/// gone.
async fn say(sink: &mut SplitSink<Socket, Message>, mut said: Receiver<conversation::Said>) -> Option<&'static str> {
    let mut pings = interval(Pace::AGENT.ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            one = said.recv() => match wire::said(one?) {
                Frame::Binary(bytes) => Message::Binary(bytes),
                Frame::Text(text) => Message::Text(text.into()),
            },
            _ = pings.tick() => Message::Ping(Bytes::new()),
        };
        match timeout(PATIENCE, sink.send(message)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Some("has ended the conversation"),
            Err(_) => return Some("takes nothing more"),
        }
    }
}
