//! How an instance comes into being, and finds a host.

use super::handlers::{Cause, hold};
use super::image::resource;
use super::orchestrator::{Orchestrator, invalid, with_todo};
use super::workload;
use super::{Draft, ServiceError, Written, lifecycle, seed};
use super::{credentials, floating, links, machine, ports};
use crate::membership::record::Capability;
use crate::placement::record::{Promise, constraints};
use crate::placement::{PlaceError, Policy, Request, Wanted, Writes};
use crate::resource::assignment::{Desired, ManagedAddress};
use crate::resource::{Resource, State, constraint, identifier, instance, link, port};
use crate::store::{self, Operation, Revision, Transaction, encode, key};
use serde_json::{Value, json};

/// Tries of one create against others who acquire addresses of the same pool.
const TRIES: usize = 8;
/// Most instances that one create makes.
const MOST_AT_ONCE: u64 = 100;

/// `wanted` on its host.
fn chosen(wanted: &Resource, host: &str, host_id: u64, address: Option<&ManagedAddress>, ports: &[u16]) -> Resource {
    let mut next = lifecycle::chosen(wanted);
    next.set(instance::HOST, host_id);
    next.set(instance::HOST_NAME, host);
    if let Some(address) = address {
        next.set(instance::ADDRESS, address.address.to_string());
        link::found_at(&mut next, address.gateway);
    }
    port::choose(&mut next, ports);
    next
}

/// What runs it.
fn kind(wanted: &Resource) -> Capability {
    let image = wanted.get::<String>(instance::IMAGE_UUID);
    match image.and_then(|uuid| workload::image(&uuid).map(|(kind, _)| kind)) {
        Some(Capability::Simulated) => Capability::Simulated,
        _ if instance::is_machine(wanted) => Capability::VirtualMachine,
        kind => kind.unwrap_or(Capability::Container),
    }
}

impl Orchestrator {
    /// Finds a host and writes row and claim in one; `revision` is that of the row as it stands, `None` for a new one.
    pub(super) async fn place(&self, wanted: &Resource, revision: Option<Revision>) -> Result<Written, ServiceError> {
        let request = self.request(wanted).await?;
        let row = key::resource(instance::BASE, wanted.id);
        let result = self
            .placer()
            .place(&request, &|choice| {
                let next = chosen(wanted, &choice.host, choice.host_id, choice.address.as_ref(), &choice.ports);
                let transaction =
                    with_todo(self.row(&row, &next, revision)?, instance::BASE, wanted, &next, self.now())?;
                Ok(Writes { compares: transaction.compares, operations: transaction.success })
            })
            .await;
        match result {
            Ok(placed) => {
                let next = chosen(wanted, &placed.host, placed.host_id, placed.address.as_ref(), &placed.ports);
                Ok(Written::one(next, placed.revision))
            }
            Err(PlaceError::Conflict { .. }) if revision.is_none() => Err(self.duplicate(&wanted.uuid)),
            Err(PlaceError::Conflict { .. }) => {
                Err(ServiceError::Conflict("it was changed meanwhile; try again".into()))
            }
            Err(PlaceError::Store(error)) => Err(error.into()),
            Err(error) => {
                let full = matches!(error, PlaceError::NoHost { .. });
                let next = lifecycle::not_placed(wanted, &error.to_string(), full);
                // It waits for the same reasons as before: nothing to write.
                if let (true, Some(revision)) = (next == *wanted, revision) {
                    return Ok(Written::one(next, revision));
                }
                tracing::info!(instance = identifier::instance(next.id), reason = %error, "no host for it yet");
                let transaction =
                    with_todo(self.row(&row, &next, revision)?, instance::BASE, wanted, &next, self.now())?;
                let outcome = self.store().commit(transaction).await?;
                match (outcome.succeeded, revision) {
                    (true, _) => Ok(Written::one(next, outcome.revision)),
                    (false, None) => Err(self.duplicate(&wanted.uuid)),
                    (false, Some(_)) => Err(ServiceError::Conflict("it was changed meanwhile; try again".into())),
                }
            }
        }
    }

    /// The row alone, new or in place of the one at `revision`.
    fn row(&self, row: &str, next: &Resource, revision: Option<Revision>) -> Result<Transaction, store::Error> {
        let transaction = match revision {
            Some(revision) => Transaction::new().unchanged(row, revision),
            None => {
                let name = key::uuid(&next.uuid);
                let owner = encode(&name, &json!(format!("{}/{}", instance::BASE, next.id)))?;
                let born = floating::born_with(next)?;
                let born = Transaction { compares: born.compares, success: born.operations, ..Transaction::new() };
                born.absent(row).absent(&name).then(Operation::put(&name, owner))
            }
        };
        Ok(transaction.then(Operation::put(row, encode(row, next)?)))
    }

    pub(super) fn duplicate(&self, uuid: &str) -> ServiceError {
        ServiceError::Conflict(format!("something with the uuid {uuid} exists; leave the uuid out, or choose another"))
    }

    pub(super) async fn request(&self, wanted: &Resource) -> Result<Request, ServiceError> {
        Ok(Request {
            id: wanted.id,
            uuid: wanted.uuid.clone(),
            generation: wanted.generation,
            wanted: Wanted {
                kind: kind(wanted),
                promise: Promise::of(wanted),
                choose: port::to_choose(wanted),
                requested_host: wanted.get(instance::REQUESTED_HOST),
                valid_hosts: wanted.get(instance::VALID_HOSTS).unwrap_or_default(),
                managed: self.is_managed(wanted).await?,
                constraints: constraints(wanted, constraint::CONSTRAINTS),
                affinity: constraints(wanted, constraint::AFFINITY),
                anti_affinity: constraints(wanted, constraint::ANTI_AFFINITY),
                spread_by: wanted.get(constraint::SPREAD_BY).unwrap_or_default(),
                policy: wanted.get::<Policy>(constraint::POLICY).unwrap_or(self.placer().policy()),
            },
        })
    }

    /// Whether it is on the managed network: where nothing else was chosen.
    pub(super) async fn is_managed(&self, wanted: &Resource) -> Result<bool, ServiceError> {
        match wanted.get::<Vec<u64>>(instance::NETWORK_IDS).unwrap_or_default()[..] {
            [] | [seed::MANAGED] => Ok(true),
            [seed::UNMANAGED] => Ok(false),
            [id] => match self.read("network", id).await {
                Ok((network, _)) => Ok(network.kind == "hostOnlyNetwork"),
                Err(ServiceError::NotFound) => {
                    Err(invalid("InvalidReference", instance::NETWORK_IDS, "there is no such network"))
                }
                Err(error) => Err(error),
            },
            _ => Err(invalid("InvalidOption", instance::NETWORK_IDS, "an instance has one network; name one")),
        }
    }

    /// The image's uuid and row, from `imageUuid` or `imageId`.
    async fn image(&self, draft: &Draft) -> Result<(String, u64), ServiceError> {
        let text = |field: &str| draft.fields.get(field).and_then(Value::as_str).map(str::to_owned);
        let uuid = match (text(instance::IMAGE_UUID), draft.fields.get(instance::IMAGE_ID).and_then(Value::as_u64)) {
            (Some(uuid), _) => uuid,
            (None, Some(id)) => self
                .images()
                .uuid(id)
                .await?
                .ok_or_else(|| invalid("InvalidReference", instance::IMAGE_ID, "there is no such image"))?,
            (None, None) => {
                return Err(invalid(
                    "MissingRequired",
                    instance::IMAGE_UUID,
                    "say which image: docker:busybox, for example",
                ));
            }
        };
        if workload::image(&uuid).is_none() {
            let message = format!("a container's image is docker:<name>, for example docker:busybox; this is {uuid:?}");
            return Err(invalid("InvalidImageInstanceKind", instance::IMAGE_UUID, message));
        }
        let id = self.images().ensure(&uuid).await?;
        Ok((uuid, id))
    }

    pub(super) async fn create_instances(&self, mut draft: Draft) -> Result<Written, ServiceError> {
        let count = draft.fields.remove("count").and_then(|count| count.as_u64()).unwrap_or(1);
        if !(1..=MOST_AT_ONCE).contains(&count) {
            let code = if count == 0 { "MinLimitExceeded" } else { "MaxLimitExceeded" };
            return Err(invalid(code, "count", format!("1 to {MOST_AT_ONCE} at once")));
        }
        credentials::take(&mut draft.fields)?;
        ports::take(&mut draft.fields)?;
        links::take(&mut draft.fields)?;
        let (image_uuid, image_id) = if draft.kind == instance::MACHINE {
            self.machine_image(&mut draft).await?
        } else {
            // A default that is only counted with, and by its default at that, is not stored.
            draft.fields.remove(instance::MEMORY_MB);
            self.image(&draft).await?
        };
        draft.fields.insert(instance::IMAGE_UUID.into(), image_uuid.into());
        draft.fields.insert(instance::IMAGE_ID.into(), image_id.into());
        if count > 1 && draft.uuid.is_some() {
            return Err(ServiceError::Conflict("several cannot share one uuid; leave it out".into()));
        }
        let results = futures::future::join_all((0..count).map(|_| self.create_instance(draft.clone()))).await;
        let mut all = Written { resources: Vec::new(), revision: Revision(0), bases: Vec::new() };
        for result in results {
            let one = result?;
            all.revision = all.revision.max(one.revision);
            all.resources.extend(one.resources);
        }
        Ok(all)
    }

    /// Tried again with another floating address where somebody was faster with the one that was chosen.
    async fn create_instance(&self, mut draft: Draft) -> Result<Written, ServiceError> {
        for _ in 0..TRIES {
            let associated = self.acquire_for(&mut draft.fields, draft.account_id).await?;
            match (self.create_one(draft.clone()).await, associated) {
                (Err(ServiceError::Conflict(_)), Some(associated)) if self.is_taken(&associated).await? => {}
                (made, _) => return made,
            }
        }
        Err(ServiceError::Conflict("others take the pool's addresses all the time; try again".into()))
    }

    async fn create_one(&self, draft: Draft) -> Result<Written, ServiceError> {
        let id = self.number(instance::BASE).await?;
        let start = draft.fields.get(instance::START_ON_CREATE).and_then(Value::as_bool).unwrap_or(true);
        let state = if start { State::Creating } else { State::Stopped };
        let mut wanted = resource(id, draft, self.environment(), state, self.now());
        let managed = self.is_managed(&wanted).await?;
        machine::check(&wanted, managed)?;
        ports::check(&wanted, managed)?;
        links::check(&wanted, managed)?;
        floating::check(&wanted, managed)?;
        self.check_links(&wanted).await?;
        self.check_credentials(&wanted).await?;
        let targets = if start { self.await_targets(&mut wanted).await? } else { Vec::new() };
        wanted.set(instance::DESIRED, json!(if start { Desired::Running } else { Desired::Stopped }));
        let wanted = self.pass(instance::BASE, None, wanted, Cause::Asked("create")).await?;
        let waits = hold::is_held(&wanted) || !targets.is_empty();
        if start && !waits {
            return self.place(&wanted, None).await;
        }
        let row = key::resource(instance::BASE, id);
        let mut transaction = self.row(&row, &wanted, None)?;
        if waits {
            transaction = with_todo(transaction, instance::BASE, &hold::without(&wanted), &wanted, self.now())?;
        }
        let outcome = self.store().commit(transaction).await?;
        if !outcome.succeeded {
            return Err(self.duplicate(&wanted.uuid));
        }
        self.follow_targets(id, targets);
        Ok(Written::one(wanted, outcome.revision))
    }
}
