//! What is said between a person and an instance that runs: its output, commands in it, its figures.
//!
//! Apart from [`super::Driver`], which makes things as they should be: nothing here changes what an instance is.

use super::{Error, Observed};
use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::pin::Pin;
use tokio::io::AsyncWrite;

/// Which of an instance's output is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputWish {
    /// Also what comes from now on, until the instance ends.
    pub follow: bool,
    /// Milliseconds since 1970.
    pub since: Option<i64>,
    /// So many lines from the end; all unless told.
    pub tail: Option<u32>,
    pub stdout: bool,
    pub stderr: bool,
    /// Each line begins with when it was written.
    pub timestamps: bool,
}

/// A console of a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Console {
    /// Its screen, keyboard and mouse, as VNC (RFC 6143) has them.
    Screen,
    /// Its first serial line.
    Serial,
}

/// What is to be run in an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments.
    pub arguments: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    /// `NAME=value`.
    pub environment: Vec<String>,
    pub directory: Option<String>,
    /// `user`, `user:group`, or their numbers.
    pub user: Option<String>,
    pub size: Option<Size>,
}

/// Of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// Some of what was written to a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub channel: Channel,
    pub bytes: Bytes,
}

pub type Pieces = BoxStream<'static, Result<Piece, Error>>;

/// A command that runs in an instance.
pub struct Execution {
    /// Ends when the command has closed both channels, mostly by its end.
    pub output: Pieces,
    /// Closed, it is the end of the command's input.
    pub input: Pin<Box<dyn AsyncWrite + Send>>,
    pub running: Box<dyn Running>,
}

impl Debug for Execution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Execution").field("running", &self.running).finish_non_exhaustive()
    }
}

/// What can be asked of a command that runs.
#[async_trait::async_trait]
pub trait Running: Send + Sync + Debug {
    /// Its terminal is of another size now.
    async fn resize(&self, size: Size) -> Result<(), Error>;

    /// How it ended; `None` while it runs.
    async fn exit_code(&self) -> Result<Option<i64>, Error>;

    /// Nobody is there for it any more: ends it, as a terminal does whose line is cut. Waits for nothing longer than
    /// some seconds.
    async fn hang_up(&self);
}

/// What an instance uses. What the kernel does not count is absent: a host may have no such controller of cgroups.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Figures {
    /// When, as RFC 3339 has it.
    pub time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// By the name that the interface has in the instance.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<std::collections::BTreeMap<String, Traffic>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blkio: Option<Blkio>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u64>,
}

/// Times count from the instance's start.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cpu {
    /// Of one processor since the figures before: 150 is one and a half.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percent: Option<f64>,
    pub total_nanos: u64,
    pub user_nanos: u64,
    pub system_nanos: u64,
    /// Of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processors: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttled_nanos: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// Without what is only there to spare reading files again.
    pub used_bytes: u64,
    pub cache_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traffic {
    pub received_bytes: u64,
    pub received_packets: u64,
    pub received_dropped: u64,
    pub sent_bytes: u64,
    pub sent_packets: u64,
    pub sent_dropped: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    pub read_bytes: u64,
    pub written_bytes: u64,
}

/// Where instances run. By the driver's own ids, but for the first.
#[async_trait::async_trait]
pub trait Streams: Send + Sync + Debug {
    /// What is there of an instance.
    async fn find(&self, id: &str) -> Result<Option<Observed>, Error>;

    /// Its output. Dropped, nothing of it is left.
    async fn output(&self, external_id: &str, wish: &OutputWish) -> Result<Pieces, Error>;

    /// Runs a command in it.
    async fn execute(&self, external_id: &str, command: &Command) -> Result<Execution, Error>;

    /// Its console: what comes from it, and what goes to it, as bytes.
    async fn console(&self, _external_id: &str, _console: Console) -> Result<Execution, Error> {
        let message = "a container has no console; run a command in it (exec)".to_owned();
        Err(Error::Refused { action: "open the console", status: None, message })
    }

    /// What it uses, about once a second, until it ends.
    async fn figures(&self, external_id: &str) -> Result<BoxStream<'static, Result<Figures, Error>>, Error>;
}
