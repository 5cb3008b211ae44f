//! Join tokens: one line that lets a host into the cluster for a short while.
//!
//! A token holds an id, a random secret of 256 bit, the fingerprint of the cluster's authority, by which the joining host knows
//! the cluster before it tells anything, and addresses of agents. `token/<id>` holds how often and until when it is good,
//! and a proof: an HMAC over id, secret and time under a key derived from the cluster secret. Who reads etcd cannot use a
//! token, who writes to it cannot make one.

use super::{ClusterSecret, Trust, TrustError};
use crate::environment::{Environment, Timestamp};
use crate::store::{self, Operation, Transaction, key};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::fmt;
use std::time::Duration;
use zeroize::{Zeroize, Zeroizing};

const PREFIX: &str = "stampede1_";
const ID: usize = 8;
const SECRET: usize = 32;
const PIN: usize = 32;
const CHECK: usize = 4;
/// What is over is kept this long, to be told apart from what never was.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// At one time.
const MOST: usize = 100;
pub const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why a token is no good.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("that is no join token, or not all of it: copy the whole line that `stampede token create` printed")]
    Form,
    #[error(
        "this token is not known here: it was removed, is of another cluster, or was over a day ago; make a new one"
    )]
    Unknown,
    #[error("this token's time is over: make a new one with `stampede token create` on a host of the cluster")]
    Expired,
    #[error("this token was used as often as it may be: make a new one with `stampede token create --uses N`")]
    UsedUp,
    #[error("there are {MOST} tokens already: remove some with `stampede token remove ID`")]
    TooMany,
    #[error("too many others use this token at this moment; try again")]
    Busy,
    #[error(transparent)]
    Trust(#[from] TrustError),
}

impl From<store::Error> for TokenError {
    fn from(error: store::Error) -> Self {
        Self::Trust(error.into())
    }
}

/// A token, as it is carried from one host to another.
#[derive(Clone)]
pub struct Token {
    pub id: [u8; ID],
    pub secret: Zeroizing<[u8; SECRET]>,
    pub pin: [u8; PIN],
    pub addresses: Vec<String>,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.name()).field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Token {
    /// By what it is listed and removed.
    pub fn name(&self) -> String {
        super::secret::hex(&self.id)
    }

    /// The line.
    pub fn text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(256));
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(self.secret.as_slice());
        bytes.extend_from_slice(&self.pin);
        bytes.extend_from_slice(self.addresses.join(",").as_bytes());
        let check = Sha256::digest(bytes.as_slice());
        bytes.extend_from_slice(&check[..CHECK]);
        Zeroizing::new(format!("{PREFIX}{}", Zeroizing::new(BASE64.encode(bytes.as_slice())).as_str()))
    }

    /// # Errors
    /// [`TokenError::Form`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let encoded = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Form)?;
        let bytes = Zeroizing::new(BASE64.decode(encoded).map_err(|_| TokenError::Form)?);
        let body = bytes.len().checked_sub(CHECK).and_then(|at| bytes.split_at_checked(at));
        let (body, check) = body.ok_or(TokenError::Form)?;
        if &Sha256::digest(body)[..CHECK] != check {
            return Err(TokenError::Form);
        }
        let (id, rest) = body.split_first_chunk::<ID>().ok_or(TokenError::Form)?;
        let (secret, rest) = rest.split_first_chunk::<SECRET>().ok_or(TokenError::Form)?;
        let (pin, rest) = rest.split_first_chunk::<PIN>().ok_or(TokenError::Form)?;
        let addresses = std::str::from_utf8(rest).map_err(|_| TokenError::Form)?;
        let addresses = addresses.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        Ok(Self { id: *id, secret: Zeroizing::new(*secret), pin: *pin, addresses })
    }
}

/// `token/<id>`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenRecord {
    proof: String,
    pub created: Timestamp,
    pub expires: Timestamp,
    pub uses_left: u32,
    #[serde(flatten)]
    other: Map<String, Value>,
}

/// What a joining host shows.
#[derive(Serialize, Deserialize)]
pub struct Claim {
    pub id: String,
    /// Base64.
    pub secret: String,
}

impl Claim {
    pub fn of(token: &Token) -> Self {
        Self { id: token.name(), secret: BASE64.encode(token.secret.as_slice()) }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.secret.zeroize();
    }
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Trust {
    /// A new token, for hosts that will ask at `addresses`.
    ///
    /// # Errors
    /// Where there are too many, this host has no secret, or the store does not answer.
    pub async fn create_token(&self, ttl: Duration, uses: u32, addresses: Vec<String>) -> Result<Token, TokenError> {
        let opened = self.opened()?;
        let environment = &self.shared.environment;
        let now = environment.clock.now();
        if self.tokens().await?.len() >= MOST {
            return Err(TokenError::TooMany);
        }
        let signer = opened.authorities.signer(now).ok_or(TrustError::NotOpen)?;
        let pin = signer.fingerprint().map_err(TrustError::from)?;
        let token = Token { id: random(environment), secret: Zeroizing::new(random(environment)), pin, addresses };
        let expires = now.after(ttl.min(LONGEST));
        let proof = self.proof(&token.name(), token.secret.as_slice(), expires)?;
        let record = TokenRecord {
            proof: super::secret::hex(proof.as_ref()),
            created: now,
            expires,
            uses_left: uses,
            other: Map::new(),
        };
        let at = key::token(&token.name());
        let put = Operation::put(&at, store::encode(&at, &record)?);
        if !self.shared.store.commit(Transaction::new().absent(&at).then(put)).await?.succeeded {
            return Err(TokenError::Busy);
        }
        Ok(token)
    }

    /// All that may still be used, by id. What is long over is taken out.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn tokens(&self) -> Result<Vec<(String, TokenRecord)>, TokenError> {
        let now = self.shared.environment.clock.now();
        let found = self.shared.store.range(&key::tokens()).await?;
        let (mut good, mut over) = (Vec::new(), Transaction::new());
        for entry in &found.entries {
            let record: TokenRecord = store::decode(entry)?;
            if record.expires.after(REMEMBERED) < now && over.success.len() < 100 {
                over = over.then(Operation::delete(&entry.key));
            } else if record.expires > now && record.uses_left > 0 {
                good.push((key::last(&key::tokens(), &entry.key).to_owned(), record));
            }
        }
        if over.writes() {
            self.shared.store.commit(over).await?;
        }
        Ok(good)
    }

    /// Takes a token back; whether there was one.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn remove_token(&self, id: &str) -> Result<bool, TokenError> {
        let at = key::token(id);
        if !is_id(id) || self.shared.store.get(&at).await?.entry.is_none() {
            return Ok(false);
        }
        self.shared.store.commit(Transaction::new().then(Operation::delete(at))).await?;
        Ok(true)
    }

    /// Uses a token once. It is counted before anything is given for it.
    ///
    /// # Errors
    /// Where it is no good; only who knows its secret is told why.
    pub async fn redeem(&self, claim: &Claim) -> Result<(), TokenError> {
        if !is_id(&claim.id) {
            return Err(TokenError::Unknown);
        }
        let secret = Zeroizing::new(BASE64.decode(&claim.secret).map_err(|_| TokenError::Unknown)?);
        let at = key::token(&claim.id);
        for _ in 0..10 {
            let Some(entry) = self.shared.store.get(&at).await?.entry else { return Err(TokenError::Unknown) };
            let mut record: TokenRecord = store::decode(&entry)?;
            self.verify(&claim.id, &secret, &record)?;
            if record.expires <= self.shared.environment.clock.now() {
                return Err(TokenError::Expired);
            }
            record.uses_left = record.uses_left.checked_sub(1).ok_or(TokenError::UsedUp)?;
            let put = Operation::put(&at, store::encode(&at, &record)?);
            if self
                .shared
                .store
                .commit(Transaction::new().unchanged(&at, entry.mod_revision).then(put))
                .await?
                .succeeded
            {
                tracing::info!(token = claim.id, left = record.uses_left, "a join token was used");
                return Ok(());
            }
        }
        Err(TokenError::Busy)
    }

    fn proof(&self, id: &str, secret: &[u8], expires: Timestamp) -> Result<hmac::Tag, TokenError> {
        let opened = self.opened()?;
        Ok(hmac::sign(&proving_key(&opened, opened.secret()), &proven(id, secret, expires)))
    }

    /// In constant time. While the secret is changed, tokens from before are good.
    fn verify(&self, id: &str, secret: &[u8], record: &TokenRecord) -> Result<(), TokenError> {
        let opened = self.opened()?;
        let proof = unhex(&record.proof).ok_or(TokenError::Unknown)?;
        let proven = proven(id, secret, record.expires);
        let mut keys = opened.held.all().map(|secret| proving_key(&opened, secret));
        keys.any(|key| hmac::verify(&key, &proven, &proof).is_ok()).then_some(()).ok_or(TokenError::Unknown)
    }
}

fn proving_key(opened: &super::Opened, secret: &ClusterSecret) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret.derive("stampede-token-1", opened.cluster.as_bytes()).as_slice())
}

/// The id and the time have fixed lengths.
fn proven(id: &str, secret: &[u8], expires: Timestamp) -> Zeroizing<Vec<u8>> {
    Zeroizing::new([id.as_bytes(), &expires.0.to_be_bytes(), secret].concat())
}

fn is_id(id: &str) -> bool {
    id.len() == 2 * ID && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    digits?.chunks(2).map(|pair| u8::try_from(pair.first()? * 16 + pair.get(1)?).ok()).collect()
}

fn random<const N: usize>(environment: &Environment) -> [u8; N] {
    let mut bytes = [0; N];
    environment.random.fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carried_as_one_line() {
        let environment = Environment::system().unwrap();
        let token = Token {
            id: random(&environment),
            secret: Zeroizing::new(random(&environment)),
            pin: random(&environment),
            addresses: vec!["198.18.0.1:9080".into(), "[fd00::1]:9080".into()],
        };
        let text = token.text();
        assert!(text.len() < 220 && !text.contains(char::is_whitespace), "{}", text.len());
        let read = Token::parse(&format!(" {}\n", text.as_str())).unwrap();
        assert_eq!(
            (read.id, &read.secret, read.pin, &read.addresses),
            (token.id, &token.secret, token.pin, &token.addresses)
        );
        assert!(!format!("{token:?}").contains(&BASE64.encode(token.secret.as_slice())[..8]));
        // Cut off or mistyped anywhere, it is told at once.
        for at in 0..text.len() {
            assert!(Token::parse(&text[..at]).is_err(), "{at}");
        }
        let mistyped = text.replace(&text[40..41], if &text[40..41] == "A" { "B" } else { "A" });
        assert!(Token::parse(&mistyped).is_err());
    }
}
