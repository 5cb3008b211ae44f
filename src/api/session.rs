//! Sessions of browsers, at `/session`: an API key begins one by `POST`, `DELETE` ends it, `GET` says who asks.
//!
//! A session is a random token of 256 bit, which the browser keeps in a cookie that its pages cannot read, and
//! `session/<SHA-256 of the token>` in the store, under a lease that sweeps it away: every agent knows it, who reads the
//! store cannot use it, and where it is deleted it is over everywhere. Nothing that was found out is remembered: each
//! request asks the store for the session, its key and its account. Only while the store does not answer, what this
//! agent saw before has to do, as for API keys.

use super::Context;
use super::authentication::{Authenticator, Opened, Principal, Role, refused};
use super::body;
use super::csrf;
use super::error::ApiError;
use super::request::{cookie, origin};
use super::router::{reached, sign_in};
use crate::environment::{Environment, Timestamp};
use crate::membership::trust::secret::hex;
use crate::resource::validation::InvalidCode;
use crate::resource::{date, identifier};
use crate::store::{Operation, Store, Transaction, decode, encode, key};
use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

const PATH: &str = "/session";
/// It is over then, however much it is used.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// By TLS a browser takes a cookie of this name only from this very host, by TLS, for all of it.
const TLS_COOKIE: &str = "__Host-stampede";
const COOKIE: &str = "stampede";
/// So many are known for the time without the store; past it, those that are over go, or else all.
const MOST_KNOWN: usize = 10_000;

/// `session/<hash>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    credential: u64,
    /// SHA-256 of the hash of the key's secret: a key with another secret is another key.
    secret: String,
    expires: Timestamp,
}

/// See the module's text.
#[derive(Debug)]
pub struct Sessions {
    store: Arc<dyn Store>,
    environment: Environment,
    /// By the hash of the token.
    known: Mutex<HashMap<String, Session>>,
}

/// What a sign-in says.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Key {
    public_value: String,
    secret_value: String,
}

impl Drop for Key {
    fn drop(&mut self) {
        self.secret_value.zeroize();
    }
}

/// The token that a request shows, if any.
pub fn token(parts: &Parts) -> Option<&str> {
    cookie(&parts.headers, cookie_name(by_tls(parts)))
}

/// Answers what is for `/session`; `None` for all other requests.
pub async fn answer(context: &Context, parts: &Parts, body: &mut Body) -> Option<Result<Response, ApiError>> {
    if parts.uri.path() != PATH {
        return None;
    }
    Some(match parts.method {
        Method::GET => who(context, parts).await,
        Method::POST => begin(context, parts, std::mem::take(body)).await,
        Method::DELETE => end(context, parts).await,
        _ => Err(ApiError::not_allowed(&parts.method, &["GET", "POST", "DELETE"])),
    })
}

/// However it was signed in. A page cannot see its own session's cookie.
async fn who(context: &Context, parts: &Parts) -> Result<Response, ApiError> {
    let asker = sign_in(context, parts).await?;
    Ok(told(StatusCode::OK, &asker, None).into_response())
}

fn told(status: StatusCode, asker: &Principal, expires: Option<Timestamp>) -> impl IntoResponse {
    let role = match asker.role {
        Role::Admin => "admin",
        Role::ReadAdmin => "readAdmin",
        Role::User => "user",
    };
    let account = identifier::format("account", asker.account);
    let mut told = json!({ "type": "session", "accountId": account, "role": role });
    if let Some(expires) = expires {
        told["expires"] = date::format(expires).into();
    }
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    (status, [json], told.to_string())
}

async fn begin(context: &Context, parts: &Parts, body: Body) -> Result<Response, ApiError> {
    let from = reached(context, parts)?.address();
    // Else another site could sign its reader in under a key of its own.
    csrf::demand(&parts.headers)?;
    let mut key: Key = serde_json::from_slice(&body::read(body).await?).map_err(|_| {
        let message = "to sign in, send {\"publicValue\": …, \"secretValue\": …}, the two parts of an API key";
        ApiError::invalid(InvalidCode::InvalidBodyContent, message)
    })?;
    let secret = std::mem::take(&mut key.secret_value).into_bytes();
    let opened = context.authenticator.open(key.public_value.trim(), secret, from).await?;
    if let Some(before) = token(parts) {
        context.sessions.end(before).await?;
    }
    let (token, expires) = context.sessions.begin(&opened).await?;
    let account = identifier::format("account", opened.principal.account);
    tracing::info!(account, "a browser signed in");
    let cookie = set_cookie(by_tls(parts), &token, LIFETIME)?;
    let mut response = told(StatusCode::CREATED, &opened.principal, Some(expires)).into_response();
    response.headers_mut().append(header::SET_COOKIE, cookie);
    Ok(response)
}

/// Also where it is over already.
async fn end(context: &Context, parts: &Parts) -> Result<Response, ApiError> {
    reached(context, parts)?;
    csrf::demand(&parts.headers)?;
    if let Some(token) = token(parts) {
        context.sessions.end(token).await?;
    }
    let cookie = (header::SET_COOKIE, set_cookie(by_tls(parts), "", Duration::ZERO)?);
    Ok((StatusCode::NO_CONTENT, [cookie]).into_response())
}

impl Sessions {
    pub fn new(store: Arc<dyn Store>, environment: &Environment) -> Self {
        Self { store, environment: environment.clone(), known: Mutex::default() }
    }

    /// Whom a token is of.
    ///
    /// # Errors
    /// 401 where the session is over, 503 where that cannot be found out.
    pub async fn principal(&self, authenticator: &Authenticator, token: &str) -> Result<Principal, ApiError> {
        let over = || refused("this session is over; sign in again");
        let session = self.find(&hash(token.as_bytes())).await?;
        let session = session.filter(|it| it.expires > self.environment.clock.now()).ok_or_else(over)?;
        let same = |found: &str| bool::from(hash(found.as_bytes()).as_bytes().ct_eq(session.secret.as_bytes()));
        authenticator.still_opens(session.credential, same).await?.ok_or_else(over)
    }

    /// A new one: its token, and when it is over.
    async fn begin(&self, opened: &Opened) -> Result<(String, Timestamp), ApiError> {
        let mut bytes = [0; 32];
        self.environment.random.fill(&mut bytes);
        let token = hex(&bytes);
        let expires = self.environment.clock.now().after(LIFETIME);
        let session = Session { credential: opened.credential, secret: hash(opened.hash.as_bytes()), expires };
        let at = key::session(&hash(token.as_bytes()));
        let lease = Some(self.store.grant_lease(LIFETIME).await?);
        let put = Operation::Put { value: encode(&at, &session)?, key: at, lease };
        self.store.commit(Transaction::new().then(put)).await?;
        Ok((token, expires))
    }

    async fn end(&self, token: &str) -> Result<(), ApiError> {
        let hash = hash(token.as_bytes());
        self.store.commit(Transaction::new().then(Operation::delete(key::session(&hash)))).await?;
        self.known().remove(&hash);
        Ok(())
    }

    /// What is looked up is a hash: how long that takes tells nothing of a token.
    async fn find(&self, hash: &str) -> Result<Option<Session>, ApiError> {
        let entry = match self.store.get(&key::session(hash)).await {
            Ok(lookup) => lookup.entry,
            Err(error) => return self.known().get(hash).cloned().map(Some).ok_or_else(|| error.into()),
        };
        let session: Option<Session> = entry.map(|entry| decode(&entry)).transpose()?;
        let mut known = self.known();
        match &session {
            Some(session) => {
                make_room(&mut known, self.environment.clock.now());
                known.insert(hash.to_owned(), session.clone());
            }
            None => drop(known.remove(hash)),
        }
        Ok(session)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_room(known: &mut HashMap<String, Session>, now: Timestamp) {
    if known.len() >= MOST_KNOWN {
        known.retain(|_, session| session.expires > now);
    }
    if known.len() >= MOST_KNOWN {
        known.clear();
    }
}

/// Also where a proxy before us speaks TLS to the browser.
fn by_tls(parts: &Parts) -> bool {
    origin(parts).starts_with("https:")
}

fn cookie_name(tls: bool) -> &'static str {
    if tls { TLS_COOKIE } else { COOKIE }
}

fn set_cookie(tls: bool, token: &str, lifetime: Duration) -> Result<HeaderValue, ApiError> {
    let (name, secure) = (cookie_name(tls), if tls { "; Secure" } else { "" });
    let age = lifetime.as_secs();
    HeaderValue::try_from(format!("{name}={token}; Path=/; Max-Age={age}; HttpOnly; SameSite=Strict{secure}"))
        .map_err(|_| ApiError::internal())
}

fn hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cookie_is_as_narrow_as_it_can_be() {
        let plain = set_cookie(false, "ab", LIFETIME).unwrap();
        assert_eq!(plain, "stampede=ab; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict");
        let tls = set_cookie(true, "", Duration::ZERO).unwrap();
        assert_eq!(tls, "__Host-stampede=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict; Secure");
    }
}
