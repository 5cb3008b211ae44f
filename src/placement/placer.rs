//! One placement from request to claim, tried again where what it went by was old.

use super::filter::Refusal;
use super::fleet::{Fleet, Pick};
use super::lane::{Piece, Verdict};
use super::record::{Claim, token};
use super::room::Room;
use super::verdict::{self, Failure};
use super::{
    AddressError, AddressSource, Choice, PlaceError, Placed, Policy, Request, Reserved, ResourceWriter, Writes,
};
use crate::environment::{Backoff, Environment};
use crate::membership::{Hosts, IDLE, OnDemand};
use crate::resource::identifier;
use crate::store::{self, Compare, Error, Operation, Revision, Store, key};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

/// Tries before a placement is given up.
const TRIES: usize = 8;
/// Looks after a transaction without an answer.
const LOOKS: usize = 2;
/// How long the first look at the hosts may take.
const LISTING: Duration = Duration::from_secs(5);

/// How long what others said of hosts' labels may take to come.
const CATCHING_UP: Duration = Duration::from_millis(500);

/// Places instances. Cheap to clone; clones share what they know.
#[derive(Clone, Debug)]
pub struct Placer {
    store: Arc<dyn Store>,
    environment: Environment,
    /// The cluster's, part of every token.
    generation: u64,
    addresses: Option<Arc<dyn AddressSource>>,
    working: OnDemand<Arc<Fleet>>,
    room: Room,
    policy: Policy,
}

/// What one placement learned on its way.
#[derive(Debug, Default)]
struct Lessons {
    /// Hosts that cannot take it, and why.
    refused: BTreeMap<String, String>,
    /// A host not to try next: it was just seen to change.
    changing: Option<String>,
    /// Where a transaction got no answer, and nothing was there yet.
    unknown: Vec<Choice>,
}

/// An address that goes back unless it was used.
#[derive(Debug)]
struct Reservation {
    source: Arc<dyn AddressSource>,
    host: String,
    reserved: Reserved,
    used: bool,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.used {
            self.source.abandoned(&self.host, self.reserved.address.address);
        }
    }
}

/// A host that was picked.
#[derive(Debug)]
struct Target {
    choice: Choice,
    /// Its capacity and the revision of its liveness record as they were when it was picked.
    pick: Pick,
}

impl Placer {
    /// `generation` is the cluster's; without `addresses`, nothing that is on the managed network is placed.
    pub fn new(
        store: Arc<dyn Store>,
        environment: &Environment,
        generation: u64,
        hosts: Hosts,
        addresses: Option<Arc<dyn AddressSource>>,
    ) -> Self {
        let (own_store, own_environment) = (store.clone(), environment.clone());
        let working = OnDemand::new(IDLE, move || Fleet::start(own_store.clone(), &own_environment, &hosts));
        let room = Room::new(working.clone());
        Self {
            store,
            environment: environment.clone(),
            generation,
            addresses,
            working,
            room,
            policy: Policy::default(),
        }
    }

    /// With another policy for what says nothing of it itself.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// Whether a host other than `but` could take it as things are.
    ///
    /// # Errors
    /// [`PlaceError::NoHost`] with the reasons where none can.
    pub async fn would_fit(&self, request: &Request, but: &str) -> Result<(), PlaceError> {
        let fleet = self.fleet().await?;
        let avoid = |name: &str| (name == but).then(|| Refusal::new("left", "is where it is to leave"));
        fleet.fits(&request.wanted, &avoid).map_err(|reasons| PlaceError::NoHost { reasons })
    }

    /// Tells when there may be room for what found none.
    pub fn room(&self) -> &Room {
        &self.room
    }

    async fn fleet(&self) -> Result<Arc<Fleet>, PlaceError> {
        let fleet = self.working.get();
        if fleet.listed(LISTING).await {
            return Ok(fleet);
        }
        Err(Error::Unavailable { message: "the hosts could not be listed yet".into() }.into())
    }

    /// What it needs to place something comes into memory.
    pub fn warm(&self) {
        drop(self.working.get());
    }

    /// The cluster's generation, part of every token.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What makes `address` free again; nothing where there is no managed network.
    pub fn release(&self, address: Ipv4Addr) -> Option<Operation> {
        self.addresses.as_ref().map(|source| source.release(address))
    }

    /// Chooses a host and claims it, in one transaction with what `writer` gives.
    ///
    /// # Errors
    /// See [`PlaceError`]; after [`Error::OutcomeUnknown`] it may be placed all the same.
    pub async fn place(&self, request: &Request, writer: ResourceWriter<'_>) -> Result<Placed, PlaceError> {
        if request.wanted.heeds_labels() {
            // Who labelled a host at another node, and now asks here, means those labels.
            self.fleet().await?.caught_up(CATCHING_UP).await;
        }
        let mut lessons = Lessons::default();
        let result = self.attempts(request, writer, &mut lessons).await;
        if result.is_ok() || lessons.unknown.is_empty() {
            return result;
        }
        // Perhaps it was an earlier try of ours that was slow to arrive; if it is not there yet, it may still come.
        if let Some(placed) = self.arrived(request, &mut lessons).await? {
            return Ok(placed);
        }
        match result {
            Err(PlaceError::Conflict { keys }) => Err(PlaceError::Conflict { keys }),
            Err(error) => Err(Error::OutcomeUnknown { message: error.to_string() }.into()),
            Ok(placed) => Ok(placed),
        }
    }

    async fn attempts(
        &self,
        request: &Request,
        writer: ResourceWriter<'_>,
        lessons: &mut Lessons,
    ) -> Result<Placed, PlaceError> {
        let mut backoff = Backoff::new(&self.environment, Duration::from_millis(5), Duration::from_millis(500));
        for attempt in 0..TRIES {
            if attempt > 0 {
                backoff.wait().await;
            }
            if let Some(placed) = self.attempt(request, writer, lessons).await? {
                return Ok(placed);
            }
        }
        Err(PlaceError::Contended)
    }

    /// An earlier try that had no answer, if it is there now.
    async fn arrived(&self, request: &Request, lessons: &mut Lessons) -> Result<Option<Placed>, PlaceError> {
        while let Some(choice) = lessons.unknown.pop() {
            if let Some(revision) = self.look(request, &choice.host).await? {
                return Ok(Some(self.placed(choice, revision)));
            }
        }
        Ok(None)
    }

    /// One try; `None` where another may succeed.
    async fn attempt(
        &self,
        request: &Request,
        writer: ResourceWriter<'_>,
        lessons: &mut Lessons,
    ) -> Result<Option<Placed>, PlaceError> {
        let instance = identifier::instance(request.id);
        let Some(mut target) = self.choose(request, &instance, lessons).await? else { return Ok(None) };
        let mut reservation = match self.reserve(request, &target.choice.host, &instance).await {
            Ok(reservation) => reservation,
            Err(PlaceError::Address(AddressError::Exhausted(reason))) if self.addresses.is_some() => {
                lessons.refused.insert(target.choice.host, reason);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        target.choice.address = reservation.as_ref().map(|it| it.reserved.address.clone());
        let resource = writer(&target.choice)?;
        let piece = piece(request, &target, &instance, reservation.as_ref(), resource)?;
        match target.pick.lane.submit(piece).await {
            Verdict::Placed(revision) => {
                use_up(&mut reservation);
                Ok(Some(self.placed(target.choice, revision)))
            }
            // The lane knows better now than when it was chosen.
            Verdict::NoRoom | Verdict::Contended => Ok(None),
            Verdict::Failed(failures) => {
                learn(&target.choice.host, failures, reservation.as_ref(), lessons).map(|()| None)
            }
            Verdict::Store(Error::OutcomeUnknown { message }) => {
                // Whether or not it is there now, the transaction may still arrive: the address stays out of use.
                use_up(&mut reservation);
                match self.look(request, &target.choice.host).await {
                    Ok(Some(revision)) => Ok(Some(self.placed(target.choice, revision))),
                    Ok(None) => {
                        lessons.unknown.push(target.choice);
                        Ok(None)
                    }
                    Err(_) => Err(Error::OutcomeUnknown { message }.into()),
                }
            }
            Verdict::Store(error) => Err(error.into()),
        }
    }

    /// Picks a host, by what is known now; `None` where a host that is changing should be looked at again.
    async fn choose(
        &self,
        request: &Request,
        instance: &str,
        lessons: &mut Lessons,
    ) -> Result<Option<Target>, PlaceError> {
        let fleet = self.fleet().await?;
        let changing = lessons.changing.take();
        let avoid = |name: &str| {
            let refused = lessons.refused.get(name).map(|reason| Refusal::new("no address", reason.as_str()));
            let changes = || Refusal::new("changing", "comes or goes just now");
            refused.or_else(|| (changing.as_deref() == Some(name)).then(changes))
        };
        match fleet.choose(instance, &request.wanted, &avoid) {
            Ok(pick) => {
                let host = &pick.candidate.view.host;
                let choice =
                    Choice { host: host.name.clone(), host_id: host.id, address: None, ports: pick.ports.clone() };
                Ok(Some(Target { choice, pick }))
            }
            Err(_) if changing.is_some() => Ok(None),
            Err(reasons) => Err(PlaceError::NoHost { reasons }),
        }
    }

    async fn reserve(&self, request: &Request, host: &str, instance: &str) -> Result<Option<Reservation>, PlaceError> {
        if !request.wanted.managed {
            return Ok(None);
        }
        let Some(source) = &self.addresses else {
            let reason = "this agent has no managed network".to_owned();
            return Err(PlaceError::Address(AddressError::Exhausted(reason)));
        };
        let reserved = match source.reserve(host, instance).await {
            Ok(reserved) => reserved,
            Err(AddressError::Store(error)) => return Err(error.into()),
            Err(error) => return Err(PlaceError::Address(error)),
        };
        Ok(Some(Reservation { source: source.clone(), host: host.to_owned(), reserved, used: false }))
    }

    fn placed(&self, choice: Choice, revision: Revision) -> Placed {
        let Choice { host, host_id, address, ports } = choice;
        Placed { host, host_id, address, ports, token: token(self.generation, revision), revision }
    }

    /// The create_revision of this instance's claim on `host`, if there is one.
    async fn look(&self, request: &Request, host: &str) -> Result<Option<Revision>, Error> {
        let key = key::on(host, &identifier::instance(request.id));
        let mut backoff = Backoff::new(&self.environment, Duration::from_millis(100), Duration::from_secs(2));
        for _ in 1..LOOKS {
            if let Ok(found) = self.store.get(&key).await {
                return claimed(found.entry, request);
            }
            backoff.wait().await;
        }
        claimed(self.store.get(&key).await?.entry, request)
    }
}

fn claimed(entry: Option<store::Entry>, request: &Request) -> Result<Option<Revision>, Error> {
    let Some(entry) = entry else { return Ok(None) };
    let claim: Claim = store::decode(&entry)?;
    Ok((claim.uuid == request.uuid).then_some(entry.create_revision))
}

/// What follows from compares that did not hold; an error where trying again does not help.
fn learn(
    host: &str,
    failures: Vec<Failure>,
    reservation: Option<&Reservation>,
    lessons: &mut Lessons,
) -> Result<(), PlaceError> {
    let (alive, record) = (key::alive(host), key::host(host));
    let mut keys = Vec::new();
    for Failure { compare, .. } in failures {
        if [alive.as_str(), record.as_str()].contains(&verdict::key(&compare)) {
            lessons.changing = Some(host.to_owned());
        } else if let Some(reservation) = reservation
            && reservation.reserved.compares.contains(&compare)
        {
            reservation.source.conflicted(host);
        } else {
            keys.push(verdict::key(&compare).to_owned());
        }
    }
    if keys.is_empty() { Ok(()) } else { Err(PlaceError::Conflict { keys }) }
}

fn use_up(reservation: &mut Option<Reservation>) {
    if let Some(reservation) = reservation {
        reservation.used = true;
    }
}

/// All of the transaction but `alloc/<host>`.
fn piece(
    request: &Request,
    target: &Target,
    instance: &str,
    reservation: Option<&Reservation>,
    resource: Writes,
) -> Result<Piece, Error> {
    let host = &target.pick.candidate.view.host;
    let on = key::on(&host.name, instance);
    let claim =
        Claim { id: request.id, uuid: request.uuid.clone(), generation: request.generation, ..Claim::default() };
    let mut operations = vec![Operation::put(&on, store::encode(&on, &claim)?)];
    let alive = key::alive(&host.name);
    let mut compares = vec![
        Compare::Absent { key: on },
        Compare::ModRevision { key: key::host(&host.name), revision: target.pick.candidate.view.revision },
        match target.pick.candidate.view.alive_created {
            Some(revision) => Compare::CreateRevision { key: alive, revision },
            None => Compare::Exists { key: alive },
        },
    ];
    compares.extend(resource.compares);
    operations.extend(resource.operations);
    if let Some(Reservation { reserved, .. }) = reservation {
        compares.extend(reserved.compares.iter().cloned());
        operations.extend(reserved.operations.iter().cloned());
    }
    let (promise, affinity) = (target.pick.promise.clone(), request.wanted.neighbours());
    let capacity = target.pick.candidate.capacity();
    Ok(Piece { instance: instance.to_owned(), promise, capacity, affinity, compares, operations })
}
