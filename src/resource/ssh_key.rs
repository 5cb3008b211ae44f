//! SSH keys as instances are told of them: the public half of a credential, by a name.

use super::{Resource, State};
use serde::{Deserialize, Serialize};

/// The kind of credential that is told: of other kinds there is a secret.
const SSH_KEY: &str = "sshKey";
/// The public half.
const PUBLIC: &str = "publicValue";

/// The public half of an SSH key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKey {
    pub name: String,
    /// As `authorized_keys` has it.
    pub value: String,
}

impl SshKey {
    /// A credential as it is told to an instance of `account`; `None` where it is not to be.
    pub fn of(credential: &Resource, account: Option<u64>) -> Option<Self> {
        let told = credential.kind == SSH_KEY && credential.state == State::Active && credential.account_id == account;
        let value = credential.get::<String>(PUBLIC).filter(|_| told)?;
        let name = credential.name.as_deref().map(one_word).filter(|name| !name.is_empty());
        let by_id = || format!("key-{}", credential.id);
        Some(Self { name: name.unwrap_or_else(by_id), value: value.trim().to_owned() })
    }
}

/// A name that is one line, and one part of a path.
fn one_word(name: &str) -> String {
    name.trim().chars().map(|letter| if letter.is_control() || "/=".contains(letter) { '_' } else { letter }).collect()
}
