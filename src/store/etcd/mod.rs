//! The store in an etcd cluster (3.4 and later).
//!
//! One member is used at a time, by [`session::Session`]; when it cannot be reached, is silent or has no leader, the next
//! one is, and reads are tried there within the same deadline. A write that may have been sent is never sent again.
//! Every read is linearizable.
//!
//! ```text
//! call ─► session (member k) ─► answer
//!              │ not connected ─────────────► member k + 1, the same call again
//!              │ silent, broken: a read ────► member k + 1, the same call again
//!              └ silent, broken: a write ───► OutcomeUnknown; the next call goes to member k + 1
//! ```
//! All stores of an agent use the same member ([`Members`]): where one gets no answer, all ask theirs whether it is there, and what is
//! watched at one that is silent is watched elsewhere ([`link`]).

mod convert;
mod dial;
mod fault;
mod link;
mod members;
mod session;
mod watch;

pub use dial::{Connection, Dial};
pub use members::Members;

use super::{Difference, Error, LeaseId, Lookup, Outcome, Revision, Snapshot, Store, StoreId, Transaction, Watch};
use crate::environment::Environment;
use etcd_client::{GetOptions, GetResponse, LeaseKeepAliveStream, LeaseKeeper, ResponseHeader};
use fault::Fault;
use session::{Effect, Session};
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Where etcd is, and who we are to it.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `http://host:2379`, or `https://…` with `tls`.
    pub endpoints: Vec<String>,
    pub tls: Option<EtcdTls>,
    pub login: Option<EtcdLogin>,
    /// How long any call may take.
    pub timeout: Duration,
    /// The same for all stores of an agent.
    pub members: Members,
    /// Instead of the kernel's own TCP; for endpoints without TLS.
    pub dial: Option<Dial>,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            tls: None,
            login: None,
            timeout: Duration::from_secs(5),
            members: Members::default(),
            dial: None,
        }
    }
}

/// Files in PEM.
#[derive(Clone, Debug, Default)]
pub struct EtcdTls {
    /// Who signed etcd's certificates.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A user of etcd's own.
#[derive(Clone)]
pub struct EtcdLogin {
    pub user: String,
    pub password: String,
}

impl fmt::Debug for EtcdLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct EtcdStore {
    session: Session,
    /// Streams on which leases are kept alive. One is taken out while it is used, so that it is gone after an error or when
    /// the call was given up, and the next call opens another.
    keepers: Arc<Mutex<HashMap<LeaseId, Keeper>>>,
    /// The cluster that gave the last answer; 0 before the first, as etcd's own headers have it where there is none.
    cluster: AtomicU64,
}

struct Keeper(LeaseKeeper, LeaseKeepAliveStream);

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keeper").field(&self.0.id()).finish()
    }
}

impl EtcdStore {
    /// Reads the certificates. It does not wait for etcd: the calls do that, each for itself.
    ///
    /// # Errors
    /// [`Error::Unusable`] where an option cannot be used.
    pub fn connect(options: EtcdOptions, environment: &Environment) -> Result<Self, Error> {
        Ok(Self { session: Session::new(options, environment)?, keepers: Arc::default(), cluster: AtomicU64::new(0) })
    }

    async fn read(&self, key: &str, options: GetOptions) -> Result<GetResponse, Error> {
        let attempt = |client: etcd_client::Client| {
            let options = options.clone();
            async move { Ok(session::kv(&client).get(key, Some(options)).await?) }
        };
        self.session.call(Effect::Reads, attempt).await
    }

    /// At which revision it was answered; by whom is noted.
    fn revision(&self, header: Option<&ResponseHeader>) -> Result<Revision, Error> {
        if let Some(header) = header {
            self.cluster.store(header.cluster_id(), Ordering::Relaxed);
        }
        convert::revision(header)
    }
}

#[async_trait::async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &str) -> Result<Lookup, Error> {
        let mut answer = self.read(key, GetOptions::new()).await?;
        let revision = self.revision(answer.header())?;
        Ok(Lookup { revision, entry: answer.take_kvs().into_iter().next().map(convert::entry) })
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, Error> {
        let mut answer = self.read(prefix, GetOptions::new().with_prefix()).await?;
        let revision = self.revision(answer.header())?;
        Ok(Snapshot { revision, entries: answer.take_kvs().into_iter().map(convert::entry).collect() })
    }

    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, Error> {
        // The count is that of all keys, not only of those written since.
        let options = GetOptions::new().with_prefix().with_min_mod_revision(after.0.saturating_add(1));
        let mut answer = self.read(prefix, options).await?;
        Ok(Difference {
            revision: self.revision(answer.header())?,
            count: usize::try_from(answer.count()).unwrap_or(0),
            written: answer.take_kvs().into_iter().map(convert::entry).collect(),
        })
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, Error> {
        transaction.check()?;
        let effect = if transaction.writes() { Effect::Writes { lease: transaction.lease() } } else { Effect::Reads };
        let request = convert::transaction(&transaction);
        let attempt = |client: etcd_client::Client| {
            let request = request.clone();
            async move { Ok(session::kv(&client).txn(request).await?) }
        };
        let answer = self.session.call(effect, attempt).await?;
        Ok(convert::outcome(&answer, self.revision(answer.header())?))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, Error> {
        self.session.call_on(Effect::Reads, |link| watch::open(link, prefix, from)).await
    }

    async fn attend(&self) {
        self.session.attend().await;
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        let attempt =
            |client: etcd_client::Client| async move { Ok(client.lease_client().grant(seconds, None).await?) };
        Ok(LeaseId(self.session.call(Effect::Writes { lease: None }, attempt).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        let attempt = |client: etcd_client::Client| async move {
            let known = self.keepers.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
            let mut keeper = match known {
                Some(keeper) => keeper,
                None => match client.lease_client().keep_alive(lease.0).await {
                    Ok((keeper, answers)) => Keeper(keeper, answers),
                    // The only word that this call has for a lease that is gone.
                    Err(etcd_client::Error::LeaseKeepAliveError(_)) => return Err(Error::LeaseGone(lease).into()),
                    Err(error) => return Err(error.into()),
                },
            };
            keeper.0.keep_alive().await?;
            let Some(answer) = keeper.1.message().await? else {
                return Err(Fault::Lost("the stream of keepalives ended".into()));
            };
            match u64::try_from(answer.ttl()) {
                Ok(seconds) if seconds > 0 => {
                    self.keepers.lock().unwrap_or_else(PoisonError::into_inner).insert(lease, keeper);
                    Ok(Duration::from_secs(seconds))
                }
                _ => Err(Error::LeaseGone(lease).into()),
            }
        };
        self.session.call(Effect::Reads, attempt).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, Error> {
        let attempt = |client: etcd_client::Client| async move {
            match client.lease_client().time_to_live(lease.0, None).await.map_err(Fault::from) {
                Ok(answer) => Ok(u64::try_from(answer.ttl()).ok().map(Duration::from_secs)),
                Err(Fault::LeaseGone) => Ok(None),
                Err(fault) => Err(fault),
            }
        };
        self.session.call(Effect::Reads, attempt).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner).remove(&lease);
        let attempt =
            |client: etcd_client::Client| async move { Ok(client.lease_client().revoke(lease.0).await.map(drop)?) };
        self.session.call(Effect::Writes { lease: Some(lease) }, attempt).await
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let attempt = |client: etcd_client::Client| async move {
            Ok(client.kv_client().compact(revision.0, None).await.map(drop)?)
        };
        match self.session.call(Effect::Reads, attempt).await {
            // Another did it already.
            Err(Error::Compacted { .. }) => Ok(()),
            result => result,
        }
    }

    fn identity(&self) -> Option<StoreId> {
        match self.cluster.load(Ordering::Relaxed) {
            0 => None,
            cluster => Some(StoreId(cluster)),
        }
    }

    fn single_host(&self) -> bool {
        false
    }

    fn describe(&self) -> String {
        format!("etcd at {}", self.session.endpoints().join(", "))
    }
}
