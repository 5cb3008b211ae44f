//! `mesh/<host>`: how the other hosts reach this one's part of the managed network.
//!
//! Written by the host itself, under no lease, and only when it differs: a host that is away for a while is still where
//! it was. Its number is its own for good (`name/hostNumber/<n>`, create-if-absent).

use super::kernel::{self, Kernel};
use crate::store::{self, Operation, Store, Transaction, key};
use serde::{Deserialize, Serialize};
use stampede_netlink::Mac;
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
}

/// `mesh/<host>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mesh {
    /// Unique in the cluster, from 1.
    pub number: u32,
    /// Where its overlay packets go to and come from; the first is used.
    pub underlay: Vec<IpAddr>,
    /// The address of its VXLAN device.
    pub mac: String,
    pub port: u16,
    pub vni: u32,
    /// The largest packet its overlay carries, bytes.
    pub mtu: u32,
    pub encryption: Encryption,
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

/// Writes this host's record unless it is there already, and gives it back.
pub async fn publish(store: &dyn Store, host: &str, underlay: Underlay, mtu: u32) -> Result<Mesh, Error> {
    let failed = |action| move |source| Error::Store { action, source };
    let mesh_key = key::mesh(host);
    for _ in 0..NUMBER_ATTEMPTS {
        let found = store.get(&mesh_key).await.map_err(failed("read this host's mesh record"))?.entry;
        let current: Option<Mesh> =
            found.as_ref().map(store::decode).transpose().map_err(failed("read this host's mesh record"))?;
        let number = match &current {
            Some(current) => current.number,
            None => free_number(store, host).await?,
        };
        let wanted = Mesh {
            number,
            underlay: vec![underlay.address],
            mac: vtep_mac(number).to_string(),
            port: PORT,
            vni: VNI,
            mtu,
            encryption: Encryption::None,
        };
        if current.as_ref() == Some(&wanted) {
            return Ok(wanted);
        }
        let write = failed("write this host's mesh record");
        let mut transaction = Transaction::new();
        transaction = match found {
            Some(entry) => transaction.unchanged(&mesh_key, entry.mod_revision),
            None => transaction.absent(&mesh_key),
        };
        if current.is_none() {
            let number_key = number_key(number);
            let value = store::encode(&number_key, &host).map_err(failed("write this host's number"))?;
            // Taken already is fine where it was this host that took it: see `free_number`.
            let name = Transaction::new().absent(&number_key).then(Operation::put(&number_key, value));
            if !store.commit(name).await.map_err(failed("write this host's number"))?.succeeded {
                let holder = store.get(&number_key).await.map_err(failed("read this host's number"))?.entry;
                let mine = holder.is_some_and(|entry| store::decode::<String>(&entry).is_ok_and(|name| name == host));
                if !mine {
                    continue;
                }
            }
        }
        let value = store::encode(&mesh_key, &wanted).map_err(failed("write this host's mesh record"))?;
        let outcome = store.commit(transaction.then(Operation::put(&mesh_key, value))).await.map_err(write)?;
        if outcome.succeeded {
            tracing::info!(host, number, underlay = %underlay.address, mtu, "this host's mesh record written");
            return Ok(wanted);
        }
    }
    Err(Error::Contended)
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
