//! What virtual machines' disks are made of, as files: images that are fetched and checked, and config drives.
//!
//! ```text
//!  url ── fetch ──► <key>.part ── checksum ──► unpack (gz, bz2, xz, zstd) ── header ──► <key>.qcow2 | <key>.raw
//! ```
//! Images come from strangers, and their bytes are taken for hostile: nothing of them is opened by a program that trusts them
//! before [`header`] has looked at it. An image is there under its own name only when it is whole and checked; who comes while
//! it is being fetched waits for that ([`pool`]).

pub mod checksum;
pub mod config_drive;
mod fetch;
pub mod header;
pub mod pool;
mod unpack;

use std::io;
use std::path::PathBuf;

/// Why an image is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{url} is no address of an image: it begins with http:// or https://")]
    Url { url: String },
    #[error("{url} cannot be fetched: {reason}")]
    Fetch { url: String, reason: String },
    #[error("{url} is larger than {} MB, which is what may be fetched here", most >> 20)]
    Large { url: String, most: u64 },
    #[error("{0}")]
    Checksum(#[from] checksum::Error),
    #[error("what {url} sent has the {kind} checksum {found}, and not {wanted}: it is not used")]
    Other { url: String, kind: &'static str, found: String, wanted: String },
    #[error("{url} cannot be unpacked: {source}")]
    Unpack { url: String, source: io::Error },
    #[error("{url} is not used: {source}")]
    Header { url: String, source: header::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("there are {} MB free for images on this host, and it takes more", free >> 20)]
    Full { free: u64 },
    #[error("a thread of the fetch ended badly")]
    Thread(#[from] tokio::task::JoinError),
}
