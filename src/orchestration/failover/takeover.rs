//! One lost host, from the first sight until it is back, or is no host any more.

use super::Settings;
use super::decide::{Fate, decide};
use crate::environment::{Backoff, Timestamp};
use crate::membership::fence::{self, Wait};
use crate::membership::lost::{Lost, Word, too_many};
use crate::membership::peers::Answer;
use crate::membership::record::Host;
use crate::orchestration::handlers::hold;
use crate::orchestration::{ServiceError, status::Gone};
use crate::placement::ReleaseError;
use crate::placement::record::{Claim, token};
use crate::resource::assignment::Token;
use crate::resource::{Resource, identifier, instance};
use crate::store::mirror::Mirror;
use crate::store::{self, Entry, Operation, Outcome, Revision, Transaction, decode, encode, key};
use futures::StreamExt;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Instances given up side by side: they all write the sums of the one host.
const SIDE_BY_SIDE: usize = 8;
/// With nothing to do, it is looked again after this all the same.
const IDLE: Duration = Duration::from_secs(60);
/// After one that could not be moved.
const SOON: Duration = Duration::from_secs(1);
/// How much later than the first the second in line acts; the first may be blind for a while, if what it lost was its way to
/// etcd too. Both at once do no harm but to each other's speed.
const SECOND_WAITS: Duration = Duration::from_millis(400);
/// How long the agent of the lost host may take to answer.
const ASKING: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the store")]
    Store(#[from] store::Error),
    #[error("the host")]
    Service(#[from] ServiceError),
}

/// That the host was gone, and since when on our own clock.
#[derive(Clone, Copy, Debug)]
struct Sight {
    /// The create_revision of `lost/<host>`.
    lost: Revision,
    at: Duration,
    wait: Duration,
}

/// What a round came to.
enum Round {
    /// It is back, or no host any more.
    Over,
    /// Look again after this.
    Again(Duration),
}

pub(super) struct Takeover {
    settings: Arc<Settings>,
    host: Arc<Host>,
    lost: Mirror<Lost>,
    address: Option<String>,
    /// What its agent said to have ended.
    ended: HashSet<Token>,
}

impl Takeover {
    pub fn new(settings: Arc<Settings>, host: Arc<Host>, lost: Mirror<Lost>, address: Option<String>) -> Self {
        Self { settings, host, lost, address, ended: HashSet::new() }
    }

    pub async fn run(mut self, rank: u32) {
        let mut backoff = Backoff::new(&self.settings.environment, Duration::from_millis(100), Duration::from_secs(5));
        loop {
            match self.attempt(SECOND_WAITS * rank).await {
                Ok(()) => return,
                Err(error) => {
                    let host = &self.host.name;
                    tracing::warn!(host, error = &error as &dyn std::error::Error, "looking after a lost host: again");
                    backoff.wait().await;
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.settings.environment.clock.boottime()
    }

    /// `later`: how much longer than it must this one waits. What it saw it writes down at once, so that all know how many
    /// are gone.
    async fn attempt(&mut self, later: Duration) -> Result<(), Error> {
        let Some((sight, lost)) = self.see().await? else { return Ok(()) };
        tracing::warn!(host = self.host.name, wait = ?sight.wait, "a host is gone");
        // What placing needs is in memory when the wait is over.
        self.settings.orchestrator.placer().warm();
        self.address = self.address.take().or(lost.address);
        let mut over_at = sight.at + sight.wait + later;
        let mut changes = self.lost.changes();
        let mut again = Duration::ZERO;
        let mut ask = Some(Duration::ZERO);
        loop {
            let left = over_at.saturating_sub(self.now());
            let ended = self.ended.len();
            tokio::select! {
                answer = self.ask(ask), if ask.is_some() && !left.is_zero() => {
                    ask = None;
                    match answer {
                        Answer::HoldsLease => {
                            tracing::info!(host = self.host.name, "says that it holds its lease");
                            over_at = self.now() + sight.wait + later;
                            ask = Some(sight.wait / 2);
                            continue;
                        }
                        Answer::Fenced { tokens } => self.ended.extend(tokens),
                        Answer::Silent => {}
                    }
                    if self.ended.len() == ended {
                        continue;
                    }
                }
                () = tokio::time::sleep(if left.is_zero() { again } else { left }) => {}
                // The operator's word, or other hosts that come and go.
                _ = changes.next(), if left.is_zero() => {}
            }
            match self.round(sight, over_at <= self.now()).await? {
                Round::Over => return Ok(()),
                Round::Again(after) => again = after,
            }
        }
    }

    /// Puts `lost/`, or finds it; `None` where the host lives.
    async fn see(&self) -> Result<Option<(Sight, Lost)>, Error> {
        let name = &self.host.name;
        let (alive, lost, fence) = (key::alive(name), key::lost(name), key::fence(name));
        let record = Lost::new(self.settings.environment.clock.now(), self.address.clone());
        let transaction = Transaction::new()
            .absent(&alive)
            .absent(&lost)
            .then(Operation::put(&lost, encode(&lost, &record)?))
            .then(Operation::get(&fence))
            .or_else(Operation::get(&fence))
            .or_else(Operation::get(&alive))
            .or_else(Operation::get(&lost));
        let outcome = self.settings.store.commit(transaction).await?;
        // After the answer: by then it was gone for certain.
        let at = self.now();
        let found = |entry: &str| entries(&outcome).find(|found| found.key == entry);
        let wait = match found(&fence) {
            Some(entry) => Duration::from_millis(decode::<Wait>(entry)?.wait_millis),
            None => fence::wait(self.settings.ttl),
        };
        if outcome.succeeded {
            return Ok(Some((Sight { lost: outcome.revision, at, wait }, record)));
        }
        match (found(&alive), found(&lost)) {
            (None, Some(entry)) => Ok(Some((Sight { lost: entry.create_revision, at, wait }, decode(entry)?))),
            _ => Ok(None),
        }
    }

    async fn ask(&self, after: Option<Duration>) -> Answer {
        let Some(address) = &self.address else { return Answer::Silent };
        tokio::time::sleep(after.unwrap_or_default()).await;
        let asked = self.settings.peers.ask(&self.host, address);
        tokio::time::timeout(ASKING, asked).await.unwrap_or(Answer::Silent)
    }

    /// Does for each of its instances what there is to do.
    async fn round(&self, sight: Sight, waited: bool) -> Result<Round, Error> {
        let (name, now) = (&self.host.name, self.settings.environment.clock.now());
        let Some(entry) = self.settings.store.get(&key::lost(name)).await?.entry else { return Ok(Round::Over) };
        if entry.create_revision != sight.lost {
            return Ok(Round::Over);
        }
        let lost: Lost = decode(&entry)?;
        let many = self.too_many();
        let gone = Gone { host: name.clone(), lost: sight.lost };
        let prefix = key::all_on(name);
        let claims = self.settings.store.range(&prefix).await?.entries;
        let count = claims.len();
        let one = |claim: Entry| self.one(claim, &gone, &lost, waited, many.is_some(), now);
        let did: Vec<Did> = futures::stream::iter(claims).map(one).buffer_unordered(SIDE_BY_SIDE).collect().await;
        let paused = did.iter().filter(|did| matches!(did, Did::Paused)).count();
        self.say(&entry, &lost, message(paused, many, name)).await?;
        let off = did.iter().filter(|did| matches!(did, Did::Off)).count();
        if off > 0 {
            tracing::info!(host = name, moved = off, of = count, "took over from a lost host");
        }
        if lost.word == Some(Word::Remove) && off == count && waited {
            self.settings.orchestrator.remove_host(self.host.id).await?;
            return Ok(Round::Over);
        }
        let next = did.iter().filter_map(|did| match did {
            Did::Again => Some(SOON),
            Did::Later(time) => Some(Duration::from_millis((time.0 - now.0).unsigned_abs())),
            Did::Stay | Did::Paused | Did::Off => None,
        });
        Ok(Round::Again(next.min().unwrap_or(IDLE).min(IDLE)))
    }

    fn too_many(&self) -> Option<usize> {
        let since = self.lost.view().values().map(|item| item.value.since).collect();
        let alive = self.settings.hosts.alive().view().len();
        too_many(since, alive)
    }

    async fn one(&self, claim: Entry, gone: &Gone, lost: &Lost, waited: bool, paused: bool, now: Timestamp) -> Did {
        match self.try_one(&claim, gone, lost, waited, paused, now).await {
            Ok(did) => did,
            Err(error) => {
                tracing::debug!(claim = claim.key, error = &error as &dyn std::error::Error, "tried again soon");
                Did::Again
            }
        }
    }

    async fn try_one(
        &self,
        claim: &Entry,
        gone: &Gone,
        lost: &Lost,
        waited: bool,
        paused: bool,
        now: Timestamp,
    ) -> Result<Did, Error> {
        let orchestrator = &self.settings.orchestrator;
        let Claim { id, .. } = decode(claim)?;
        let Some(entry) = self.settings.store.get(&key::resource(instance::BASE, id)).await?.entry else {
            return Ok(Did::Stay);
        };
        let row: Resource = decode(&entry)?;
        if row.get::<String>(instance::HOST_NAME).as_ref() != Some(&gone.host) {
            // Somebody else has just moved it, and its claim is gone from the next list.
            return Ok(Did::Stay);
        }
        let token = token(orchestrator.placer().generation(), claim.create_revision);
        let ended = waited || self.ended.contains(&token);
        // What was held back for an external handler was asked for all the same.
        let asked = hold::let_go(&row, now)?;
        let next = match decide(&asked, &gone.host, lost, ended, paused, now) {
            Fate::Stay => return Ok(Did::Stay),
            Fate::Paused => return Ok(Did::Paused),
            Fate::Later(time) => return Ok(Did::Later(time)),
            Fate::Off(next) => *next,
        };
        match orchestrator.taken_off(gone, token, &row, entry.mod_revision, next).await {
            Ok(()) => {}
            Err(ReleaseError::Store(error)) => return Err(error.into()),
            // It came back, or somebody asked something of it: looked at anew.
            Err(error) => {
                tracing::debug!(instance = identifier::instance(id), %error, "not taken off");
                return Ok(Did::Again);
            }
        }
        tracing::info!(instance = identifier::instance(id), from = gone.host, "taken off a lost host");
        // What fails here waits in todo/, as everything that is to be placed does.
        if let Err(error) = orchestrator.drive(instance::BASE, id).await {
            tracing::warn!(instance = identifier::instance(id), %error, "not placed yet");
        }
        Ok(Did::Off)
    }

    /// Shows why nothing moves, where that is so.
    async fn say(&self, entry: &Entry, lost: &Lost, message: Option<String>) -> Result<(), Error> {
        if lost.message == message {
            return Ok(());
        }
        match &message {
            Some(message) => tracing::error!(host = self.host.name, message, "nothing is moved"),
            None => tracing::info!(host = self.host.name, "moving goes on"),
        }
        let next = Lost { message, ..lost.clone() };
        let put = Operation::put(&entry.key, encode(&entry.key, &next)?);
        // Somebody else's word in between is seen at the next look.
        self.settings.store.commit(Transaction::new().unchanged(&entry.key, entry.mod_revision).then(put)).await?;
        Ok(())
    }
}

/// What was done for one instance.
enum Did {
    Stay,
    Paused,
    Later(Timestamp),
    Again,
    Off,
}

fn message(paused: usize, many: Option<usize>, host: &str) -> Option<String> {
    let many = many.filter(|_| paused > 0)?;
    Some(format!(
        "{many} hosts went within a minute, more than a third: moving {paused} instances waits for hosts to come back, or for \
         your word (stampede host failover {host})"
    ))
}

fn entries(outcome: &Outcome) -> impl Iterator<Item = &Entry> {
    outcome.answers.iter().flat_map(|answer| match answer {
        store::Answer::Entries(entries) => entries.as_slice(),
        _ => &[],
    })
}
