//! `mesh/<host>`: how the other hosts reach this one's part of the managed network.
//!
//! Written by the host itself, under no lease, and only when it differs: a host that is away for a while is still where
//! it was. Its number is its own for good (`name/hostNumber/<n>`, create-if-absent).

use super::ipsec::record::Sealed;
use super::kernel::{self, Kernel};
use crate::store::{self, Entry, Operation, Store, Transaction, key};
use serde::{Deserialize, Serialize};
use stampede_netlink::Mac;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What a packet grows by on its way: Ethernet, VXLAN, UDP, IPv6 and, with encryption, ESP with its padding.
pub const OVERHEAD: u32 = 120;
/// The UDP port of the overlay; not 4789 (Docker Swarm's), 4790 (VXLAN-GPE) or 8472 (flannel's).
pub const PORT: u16 = 14789;
/// The VXLAN network identifier.
pub const VNI: u32 = 42;
/// Host numbers end here: 20 bits, which is what fits into the SPI of a security association.
const LAST_NUMBER: u32 = (1 << 20) - 1;
/// How often another number is tried when others take numbers too.
const NUMBER_ATTEMPTS: u32 = 16;

/// Why a host cannot say how it is reached.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no address of this host leads to the others: there is no route to {tried:?} and no default route")]
    NoUnderlay { tried: Vec<SocketAddr> },
    #[error("{0} is no address of this host")]
    NotOurs(IpAddr),
    #[error("look at this host's network")]
    Kernel(#[from] kernel::Error),
    #[error("cannot {action}")]
    Store { action: &'static str, source: store::Error },
    #[error("no number for this host: others were quicker each time")]
    Contended,
    #[error("all {LAST_NUMBER} host numbers are taken")]
    Exhausted,
}

/// How packets between hosts are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// Plain text: only where the operator says so.
    #[default]
    None,
    /// ESP, with keys that the hosts agree on by what is in their records.
    Ipsec,
}

impl std::fmt::Display for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Ipsec => "ipsec",
        })
    }
}

/// How this host sends, and what it takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Plain text, to and from those that take it.
    #[default]
    None,
    /// ESP with those that encrypt, plain text with those that do not: while a cluster goes from one to the other, host by host.
    Either,
    /// ESP alone.
    Ipsec,
}

impl Mode {
    /// How this host and one with that record speak with each other.
    ///
    /// # Errors
    /// Why they do not.
    pub fn meets(self, record: &Mesh) -> Result<Encryption, &'static str> {
        match (self, record.encryption) {
            (Self::None | Self::Either, Encryption::None) => Ok(Encryption::None),
            (Self::Ipsec | Self::Either, Encryption::Ipsec) => Ok(Encryption::Ipsec),
            (Self::None, Encryption::Ipsec) if record.takes_plain => Ok(Encryption::None),
            (Self::None, Encryption::Ipsec) => Err(
                "it encrypts, and this host does not: network.encryption has to be the same on all hosts, or \"either\" while it is changed",
            ),
            (Self::Ipsec, Encryption::None) => Err(
                "it does not encrypt, and this host does: network.encryption has to be the same on all hosts, or \"either\" while it is changed",
            ),
        }
    }
}

/// Where a host is for those that are elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outside {
    /// Its address to hosts of other sites, where all that comes to it there is handed on to it (1:1 address translation).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<IpAddr>,
    /// Hosts of one site reach each other at their own addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

impl Outside {
    /// Whether what goes from there to here has another address on its way.
    pub fn is_translated(&self, from: &Self) -> bool {
        self.site != from.site && self.public.is_some()
    }
}

/// `mesh/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mesh {
    /// Unique in the cluster, from 1.
    pub number: u32,
    /// Where its overlay packets go to and come from; the first is used.
    pub underlay: Vec<IpAddr>,
    #[serde(flatten)]
    pub outside: Outside,
    /// The address of its VXLAN device.
    pub mac: String,
    pub port: u16,
    pub vni: u32,
    /// The largest packet its overlay carries, bytes.
    pub mtu: u32,
    pub encryption: Encryption,
    /// It encrypts, and speaks plain text with those that do not.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub takes_plain: bool,
    /// Halves and seal, where it encrypts.
    #[serde(flatten)]
    pub sealed: Sealed,
    /// Generations (modulo 32) under which its kernel still takes in what agents before this one agreed on. Outside the seal: it
    /// says how long others keep a way that they have, and no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lingering: Option<BTreeSet<u32>>,
    /// What a newer agent wrote and this one does not know.
    #[serde(flatten)]
    pub other: serde_json::Map<String, serde_json::Value>,
}

impl Mesh {
    /// As this version writes it.
    pub fn new(number: u32, underlay: Underlay, mtu: u32, encryption: Encryption, sealed: Sealed) -> Self {
        Self {
            number,
            underlay: vec![underlay.address],
            outside: Outside::default(),
            mac: vtep_mac(number).to_string(),
            port: PORT,
            vni: VNI,
            mtu,
            encryption,
            takes_plain: false,
            sealed,
            lingering: None,
            other: serde_json::Map::new(),
        }
    }

    /// At which address of this family a host that is there itself reaches it.
    pub fn at(&self, from: &Outside, ipv4: bool) -> Option<IpAddr> {
        let public = self.outside.public.filter(|_| self.outside.is_translated(from));
        let mut all = public.map_or_else(|| self.underlay.clone(), |public| vec![public]).into_iter();
        all.find(|address| address.is_ipv4() == ipv4)
    }

    /// Whether it says what `wanted` does, in all that this version knows and that is worth a write of its own.
    pub fn says(&self, wanted: &Self) -> bool {
        let plain = |mesh: &Self| Self { lingering: None, other: serde_json::Map::new(), ..mesh.clone() };
        plain(self) == plain(wanted)
    }
}

/// The address of the VXLAN device of the host with this number.
pub fn vtep_mac(number: u32) -> Mac {
    let [_, b, c, d] = number.to_be_bytes();
    Mac([2, 0, 2, b, c, d])
}

/// This host's address towards the others, and the MTU of the link that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Underlay {
    pub address: IpAddr,
    pub mtu: u32,
}

/// Finds it: the address configured, else the one this host would send from to the first of `towards` that is another
/// host, else the one it would send from to anywhere.
pub async fn underlay(kernel: &Kernel, configured: Option<IpAddr>, towards: &[SocketAddr]) -> Result<Underlay, Error> {
    let address = match configured {
        Some(address) => address,
        None => {
            // An address set aside for documentation: nothing is there, and nothing is sent to find the way.
            let anywhere = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 1), 9));
            let others = towards.iter().filter(|other| !other.ip().is_loopback() && !other.ip().is_unspecified());
            let source = |to: &SocketAddr| kernel.source_towards(*to).filter(|source| !source.is_loopback());
            others.chain([&anywhere]).find_map(source).ok_or_else(|| Error::NoUnderlay { tried: towards.to_vec() })?
        }
    };
    let mtu = kernel.mtu_of(address).await?.ok_or(Error::NotOurs(address))?;
    Ok(Underlay { address, mtu })
}

/// This host's number: the one in its record, else the one that it took before, else one that it takes now.
pub async fn number(store: &dyn Store, host: &str) -> Result<u32, Error> {
    let failed = |action| move |source| Error::Store { action, source };
    if let Some((_, record)) = read(store, host).await? {
        return Ok(record.number);
    }
    for _ in 0..NUMBER_ATTEMPTS {
        let number = free_number(store, host).await?;
        let number_key = number_key(number);
        let value = store::encode(&number_key, &host).map_err(failed("write this host's number"))?;
        // Taken already is fine where it was this host that took it: see `free_number`.
        let name = Transaction::new().absent(&number_key).then(Operation::put(&number_key, value));
        if store.commit(name).await.map_err(failed("write this host's number"))?.succeeded {
            return Ok(number);
        }
        let holder = store.get(&number_key).await.map_err(failed("read this host's number"))?.entry;
        if holder.is_some_and(|entry| store::decode::<String>(&entry).is_ok_and(|name| name == host)) {
            return Ok(number);
        }
    }
    Err(Error::Contended)
}

async fn read(store: &dyn Store, host: &str) -> Result<Option<(Entry, Mesh)>, Error> {
    let failed = |source| Error::Store { action: "read this host's mesh record", source };
    let Some(entry) = store.get(&key::mesh(host)).await.map_err(failed)?.entry else { return Ok(None) };
    let record = store::decode(&entry).map_err(failed)?;
    Ok(Some((entry, record)))
}

/// Writes this host's record unless it is there already. What a newer agent wrote into it stays.
pub async fn write(store: &dyn Store, host: &str, wanted: &Mesh) -> Result<(), Error> {
    let failed = |source| Error::Store { action: "write this host's mesh record", source };
    let mesh_key = key::mesh(host);
    for _ in 0..NUMBER_ATTEMPTS {
        let (transaction, other) = match read(store, host).await? {
            Some((_, current)) if current.says(wanted) => return Ok(()),
            Some((entry, current)) => (Transaction::new().unchanged(&mesh_key, entry.mod_revision), current.other),
            None => (Transaction::new().absent(&mesh_key), serde_json::Map::new()),
        };
        let value = store::encode(&mesh_key, &Mesh { other, ..wanted.clone() }).map_err(failed)?;
        let outcome = store.commit(transaction.then(Operation::put(&mesh_key, value))).await.map_err(failed)?;
        if outcome.succeeded {
            let Mesh { number, underlay, mtu, encryption, .. } = wanted;
            tracing::info!(host, number, ?underlay, mtu, %encryption, "this host's mesh record written");
            return Ok(());
        }
    }
    Err(Error::Contended)
}

/// Writes the record of a host that sends in plain text unless it is there already, and gives it back.
pub async fn publish(
    store: &dyn Store,
    host: &str,
    (underlay, outside): (Underlay, Outside),
    mtu: u32,
) -> Result<Mesh, Error> {
    let number = number(store, host).await?;
    let wanted = Mesh { outside, ..Mesh::new(number, underlay, mtu, Encryption::None, Sealed::default()) };
    write(store, host, &wanted).await?;
    Ok(wanted)
}

fn number_key(number: u32) -> String {
    key::name("hostNumber", &number.to_string())
}

/// The number this host has taken already, else the lowest that nobody has.
async fn free_number(store: &dyn Store, host: &str) -> Result<u32, Error> {
    let prefix = key::name("hostNumber", "");
    let failed = |source| Error::Store { action: "list the hosts' numbers", source };
    let mut taken = std::collections::BTreeSet::new();
    for entry in store.range(&prefix).await.map_err(failed)?.entries {
        let Ok(number) = key::last(&prefix, &entry.key).parse::<u32>() else { continue };
        if store::decode::<String>(&entry).is_ok_and(|name| name == host) {
            return Ok(number);
        }
        taken.insert(number);
    }
    (1..=LAST_NUMBER).find(|number| !taken.contains(number)).ok_or(Error::Exhausted)
}
