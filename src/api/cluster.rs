//! Below `/cluster/`: who belongs to the cluster. For administrators, but for the one request of a host that joins.
//!
//! | | |
//! |---|---|
//! | `GET`, `POST /cluster/tokens`, `DELETE /cluster/tokens/<id>` | join tokens |
//! | `POST /cluster/join` | by TLS and a token: what a host needs to be one of the cluster |
//! | `GET /cluster/authority`, `POST /cluster/authority` | the certificate authority; another one takes over |
//! | `GET /cluster/secret`, `POST /cluster/secret` | which secrets the hosts have, by name; the one asked looks at its files anew |

use super::Context;
use super::authentication::Role;
use super::body;
use super::error::ApiError;
use super::exchange::Answer;
use super::listener::Peer;
use super::request::Request;
use crate::membership::record::{Alive, Host};
use crate::membership::trust::authority::{self, Authorities};
use crate::membership::trust::keyring::{self, Said};
use crate::membership::trust::token::{Claim, TokenError};
use crate::membership::trust::{Trust, TrustError};
use crate::resource::validation::InvalidCode;
use crate::store::{decode, key};
use axum::body::Body;
use axum::http::{Method, StatusCode, request::Parts};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use zeroize::Zeroize;

const HOUR: u64 = 3600;
/// Addresses in a token: one is enough, more help where a host is just down.
const ADDRESSES: usize = 3;
const MOST_USES: u32 = 1000;

/// What a joining host is told of how this one reaches the store and the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Invitation {
    pub endpoints: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// PEM: the authority of etcd's certificates, and the certificate and key that are shown to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub encryption: String,
    pub lease_seconds: u64,
}

/// The answer to a host that joins.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Invited {
    pub cluster: String,
    /// The cluster secret's digits.
    pub secret: String,
    /// The digits of the one that follows it, while it is being changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_secret: Option<String>,
    pub authority: Authorities,
    pub store: Invitation,
}

impl Drop for Invited {
    fn drop(&mut self) {
        self.secret.zeroize();
        self.next_secret.zeroize();
    }
}

impl std::fmt::Debug for Invited {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Invited").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

impl From<TrustError> for ApiError {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Store(error) => error.into(),
            TrustError::Rotating | TrustError::Conflict => {
                Self::with_code(StatusCode::CONFLICT, "Conflict", error.to_string())
            }
            TrustError::Authority(ref inner @ authority::AuthorityError::Unfit(_)) => {
                Self::invalid(InvalidCode::InvalidFormat, inner.to_string())
            }
            error => Self { message: Some(error.to_string()), ..Self::unavailable("no authority") },
        }
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        let text = error.to_string();
        match error {
            TokenError::Trust(error) => error.into(),
            TokenError::Form | TokenError::Unknown => Self::with_code(StatusCode::UNAUTHORIZED, "TokenUnknown", text),
            TokenError::Expired => Self::with_code(StatusCode::GONE, "TokenExpired", text),
            TokenError::UsedUp => Self::with_code(StatusCode::GONE, "TokenUsedUp", text),
            TokenError::TooMany | TokenError::Busy => Self::with_code(StatusCode::CONFLICT, "Conflict", text),
        }
    }
}

/// Answers a host that joins; `None` for all other requests. It has no key of the API: its token is its right.
pub async fn join(context: &Context, parts: &Parts, body: &mut Body) -> Option<Result<Answer, ApiError>> {
    if parts.uri.path() != "/cluster/join" {
        return None;
    }
    Some(joined(context, parts, std::mem::take(body)).await)
}

async fn joined(context: &Context, parts: &Parts, body: Body) -> Result<Answer, ApiError> {
    let Some(&Peer::Tls { from }) = parts.extensions.get::<Peer>() else {
        return Err(ApiError::forbidden("a host joins by TLS alone: run `stampede join TOKEN` on it"));
    };
    if parts.method != Method::POST {
        return Err(ApiError::not_allowed(&parts.method, &["POST"]));
    }
    let from = from.to_canonical();
    if !context.joins.take_turn(&from).await {
        let message = "too many tokens that are none from this address; wait half a minute";
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, message));
    }
    let claim: Claim = serde_json::from_slice(&body::read(body).await?)
        .map_err(|_| ApiError::invalid(InvalidCode::InvalidFormat, "the claim is {\"id\": …, \"secret\": …}"))?;
    let trust = context.trust()?;
    match trust.redeem(&claim).await {
        Ok(()) => context.joins.succeeded(&from),
        Err(error) => {
            if matches!(error, TokenError::Unknown)
                && let Some(failures) = context.joins.failed(from)
            {
                tracing::warn!(%from, failures, "somebody tries to join with a token that is none");
            }
            return Err(error.into());
        }
    }
    let opened = trust.opened()?;
    let (before, next) = opened.held.in_files();
    tracing::info!(%from, "a host was let into the cluster by a token");
    Answer::json(
        StatusCode::OK,
        &Invited {
            cluster: opened.cluster.clone(),
            secret: before.text().to_string(),
            next_secret: next.map(|next| next.text().to_string()),
            authority: opened.authorities.clone(),
            store: context.invitation.clone(),
        },
    )
}

/// What an administrator asks.
pub async fn answer(context: &Context, request: &Request, body: &[u8]) -> Result<Answer, ApiError> {
    if request.principal.role != Role::Admin {
        return Err(ApiError::forbidden(
            "only an administrator may: use an administrator's key, or ask as root on a host",
        ));
    }
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    match (&request.method, path.as_slice()) {
        (&Method::GET, ["tokens"]) => tokens(context).await,
        (&Method::POST, ["tokens"]) => create_token(context, read(body)?).await,
        (&Method::DELETE, ["tokens", id]) => {
            if !context.trust()?.remove_token(id).await? {
                return Err(ApiError::not_found("there is no such token"));
            }
            Answer::json(StatusCode::OK, &json!({}))
        }
        (&Method::GET, ["authority"]) => {
            let opened = context.trust()?.opened()?;
            shown(context, &opened.authorities)
        }
        (&Method::POST, ["authority"]) => change_authority(context, read(body)?).await,
        (&Method::GET, ["secret"]) => secrets(context).await,
        (&Method::POST, ["secret"]) => {
            context.trust()?.keys().look().map_err(TrustError::from)?;
            secrets(context).await
        }
        (method, ["tokens" | "authority" | "secret"]) => Err(ApiError::not_allowed(method, &["GET", "POST"])),
        (method, ["tokens", _]) => Err(ApiError::not_allowed(method, &["DELETE"])),
        _ => Err(ApiError::not_found("below /cluster there are tokens, join, authority and secret")),
    }
}

impl Context {
    fn trust(&self) -> Result<&Trust, ApiError> {
        self.trust.as_ref().ok_or_else(|| ApiError::not_found("this API belongs to no agent"))
    }
}

fn read<T: for<'a> Deserialize<'a>>(body: &[u8]) -> Result<T, ApiError> {
    let body = if body.trim_ascii().is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| ApiError::invalid(InvalidCode::InvalidFormat, error.to_string()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TokenDraft {
    ttl_seconds: Option<u64>,
    uses: Option<u32>,
    #[serde(default)]
    addresses: Vec<String>,
}

async fn create_token(context: &Context, draft: TokenDraft) -> Result<Answer, ApiError> {
    let trust = context.trust()?;
    let seconds = draft.ttl_seconds.unwrap_or(HOUR);
    let uses = draft.uses.unwrap_or(1);
    let longest = crate::membership::trust::token::LONGEST.as_secs();
    if !(1..=longest).contains(&seconds) || !(1..=MOST_USES).contains(&uses) {
        let message = format!("ttlSeconds is from 1 to {longest} (30 days), uses from 1 to {MOST_USES}");
        return Err(ApiError::invalid(InvalidCode::InvalidOption, message));
    }
    let addresses = if draft.addresses.is_empty() { addresses(context).await? } else { draft.addresses };
    let token = trust.create_token(Duration::from_secs(seconds), uses, addresses.clone()).await?;
    let made = json!({
        "id": token.name(), "token": token.text().as_str(), "ttlSeconds": seconds, "uses": uses, "addresses": addresses,
    });
    Answer::json(StatusCode::CREATED, &made)
}

/// Where the joining host is to ask: agents that are alive and that others can reach.
async fn addresses(context: &Context) -> Result<Vec<String>, ApiError> {
    let alive = context.store.range(&key::all_alive()).await?;
    let addresses = alive.entries.iter().filter_map(|entry| decode::<Alive>(entry).ok()).map(|alive| alive.address);
    let mut addresses: Vec<String> = addresses.filter(|address| !is_own(address)).collect();
    while addresses.len() > ADDRESSES {
        addresses.swap_remove(context.environment.below(addresses.len()));
    }
    if addresses.is_empty() {
        return Err(ApiError::with_code(
            StatusCode::CONFLICT,
            "NotReachable",
            "no agent of this cluster can be reached from other hosts: set api.address in /etc/stampede/config.toml to \
             0.0.0.0:9080, or give the addresses to ask at with --address",
        ));
    }
    Ok(addresses)
}

/// Whether only the machine itself reaches it.
fn is_own(address: &str) -> bool {
    let ip = address.parse::<SocketAddr>().map(|it| it.ip()).or_else(|_| address.parse::<IpAddr>());
    ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

async fn tokens(context: &Context) -> Result<Answer, ApiError> {
    let found = context.trust()?.tokens().await?;
    let rows: Vec<Value> = found
        .iter()
        .map(|(id, record)| json!({ "id": id, "created": record.created, "expires": record.expires, "usesLeft": record.uses_left }))
        .collect();
    Answer::json(StatusCode::OK, &json!({ "tokens": rows }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Change {
    /// For how long the old one is trusted beside the new one.
    overlap_seconds: Option<u64>,
    certificate: Option<String>,
    key: Option<String>,
}

impl Drop for Change {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

async fn change_authority(context: &Context, change: Change) -> Result<Answer, ApiError> {
    let trust = context.trust()?;
    let overlap = change.overlap_seconds.map_or(authority::OVERLAP, Duration::from_secs);
    let record = match (&change.certificate, &change.key) {
        (Some(certificate), Some(key)) => trust.import(certificate, key, overlap).await?,
        (None, None) => trust.rotate(overlap).await?,
        _ => return Err(ApiError::invalid(InvalidCode::MissingRequired, "certificate and key belong together")),
    };
    shown(context, &record)
}

/// Which secrets the hosts have, as their records say; this host's own as it is.
async fn secrets(context: &Context) -> Result<Answer, ApiError> {
    let hosts = context.store.range(&key::hosts()).await?;
    let hosts = hosts.entries.iter().filter_map(|entry| decode::<Host>(entry).ok());
    let mut said: Said = hosts.filter_map(|host| Some((host.name, host.secrets?))).collect();
    // What this host has is known before its record says so.
    if let (Some(held), Some(local)) = (context.trust()?.keys().held(), &context.local) {
        said.insert(local.host.clone(), held.names());
    }
    let rows: Vec<Value> = said
        .iter()
        .map(|(host, names)| json!({ "host": host, "used": names.used, "next": names.next, "before": names.before }))
        .collect();
    Answer::json(StatusCode::OK, &json!({ "hosts": rows, "message": keyring::progress(&said) }))
}

fn shown(context: &Context, record: &Authorities) -> Result<Answer, ApiError> {
    let now = context.environment.clock.now();
    let signer = record.signer(now);
    let rows: Vec<Value> = record
        .trusted(now)
        .iter()
        .filter_map(|it| {
            Some(json!({
                "fingerprint": authority::shown(&it.fingerprint().ok()?),
                "certificate": it.certificate,
                "signs": signer == Some(*it),
                "created": it.created,
                "signsFrom": it.signs_from,
                "trustedUntil": it.trusted_until,
            }))
        })
        .collect();
    Answer::json(StatusCode::OK, &json!({ "authorities": rows }))
}
