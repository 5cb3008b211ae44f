//! SSH keys that an instance is told of: named when it is made, read by its host when it asks (`src/network/metadata`).

use super::ServiceError;
use super::orchestrator::{Orchestrator, invalid};
use crate::resource::instance::MOST_CREDENTIALS as MOST;
use crate::resource::{Resource, identifier, instance};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

const SSH_KEY: &str = "sshKey";
const BASE: &str = "credential";

/// What a client asked for becomes what is stored: each once, and nothing for none.
pub(super) fn take(fields: &mut Map<String, Value>) -> Result<(), ServiceError> {
    let asked = fields.remove(instance::CREDENTIALS);
    let ids = asked.as_ref().and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_u64);
    let mut seen = BTreeSet::new();
    let ids: Vec<u64> = ids.filter(|id| seen.insert(*id)).collect();
    if ids.len() > MOST {
        return Err(invalid("MaxLimitExceeded", instance::CREDENTIALS, format!("at most {MOST} keys")));
    }
    if !ids.is_empty() {
        fields.insert(instance::CREDENTIALS.into(), json!(ids));
    }
    Ok(())
}

impl Orchestrator {
    /// That each is an SSH key of the same account that is there.
    pub(super) async fn check_credentials(&self, wanted: &Resource) -> Result<(), ServiceError> {
        for id in wanted.get::<Vec<u64>>(instance::CREDENTIALS).unwrap_or_default() {
            let found = match self.read(BASE, id).await {
                Ok((found, _)) => Some(found),
                Err(ServiceError::NotFound) => None,
                Err(error) => return Err(error),
            };
            let own = found.filter(|found| found.account_id == wanted.account_id && found.removed.is_none());
            let shown = identifier::format(BASE, id);
            match own {
                Some(own) if own.kind == SSH_KEY => {}
                Some(own) => {
                    let message = format!("{shown} is of the type {}; instances are told of SSH keys alone", own.kind);
                    return Err(invalid("InvalidOption", instance::CREDENTIALS, message));
                }
                None => {
                    let message =
                        format!("there is no {shown}; give an SSH key of the same account (POST /v1/sshkeys)");
                    return Err(invalid("InvalidReference", instance::CREDENTIALS, message));
                }
            }
        }
        Ok(())
    }
}
