//! What all hosts of a cluster agree on, at `cluster`: made by the first agent, read by the others.

use super::patience::Patience;
use super::protocol;
use crate::environment::{Environment, Timestamp};
use crate::store::{self, Answer, Entry, Operation, Store, Transaction, key};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// The record at `cluster`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cluster {
    /// A random uuid.
    pub id: String,
    /// Grows when a backup is restored; part of every claim's token.
    pub generation: u64,
    /// The managed network's addresses.
    pub subnet: Subnet,
    /// Length in bits of the prefix of a host's block (26: 64 addresses).
    pub block_size: u8,
    pub created: Timestamp,
    /// What an agent must speak at least ([`protocol`]).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub minimum_protocol: u32,
}

/// By reference, as serde hands it over.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a cluster is made with; later agents take what they find.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterSettings {
    pub subnet: Subnet,
    pub block_size: u8,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { subnet: Subnet { address: Ipv4Addr::new(10, 42, 0, 0), prefix: 16 }, block_size: 26 }
    }
}

impl ClusterSettings {
    /// # Errors
    /// Where a host's block does not fit into the subnet, or holds no address to give away.
    pub fn checked(self) -> Result<Self, SubnetError> {
        if self.block_size < self.subnet.prefix || self.block_size > 30 {
            return Err(SubnetError::Block { subnet: self.subnet, block_size: self.block_size });
        }
        Ok(self)
    }
}

/// An IPv4 network, `10.42.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    /// Its first address.
    pub address: Ipv4Addr,
    pub prefix: u8,
}

/// Why a text is no subnet.
#[derive(Debug, thiserror::Error)]
pub enum SubnetError {
    #[error("`{0}` is no network in the form 10.42.0.0/16")]
    Form(String),
    #[error("`{text}` has bits set behind its prefix; {network} would do")]
    HostBits { text: String, network: String },
    #[error("blocks of /{block_size} do not fit into {subnet}: between /{} and /30 they do", subnet.prefix)]
    Block { subnet: Subnet, block_size: u8 },
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let form = || SubnetError::Form(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(form)?;
        let address: Ipv4Addr = address.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().map_err(|_| form())?;
        if !(1..=30).contains(&prefix) {
            return Err(form());
        }
        let network = Ipv4Addr::from_bits(address.to_bits() & (u32::MAX << (32 - prefix)));
        if network != address {
            return Err(SubnetError::HostBits { text: text.to_owned(), network: format!("{network}/{prefix}") });
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The cluster as it is; made with `settings` where there is none yet. Waits while the store cannot be reached.
///
/// # Errors
/// What the store answers and no waiting helps against, and where the cluster needs a newer agent.
pub async fn ensure_cluster(
    store: &dyn Store,
    environment: &Environment,
    settings: ClusterSettings,
) -> Result<Cluster, store::Error> {
    let mut patience = Patience::new(environment, "the cluster's record");
    let cluster = loop {
        if let Some(result) = patience.settle(ensure_once(store, environment, settings).await).await {
            break result?;
        }
    };
    protocol::check(&cluster, protocol::PROTOCOL)?;
    if cluster.subnet != settings.subnet || cluster.block_size != settings.block_size {
        tracing::warn!(
            subnet = %cluster.subnet, block_size = cluster.block_size,
            "the cluster was made with another network than configured here; its own stands"
        );
    }
    Ok(cluster)
}

async fn ensure_once(
    store: &dyn Store,
    environment: &Environment,
    settings: ClusterSettings,
) -> Result<Cluster, store::Error> {
    let key = key::cluster();
    if let Some(entry) = store.get(&key).await?.entry {
        return store::decode(&entry);
    }
    let cluster = Cluster {
        id: environment.uuid().to_string(),
        generation: 1,
        subnet: settings.subnet,
        block_size: settings.block_size,
        created: environment.clock.now(),
        minimum_protocol: 0,
    };
    let transaction = Transaction::new()
        .absent(&key)
        .absent(key::importing())
        .then(Operation::put(&key, store::encode(&key, &cluster)?))
        .or_else(Operation::get(&key));
    let outcome = store.commit(transaction).await?;
    if outcome.succeeded {
        tracing::info!(cluster = cluster.id, subnet = %cluster.subnet, "a new cluster");
        return Ok(cluster);
    }
    match entries(&outcome.answers).next() {
        Some(entry) => store::decode(entry),
        None => Err(store::Error::Unavailable {
            message: "a backup is being read into it; if that broke off, run `stampede store import` again".into(),
        }),
    }
}

/// All entries that a transaction's reads brought.
fn entries(answers: &[Answer]) -> impl Iterator<Item = &Entry> {
    answers.iter().flat_map(|answer| match answer {
        Answer::Entries(entries) => entries.as_slice(),
        _ => &[],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets() {
        assert_eq!("10.42.0.0/16".parse::<Subnet>().unwrap(), ClusterSettings::default().subnet);
        for text in ["10.42.0.0", "10.42.0.0/0", "10.42.0.0/31", "10.42.0.1/16", "10.42/16", "", "a/16", "10.0.0.0/-1"]
        {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
        let subnet: Subnet = "192.168.8.0/21".parse().unwrap();
        assert!(ClusterSettings { subnet, block_size: 20 }.checked().is_err());
        assert!(ClusterSettings { subnet, block_size: 31 }.checked().is_err());
        assert!(ClusterSettings { subnet, block_size: 26 }.checked().is_ok());
    }

    #[test]
    fn as_it_is_stored() {
        let cluster = Cluster {
            id: "c".into(),
            generation: 1,
            subnet: "10.42.0.0/16".parse().unwrap(),
            block_size: 26,
            created: Timestamp(5),
            minimum_protocol: 0,
        };
        let text = r#"{"id":"c","generation":1,"subnet":"10.42.0.0/16","blockSize":26,"created":5}"#;
        assert_eq!(serde_json::to_string(&cluster).unwrap(), text);
        assert_eq!(serde_json::from_str::<Cluster>(text).unwrap(), cluster);
    }
}
