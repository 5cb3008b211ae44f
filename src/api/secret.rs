//! API keys' public and secret values: made, hashed, checked.

use super::authentication::SECRET_HASH;
use super::error::ApiError;
use crate::environment::Environment;
use crate::resource::validation::InvalidCode;
use argon2::Argon2;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use serde_json::{Map, Value};

const PUBLIC: &str = "publicValue";
const SECRET: &str = "secretValue";
const LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// Whether it can be a key's public value: it is part of a key in the store.
pub fn fit_for_public(text: &str) -> bool {
    (1..=256).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':')
}

/// Makes a new credential's fields fit to be stored: an API key gets the values that the client left open, and the secret
/// becomes a hash. Returns the secret, to be told once.
pub async fn prepare(
    environment: &Environment,
    kind: &str,
    fields: &mut Map<String, Value>,
) -> Result<Option<String>, ApiError> {
    if kind == "apiKey" {
        let public = fields.entry(PUBLIC).or_insert_with(|| Value::from(random(environment, 20)));
        if !public.as_str().is_some_and(fit_for_public) {
            return Err(ApiError {
                field: Some(PUBLIC.into()),
                ..ApiError::invalid(
                    InvalidCode::InvalidCharacters,
                    "up to 256 visible ASCII characters, none of them a slash or colon; or leave it out",
                )
            });
        }
        fields.entry(SECRET).or_insert_with(|| Value::from(random(environment, 40)));
    }
    hash_secret(environment, fields).await
}

/// Puts a hash in the place of a secret, which it returns.
pub async fn hash_secret(
    environment: &Environment,
    fields: &mut Map<String, Value>,
) -> Result<Option<String>, ApiError> {
    let Some(Value::String(secret)) = fields.remove(SECRET) else { return Ok(None) };
    let mut salt = [0; 16];
    environment.random.fill(&mut salt);
    let of = secret.clone();
    let hash = tokio::task::spawn_blocking(move || {
        let salt = SaltString::encode_b64(&salt)?;
        Argon2::default().hash_password(of.as_bytes(), &salt).map(|hash| hash.to_string())
    })
    .await;
    match hash {
        Ok(Ok(hash)) => {
            fields.insert(SECRET_HASH.into(), Value::from(hash));
            Ok(Some(secret))
        }
        Ok(Err(error)) => {
            tracing::error!(%error, "a secret could not be hashed");
            Err(ApiError::internal())
        }
        Err(_) => Err(ApiError::internal()),
    }
}

/// Whether `hash` is of this secret. Takes a while, by design.
pub fn verify(secret: &[u8], hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(secret, &hash).is_ok())
}

/// Five bits a character.
fn random(environment: &Environment, length: usize) -> String {
    let mut bytes = vec![0; length];
    environment.random.fill(&mut bytes);
    bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_made_whole_and_its_secret_is_not_kept() {
        let environment = Environment::system().unwrap();
        let mut fields = Map::new();
        let secret = prepare(&environment, "apiKey", &mut fields).await.unwrap().unwrap();
        assert_eq!(secret.len(), 40);
        assert!(!serde_json::to_string(&fields).unwrap().contains(&secret));
        assert!(fit_for_public(fields[PUBLIC].as_str().unwrap()));
        let hash = fields[SECRET_HASH].as_str().unwrap();
        assert!(verify(secret.as_bytes(), hash));
        assert!(!verify(b"another", hash));
        assert!(!verify(secret.as_bytes(), "rubbish"));
    }

    #[tokio::test]
    async fn a_public_value_that_would_not_fit_in_a_key_is_refused() {
        let environment = Environment::system().unwrap();
        for public in ["a/b", "a b", "", "a:b", "ä"] {
            let mut fields = Map::new();
            fields.insert(PUBLIC.into(), Value::from(public));
            let error = prepare(&environment, "apiKey", &mut fields).await.unwrap_err();
            assert_eq!(error.code, "InvalidCharacters", "{public}");
        }
    }
}
