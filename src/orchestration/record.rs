//! What orchestration writes beside resources.

use crate::environment::Timestamp;
use serde::{Deserialize, Serialize};

/// `todo/<shard>/<type>/<id>`: something is to be done for it, not before that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Todo {
    pub not_before: Timestamp,
    /// It waits for room on some host, and is to be tried again when there may be some.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub room: bool,
}

/// `gone/<uuid>`: it was purged, and what is found of it may be taken away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    pub id: u64,
    pub kind: String,
    pub purged: Timestamp,
}
