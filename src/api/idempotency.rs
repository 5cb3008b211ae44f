//! `Idempotency-Key`: a creation that can be asked for again, when no answer came to the first.
//!
//! The key becomes the new resource's uuid, together with account and type: so the transaction that makes the resource is
//! the one that keeps a second from being made, on whichever host it is asked for, and nothing else is to be stored or
//! forgotten. A uuid of the client's own choice is taken as it is. Without the header a uuid that is taken is a conflict, as
//! clients of the original expect.

use super::error::ApiError;
use super::exchange::Exchange;
use crate::resource::declaration::Type;
use crate::resource::validation::InvalidCode;
use crate::resource::{Resource, types};
use crate::store::{decode, key};
use axum::http::StatusCode;
use sha2::{Digest, Sha256};
use std::sync::Arc;

const LONGEST: usize = 255;

/// The uuid that a key stands for.
pub fn uuid(given: &str, account: u64, declared: &Type) -> Result<String, ApiError> {
    if given.is_empty() || given.len() > LONGEST {
        return Err(ApiError {
            field: Some("Idempotency-Key".into()),
            ..ApiError::invalid(InvalidCode::InvalidFormat, format!("1 to {LONGEST} characters of your choice"))
        });
    }
    let digest = Sha256::new().chain_update(format!("{account}/{}/{given}", declared.name)).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    // Version 8: made in a way of our own.
    Ok(uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string())
}

impl Exchange<'_> {
    /// What an earlier creation made under that uuid, if there was one.
    pub async fn made_before(
        &self,
        declared: &'static Type,
        uuid: &str,
        owner: Option<u64>,
    ) -> Result<Option<Arc<Resource>>, ApiError> {
        let Some(entry) = self.context.store.get(&key::uuid(uuid)).await?.entry else { return Ok(None) };
        let holder: String = decode(&entry)?;
        let taken = || {
            let message = format!("the uuid {uuid} is of something else; choose another, or leave it out");
            ApiError::with_code(StatusCode::CONFLICT, "Conflict", message)
        };
        let id = holder.strip_prefix(declared.base).and_then(|rest| rest.strip_prefix('/')?.parse().ok());
        let row = match id {
            Some(id) => self.reader.one(declared, id).await?,
            None => None,
        };
        match row {
            Some(row) if types::of(declared, &row).name == declared.name && row.account_id == owner => Ok(Some(row)),
            _ => Err(taken()),
        }
    }
}
