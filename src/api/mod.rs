//! HTTP, from socket to resource: contract, sign-in, reading and writing.
//!
//! ```text
//! listener   a connection: TCP with TLS or without, or the Unix socket with the peer's uid
//!   agents     another agent, by mutual TLS: routes of its own
//!   router     request id, limits, sign-in (authentication, session), browsers' tokens (csrf), errors (error)
//!     browser    the answer as a page, where a browser asks
//!     ui         the web UI's files
//!     events     /v1/subscribe: what happens, as it happens
//!     streams    an instance's output, commands in it, its figures, from the host that it is on
//!     exchange   one request of one account, told apart by its path
//!       read       reader → cache (source, ordered): what the account sees; collection, filter: lists; view: what is written
//!       cluster    join tokens, joining, the authority: below /cluster/
//!       wait       until the resource is in a state
//!       publish    what external handlers say to events
//!       simulated  hosts that are brought up for tests and demos
//!       write      body → resource::validation → quota → orchestration::Service → the answer
//! ```
//! Any host answers for all. Nothing is decided here: a write is one call of [`crate::orchestration::Service`].

mod agents;
mod authentication;
mod body;
mod browser;
mod cache;
mod cluster;
mod collection;
mod csrf;
mod definitions;
mod error;
mod events;
mod exchange;
mod filter;
mod gzip;
mod idempotency;
mod listener;
mod mesh;
mod ordered;
mod owner;
mod precondition;
mod publish;
mod quota;
mod read;
mod reader;
mod request;
mod router;
mod secret;
pub mod simulated;
mod session;
mod source;
pub mod streams;
mod throttle;
mod ui;
mod view;
mod wait;
mod write;

pub use agents::OwnLease;
pub use authentication::SECRET_HASH;
pub use cluster::{Invitation, Invited};
pub use listener::{Listener, Peer, serve};
pub use router::router;
pub use streams::Local;

use crate::environment::Environment;
use crate::membership::Trust;
use crate::network::MeshView;
use crate::orchestration::{Draft, Service, ServiceError};
use crate::store::Store;
use authentication::Authenticator;
use cache::Cache;
use serde_json::Map;
use session::Sessions;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use throttle::Throttle;
use tokio::sync::Semaphore;

/// How the API is to be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether API keys and answers may cross a wire in plain text. Else only this host itself is answered over TCP.
    pub allow_plain_text: bool,
    /// Whether simulated hosts may be brought up here.
    pub allow_simulated: bool,
    /// Whether who asks from this host itself, without a key, is an administrator.
    pub no_auth: bool,
}

/// What all requests share.
#[derive(Debug)]
pub struct Context {
    environment: Environment,
    service: Arc<dyn Service>,
    cache: Arc<Cache>,
    authenticator: Authenticator,
    sessions: Sessions,
    settings: Settings,
    store: Arc<dyn Store>,
    hub: events::Hub,
    subscribers: Arc<Semaphore>,
    /// Who is who; none in an API that is no agent's.
    trust: Option<Trust>,
    lease: Option<Arc<dyn OwnLease>>,
    mesh: Arc<OnceLock<MeshView>>,
    simulated: LateSimulated,
    invitation: Invitation,
    /// `None` where nothing runs here.
    local: Option<Local>,
    streams: Arc<Semaphore>,
    joins: Throttle<IpAddr>,
}

impl Context {
    pub fn new(
        environment: &Environment,
        store: Arc<dyn Store>,
        service: Arc<dyn Service>,
        settings: Settings,
    ) -> Arc<Self> {
        Self::with_trust(environment, store, service, settings, None)
    }

    /// Of an agent: with TLS, other agents and joining hosts.
    pub fn with_trust(
        environment: &Environment,
        store: Arc<dyn Store>,
        service: Arc<dyn Service>,
        settings: Settings,
        trusted: Option<Trusted>,
    ) -> Arc<Self> {
        let cache = Arc::new(Cache::new(store.clone(), environment));
        let (trust, lease, mesh, simulated, invitation, local) = match trusted {
            Some(it) => (Some(it.trust), Some(it.lease), it.mesh, it.simulated, it.invitation, Some(it.local)),
            None => (None, None, Arc::default(), Arc::default(), Invitation::default(), None),
        };
        Arc::new(Self {
            environment: environment.clone(),
            service,
            authenticator: Authenticator::new(store.clone(), cache.clone(), environment),
            sessions: Sessions::new(store.clone(), environment),
            settings,
            hub: events::Hub::new(store.clone(), cache.clone(), environment),
            subscribers: Arc::new(Semaphore::new(events::MOST)),
            store,
            cache,
            trust,
            lease,
            mesh,
            simulated,
            invitation,
            local,
            streams: Arc::new(Semaphore::new(streams::MOST)),
            joins: Throttle::default(),
        })
    }
}

/// Given when the agent has joined, or never.
pub type LateSimulated = Arc<OnceLock<Arc<dyn simulated::SimulatedHosts>>>;

/// What makes an API an agent's.
#[derive(Debug)]
pub struct Trusted {
    pub trust: Trust,
    pub lease: Arc<dyn OwnLease>,
    /// How this host reaches the others, once its network is begun.
    pub mesh: Arc<OnceLock<MeshView>>,
    /// Its simulated hosts, once it has joined and where it may have some.
    pub simulated: LateSimulated,
    pub invitation: Invitation,
    /// What runs on this host.
    pub local: Local,
}

/// An API key, as it is told once.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub public: String,
    pub secret: String,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("public", &self.public).finish_non_exhaustive()
    }
}

/// Makes an API key for an account, without HTTP.
///
/// # Errors
/// As [`Service::create`] has them.
pub async fn create_api_key(
    environment: &Environment,
    service: &dyn Service,
    account: u64,
) -> Result<ApiKey, ServiceError> {
    let unmade = || ServiceError::Conflict("the key could not be made; the log says why".into());
    let mut fields = Map::new();
    let secret = secret::prepare(environment, "apiKey", &mut fields).await.map_err(|_| unmade())?;
    let public = fields.get("publicValue").and_then(|value| value.as_str()).map(str::to_owned);
    let (Some(public), Some(secret)) = (public, secret) else { return Err(unmade()) };
    let draft = Draft {
        base: "credential".into(),
        kind: "apiKey".into(),
        account_id: Some(account),
        fields,
        ..Draft::default()
    };
    service.create(draft).await?;
    Ok(ApiKey { public, secret })
}
