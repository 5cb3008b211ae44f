//! How this host reaches the others, for people: what `GET /v1/hosts/<id>/mesh` and `stampede mesh` show.

use super::NetworkStatus;
use super::mesh::{Encryption, Mesh, Mode, Outside};
use crate::environment::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// How a host and one of the others are to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// Encrypted, and something came from it lately.
    Up,
    /// Keys are agreed on, and nothing came yet.
    #[default]
    Waiting,
    /// Nothing came for longer than it takes to be sent something.
    Silent,
    /// Plain text goes between them. Whether it is there is not asked.
    Plain,
    /// Nothing is sent to it.
    Refused,
}

/// One of the others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PeerReport {
    pub host: String,
    pub address: Option<IpAddr>,
    pub state: PeerState,
    /// Why nothing is sent to it.
    pub reason: Option<String>,
    /// What its overlay carries, bytes.
    pub mtu: u32,
    /// Since when something has come from it without too long a break.
    pub up_since: Option<Timestamp>,
    /// When something last came from it; looked at every ten seconds at least.
    pub heard: Option<Timestamp>,
    /// When what this host sends under was last changed.
    pub rotated: Option<Timestamp>,
    /// Security associations with it, of both directions.
    pub associations: u32,
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// What went through the associations with one of the others since this host's agent began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Traffic {
    pub packets_in: u64,
    pub bytes_in: u64,
    pub packets_out: u64,
    pub bytes_out: u64,
    /// Dropped: older than the replay window reaches.
    pub too_old: u64,
    /// Dropped: came again.
    pub replayed: u64,
    /// Dropped: the tag is not good.
    pub forged: u64,
}

/// A host's view of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshReport {
    pub host: String,
    /// Its address towards the others.
    pub address: Option<IpAddr>,
    /// Where hosts of other sites reach it, where that is elsewhere.
    pub public: Option<IpAddr>,
    pub site: Option<String>,
    pub encryption: Mode,
    /// What containers are told, bytes.
    pub mtu: u32,
    pub problems: Vec<String>,
    pub peers: Vec<PeerReport>,
    /// Why this host's kernel dropped packets: /proc/net/xfrm_stat, where it is not 0, by the kernel's names
    /// (Documentation/networking/xfrm_proc.rst).
    pub dropped: BTreeMap<String, u64>,
}

impl MeshReport {
    /// Of all records; `encrypted` is what the loop that encrypts knows of the hosts it has a way to.
    pub fn of(
        host: &str,
        (encryption, outside): (Mode, &Outside),
        status: &NetworkStatus,
        records: &BTreeMap<String, Mesh>,
        encrypted: &BTreeMap<String, PeerReport>,
    ) -> Self {
        let others = records.iter().filter(|(name, _)| *name != host);
        let peers = others.map(|(name, record)| PeerReport {
            host: name.clone(),
            mtu: record.mtu,
            address: record.at(outside, status.underlay.is_none_or(|own| own.is_ipv4())),
            ..encrypted.get(name).cloned().unwrap_or_else(|| without_keys(encryption, record))
        });
        Self {
            host: host.to_owned(),
            address: status.underlay,
            public: outside.public,
            site: outside.site.clone(),
            encryption,
            mtu: status.mtu,
            problems: status.problems.clone(),
            peers: peers.collect(),
            dropped: BTreeMap::new(),
        }
    }
}

fn without_keys(own: Mode, record: &Mesh) -> PeerReport {
    let (state, reason) = match own.meets(record) {
        Ok(Encryption::None) => (PeerState::Plain, None),
        Ok(Encryption::Ipsec) => (PeerState::Waiting, None),
        Err(why) => (PeerState::Refused, Some(why.to_owned())),
    };
    PeerReport { state, reason, ..PeerReport::default() }
}
