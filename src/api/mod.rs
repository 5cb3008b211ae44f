//! HTTP, from socket to resource: contract, sign-in, reading and writing.
//!
//! ```text
//! listener   a connection: TCP, or the Unix socket with the peer's uid
//!   router     request id, limits, sign-in (authentication), browsers' tokens (csrf), errors (error)
//!     exchange   one request of one account, told apart by its path
//!       read       reader → cache: what the account sees; collection, filter: lists; view: what is written
//!       write      body → resource::validation → orchestration::Service → the answer
//! ```
//! Any host answers for all. Nothing is decided here: a write is one call of [`crate::orchestration::Service`].

mod authentication;
mod body;
mod cache;
mod collection;
mod csrf;
mod error;
mod exchange;
mod filter;
mod listener;
mod read;
mod reader;
mod request;
mod router;
mod secret;
mod view;
mod write;

pub use authentication::SECRET_HASH;
pub use listener::{Listener, Peer, serve};
pub use router::router;

use crate::environment::Environment;
use crate::orchestration::{Draft, Service, ServiceError};
use crate::store::Store;
use authentication::Authenticator;
use cache::Cache;
use serde_json::Map;
use std::sync::Arc;

/// How the API is to be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Whether API keys and answers may cross a wire in plain text. Else only this host itself is answered over TCP.
    pub allow_plain_text: bool,
}

/// What all requests share.
#[derive(Debug)]
pub struct Context {
    environment: Environment,
    service: Arc<dyn Service>,
    cache: Arc<Cache>,
    authenticator: Authenticator,
    settings: Settings,
}

impl Context {
    pub fn new(
        environment: &Environment,
        store: Arc<dyn Store>,
        service: Arc<dyn Service>,
        settings: Settings,
    ) -> Arc<Self> {
        let cache = Arc::new(Cache::new(store.clone(), environment));
        Arc::new(Self {
            environment: environment.clone(),
            service,
            authenticator: Authenticator::new(store, cache.clone(), environment),
            cache,
            settings,
        })
    }
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
