//! An instance's links: as they are asked for, led elsewhere while it runs, and as they learn their targets' ports.
//!
//! ```text
//! create, start ──► ports of the targets known? ─ yes ─► placed, with all its variables
//!                        │ no: one has not run yet
//!                        └► waits ([`PATIENCE`]) ─ the target's endpoint, or time ─► placed, with what is known
//! PUT targetInstanceId ──► row and claim, one transaction ──► its host leads the link elsewhere
//! a target's endpoint has ports that the link lacks ──► its host has them added to the row
//! ```
//! What is wanted of the instance itself stays what it was, so its generation does too.

use super::orchestrator::{Orchestrator, as_expected, invalid, unchanged, with_todo, woken};
use super::ports::{is_gone, refused};
use super::{ServiceError, StatusError, Written, lifecycle};
use crate::placement::record::Claim;
use crate::resource::assignment::Token;
use crate::resource::link::{self, Endpoint, Link};
use crate::resource::{Resource, identifier, instance, types};
use crate::store::mirror::{Changes, Mirror};
use crate::store::{Compare, Entry, Operation, Revision, Transaction, decode, encode, key};
use futures::future::select_all;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a start waits for those that it is linked to.
const PATIENCE: Duration = Duration::from_secs(15);
/// Tries of one change against others who change the same instance.
const TRIES: usize = 20;

/// What a client asked for becomes what is stored.
pub(super) fn take(fields: &mut Map<String, Value>) -> Result<(), ServiceError> {
    let links = link::asked(fields).map_err(refused)?;
    fields.remove(link::INSTANCE_LINKS);
    if !links.is_empty() {
        fields.insert(link::LINKS.into(), json!(links));
    }
    Ok(())
}

/// Only what is on the managed network has links.
pub(super) fn check(wanted: &Resource, managed: bool) -> Result<(), ServiceError> {
    if managed || link::of(wanted).is_empty() {
        return Ok(());
    }
    let message = "links are led by the managed network: leave networkIds out, or leave this out";
    Err(invalid("InvalidOption", link::INSTANCE_LINKS, message))
}

/// That `target` may be linked to by what `account` owns.
fn check_target(target: Option<&Resource>, id: u64, account: Option<u64>, field: &str) -> Result<(), ServiceError> {
    let shown = identifier::instance(id);
    match target {
        Some(target) if is_gone(target) => {
            let message = format!("{shown} is {}; link to one that is there", target.state);
            Err(invalid("InvalidReference", field, message))
        }
        Some(target) if target.account_id == account => Ok(()),
        _ => {
            let message = format!("there is no instance {shown}; give one of the same account that is there");
            Err(invalid("InvalidReference", field, message))
        }
    }
}

/// What is asked of a link, onto it.
fn change(link: &mut Link, changes: &Map<String, Value>) -> Result<(), ServiceError> {
    for (field, value) in changes {
        let text = value.as_str().map(str::to_owned);
        match field.as_str() {
            link::TARGET => link.target = value.as_u64(),
            "name" => link.name = text,
            "description" => link.description = text,
            "data" => link.data = value.as_object().cloned().unwrap_or_default(),
            other => {
                return Err(invalid("InvalidOption", other, "a link has this from its instance; change it there"));
            }
        }
    }
    Ok(())
}

/// Whether its host has to hear of it: only names may differ where this is false.
fn leads_otherwise(current: &Resource, next: &Resource) -> bool {
    let ways = |instance: &Resource| -> Vec<_> {
        link::of(instance).into_iter().map(|link| (link.number, link.target, link.ports)).collect()
    };
    ways(current) != ways(next)
}

impl Orchestrator {
    async fn target(&self, id: u64) -> Result<Option<Resource>, ServiceError> {
        match self.read(instance::BASE, id).await {
            Ok((target, _)) => Ok(Some(target)),
            Err(ServiceError::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The targets of an instance's links, by their numbers; those that are there.
    async fn targets(&self, links: &[Link]) -> Result<BTreeMap<u64, Resource>, ServiceError> {
        let mut targets = BTreeMap::new();
        for id in links.iter().filter_map(|link| link.target) {
            if !targets.contains_key(&id)
                && let Some(target) = self.target(id).await?
            {
                targets.insert(id, target);
            }
        }
        Ok(targets)
    }

    /// That each link leads to one of the same account that is there, or to nobody yet.
    pub(super) async fn check_links(&self, wanted: &Resource) -> Result<(), ServiceError> {
        let links = link::of(wanted);
        let targets = self.targets(&links).await?;
        for id in links.iter().filter_map(|link| link.target) {
            check_target(targets.get(&id), id, wanted.account_id, link::INSTANCE_LINKS)?;
        }
        Ok(())
    }

    /// Gives the links of `wanted` all that is known of their targets' ports; those whose images' are not known yet.
    pub(super) async fn learn_ports(&self, wanted: &mut Resource) -> Result<Vec<u64>, ServiceError> {
        let mut links = link::of(wanted);
        let targets = self.targets(&links).await?;
        let (mut learnt, mut unknown) = (false, Vec::new());
        for (number, id) in links.iter().map(|link| (link.number, link.target)).collect::<Vec<_>>() {
            let Some(target) = id.and_then(|id| targets.get(&id)) else { continue };
            learnt |= link::learn(&mut links, number, &link::ports_of(target));
            if !link::knows_image_ports(target) && !is_gone(target) && !unknown.contains(&target.id) {
                unknown.push(target.id);
            }
        }
        if learnt {
            link::set(wanted, &links);
        }
        Ok(unknown)
    }

    /// Has `wanted` wait for its first place, where it is linked to some that have not run yet: those.
    pub(super) async fn await_targets(&self, wanted: &mut Resource) -> Result<Vec<u64>, ServiceError> {
        let unknown = self.learn_ports(wanted).await?;
        if !unknown.is_empty() {
            let names: Vec<String> = unknown.iter().map(|id| identifier::instance(*id)).collect();
            let message = format!("waits for {} to run, whose ports are not known yet", names.join(", "));
            lifecycle::wait_for_targets(wanted, self.now().after(PATIENCE), message);
        }
        Ok(unknown)
    }

    /// Goes on with an instance that waits as soon as its targets run. What fails here is found again in `todo/`.
    pub(super) fn follow_targets(&self, id: u64, targets: Vec<u64>) {
        if targets.is_empty() {
            return;
        }
        let orchestrator = self.clone();
        tokio::spawn(async move {
            let follow = |target: &u64| -> Mirror<Endpoint> {
                let endpoint = key::endpoint(&identifier::instance(*target));
                Mirror::start(orchestrator.store().clone(), orchestrator.environment(), endpoint)
            };
            let endpoints: Vec<_> = targets.iter().map(follow).collect();
            let mut changes: Vec<Changes> = endpoints.iter().map(Mirror::changes).collect();
            let over = tokio::time::sleep(PATIENCE);
            tokio::pin!(over);
            while orchestrator.waits_for_targets(id).await {
                let changed = select_all(changes.iter_mut().map(|changes| Box::pin(changes.next())));
                let ended = tokio::select! {
                    _ = changed => false,
                    () = &mut over => true,
                };
                if let Err(error) = orchestrator.drive(instance::BASE, id).await {
                    tracing::debug!(instance = identifier::instance(id), %error, "left to the shard's owner");
                }
                if ended {
                    return;
                }
            }
        });
    }

    async fn waits_for_targets(&self, id: u64) -> bool {
        // Where the store does not answer, the next try asks it again.
        self.read(instance::BASE, id).await.map_or(true, |(row, _)| lifecycle::waits_for_targets(&row))
    }

    /// Changes one link.
    pub(super) async fn update_link(
        &self,
        id: u64,
        changes: &Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        let (instance, number) = link::parse_id(id);
        for _ in 0..TRIES {
            let (current, entry) = self.read(instance::BASE, instance).await?;
            as_expected(&entry, expected)?;
            if is_gone(&current) {
                return Err(ServiceError::ActionNotAvailable { action: "update".into(), state: current.state });
            }
            let mut links = link::of(&current);
            let link = links.iter_mut().find(|link| link.number == number).ok_or(ServiceError::NotFound)?;
            change(link, changes)?;
            if let Some(target) = link.target.filter(|_| changes.contains_key(link::TARGET)) {
                let found = self.target(target).await?;
                check_target(found.as_ref(), target, current.account_id, link::TARGET)?;
                let ports = found.map(|target| link::ports_of(&target)).unwrap_or_default();
                link::learn(&mut links, number, &ports);
            }
            let mut next = current.clone();
            link::set(&mut next, &links);
            let Some((next, revision)) = self.write_links(&current, next, &entry, None).await? else { continue };
            let row = types::instance_link::rows(instance::BASE, &next).into_iter().find(|row| row.id == id);
            return Ok(Written::one(row.ok_or(ServiceError::NotFound)?, revision));
        }
        Err(ServiceError::busy())
    }

    /// Gives an instance's links those ports of their targets that they lack, as its host found; whether there were any.
    ///
    /// # Errors
    /// [`StatusError::ClaimLost`] where it is not that host's any more.
    pub async fn learn_links(&self, host: &str, token: Token, id: u64) -> Result<bool, StatusError> {
        let on = key::on(host, &identifier::instance(id));
        let held = Compare::CreateRevision { key: on.clone(), revision: Revision(token.revision) };
        for _ in 0..TRIES {
            let claim = self.store().get(&on).await?.entry;
            if claim.is_none_or(|claim| claim.create_revision.0 != token.revision) {
                return Err(StatusError::ClaimLost);
            }
            let (current, entry) = self.read(instance::BASE, id).await?;
            let mut next = current.clone();
            self.learn_ports(&mut next).await?;
            let learnt = next != current;
            if self.write_links(&current, next, &entry, Some(held.clone())).await?.is_some() {
                return Ok(learnt);
            }
        }
        Err(StatusError::Busy)
    }

    /// One transaction: the row, and where it is placed its claim, so that its host hears of it. `None` where somebody else
    /// wrote meanwhile.
    async fn write_links(
        &self,
        current: &Resource,
        next: Resource,
        entry: &Entry,
        held: Option<Compare>,
    ) -> Result<Option<(Resource, Revision)>, ServiceError> {
        if next == *current {
            return Ok(Some((next, entry.mod_revision)));
        }
        let mut transaction = Transaction::new().when(unchanged(entry));
        transaction.compares.extend(held);
        if let Some(host) = next.get::<String>(instance::HOST_NAME).filter(|_| leads_otherwise(current, &next)) {
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
}
