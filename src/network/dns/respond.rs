//! What is said to whom: by who asks and what the name is, from memory where that is enough.

use super::askers::{Asker, Askers, OwnNames, Tenant};
use super::names::{Found, Names};
use super::upstream::Upstream;
use super::wire::{self, Packet, Question, Reply, Transport};
use super::zone::{self, Place, TTL};
use crate::membership::record::Alive;
use crate::network::subnet::SubnetSpec;
use crate::resource::dns_name::{DOMAIN, Named, of_address};
use crate::store::mirror::Mirror;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Everything an answer needs.
#[derive(Debug)]
pub struct Responder {
    pub subnet: SubnetSpec,
    pub askers: Askers,
    pub own_names: Option<Arc<dyn OwnNames>>,
    pub names: Names,
    /// Which hosts are there.
    pub alive: Mirror<Alive>,
    pub upstream: Upstream,
    /// Grows with each answer, so that of several the next one is first.
    pub turn: AtomicUsize,
}

/// What there is to say to a packet.
#[derive(Debug)]
pub enum Said {
    Now(Vec<u8>),
    /// Something is to be waited for.
    Later(Box<Open>),
    Nothing,
}

/// A question that waits.
#[derive(Debug)]
pub struct Open {
    question: Question,
    place: Place,
    way: Way,
}

/// Where the answer is.
#[derive(Debug)]
enum Way {
    Here(Reply),
    /// In the store, under this name of the account.
    Name {
        account: u64,
        name: String,
    },
    Elsewhere,
}

impl Responder {
    /// Whether anything is said to whoever has this address.
    pub fn hears(&self, source: IpAddr) -> bool {
        self.askers.who(source, &self.subnet) != Asker::Outsider
    }

    /// What can be said to a packet at once.
    pub fn hear(&self, packet: &[u8], source: IpAddr, transport: Transport) -> Said {
        let asker = self.askers.who(source, &self.subnet);
        if asker == Asker::Outsider {
            return Said::Nothing;
        }
        let question = match wire::read(packet, transport) {
            Packet::Question(question) => question,
            Packet::Refused(answer) => return Said::Now(answer),
            Packet::Void => return Said::Nothing,
        };
        let place = zone::place(question.name(), &self.subnet);
        let way = self.way(&asker, &question, &place);
        let reply = match &way {
            Way::Here(reply) => Some(reply.clone()),
            Way::Name { account, name } => {
                self.names.at_once(*account, name).map(|found| self.found(&question, &place, found))
            }
            Way::Elsewhere => None,
        };
        match reply {
            Some(reply) => question.answer(reply).map_or(Said::Nothing, Said::Now),
            None => Said::Later(Box::new(Open { question, place, way })),
        }
    }

    /// The answer to a question that has to wait. It takes no longer than the limits of what is asked.
    pub async fn look(&self, open: Open) -> Option<Vec<u8>> {
        let Open { question, place, way } = open;
        let reply = match way {
            Way::Here(reply) => reply,
            Way::Name { account, name } => {
                let found = self.names.find(account, &name).await;
                self.found(&question, &place, found)
            }
            Way::Elsewhere => self.upstream.ask(&question).await,
        };
        question.answer(reply)
    }

    /// Said where too many wait already.
    pub fn too_much(open: &Open) -> Option<Vec<u8>> {
        open.question.answer(Reply::of(ResponseCode::ServFail))
    }

    fn way(&self, asker: &Asker, question: &Question, place: &Place) -> Way {
        let refused = || Way::Here(Reply::of(ResponseCode::Refused));
        let tenant = match (asker, place) {
            (Asker::Host | Asker::Outsider, _) => return refused(),
            (_, Place::Elsewhere) if question.recursion_desired() => return Way::Elsewhere,
            (_, Place::Elsewhere) | (Asker::Unknown, _) => return refused(),
            (Asker::Instance(tenant), _) => tenant,
        };
        let nothing = |code| Way::Here(self.nothing(code, question, place));
        match place {
            Place::Apex if question.kind() == RecordType::SOA => Way::Here(self.start_of(question, place)),
            Place::Apex | Place::ReverseInner(true) => nothing(ResponseCode::NoError),
            Place::Inside(None) | Place::Bare(None) | Place::ReverseInner(false) => nothing(ResponseCode::NXDomain),
            Place::Inside(Some(name)) | Place::Bare(Some(name)) => match self.own(tenant, name) {
                Some(addresses) => Way::Here(self.addresses(question, place, addresses)),
                None => Way::Name { account: tenant.account, name: name.clone() },
            },
            Place::Reverse(address) => Way::Name { account: tenant.account, name: of_address(*address) },
            Place::Elsewhere => refused(),
        }
    }

    fn own(&self, tenant: &Tenant, name: &str) -> Option<Vec<Ipv4Addr>> {
        self.own_names.as_ref()?.addresses(&tenant.instance, name)
    }

    fn found(&self, question: &Question, place: &Place, found: Found) -> Reply {
        let Found::Names(named) = found else { return Reply::of(ResponseCode::ServFail) };
        if named.is_empty() {
            return self.nothing(ResponseCode::NXDomain, question, place);
        }
        match place {
            Place::Reverse(address) => self.called(question, place, *address, &named),
            _ => self.addresses(question, place, self.there(&named)),
        }
    }

    /// Addresses of those whose hosts are there; of all, where none is: that a host is gone does not say that what it runs is.
    fn there(&self, named: &[Named]) -> Vec<Ipv4Addr> {
        let alive = self.alive.view();
        let addresses = |named: &mut dyn Iterator<Item = &Named>| named.map(|one| one.address).collect::<BTreeSet<_>>();
        let mut there = addresses(&mut named.iter().filter(|one| alive.contains_key(&one.host)));
        if there.is_empty() {
            there = addresses(&mut named.iter());
        }
        there.into_iter().collect()
    }

    fn addresses(&self, question: &Question, place: &Place, mut addresses: Vec<Ipv4Addr>) -> Reply {
        if addresses.is_empty() || !matches!(question.kind(), RecordType::A | RecordType::ANY) {
            return self.nothing(ResponseCode::NoError, question, place);
        }
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(first);
        let record = |address| Record::from_rdata(question.name().clone(), TTL, RData::A(A(address)));
        ours(addresses.into_iter().map(record).collect())
    }

    /// What an address is called.
    fn called(&self, question: &Question, place: &Place, address: Ipv4Addr, named: &[Named]) -> Reply {
        let mut its = named.iter().filter(|one| one.address == address).peekable();
        if its.peek().is_none() {
            return self.nothing(ResponseCode::NXDomain, question, place);
        }
        if !matches!(question.kind(), RecordType::PTR | RecordType::ANY) {
            return self.nothing(ResponseCode::NoError, question, place);
        }
        let name = |one: &Named| Name::from_ascii(format!("{}.{DOMAIN}.", one.name)).ok();
        let record = |name| Record::from_rdata(question.name().clone(), TTL, RData::PTR(PTR(name)));
        ours(its.filter_map(name).map(record).collect())
    }

    /// That there is nothing, and how long that may be remembered.
    fn nothing(&self, code: ResponseCode, question: &Question, place: &Place) -> Reply {
        let soa = zone::soa(place, question.name(), &self.subnet);
        Reply { authoritative: true, authorities: soa.into_iter().collect(), ..Reply::of(code) }
    }

    fn start_of(&self, question: &Question, place: &Place) -> Reply {
        ours(zone::soa(place, question.name(), &self.subnet).into_iter().collect())
    }
}

fn ours(answers: Vec<Record>) -> Reply {
    Reply { authoritative: true, answers, ..Reply::of(ResponseCode::NoError) }
}
