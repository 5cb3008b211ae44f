//! Who is who: the cluster's secret and certificate authority, this host's certificate, and TLS with all of it.
//!
//! ```text
//! secret (file, never in etcd) ──opens──► authority (etcd, key sealed) ──signs──► certificate.pem ──► TLS: API, agents
//!      ▲ made by the first agent,              ▲ made by the first agent,             ▲ made and renewed by each agent
//!        brought by a join token                 rotated with overlap                   for itself
//! ```
//! [`Trust::keep`] compares what there is with what should be, once a minute and when the record changes: a certificate that
//! is half over, an authority that took over, a new address of this host, a secret that was brought after the start. Nothing
//! is restarted for any of it. What was last good is on disk and serves before the store answers, and while it is away.
//!
//! The secret itself is changed while all runs: [`keyring`] has how.
//!
//! **A host without the secret** goes on with its work, and stays closed: it has no certificate, so nobody speaks TLS with it, it is
//! asked nothing and asks nothing; plain text does not take its place. A host with a *wrong* secret refuses to start.

pub mod authority;
pub mod certificate;
mod client;
mod keep;
pub mod keyring;
pub mod pin;
pub mod secret;
pub mod tls;
pub mod token;

pub use authority::{Authorities, Authority, AuthorityError};
pub use client::{LEASE, MESH, PeerError};
pub use keyring::{Held, Keyring};
pub use secret::{ClusterSecret, SecretError, SecretPlace};
pub use tls::{Tls, TlsError};

use super::patience::Patience;
use crate::environment::Environment;
use crate::store::{self, Entry, Operation, Store, Transaction, key};
use certificate::NodeCertificate;
use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::watch;

/// What can go wrong with all of it.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "the cluster has a secret and this host does not: run `stampede join TOKEN` here with a token from \
         `stampede token create` on a host of the cluster, or copy the file `secret` from there to {}; until then there is \
         no TLS here, and no other agent can ask this one", path.display()
    )]
    NoSecret { path: PathBuf },
    #[error("this agent has not opened the cluster's authority yet; its log says what it waits for")]
    NotOpen,
    #[error("an authority is just taking over; once it signs, another one may follow: see `stampede ca show`")]
    Rotating,
    #[error("somebody else changed the authority at this moment; look, and try again")]
    Conflict,
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl TrustError {
    /// Whether a start with this is to be refused.
    pub fn refuses(&self) -> bool {
        matches!(self, Self::Secret(_) | Self::Authority(AuthorityError::WrongSecret))
    }
}

/// Which names this host goes by at the moment.
#[derive(Clone)]
pub struct Names(Arc<dyn Fn() -> BTreeSet<String> + Send + Sync>);

impl Names {
    pub fn new(look: impl Fn() -> BTreeSet<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Names")
    }
}

/// Where things are, and how long a certificate lives.
#[derive(Clone, Debug)]
pub struct Settings {
    pub state: PathBuf,
    pub keys: Keyring,
    pub lifetime: Duration,
}

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Trust {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: Arc<dyn Store>,
    environment: Environment,
    settings: Settings,
    tls: watch::Sender<Option<Arc<Tls>>>,
    opened: RwLock<Option<Arc<Opened>>>,
}

/// The authority, opened with the secret.
#[derive(Debug)]
pub struct Opened {
    pub cluster: String,
    pub held: Held,
    /// Under the secret in use.
    pub authorities: Authorities,
    /// Under the one that they have in the store.
    pub as_stored: Authorities,
}

impl Opened {
    /// The secret in use.
    pub fn secret(&self) -> &ClusterSecret {
        &self.held.current
    }
}

impl Trust {
    /// With what is on disk from before.
    pub fn new(store: Arc<dyn Store>, environment: &Environment, settings: Settings) -> Self {
        let last = NodeCertificate::load(&settings.state)
            .and_then(|own| keep::last_known(&own, &settings.state, environment))
            .map(Arc::new);
        let shared = Shared {
            store,
            environment: environment.clone(),
            settings,
            tls: watch::Sender::new(last),
            opened: RwLock::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// As it is now; `None` where this host has no certificate. For each connection anew, so that a renewal needs no restart.
    pub fn tls(&self) -> Option<Arc<Tls>> {
        self.shared.tls.borrow().clone()
    }

    /// TLS and its changes.
    pub fn watch(&self) -> watch::Receiver<Option<Arc<Tls>>> {
        self.shared.tls.subscribe()
    }

    /// This host's secrets.
    pub fn keys(&self) -> &Keyring {
        &self.shared.settings.keys
    }

    /// The authority with the secret, once both are there.
    ///
    /// # Errors
    /// [`TrustError::NotOpen`] until then.
    pub fn opened(&self) -> Result<Arc<Opened>, TrustError> {
        self.shared.opened.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(TrustError::NotOpen)
    }

    /// Before anything is begun: whether this host's secret is the cluster's, as far as there are both. Waits while the store
    /// cannot be reached.
    ///
    /// # Errors
    /// [`TrustError::refuses`] where it is not, or cannot be read.
    pub async fn check(&self, cluster: &str) -> Result<(), TrustError> {
        let Some(held) = self.shared.settings.keys.look()? else { return Ok(()) };
        let mut patience = Patience::new(&self.shared.environment, "the cluster's authority");
        let record = loop {
            if let Some(result) = patience.settle(self.record().await).await {
                break result?;
            }
        };
        if let Some((_, record)) = record {
            record.under(&self.shared.environment, cluster, &held)?;
        }
        Ok(())
    }

    /// Has a new authority take over within `overlap`, after which the old one is not trusted any more.
    ///
    /// # Errors
    /// Where one is taking over already, and what the store answers.
    pub async fn rotate(&self, overlap: Duration) -> Result<Authorities, TrustError> {
        let opened = self.opened()?;
        let new = Authority::generate(&self.shared.environment, &opened.cluster, opened.secret())?;
        self.take_over(new, overlap).await
    }

    /// As [`Self::rotate`], with an authority of the operator's own.
    ///
    /// # Errors
    /// Also where it is none that can sign.
    pub async fn import(&self, certificate: &str, key: &str, overlap: Duration) -> Result<Authorities, TrustError> {
        let opened = self.opened()?;
        let new = Authority::import(&self.shared.environment, &opened.cluster, opened.secret(), certificate, key)?;
        self.take_over(new, overlap).await
    }

    async fn take_over(&self, new: Authority, overlap: Duration) -> Result<Authorities, TrustError> {
        let now = self.shared.environment.clock.now();
        let (entry, record) = self.record().await?.ok_or(TrustError::NotOpen)?;
        if record.authorities.iter().any(|it| it.signs_from > now) {
            return Err(TrustError::Rotating);
        }
        let next = record.rotated(new, overlap, now);
        if !self.replace(&entry, &next).await? {
            return Err(TrustError::Conflict);
        }
        tracing::info!(seconds = overlap.as_secs(), "a new authority takes over; the old one is trusted that long");
        Ok(next)
    }

    async fn record(&self) -> Result<Option<(Entry, Authorities)>, store::Error> {
        let Some(entry) = self.shared.store.get(&key::authority()).await?.entry else { return Ok(None) };
        let record = store::decode(&entry)?;
        Ok(Some((entry, record)))
    }

    async fn replace(&self, entry: &Entry, next: &Authorities) -> Result<bool, store::Error> {
        let put = Operation::put(&entry.key, store::encode(&entry.key, next)?);
        let transaction = Transaction::new().unchanged(&entry.key, entry.mod_revision).then(put);
        Ok(self.shared.store.commit(transaction).await?.succeeded)
    }
}
