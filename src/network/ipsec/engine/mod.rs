//! The loop that encrypts: it brings the records of the mesh, the kernel's associations and this agent's keys together.
//!
//! ```text
//!   mesh/ (sealed records) ──▶ peers ──▶ policies ──────────────┐
//!                                └─────▶ rotation ──actions──▶ kernel ──counters, what went──┐
//!   secret, private halves ─────────────────┘ ▲                                              │
//!                                             └──────────────────────────────────────────────┘
//! ```
//! It wakes when records change, when associations or policies go, and by the clock: soon after it did something, then ever more
//! seldom, every ten seconds at least. Each time it looks at everything. What it needs of the network's own loop
//! ([`Reach`]) and what it says ([`Word`]) go through channels, so that neither waits for the other.
//!
//! While the store is away everything stays as it is. A host without the cluster secret has no peers, and nothing leaves
//! or comes in, in plain text or otherwise.

mod ears;
mod session;

pub use session::Ways;

use super::{
    EspInUdp,
    account::Accounts,
    encryptor::Encryptor,
    half::PublicHalf,
    policy,
    pulse::{self, Pulse},
    room,
    secret::{ClusterSecret, Secrets},
    view::Seen,
};
use crate::environment::{Backoff, Environment, Timestamp};
use crate::membership::{Cluster, record::Alive, trust::Held, trust::Keyring};
use crate::network::kernel::Error;
use crate::network::mesh::{self, Mesh, Outside, Underlay};
use crate::network::report::{PeerReport, PeerState};
use crate::store::{Store, mirror::Mirror};
use ears::Ears;
use session::{Session, Step};

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

/// After something was done; doubled up to [`pulse::PERIOD`] while nothing is.
const SOON: Duration = Duration::from_millis(50);
/// While there is no secret, or something failed.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// What was written is not written again before the mirror had this long to show it.
const SHOWN: Duration = Duration::from_secs(5);
/// Steps that follow from each other are made at once, so many at most.
const STEPS: usize = 16;

/// This host's address towards the others, and its overlay's MTU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    pub underlay: Underlay,
    pub mtu: u32,
}

/// What is to be said of encryption.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    /// Why nothing can be sent to anybody.
    pub closed: Option<String>,
    /// Hosts that nothing is sent to, and why.
    pub refused: BTreeMap<String, String>,
    /// What else is not as it should be.
    pub problems: Vec<String>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Engine {
    pub encryptor: Arc<dyn Encryptor>,
    pub store: Arc<dyn Store>,
    pub environment: Environment,
    pub host: String,
    pub keys: Keyring,
    /// Plain text with those that do not encrypt.
    pub takes_plain: bool,
    /// Where it is for hosts of other sites.
    pub outside: Outside,
    pub esp: Option<EspInUdp>,
    pub mesh: Mirror<Mesh>,
    pub alive: Mirror<Alive>,
    pub cluster: Mirror<Cluster>,
    pub reach: watch::Receiver<Option<Reach>>,
    pub word: watch::Sender<Option<Word>>,
    /// What is known of the hosts there is a way to, for people.
    pub report: watch::Sender<BTreeMap<String, PeerReport>>,
}

/// What the loop holds from turn to turn.
#[derive(Debug)]
struct Turning {
    session: Option<Session>,
    pulse: Pulse,
    accounts: Accounts,
    /// The record as last written, and when.
    written: Option<(Mesh, Duration)>,
    /// A write that is under way; the loop does not wait for the store.
    writing: JoinSet<Result<Mesh, String>>,
    /// Not before this time is written again after a failure.
    patience: Backoff,
    not_before: Duration,
    /// For so many peers there is room in the kernel.
    room: usize,
}

impl Engine {
    /// Closes the overlay's port to plain text; gives up never, since nothing may be sent before.
    pub async fn close(&self) {
        let mut backoff = Backoff::new(&self.environment, Duration::from_millis(100), Duration::from_secs(5));
        while let Err(error) = self.try_close().await {
            tracing::warn!(%error, "no network yet: its port cannot be closed to plain text");
            backoff.wait().await;
        }
    }

    /// Whether anything had to be done for it.
    async fn try_close(&self) -> Result<bool, Error> {
        policy::close(self.encryptor.as_ref()).await?.into_result().map(|made| !made.is_empty())
    }

    /// Never ends.
    pub async fn run(mut self) {
        let (mut mesh, mut cluster) = (self.mesh.changes(), self.cluster.changes());
        let (mut ears, mut held) = (Ears::default(), self.keys.watch());
        let mut turning = Turning {
            session: None,
            pulse: Pulse::default(),
            accounts: Accounts::default(),
            written: None,
            writing: JoinSet::new(),
            patience: Backoff::new(&self.environment, AGAIN, pulse::PERIOD),
            not_before: Duration::ZERO,
            room: 0,
        };
        let mut pause = SOON;
        loop {
            let mut word = Word::default();
            word.problems.extend(ears.listen(self.encryptor.as_ref()));
            let secrets = held.borrow_and_update().as_ref().and_then(secrets);
            match self.turn(&mut turning, secrets, &mut word).await {
                Ok(true) => pause = SOON,
                Ok(false) if turning.session.is_some() => pause = (2 * pause).min(pulse::PERIOD),
                Ok(false) => pause = AGAIN,
                Err(error) => {
                    word.problems.push(format!("encryption: {error}"));
                    pause = AGAIN;
                }
            }
            self.report(&turning, &word);
            self.tell(word);
            tokio::select! {
                _ = mesh.next() => pause = SOON,
                _ = cluster.next() => {}
                // The keyring is ours, so that this ends never.
                _ = held.changed() => pause = SOON,
                Ok(()) = self.reach.changed() => pause = SOON,
                () = ears.hear() => pause = SOON,
                Some(result) = turning.writing.join_next() => {
                    self.wrote(&mut turning, result);
                    pause = SOON;
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn tell(&self, word: Word) {
        self.word.send_if_modified(|now| {
            if now.as_ref() == Some(&word) {
                return false;
            }
            *now = Some(word);
            true
        });
    }

    fn report(&self, turning: &Turning, word: &Word) {
        let clock = &self.environment.clock;
        let (boottime, now) = (clock.boottime(), clock.now());
        let at = |moment: Duration| {
            let ago = i64::try_from(boottime.saturating_sub(moment).as_millis()).unwrap_or(i64::MAX);
            Timestamp(now.0.saturating_sub(ago))
        };
        let refused = word.refused.iter().map(|(host, reason)| PeerReport {
            host: host.clone(),
            state: PeerState::Refused,
            reason: Some(reason.clone()),
            ..PeerReport::default()
        });
        let known = turning.session.iter().flat_map(|session| &session.peers.known).map(|(host, _)| {
            let account = turning.accounts.of(host);
            let heard = turning.pulse.heard(host, boottime);
            PeerReport {
                host: host.clone(),
                state: match heard {
                    Some(_) => PeerState::Up,
                    None if turning.pulse.is_overdue(host, boottime) => PeerState::Silent,
                    None => PeerState::Waiting,
                },
                up_since: heard.map(|(since, _)| at(since)),
                heard: heard.map(|(_, last)| at(last)),
                rotated: account.rotated,
                associations: account.associations,
                traffic: account.traffic,
                ..PeerReport::default()
            }
        });
        self.report.send_replace(refused.chain(known).map(|peer| (peer.host.clone(), peer)).collect());
    }

    /// Looks at everything and does what follows; whether that was anything.
    async fn turn(&mut self, turning: &mut Turning, secrets: Option<Secrets>, word: &mut Word) -> Result<bool, Error> {
        let reach = *self.reach.borrow_and_update();
        if turning.session.is_none() {
            turning.session = self.open(word).await;
        }
        let (Some(session), Some(reach)) = (&mut turning.session, reach) else {
            return self.try_close().await;
        };
        if let Some(secrets) = secrets {
            session.secrets = secrets;
        }
        let own = reach.underlay.address;
        session.read(&self.mesh.view(), own);
        word.refused.clone_from(&session.peers.refused);
        let mut desired = policy::closed(self.encryptor.has_ipv6());
        desired.extend(session.peers.known.values().map(|peer| policy::towards(own, peer.address)));
        desired.extend(session.peers.plain.values().flat_map(|address| policy::plain(own, *address)));
        word.problems.extend(session.peers.plain.keys().map(|host| {
            format!("{host} does not encrypt, so that plain text goes between it and this host: network.encryption is \"either\" here")
        }));
        let outcome = self.encryptor.reconcile_policies(&desired).await?;
        let mut acted = !outcome.is_unchanged();
        word.problems.extend(outcome.failed.iter().map(|(_, error)| format!("encryption: {error}")));

        // Not for want of it is nothing encrypted.
        if session.peers.known.len() > turning.room || turning.room == 0 {
            match room::make(self.encryptor.as_ref(), &self.environment, session.peers.known.len()).await {
                Ok(room) => turning.room = room,
                Err(error) => {
                    tracing::warn!(%error, "no room is made for associations: packets may be lost while keys change")
                }
            }
        }
        for _ in 0..STEPS {
            if !self.step(turning, reach).await? {
                break;
            }
            acted = true;
        }
        self.rewrite(turning, reach);
        self.listen_to_peers(turning, own, word);
        Ok(acted)
    }

    /// Secret, cluster and number, once they are all there.
    async fn open(&self, word: &mut Word) -> Option<Session> {
        let held = match self.keys.look() {
            Ok(Some(held)) => held,
            Ok(None) => {
                word.closed = Some(format!(
                    "this host has no cluster secret, so it cannot encrypt and sends nothing to the others: run \
                     `stampede join TOKEN` here, or copy the file `secret` of another host to {}",
                    self.keys.place().own().display()
                ));
                return None;
            }
            Err(error) => {
                word.closed = Some(error.to_string());
                return None;
            }
        };
        let secrets = secrets(&held)?;
        let cluster = self.cluster.get("").filter(|_| self.mesh.freshness().listed)?.value.id.clone();
        let number = tokio::time::timeout(PATIENCE, mesh::number(self.store.as_ref(), &self.host)).await;
        match number {
            Ok(Ok(number)) => {
                tracing::info!(number, secret = %secrets.current().name(), "this host encrypts");
                let esp_port = self.esp.as_ref().map(EspInUdp::port);
                Some(Session::new(
                    &self.host,
                    cluster,
                    secrets,
                    number,
                    Ways { esp_port, plain: self.takes_plain, outside: self.outside.clone() },
                ))
            }
            Ok(Err(error)) => {
                word.problems.push(format!("encryption: {error}"));
                None
            }
            Err(_) => None,
        }
    }

    /// One look at the kernel and what follows from it; whether that was more than a probe.
    async fn step(&self, turning: &mut Turning, reach: Reach) -> Result<bool, Error> {
        let Some(session) = &mut turning.session else { return Ok(false) };
        let (own, now) = (reach.underlay.address, self.environment.clock.boottime());
        let places = session.places(own);
        let associations = self.encryptor.associations().await?;
        turning.accounts.look(&associations, &places);
        let seen = Seen::of(&associations, &places);
        turning.pulse.look(&seen.view, &session.hosts(), now);
        let mut reachable = self.alive();
        reachable.extend(turning.pulse.lately(now).cloned());
        let halves = session.rotation.halves();
        let steps = session.step(&seen, &reachable, &places, &self.environment);
        let mut acted = session.rotation.halves() != halves;
        let mut probes = BTreeSet::new();
        for step in steps {
            match step {
                Step::Change(changes) => {
                    acted = true;
                    // What failed was logged, is missing in the next look, and a new half takes its place.
                    drop(self.encryptor.change_associations(changes).await?);
                }
                Step::Publish(halves) => self.publish(turning, halves, reach),
                Step::Probe(host) => drop(probes.insert(host)),
            }
        }
        self.probe(turning, own, &probes);
        Ok(acted)
    }

    fn alive(&self) -> BTreeSet<String> {
        self.alive.view().keys().filter(|host| **host != self.host).cloned().collect()
    }

    /// Begins to write this host's record, unless that goes on, was done a moment ago or failed a moment ago.
    fn publish(&self, turning: &mut Turning, halves: Vec<PublicHalf>, reach: Reach) {
        let Some(session) = turning.session.as_ref().filter(|_| turning.writing.is_empty()) else { return };
        let now = self.environment.clock.boottime();
        let wanted = session.sealed(halves, reach.underlay, reach.mtu);
        let waits = |(written, at): &(Mesh, Duration)| *written == wanted && now.saturating_sub(*at) < SHOWN;
        if now < turning.not_before || turning.written.as_ref().is_some_and(waits) {
            return;
        }
        let (store, host) = (self.store.clone(), self.host.clone());
        turning.writing.spawn(async move {
            match tokio::time::timeout(PATIENCE, mesh::write(store.as_ref(), &host, &wanted)).await {
                Ok(Ok(())) => Ok(wanted),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            }
        });
    }

    /// A write has ended.
    fn wrote(&self, turning: &mut Turning, result: Result<Result<Mesh, String>, JoinError>) {
        let now = self.environment.clock.boottime();
        match result.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(record) => {
                turning.patience.reset();
                turning.written = Some((record, now));
            }
            Err(error) => {
                tracing::warn!(error, "this host's keys are not in the mesh yet");
                turning.not_before = now + turning.patience.next_delay();
            }
        }
    }

    /// Has address and MTU in the record where they changed and the halves did not.
    fn rewrite(&self, turning: &mut Turning, reach: Reach) {
        let Some(session) = &turning.session else { return };
        let (Some(halves), Some(record)) = (session.listed(), self.mesh.get(&self.host)) else { return };
        // What was written a moment ago may not have come back yet, and these halves be the ones before.
        let now = self.environment.clock.boottime();
        if turning.written.as_ref().is_some_and(|(_, at)| now.saturating_sub(*at) < SHOWN) {
            return;
        }
        if !record.value.says(&session.sealed(halves.clone(), reach.underlay, reach.mtu)) {
            self.publish(turning, halves, reach);
        }
    }

    /// Probes whose turn it is, and tells who is silent.
    fn listen_to_peers(&self, turning: &mut Turning, own: IpAddr, word: &mut Word) {
        let now = self.environment.clock.boottime();
        let round = turning.pulse.round(now);
        self.probe(turning, own, &round);
        if self.alive.freshness().stale_since.is_some() {
            return;
        }
        let silent = turning.pulse.silent(&self.alive(), now);
        let due = turning.pulse.due(&silent, now);
        if let Some(session) = turning.session.as_mut().filter(|_| !due.is_empty()) {
            tracing::warn!(peers = ?due, "nothing comes from hosts that are up; new keys are tried");
            session.rotation.ask();
        }
        word.problems.extend(silent.keys().map(|host| {
            format!(
                "nothing comes from {host} though it is up: is IP protocol 50 (ESP) let through between the hosts? Where it is \
                 not, set network.esp_udp_port on both"
            )
        }));
    }

    /// Sends each of these something through the overlay's port. What cannot be sent is tried again in its time.
    fn probe(&self, turning: &Turning, own: IpAddr, hosts: &BTreeSet<String>) {
        let Some(session) = turning.session.as_ref().filter(|_| !hosts.is_empty()) else { return };
        for host in hosts {
            let Some(peer) = session.peers.known.get(host) else { continue };
            if let Err(error) = self.encryptor.probe(own, peer.address) {
                tracing::debug!(peer = host, %error, "a probe was not sent");
            }
        }
    }
}

/// The secrets held, as keys are made from them.
fn secrets(held: &Held) -> Option<Secrets> {
    let [current, other] = [Some(&held.current), held.other.as_ref()]
        .map(|secret| secret.and_then(|secret| ClusterSecret::parse(&secret.text()).ok()));
    Some(Secrets::new(current?, other))
}
