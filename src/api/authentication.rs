//! Who asks: an account, by API key (a browser by a [`super::session`] that a key began), or root by the Unix socket.
//!
//! A key's secret is kept as an Argon2 hash and checked at most once a minute: what was right is remembered under a
//! keyed digest (the key is random and lives with the process), and forgotten as soon as the credential or its account
//! is seen to change. Who guesses is slowed down: after each failure, the next try of the same key from the same
//! address waits twice as long.

use super::cache::{Cache, Glance};
use super::error::ApiError;
use super::secret;
use super::throttle::Throttle;
use crate::environment::Environment;
use crate::orchestration::KEY_NAMES;
use crate::resource::declaration::Type;
use crate::resource::validation::Writer;
use crate::resource::{Resource, State, floating};
use crate::store::{Revision, Store, decode, key};
use axum::http::StatusCode;
use base64::Engine;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The account of the cluster's administrator.
pub const ADMIN: u64 = 1;
/// The field that holds a secret's hash. No type declares it, so that it is never shown.
pub const SECRET_HASH: &str = "secretHash";

const UNKNOWN: &str = "this API key is not known, is not active, or its secret is another; check both parts";
const REMEMBERED: Duration = Duration::from_secs(60);
/// So many are remembered; past it, the oldest go.
const MOST_REMEMBERED: usize = 10_000;

/// An account, as far as its rights go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub account: u64,
    pub role: Role,
}

/// What an account's kind lets it do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sees and changes everything.
    Admin,
    /// Sees everything.
    ReadAdmin,
    /// Sees what it owns and what is public, and changes what it owns.
    User,
}

impl Role {
    fn of(kind: &str) -> Self {
        match kind {
            "admin" | "system" | "service" => Self::Admin,
            "readAdmin" => Self::ReadAdmin,
            _ => Self::User,
        }
    }
}

impl Principal {
    pub const ADMIN: Self = Self { account: ADMIN, role: Role::Admin };

    pub fn sees_all(&self) -> bool {
        self.role != Role::User
    }

    pub fn writer(&self) -> Writer {
        match self.role {
            Role::Admin => Writer::Admin,
            Role::ReadAdmin => Writer::Reader,
            Role::User => Writer::Other,
        }
    }

    /// Whether it may change anything at all.
    pub fn may_change(&self) -> bool {
        self.role != Role::ReadAdmin
    }

    /// Whether it is shown that row.
    pub fn sees(&self, base: &str, resource: &Resource) -> bool {
        self.sees_all() || self.owns(base, resource) || resource.get("isPublic") == Some(true)
    }

    /// Whether it may change that row.
    pub fn may_write(&self, declared: &Type, resource: &Resource) -> bool {
        match self.role {
            Role::Admin => true,
            Role::ReadAdmin => false,
            Role::User => !declared.admin_writes && self.owns(declared.base, resource),
        }
    }

    /// Whether it may ask that of the row: what is done to others' rows, and what is made of everybody's.
    pub fn may_ask(&self, declared: &Type, resource: &Resource, action: &str) -> bool {
        let takes = declared.base == floating::POOL && action == "acquire" && self.role == Role::User;
        takes || self.may_write(declared, resource)
    }

    fn owns(&self, base: &str, resource: &Resource) -> bool {
        if base == "account" { resource.id == self.account } else { resource.account_id == Some(self.account) }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Authenticator {
    store: Arc<dyn Store>,
    cache: Arc<Cache>,
    /// Of the digests in memory.
    digest_key: [u8; 32],
    verified: Mutex<HashMap<String, Verified>>,
    failures: Throttle<(String, Option<IpAddr>)>,
    /// Argon2 takes 19 MiB and a processor each time.
    turns: Arc<Semaphore>,
}

/// What a key was found to open.
pub struct Opened {
    pub principal: Principal,
    pub credential: u64,
    /// Of its secret.
    pub hash: String,
    rests_on: RestsOn,
}

/// Base type, number and revision of what a sign-in rests on.
type RestsOn = [(&'static str, u64, Revision); 2];

#[derive(Clone, Debug)]
struct Verified {
    digest: [u8; 32],
    principal: Principal,
    until: Instant,
    rests_on: RestsOn,
}

impl Authenticator {
    pub fn new(store: Arc<dyn Store>, cache: Arc<Cache>, environment: &Environment) -> Self {
        let mut digest_key = [0; 32];
        environment.random.fill(&mut digest_key);
        Self {
            store,
            cache,
            digest_key,
            verified: Mutex::default(),
            failures: Throttle::default(),
            turns: Arc::new(Semaphore::new(2)),
        }
    }

    /// The account of an `Authorization` header.
    ///
    /// # Errors
    /// 401 where there is none or it is wrong, 503 where that cannot be found out.
    pub async fn authenticate(&self, header: Option<&str>, from: Option<IpAddr>) -> Result<Principal, ApiError> {
        let Some((public, secret)) = header.and_then(basic) else {
            return Err(refused(
                "sign in with an API key: Basic authentication, its publicValue and secretValue; \
                                on a host, root makes one with `stampede api-key create`",
            ));
        };
        let digest: [u8; 32] = Sha256::new().chain_update(self.digest_key).chain_update(&secret).finalize().into();
        if let Some(principal) = self.remembered(&public, &digest) {
            return Ok(principal);
        }
        let opened = self.open(&public, secret, from).await?;
        let principal = opened.principal.clone();
        self.remember(public, digest, opened);
        Ok(principal)
    }

    /// What a key opens, found out anew, and slowed down for who guesses.
    ///
    /// # Errors
    /// 401 where it opens nothing, 503 where that cannot be found out.
    pub async fn open(&self, public: &str, secret: Vec<u8>, from: Option<IpAddr>) -> Result<Opened, ApiError> {
        if !secret::fit_for_public(public) {
            return Err(refused(UNKNOWN));
        }
        let slot = (public.to_owned(), from);
        if !self.failures.take_turn(&slot).await {
            return Err(refused("too many failed sign-ins with this key from this address; wait half a minute"));
        }
        match self.verify(public, secret).await? {
            Some(opened) => {
                self.failures.succeeded(&slot);
                Ok(opened)
            }
            None => {
                if let Some(failures) = self.failures.failed(slot) {
                    tracing::warn!(failures, "sign-ins with an API key fail");
                }
                Err(refused(UNKNOWN))
            }
        }
    }

    fn remember(&self, public: String, digest: [u8; 32], opened: Opened) {
        // By these a change is noticed before the minute is over.
        self.cache.keep("credential");
        self.cache.keep("account");
        let until = Instant::now() + REMEMBERED;
        let mut verified = lock(&self.verified);
        if verified.len() >= MOST_REMEMBERED {
            verified.retain(|_, entry| entry.until > Instant::now());
        }
        let Opened { principal, rests_on, .. } = opened;
        verified.insert(public, Verified { digest, principal, until, rests_on });
    }

    fn remembered(&self, public: &str, digest: &[u8; 32]) -> Option<Principal> {
        let entry = lock(&self.verified).get(public).cloned()?;
        let changed = entry.rests_on.iter().any(|&(base, id, revision)| match self.cache.glance(base, id) {
            Some(Glance::At(seen)) => seen > revision,
            Some(Glance::Absent { upto }) => upto >= revision,
            None => false,
        });
        if changed || entry.until <= Instant::now() {
            lock(&self.verified).remove(public);
            return None;
        }
        bool::from(entry.digest.ct_eq(digest)).then_some(entry.principal)
    }

    async fn verify(&self, public: &str, secret: Vec<u8>) -> Result<Option<Opened>, ApiError> {
        let Some((credential, credential_revision)) = self.credential(public).await? else { return Ok(None) };
        let Some(hash) = credential.get::<String>(SECRET_HASH) else { return Ok(None) };
        if credential.get::<String>("publicValue").as_deref() != Some(public)
            || !self.matches(secret, hash.clone()).await?
        {
            return Ok(None);
        }
        let Some((principal, account_revision)) = self.account_of(&credential).await? else { return Ok(None) };
        let rests_on =
            [("credential", credential.id, credential_revision), ("account", principal.account, account_revision)];
        Ok(Some(Opened { principal, credential: credential.id, hash, rests_on }))
    }

    /// Whom a key opens for that was right before: as long as its secret's hash is still what `same` knows.
    ///
    /// # Errors
    /// 503 where that cannot be found out.
    pub async fn still_opens(
        &self,
        credential: u64,
        same: impl FnOnce(&str) -> bool,
    ) -> Result<Option<Principal>, ApiError> {
        // What is followed can still be told when the store is away.
        self.cache.keep("credential");
        self.cache.keep("account");
        let Some((credential, _)) = self.row("credential", credential).await? else { return Ok(None) };
        if !credential.get::<String>(SECRET_HASH).is_some_and(|hash| same(&hash)) {
            return Ok(None);
        }
        Ok(self.account_of(&credential).await?.map(|(principal, _)| principal))
    }

    /// The account that a key opens, while both are active.
    async fn account_of(&self, credential: &Resource) -> Result<Option<(Principal, Revision)>, ApiError> {
        let Some(account) = credential.account_id.filter(|_| credential.state == State::Active) else {
            return Ok(None);
        };
        let Some((account, revision)) = self.row("account", account).await? else { return Ok(None) };
        let principal = Principal { account: account.id, role: Role::of(&account.kind) };
        Ok((account.state == State::Active).then_some((principal, revision)))
    }

    async fn matches(&self, secret: Vec<u8>, hash: String) -> Result<bool, ApiError> {
        let _turn = self.turns.acquire().await.map_err(|_| ApiError::internal())?;
        tokio::task::spawn_blocking(move || secret::verify(&secret, &hash)).await.map_err(|_| ApiError::internal())
    }

    /// The credential with this public value, and the revision at which it was so.
    async fn credential(&self, public: &str) -> Result<Option<(Resource, Revision)>, ApiError> {
        match self.store.get(&key::name(KEY_NAMES, public)).await {
            Ok(lookup) => {
                let Some(entry) = lookup.entry else { return Ok(None) };
                self.row("credential", decode(&entry)?).await
            }
            Err(error) => {
                // Nobody to ask: what is known has to do.
                let known = self.cache.select("credential", |row| {
                    row.removed.is_none() && row.get::<String>("publicValue").as_deref() == Some(public)
                });
                match known.await {
                    Ok(mut known) => Ok(known.value.pop().map(|row| (row.as_ref().clone(), Revision(0)))),
                    Err(_) => Err(error.into()),
                }
            }
        }
    }

    async fn row(&self, base: &'static str, id: u64) -> Result<Option<(Resource, Revision)>, ApiError> {
        match self.store.get(&key::resource(base, id)).await {
            Ok(lookup) => match lookup.entry {
                Some(entry) => Ok(Some((decode(&entry)?, entry.mod_revision))),
                None => Ok(None),
            },
            Err(error) => match self.cache.select(base, |row| row.id == id).await {
                Ok(mut known) => Ok(known.value.pop().map(|row| (row.as_ref().clone(), Revision(0)))),
                Err(_) => Err(error.into()),
            },
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a header holds a key at all.
pub fn is_basic(header: &str) -> bool {
    basic(header).is_some()
}

pub fn refused(message: &str) -> ApiError {
    ApiError::new(StatusCode::UNAUTHORIZED, message)
}

/// The public and the secret value of a Basic header; `None` where it holds none (as `None:None`, which the Python
/// bindings send when they have no keys).
fn basic(header: &str) -> Option<(String, Vec<u8>)> {
    let (scheme, value) = header.trim().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = base64::engine::general_purpose::STANDARD.decode(value.trim()).ok()?;
    let at = text.iter().position(|&byte| byte == b':')?;
    let public = std::str::from_utf8(&text[..at]).ok()?.to_owned();
    let secret = text[at + 1..].to_vec();
    if (public.as_str(), secret.as_slice()) == ("None", b"None") || !secret::fit_for_public(&public) {
        return None;
    }
    Some((public, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(text: &str) -> String {
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text))
    }

    #[test]
    fn headers_in_all_ways() {
        assert_eq!(basic(&encoded("a:b:c")), Some(("a".into(), b"b:c".to_vec())));
        assert_eq!(basic(&encoded("a:")), Some(("a".into(), Vec::new())));
        for header in ["", "Basic", "Basic !", "Bearer abc", &encoded("None:None"), &encoded(":x"), &encoded("a")] {
            assert_eq!(basic(header), None, "{header}");
        }
    }
}
