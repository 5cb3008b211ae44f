//! An address that opens itself, for who cannot send headers with a WebSocket: browsers.
//!
//! A token is good for one address with just these parameters, for half a minute, and at every host: it is signed with a
//! key that only the cluster's hosts can derive ([`crate::membership::trust::secret`]).

use super::super::Context;
use super::super::authentication::{Principal, Role};
use super::super::error::ApiError;
use crate::environment::Timestamp;
use crate::membership::trust::ClusterSecret;
use crate::membership::trust::secret::hex;
use axum::http::{StatusCode, request::Parts};
use form_urlencoded::Serializer;
use ring::hmac::{HMAC_SHA256, Key, sign, verify};
use std::time::Duration;

pub const PARAMETER: &str = "token";
const LIFE: Duration = Duration::from_secs(30);
const PURPOSE: &str = "stampede-stream-1";

/// A token, and until when it is good.
#[derive(Debug)]
pub struct Token {
    pub text: String,
    pub expires: Timestamp,
}

/// The keys of this host's secrets, the one in use first.
fn keys(context: &Context) -> Result<Vec<Key>, ApiError> {
    let opened = context.trust.as_ref().and_then(|trust| trust.opened().ok()).ok_or_else(|| {
        let message = "this host cannot make or read tokens now, since it has not opened the cluster's secret; its log says why; \
                       sign in with an API key";
        ApiError::with_code(StatusCode::SERVICE_UNAVAILABLE, "NotOpen", message)
    })?;
    let key =
        |secret: &ClusterSecret| Key::new(HMAC_SHA256, secret.derive(PURPOSE, opened.cluster.as_bytes()).as_slice());
    Ok(opened.held.all().map(key).collect())
}

/// What is signed.
fn text(claim: &str, path: &[String], query: &[(String, String)]) -> String {
    let mut parameters = Serializer::new(String::new());
    parameters.extend_pairs(query.iter().filter(|(name, _)| name != PARAMETER));
    format!("{claim}\n{}\n{}", path.join("/"), parameters.finish())
}

/// For `principal` to open that address.
///
/// # Errors
/// 503 where this host has no secret.
pub fn make(
    context: &Context,
    principal: &Principal,
    path: &[String],
    query: &[(String, String)],
) -> Result<Token, ApiError> {
    let expires = Timestamp(context.environment.clock.now().0 + LIFE.as_millis() as i64);
    let claim = format!("{}.{}.{}", principal.account, role_name(principal.role), expires.0);
    let signature = sign(&keys(context)?[0], text(&claim, path, query).as_bytes());
    Ok(Token { text: format!("{claim}.{}", hex(signature.as_ref())), expires })
}

/// Who the token in an address is of; `None` where there is none.
///
/// # Errors
/// 401 where it is not good, or not any more.
pub fn read(context: &Context, parts: &Parts) -> Result<Option<Principal>, ApiError> {
    let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    let query: Vec<(String, String)> = pairs.into_owned().collect();
    let Some((_, token)) = query.iter().find(|(name, _)| name == PARAMETER) else { return Ok(None) };
    let path: Vec<String> =
        parts.uri.path().split('/').filter(|segment| !segment.is_empty()).skip(1).map(str::to_owned).collect();
    let refused = || {
        let message =
            "the token in this address is not of it, or its half minute is over; POST to the address for another";
        ApiError::new(StatusCode::UNAUTHORIZED, message)
    };
    let (claim, signature) = token.rsplit_once('.').ok_or_else(refused)?;
    let signature = bytes(signature).ok_or_else(refused)?;
    let text = text(claim, &path, &query);
    let good = keys(context)?.iter().any(|key| verify(key, text.as_bytes(), &signature).is_ok());
    good.then_some(()).ok_or_else(refused)?;
    let mut claims = claim.split('.');
    let mut next = || claims.next().ok_or_else(refused);
    let (account, role, expires) = (next()?, next()?, next()?);
    let expires: i64 = expires.parse().map_err(|_| refused())?;
    if context.environment.clock.now().0 > expires {
        return Err(refused());
    }
    Ok(Some(Principal {
        account: account.parse().map_err(|_| refused())?,
        role: role_named(role).ok_or_else(refused)?,
    }))
}

const ROLES: [(Role, &str); 3] = [(Role::Admin, "admin"), (Role::ReadAdmin, "readAdmin"), (Role::User, "user")];

fn role_name(role: Role) -> &'static str {
    ROLES.iter().find(|(known, _)| *known == role).map_or("user", |(_, name)| name)
}

fn role_named(name: &str) -> Option<Role> {
    ROLES.iter().find(|(_, known)| *known == name).map(|(role, _)| *role)
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> =
        digits.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect::<Option<_>>()?;
    Some(digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}
