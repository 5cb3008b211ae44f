//! What proves who someone is. The secret is kept hashed; it is told once, in the answer to its creation.

use super::columns::{COMMON, IDENTITY, OWNER, STATE, actions};
use crate::resource::declaration::{Field, Link, LinkPath, Type};

/// Of credentials and API keys alike. The public value is what a key is looked up by: it cannot be changed, a new key
/// is made instead.
pub const OWN: &[Field] = &[
    Field::string("publicValue").create().max_length(4096).filtered(),
    Field::string("secretValue").create().update().max_length(4096).write_only(),
];

pub const LINKS: &[Link] =
    &[Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None }];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: actions!("credential"),
    links: LINKS,
    listable: true,
    ..Type::bare("credential", "credentials")
};
