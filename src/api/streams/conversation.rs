//! What goes to and fro between a client and an instance, wherever both are. Little waits on the way: who does not read
//! holds up who writes, down to the instance itself.

use crate::compute::streams::{Piece, Size};
use axum::body::Bytes;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, Receiver, Sender, WeakSender};

/// Pieces that wait each way. Docker's have 32 KiB at most, mostly.
const WAITING: usize = 8;

/// To the client.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Output(Piece),
    /// As JSON.
    Figures(String),
    /// The last.
    End(End),
}

/// From the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Input(Bytes),
    InputEnd,
    Resize(Size),
}

/// The last word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    pub code: Cow<'static, str>,
    pub message: String,
    /// Of a command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i64>,
}

impl End {
    pub const ENDED: &'static str = "Ended";

    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), message: message.into(), exit_code: None }
    }

    /// As it should.
    pub fn ended(message: impl Into<String>) -> Self {
        Self::new(Self::ENDED, message)
    }

    pub fn exited(exit_code: i64) -> Self {
        Self { exit_code: Some(exit_code), ..Self::ended(format!("the command ended with exit code {exit_code}")) }
    }

    pub fn closing() -> Self {
        Self::new("Closing", "an agent on the way stops or starts again; ask again, at any host")
    }

    pub fn host_unavailable(host: &str, why: &str) -> Self {
        Self::new("HostUnavailable", format!("{host}, where it was, {why}; see where it is now, and ask again"))
    }

    /// Whoever should have said the last word did not.
    pub fn lost() -> Self {
        Self::new("Fault", "a fault in the agent; its log tells more")
    }

    pub fn is_good(&self) -> bool {
        self.code == Self::ENDED
    }
}

/// The client's end.
#[derive(Debug)]
pub struct Conversation {
    pub told: Receiver<Told>,
    pub said: Sender<Said>,
    /// For who has to end it from outside.
    pub last: WeakSender<Told>,
    /// Its place among those that this host holds, until it is over.
    pub place: Option<OwnedSemaphorePermit>,
}

/// The instance's end.
#[derive(Debug)]
pub struct Instance {
    pub told: Sender<Told>,
    pub said: Receiver<Said>,
}

impl Instance {
    /// What a client says to it is dropped, and holds up nobody.
    pub fn only_tells(self) -> Sender<Told> {
        self.told
    }
}

pub fn pair() -> (Conversation, Instance) {
    let (tell, told) = mpsc::channel(WAITING);
    let (say, said) = mpsc::channel(WAITING);
    (Conversation { told, said: say, last: tell.downgrade(), place: None }, Instance { told: tell, said })
}
