//! The public half of an SSH key, as it was imported.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::credential;
use crate::resource::declaration::{Field, Type};
use crate::resource::validation::{Invalid, InvalidCode};
use serde_json::{Map, Value};

const PUBLIC: &str = "publicValue";

const OWN: &[Field] = &[
    Field::string(PUBLIC).create().update().max_length(4096).filtered(),
    // Private halves are not kept.
    Field::string("secretValue").max_length(4096).write_only(),
];

pub const TYPE: Type = Type {
    name: "sshKey",
    plural: "sshKeys",
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    check: Some(check),
    ..credential::TYPE
};

fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    let given = input.get(PUBLIC).and_then(Value::as_str).unwrap_or_default();
    let mut words = given.split_whitespace();
    let kind = words.next().unwrap_or_default();
    let known = ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| kind.starts_with(start));
    if known && words.next().is_some_and(|key| key.len() > 32) {
        return Ok(());
    }
    let message = "give the public half of a key of yours, as in id_ed25519.pub: \"ssh-ed25519 AAAA… name\"";
    let code = if given.is_empty() { InvalidCode::MissingRequired } else { InvalidCode::InvalidFormat };
    Err(Invalid::new(code, PUBLIC, message))
}
