//! Who owns resources and whose keys open the API.

use super::columns::{COMMON, IDENTITY, STATE, actions};
use crate::resource::declaration::{Field, Form, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::array("defaultCredentialIds", &Form::Reference("credential")).create().update(),
    Field::array("defaultNetworkIds", &Form::Reference("network")).create().update(),
    Field::string("externalId").create().update().filtered(),
    Field::string("externalIdType").create().update().max_length(128).filtered(),
    Field::int("quotaAddresses").create().update().range(0, i64::MAX),
    Field::int("quotaInstances").create().update().range(0, i64::MAX),
    Field::int("quotaMemoryMb").create().update().range(0, i64::MAX),
];

const fn owned(name: &'static str, target: &'static str) -> Link {
    Link { name, target, path: LinkPath::Many("accountId"), create_default: Some("accountId") }
}

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: actions!("account"),
    links: &[
        owned("credentials", "credential"),
        owned("hosts", "host"),
        owned("images", "image"),
        owned("instances", "instance"),
        owned("networks", "network"),
    ],
    listable: true,
    admin_writes: true,
    ..Type::bare("account", "accounts")
};
