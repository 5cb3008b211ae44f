//! Between a subscriber and its client: a few events wait here, no more.
//!
//! Who does not read for [`PATIENCE`] is sent away; the place for the farewell is kept free from the beginning, so that
//! it is the last thing that a client reads when it reads again.

use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use futures::StreamExt;
use std::convert::Infallible;
use std::time::Duration;
use tokio::sync::mpsc::{self, OwnedPermit, error::SendError};
use tokio_stream::wrappers::ReceiverStream;

/// Events that wait for the client to read.
const WAITING: usize = 16;
/// How long a client may not read.
const PATIENCE: Duration = Duration::from_secs(20);
/// To write the farewell to one that has hardly read.
const FAREWELL: Duration = Duration::from_secs(10);

/// The subscriber's end.
#[derive(Debug)]
pub struct Outlet {
    sender: mpsc::Sender<String>,
    farewell: Option<OwnedPermit<String>>,
}

/// The client's end.
#[derive(Debug)]
pub struct Inlet(mpsc::Receiver<String>);

/// Why an event was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    Gone,
    Slow,
}

pub fn pair() -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::channel(WAITING + 1);
    let farewell = sender.clone().try_reserve_owned().ok();
    (Outlet { sender, farewell }, Inlet(receiver))
}

impl Outlet {
    pub async fn send(&self, event: String) -> Result<(), NotTaken> {
        match tokio::time::timeout(PATIENCE, self.sender.send(event)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(SendError(_))) => Err(NotTaken::Gone),
            Err(_) => Err(NotTaken::Slow),
        }
    }

    /// Waits until the client has gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    /// The last word.
    pub fn farewell(mut self, event: String) {
        if let Some(permit) = self.farewell.take() {
            permit.send(event);
        }
    }
}

impl Inlet {
    /// One event a line.
    pub fn into_body(self) -> Body {
        let lines = ReceiverStream::new(self.0).map(|event| Ok::<_, Infallible>(Bytes::from(event + "\n")));
        Body::from_stream(lines)
    }

    /// One event a message. What the client says is read, for its closing and its pongs, and not heeded.
    pub async fn into_socket(mut self, mut socket: WebSocket) {
        loop {
            let event = tokio::select! {
                event = self.0.recv() => event,
                said = socket.recv() => match said {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return,
                },
            };
            let Some(event) = event else { break };
            let sent = socket.send(Message::Text(Utf8Bytes::from(event)));
            if !matches!(tokio::time::timeout(PATIENCE + FAREWELL, sent).await, Ok(Ok(()))) {
                return;
            }
        }
        // It may be gone; there is nothing more to say.
        let _ = tokio::time::timeout(FAREWELL, socket.send(Message::Close(None))).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_still_gets_the_farewell() {
        let (outlet, mut inlet) = pair();
        let mut sent = 0;
        let refused = loop {
            match outlet.send(format!("event {sent}")).await {
                Ok(()) => sent += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!((sent, refused), (WAITING, NotTaken::Slow));
        outlet.farewell("farewell".into());
        let mut read = Vec::new();
        while let Some(event) = inlet.0.recv().await {
            read.push(event);
        }
        assert_eq!(read.len(), WAITING + 1);
        assert_eq!(read.last().map(String::as_str), Some("farewell"));
    }

    #[tokio::test]
    async fn who_is_gone_is_noticed() {
        let (outlet, inlet) = pair();
        drop(inlet);
        outlet.closed().await;
        assert_eq!(outlet.send("event".into()).await, Err(NotTaken::Gone));
    }
}
