//! One placement from request to claim, tried again where what it went by was old.

use super::filter::{self, Candidate};
use super::lane::{Lane, Piece, UnderWay, Verdict};
use super::record::{Allocation, Claim, token};
use super::verdict::{self, Failure};
use super::{
    AddressError, AddressSource, Choice, PlaceError, Placed, Request, Reserved, ResourceWriter, Writes, score,
};
use crate::environment::{Backoff, Environment};
use crate::membership::{Hosts, IDLE, OnDemand};
use crate::resource::identifier;
use crate::store::mirror::Mirror;
use crate::store::{self, Compare, Error, Operation, Revision, Store, key};
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Tries before a placement is given up.
const TRIES: usize = 8;
/// Looks after a transaction without an answer.
const LOOKS: usize = 2;
/// How long the first look at the hosts may take.
const LISTING: Duration = Duration::from_secs(5);

/// Places instances. Cheap to clone; clones share what they know.
#[derive(Clone, Debug)]
pub struct Placer {
    store: Arc<dyn Store>,
    environment: Environment,
    /// The cluster's, part of every token.
    generation: u64,
    hosts: Hosts,
    addresses: Option<Arc<dyn AddressSource>>,
    working: OnDemand<Arc<Working>>,
}

/// What is in memory while something is placed.
#[derive(Debug)]
struct Working {
    allocations: Mirror<Allocation>,
    lanes: Mutex<HashMap<String, Arc<Lane>>>,
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
    candidate: Candidate,
    lane: Arc<Lane>,
    _under_way: UnderWay,
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
        let working = OnDemand::new(IDLE, move || {
            Arc::new(Working {
                allocations: Mirror::start(own_store.clone(), &own_environment, key::allocs()),
                lanes: Mutex::default(),
            })
        });
        Self { store, environment: environment.clone(), generation, hosts, addresses, working }
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
        let working = self.working.get();
        let Some(mut target) = self.choose(&working, request, &instance, lessons).await? else { return Ok(None) };
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
        match target.lane.submit(piece).await {
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
        working: &Working,
        request: &Request,
        instance: &str,
        lessons: &mut Lessons,
    ) -> Result<Option<Target>, PlaceError> {
        let unlisted = || Error::Unavailable { message: "the hosts could not be listed yet".into() };
        let hosts = self.hosts.list(LISTING).await.ok_or_else(unlisted)?;
        if !working.allocations.listed(LISTING).await {
            return Err(unlisted().into());
        }
        // No await from here on: what is chosen counts as promised for the next one that chooses.
        let changing = lessons.changing.take();
        let candidates: Vec<Candidate> = hosts
            .into_iter()
            .map(|view| {
                let name = &view.host.name;
                let changes = changing.as_ref().filter(|it| *it == name).map(|_| "comes or goes just now".to_owned());
                let avoid = lessons.refused.get(name).cloned().or(changes);
                Candidate { promised: self.lane(working, name).promised(), avoid, view }
            })
            .collect();
        let (able, reasons) = filter::filter(&candidates, &request.wanted);
        let Some(candidate) = score::pick(&self.environment, &able) else {
            return if changing.is_some() { Ok(None) } else { Err(PlaceError::NoHost { reasons }) };
        };
        let lane = self.lane(working, &candidate.view.host.name);
        let choice = Choice { host: candidate.view.host.name.clone(), host_id: candidate.view.host.id, address: None };
        let under_way = lane.choose(instance, request.wanted.share);
        Ok(Some(Target { choice, candidate: candidate.clone(), lane, _under_way: under_way }))
    }

    fn lane(&self, working: &Working, host: &str) -> Arc<Lane> {
        let mut lanes = working.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(host) {
            return lane.clone();
        }
        let lane = Lane::new(self.store.clone(), &self.environment, working.allocations.clone(), host);
        lanes.insert(host.to_owned(), lane.clone());
        lane
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
        let Choice { host, host_id, address } = choice;
        Placed { host, host_id, address, token: token(self.generation, revision), revision }
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
    let alive = key::alive(host);
    let mut keys = Vec::new();
    for Failure { compare, .. } in failures {
        if verdict::key(&compare) == alive {
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
    let host = &target.candidate.view.host;
    let on = key::on(&host.name, instance);
    let claim = Claim { id: request.id, uuid: request.uuid.clone(), generation: request.generation };
    let mut operations = vec![Operation::put(&on, store::encode(&on, &claim)?)];
    let alive = key::alive(&host.name);
    let mut compares = vec![
        Compare::Absent { key: on },
        match target.candidate.view.alive_created {
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
    let (share, capacity) = (request.wanted.share, host.capacity);
    Ok(Piece { instance: instance.to_owned(), share, capacity, compares, operations })
}
