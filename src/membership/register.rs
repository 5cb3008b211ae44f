//! The record `host/<name>`: made when a host joins, written again when what the host says of itself changed.
//!
//! Joining is one transaction: the record, its id from `counter/host`, `name/machine/<machine id>` and `uuid/<uuid>`, each of
//! which must not be there yet. What is there already is either this very host, which carries on with it, or another one,
//! and then this host is refused in words that say what to do.

use super::patience::Passing;
use super::protocol::PROTOCOL;
use super::record::{Capability, Capacity, Host, Overcommit, SecretNames};
use super::{counter, identity};
use crate::environment::{Backoff, Environment};
use crate::store::{self, Compare, Entry, Operation, Store, Transaction, key};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What a host says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDescription {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub capabilities: BTreeSet<Capability>,
    pub capacity: Capacity,
    pub overcommit: Overcommit,
    pub versions: BTreeMap<String, String>,
    /// What of it is not as it should be.
    pub warnings: Vec<String>,
    /// Where other agents reach this one: `198.18.0.1:9080`.
    pub address: String,
    /// Its cluster secrets.
    pub secrets: Option<SecretNames>,
}

/// Why a host may not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(
        "`{0}` cannot be a host's name: one to 63 small letters, digits and hyphens, not at an end; \
         give it another with --name"
    )]
    Name(String),
    #[error("the machine id `{0}` is none: remove /etc/machine-id and run systemd-machine-id-setup")]
    MachineId(String),
    #[error(
        "the name `{name}` belongs to another host (machine-id {machine_id}); give this one a name of its own with \
         --name, or remove the old one"
    )]
    NameTaken { name: String, machine_id: String },
    #[error(
        "the name `{name}` belongs to a host with this very machine id ({machine_id}) but another identity: either this \
         machine lost its state directory, then remove the old host; or both come from one disk image, then remove \
         /etc/machine-id, run systemd-machine-id-setup and give this one a name of its own with --name"
    )]
    IdentityLost { name: String, machine_id: String },
    #[error(
        "host `{holder}` has this machine's id ({machine_id}): both come from one disk image; remove /etc/machine-id and run \
         systemd-machine-id-setup on this one"
    )]
    MachineIdTaken { holder: String, machine_id: String },
    #[error(
        "this machine is known as host `{holder}`: start it under that name with --name {holder}; if it is a copy of \
         that machine, remove /etc/machine-id and its state directory's file `identity`, and run systemd-machine-id-setup"
    )]
    Renamed { holder: String },
    #[error(
        "{store} belongs to host `{holder}` and serves one host only: start under that name with --name {holder}, use \
         another file, or an etcd for several hosts"
    )]
    SingleHost { store: String, holder: String },
    #[error(
        "host `{name}` is alive at {address} in another boot of this same identity, for {} s now: if this machine is a \
         copy of that one, remove /etc/machine-id and its state directory's file `identity`, run \
         systemd-machine-id-setup and give it a name of its own with --name", waited.as_secs()
    )]
    StillAlive { name: String, address: String, waited: Duration },
    #[error(transparent)]
    Files(#[from] identity::Error),
    #[error("cannot start the thread that keeps the lease alive")]
    Thread(#[source] std::io::Error),
    #[error("the keeping of the lease ended before it began")]
    Ended,
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Passing for JoinError {
    fn passes(&self) -> bool {
        matches!(self, Self::Store(error) if error.passes())
    }
}

/// Whether `name` can be part of a key and of a DNS name.
pub fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Whether `id` has the form of a machine id.
pub fn is_machine_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && id.bytes().any(|byte| byte != b'0')
}

/// What is in the store that tells whether and how a host may join.
#[derive(Debug)]
struct Found {
    host: Option<Entry>,
    /// Whose the machine id is.
    machine: Option<Entry>,
    counter: Option<Entry>,
    /// A host of another name, where the store serves one only.
    other: Option<String>,
}

/// What follows from it.
#[derive(Debug)]
enum Plan {
    Keep,
    Write { host: Box<Host>, transaction: Transaction },
}

/// Makes `host/<name>` what this host says of itself; run again, it changes nothing.
///
/// # Errors
/// Where another host has the name or the machine id, and what the store answers.
pub async fn register(
    store: &dyn Store,
    environment: &Environment,
    identity: &str,
    description: &HostDescription,
) -> Result<Host, JoinError> {
    let mut backoff = Backoff::new(environment, Duration::from_millis(20), Duration::from_secs(1));
    loop {
        let found = fetch(store, environment, description).await?;
        let known = found.host.as_ref().map(store::decode::<Host>).transpose()?;
        match plan(&found, known.as_ref(), environment, identity, description, &store.describe())? {
            Plan::Keep => {
                if let Some(host) = known {
                    return Ok(host);
                }
            }
            Plan::Write { host, transaction } => {
                if store.commit(transaction).await?.succeeded {
                    tracing::info!(
                        host = host.name,
                        id = host.id,
                        new = known.is_none(),
                        "the host's record is written"
                    );
                    return Ok(*host);
                }
                // Somebody else wrote one of them; who wins does not wait, so this ends.
                backoff.wait().await;
            }
        }
    }
}

fn is_simulated(capabilities: &BTreeSet<Capability>) -> bool {
    capabilities.contains(&Capability::Simulated)
}

async fn fetch(
    store: &dyn Store,
    environment: &Environment,
    description: &HostDescription,
) -> Result<Found, store::Error> {
    let (name, simulated) = (description.name.as_str(), is_simulated(&description.capabilities));
    // A store in a file is for one machine, with whatever that one simulates beside itself.
    let other = if store.single_host() && !simulated {
        let hosts = store.range(&key::hosts()).await?;
        hosts
            .entries
            .iter()
            .filter(|entry| !store::decode::<Host>(entry).is_ok_and(|host| is_simulated(&host.capabilities)))
            .map(|entry| key::last(&key::hosts(), &entry.key))
            .find(|host| *host != name)
            .map(str::to_owned)
    } else {
        None
    };
    Ok(Found {
        host: store.get(&key::host(name)).await?.entry,
        machine: store.get(&machine_key(environment)).await?.entry,
        counter: store.get(&key::counter("host")).await?.entry,
        other,
    })
}

fn machine_key(environment: &Environment) -> String {
    key::name("machine", &environment.identity.machine_id)
}

fn plan(
    found: &Found,
    known: Option<&Host>,
    environment: &Environment,
    identity: &str,
    description: &HostDescription,
    store: &str,
) -> Result<Plan, JoinError> {
    let (name, machine_id) = (&description.name, &environment.identity.machine_id);
    if let Some(holder) = &found.other {
        return Err(JoinError::SingleHost { store: store.to_owned(), holder: holder.clone() });
    }
    if let Some(host) = known
        && host.identity != identity
    {
        let (name, machine_id) = (name.clone(), host.machine_id.clone());
        return Err(if host.machine_id == environment.identity.machine_id {
            JoinError::IdentityLost { name, machine_id }
        } else {
            JoinError::NameTaken { name, machine_id }
        });
    }
    let machine_key = machine_key(environment);
    let machine = match &found.machine {
        None => Compare::Absent { key: machine_key.clone() },
        Some(entry) => {
            let machine: Machine = store::decode(entry)?;
            if machine.host != *name {
                let holder = machine.host;
                return Err(if machine.identity == identity {
                    JoinError::Renamed { holder }
                } else {
                    JoinError::MachineIdTaken { holder, machine_id: machine_id.clone() }
                });
            }
            Compare::ModRevision { key: machine_key.clone(), revision: entry.mod_revision }
        }
    };
    let host_key = key::host(name);
    let mut transaction = Transaction::new();
    let host = match (known, &found.host) {
        (Some(known), Some(entry)) => {
            let host = describe(known, machine_id, description);
            if host == *known && found.machine.is_some() {
                return Ok(Plan::Keep);
            }
            transaction = transaction.unchanged(&host_key, entry.mod_revision);
            if known.machine_id != *machine_id {
                // It got a machine id of its own meanwhile; the old one is free again.
                transaction = transaction.then(Operation::delete(key::name("machine", &known.machine_id)));
            }
            host
        }
        _ => {
            let step = counter::step("host", found.counter.as_ref(), 1)?;
            let host = Host {
                id: step.numbers.start,
                uuid: environment.uuid().to_string(),
                name: name.clone(),
                identity: identity.to_owned(),
                machine_id: machine_id.clone(),
                created: environment.clock.now(),
                labels: description.labels.clone(),
                capabilities: description.capabilities.clone(),
                capacity: description.capacity,
                overcommit: description.overcommit,
                versions: description.versions.clone(),
                warnings: description.warnings.clone(),
                protocol: PROTOCOL,
                ..Host::default()
            };
            let uuid_key = key::uuid(&host.uuid);
            let uuid_value = store::encode(&uuid_key, &format!("host/{}", host.id))?;
            transaction = transaction
                .absent(&host_key)
                .absent(&uuid_key)
                .when(step.compare)
                .then(step.operation)
                .then(Operation::put(&uuid_key, uuid_value));
            host
        }
    };
    let value = store::encode(&host_key, &host)?;
    let machine_value = store::encode(&machine_key, &Machine { host: name.clone(), identity: identity.to_owned() })?;
    transaction = transaction
        .when(machine)
        .then(Operation::put(&host_key, value))
        .then(Operation::put(&machine_key, machine_value));
    Ok(Plan::Write { host: Box::new(host), transaction })
}

/// `name/machine/<machine id>`: whose it is.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Machine {
    host: String,
    identity: String,
}

/// `known` with what `description` says.
fn describe(known: &Host, machine_id: &str, description: &HostDescription) -> Host {
    Host {
        machine_id: machine_id.to_owned(),
        labels: description.labels.clone(),
        capabilities: description.capabilities.clone(),
        capacity: description.capacity,
        overcommit: description.overcommit,
        versions: description.versions.clone(),
        warnings: description.warnings.clone(),
        secrets: description.secrets.clone(),
        protocol: PROTOCOL,
        ..known.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for name in ["h", "h1", "1", "node-a", &"a".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-a", "a-", "a.b", "a/b", "A", "ä", "a b", &"a".repeat(64)] {
            assert!(!is_name(name), "{name}");
        }
        assert!(is_machine_id("0123456789abcdef0123456789abcdef"));
        assert!(!is_machine_id("uninitialized"));
        assert!(!is_machine_id(&"0".repeat(32)));
    }
}
