//! A conversation with whoever opened a WebSocket here: a client, or the agent that a client asked.
//!
//! Both directions go by themselves, so that neither waits for the other. Pings go whatever else does; silence counts only
//! while it is listened.

use super::conversation::{Conversation, End, Said, Told};
use super::wire::{self, Frame};
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// How long the other end may not read.
const PATIENCE: Duration = Duration::from_secs(60);
/// For the last words, each way.
const FAREWELL: Duration = Duration::from_secs(5);
/// What a WebSocket's closing has room for.
const REASON: usize = 123;

/// How the two ends see that the other is there.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub ping: Duration,
    pub silence: Duration,
}

impl Pace {
    pub const CLIENT: Self = Self { ping: Duration::from_secs(10), silence: Duration::from_secs(60) };
    /// An agent pings by itself too.
    pub const AGENT: Self = Self { ping: Duration::from_secs(3), silence: Duration::from_secs(10) };
}

/// How a client wants its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As [`wire`] has them.
    Framed,
    /// Output and input as they are.
    Raw,
}

pub async fn hold(socket: WebSocket, conversation: Conversation, form: Form, pace: Pace) {
    let (mut sink, mut stream) = socket.split();
    let Conversation { told, said, place: _place, .. } = conversation;
    let said_all = {
        let telling = tell(&mut sink, told, form, pace.ping);
        let hearing = hear(&mut stream, said, form, pace.silence);
        tokio::select! {
            told_all = telling => told_all,
            () = hearing => true,
        }
    };
    if said_all && matches!(timeout(FAREWELL, sink.close()).await, Ok(Ok(()))) {
        // What the client still sends is taken: a connection that is cut would take the last words with it.
        let _ = timeout(FAREWELL, async { while let Some(Ok(_)) = stream.next().await {} }).await;
    }
}

/// Whether all could be told.
async fn tell(sink: &mut SplitSink<WebSocket, Message>, mut told: Receiver<Told>, form: Form, ping: Duration) -> bool {
    let mut pings = interval(ping);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let next = tokio::select! {
            next = told.recv() => next.unwrap_or_else(|| Told::End(End::lost())),
            _ = pings.tick() => {
                match timeout(PATIENCE, sink.send(Message::Ping(axum::body::Bytes::new()))).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) | Err(_) => return false,
                }
            }
        };
        let end = match &next {
            Told::End(end) => Some(closing(end)),
            Told::Output(_) | Told::Figures(_) => None,
        };
        if let Some(message) = message(next, form)
            && !matches!(timeout(PATIENCE, sink.send(message)).await, Ok(Ok(())))
        {
            return false;
        }
        if let Some(end) = end {
            return matches!(timeout(FAREWELL, sink.send(Message::Close(Some(end)))).await, Ok(Ok(())));
        }
    }
}

/// Until the client has closed, or is silent.
async fn hear(stream: &mut SplitStream<WebSocket>, said: Sender<Said>, form: Form, silence: Duration) {
    while let Ok(Some(Ok(message))) = timeout(silence, stream.next()).await {
        let one = match message {
            Message::Binary(bytes) if form == Form::Raw => Some(Said::Input(bytes)),
            Message::Binary(bytes) => wire::read_said(Frame::Binary(bytes)),
            Message::Text(text) => Some(Said::Input(text.into())),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => None,
        };
        if let Some(one) = one {
            // Nobody heeds it where there is no input.
            let _ = said.send(one).await;
        }
    }
}

fn message(told: Told, form: Form) -> Option<Message> {
    let frame = match (told, form) {
        (Told::Output(piece), Form::Raw) => Frame::Binary(piece.bytes),
        (Told::End(_), Form::Raw) => return None,
        (told, _) => wire::told(told),
    };
    Some(match frame {
        Frame::Binary(bytes) => Message::Binary(bytes),
        Frame::Text(text) => Message::Text(Utf8Bytes::from(text)),
    })
}

fn closing(end: &End) -> CloseFrame {
    let code = match &*end.code {
        End::ENDED => close_code::NORMAL,
        "Closing" => close_code::RESTART,
        "HostUnavailable" | "DockerUnavailable" => close_code::AGAIN,
        "Unauthorized" => close_code::POLICY,
        _ => close_code::ERROR,
    };
    let mut reason = format!("{}: {}", end.code, end.message);
    let fits = (0..=reason.len().min(REASON)).rev().find(|at| reason.is_char_boundary(*at));
    reason.truncate(fits.unwrap_or(0));
    CloseFrame { code, reason: Utf8Bytes::from(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit() {
        let long = closing(&End::new("HostUnavailable", "ü".repeat(100)));
        assert!(long.reason.len() <= REASON && long.reason.ends_with('ü'));
        assert_eq!(long.code, close_code::AGAIN);
        assert_eq!(closing(&End::exited(3)).reason.as_str(), "Ended: the command ended with exit code 3");
    }
}
