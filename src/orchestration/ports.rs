//! An instance's published ports: as they are asked for, changed while it runs, and learned from its image.
//!
//! What changes a public port writes the row, the host's promises and the claim in one transaction; the claim wakes the host.
//! What is wanted of the instance itself stays what it was, so its generation does too.

use super::orchestrator::{Orchestrator, as_expected, invalid, unchanged, with_todo, woken};
use super::{ServiceError, StatusError, Written, lifecycle};
use crate::membership::record::Alive;
use crate::placement::Writes;
use crate::placement::ports::{PortError, Promised};
use crate::placement::record::Claim;
use crate::resource::assignment::Token;
use crate::resource::port::{self, Port, Protocol, Published};
use crate::resource::types;
use crate::resource::validation::Invalid;
use crate::resource::{Resource, State, identifier, instance};
use crate::store::{Compare, Entry, Operation, Revision, Transaction, decode, encode, key};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Tries of one change against others who change the same instance, or place on the same host.
const TRIES: usize = 20;

pub(super) fn refused(error: Invalid) -> ServiceError {
    invalid(error.code.name(), &error.field, error.message)
}

/// What a client asked for becomes what is stored.
pub(super) fn take(fields: &mut Map<String, Value>) -> Result<(), ServiceError> {
    let asked: Vec<Port> = port::asked(fields).map_err(refused)?;
    fields.remove(port::PORTS);
    if !asked.is_empty() {
        let ports: Vec<Published> = (0..).zip(asked).map(|(number, port)| Published::new(number, port)).collect();
        fields.insert(port::PUBLISHED.into(), json!(ports));
    }
    Ok(())
}

/// Only what is on the managed network is published.
pub(super) fn check(wanted: &Resource, managed: bool) -> Result<(), ServiceError> {
    let message = "ports are published by the managed network: leave networkIds out, or leave this out";
    if managed {
        return Ok(());
    }
    if !port::of(wanted).is_empty() {
        return Err(invalid("InvalidOption", port::PORTS, message));
    }
    if port::wants_exposed(wanted) {
        return Err(invalid("InvalidOption", instance::PUBLISH_ALL, message));
    }
    Ok(())
}

/// What is asked of a port, onto it.
fn change(port: &mut Published, changes: &Map<String, Value>) -> Result<(), ServiceError> {
    for (field, value) in changes {
        let text = value.as_str().map(str::to_owned);
        match field.as_str() {
            port::PUBLIC_PORT => {
                port.public = public(value, port.protocol)?;
                port.chosen = port.public.is_none();
            }
            "name" => port.name = text,
            "description" => port.description = text,
            "data" => port.data = value.as_object().cloned().unwrap_or_default(),
            other => {
                return Err(invalid("InvalidOption", other, "a port has this from its instance; change it there"));
            }
        }
    }
    Ok(())
}

fn public(value: &Value, protocol: Protocol) -> Result<Option<u16>, ServiceError> {
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0);
    let number = number.ok_or_else(|| {
        let message = "a public port is 1 to 65535; without one (null) the cluster chooses";
        invalid("PortInvalidPublicPort", port::PUBLIC_PORT, message)
    })?;
    port::check_public(number, protocol, port::PUBLIC_PORT).map_err(refused)?;
    Ok(Some(number))
}

/// `current` with one port changed.
fn changed(current: &Resource, number: u16, changes: &Map<String, Value>) -> Result<Resource, ServiceError> {
    let mut ports = port::of(current);
    let at = ports.iter().position(|port| port.number == number).ok_or(ServiceError::NotFound)?;
    change(&mut ports[at], changes)?;
    if let Some(wanted) = ports[at].key()
        && ports.iter().filter(|port| port.key().as_deref() == Some(&wanted)).count() > 1
    {
        let message = format!("port {wanted} is another of the same instance's; choose another");
        return Err(invalid("NotUnique", port::PUBLIC_PORT, message));
    }
    let mut next = current.clone();
    port::set(&mut next, &ports);
    Ok(next)
}

pub(super) fn is_gone(instance: &Resource) -> bool {
    matches!(instance.state, State::Removed | State::Purging | State::Purged)
}

impl Orchestrator {
    /// Changes one port.
    pub(super) async fn update_port(
        &self,
        id: u64,
        changes: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        let (instance, number) = port::parse_id(id);
        for _ in 0..TRIES {
            let (current, entry) = self.read(instance::BASE, instance).await?;
            as_expected(&entry, expected)?;
            if is_gone(&current) {
                return Err(ServiceError::ActionNotAvailable { action: "update".into(), state: current.state });
            }
            let next = changed(&current, number, changes)?;
            let Some((next, revision)) = self.write_ports(&current, next, &entry, None).await? else { continue };
            if lifecycle::waits_for_room(&next) {
                // With what it asks for now, there may be room.
                self.drive_besides(instance::BASE, instance);
            }
            let row = types::port::rows(instance::BASE, &next).into_iter().find(|row| row.id == id);
            return Ok(Written::one(row.ok_or(ServiceError::NotFound)?, revision));
        }
        Err(ServiceError::busy())
    }

    /// Publishes what an instance's image exposes, as its host found it.
    ///
    /// # Errors
    /// [`StatusError::ClaimLost`] where it is not that host's any more.
    pub async fn exposed(
        &self,
        host: &str,
        token: Token,
        id: u64,
        exposed: &BTreeSet<(u16, Protocol)>,
    ) -> Result<(), StatusError> {
        let on = key::on(host, &identifier::instance(id));
        let held = Compare::CreateRevision { key: on.clone(), revision: Revision(token.revision) };
        for _ in 0..TRIES {
            let claim = self.store().get(&on).await?.entry;
            if claim.is_none_or(|claim| claim.create_revision.0 != token.revision) {
                return Err(StatusError::ClaimLost);
            }
            let (current, entry) = self.read(instance::BASE, id).await?;
            if !port::wants_exposed(&current) {
                return Ok(());
            }
            let mut next = current.clone();
            port::expose(&mut next, exposed);
            if self.write_ports(&current, next, &entry, Some(held.clone())).await?.is_some() {
                return Ok(());
            }
        }
        Err(StatusError::Busy)
    }

    /// One transaction: the row, and where it is placed the host's promises, and its claim so that the host hears of it. Ports
    /// that are to be chosen are. `None` where somebody else wrote meanwhile.
    async fn write_ports(
        &self,
        current: &Resource,
        mut next: Resource,
        entry: &Entry,
        held: Option<Compare>,
    ) -> Result<Option<(Resource, Revision)>, ServiceError> {
        if next == *current {
            return Ok(Some((next, entry.mod_revision)));
        }
        let mut transaction = Transaction::new().when(unchanged(entry));
        transaction.compares.extend(held);
        let moves = port::promised(&next) != port::promised(current) || !port::to_choose(&next).is_empty();
        if let Some(host) = next.get::<String>(instance::HOST_NAME).filter(|_| moves) {
            let Writes { compares, operations } = self.promise(&host, &mut next).await?;
            transaction.compares.extend(compares);
            transaction.success.extend(operations);
            let on = key::on(&host, &identifier::instance(next.id));
            // A claim is made by placement alone.
            transaction = match self.store().get(&on).await?.entry {
                Some(claim) => woken(transaction, &claim, decode::<Claim>(&claim)?.generation)?,
                None => transaction.when(Compare::Exists { key: on }),
            };
        }
        transaction = transaction.then(Operation::put(&entry.key, encode(&entry.key, &next)?));
        let transaction = with_todo(transaction, instance::BASE, current, &next, self.now())?;
        let outcome = self.store().commit(transaction).await?;
        Ok(outcome.succeeded.then_some((next, outcome.revision)))
    }

    /// What makes its host promise the ports of `next`, after those that are to be chosen there were.
    async fn promise(&self, host: &str, next: &mut Resource) -> Result<Writes, ServiceError> {
        let (alloc, alive) = (key::alloc(host), key::alive(host));
        let (alloc, alive) = tokio::join!(self.store().get(&alloc), self.store().get(&alive));
        let agent = match alive?.entry {
            Some(entry) => decode::<Alive>(&entry)?.address,
            None => String::new(),
        };
        let taken = |reason: &dyn std::fmt::Display| {
            invalid("NotUnique", port::PUBLIC_PORT, format!("{host}: {reason}; choose another public port"))
        };
        let promised = Promised::read(host, alloc?.entry, agent)?;
        let mut dice = |bound| self.environment().below(bound);
        promised.choose(next, &mut dice).map_err(|refusal| taken(&refusal))?;
        promised.hold(next).map_err(|error| match error {
            PortError::Refused(refusal) => taken(&refusal),
            PortError::Store(error) => error.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ports: &[&str]) -> Resource {
        let mut fields = Map::from_iter([(port::PORTS.to_owned(), json!(ports))]);
        take(&mut fields).unwrap();
        let mut row = json!({"id": 7, "kind": "container", "uuid": "u", "created": 1, "state": "running"});
        row.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(row).unwrap()
    }

    fn code(number: u16, changes: Value) -> Option<&'static str> {
        let row = row(&["80:80", "81:80", "53:53/udp"]);
        match changed(&row, number, changes.as_object().unwrap()) {
            Err(ServiceError::Invalid { code, .. }) => Some(code),
            Err(ServiceError::NotFound) => Some("NotFound"),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    }

    #[test]
    fn a_port_is_changed_within_its_limits() {
        for public in [0, 65_536, -1] {
            assert_eq!(code(0, json!({ "publicPort": public })), Some("PortInvalidPublicPort"));
        }
        assert_eq!(code(0, json!({"publicPort": 22})), Some("PortInvalidPublicPort"));
        assert_eq!(code(0, json!({"publicPort": 81})), Some("NotUnique"));
        assert_eq!(code(0, json!({"publicPort": 53})), None);
        assert_eq!(code(3, json!({"publicPort": 53})), Some("NotFound"));
        assert_eq!(code(0, json!({"accountId": 5})), Some("InvalidOption"));
    }

    #[test]
    fn without_a_public_port_the_cluster_chooses() {
        let next =
            changed(&row(&["80:80"]), 0, json!({"publicPort": null, "name": "web"}).as_object().unwrap()).unwrap();
        let [port] = &port::of(&next)[..] else { panic!("one port") };
        assert!(port.chosen && port.public.is_none());
        assert_eq!(port.name.as_deref(), Some("web"));
    }

    #[test]
    fn only_the_managed_network_publishes() {
        assert!(check(&row(&["80:80"]), true).is_ok() && check(&row(&[]), false).is_ok());
        assert!(check(&row(&["80:80"]), false).is_err());
        let mut all = row(&[]);
        all.set(instance::PUBLISH_ALL, true);
        assert!(check(&all, false).is_err());
    }
}
