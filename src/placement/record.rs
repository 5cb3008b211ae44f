//! What placement writes: the claim `on/<host>/<instance>` and the sums `alloc/<host>`.

use crate::resource::assignment::Token;
use crate::resource::{Resource, instance};
use crate::store::Revision;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `on/<host>/<instance>`: this host, and no other, runs the instance. Its create_revision is part of the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// Number of the instance.
    pub id: u64,
    pub uuid: String,
    /// The resource's generation that the host is to bring about; written whenever that grows, which wakes the host.
    pub generation: u64,
}

/// The token of a claim.
pub fn token(cluster_generation: u64, create_revision: Revision) -> Token {
    Token { generation: cluster_generation, revision: create_revision.0 }
}

/// What one instance takes of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Share {
    #[serde(default)]
    pub memory_mb: u64,
    /// Thousandths of a processor.
    #[serde(default)]
    pub cpu_millis: u64,
}

impl Share {
    /// What `instance` asks for. Containers ask for no processors: they share them by weight.
    pub fn of(instance: &Resource) -> Self {
        Self { memory_mb: instance.get(instance::MEMORY_MB).unwrap_or(0), cpu_millis: 0 }
    }
}

/// `alloc/<host>`: what is promised, by instance (`1i54`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Allocation {
    pub instances: BTreeMap<String, Share>,
}
