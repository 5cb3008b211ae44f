//! How an outside agent of the original asks for its keys. Hosts join by `stampede join`.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::string("accessKey").not_null(),
    Field::string("authToken").not_null(),
    Field::string("key").create().required().filtered(),
    Field::string("secretKey").not_null(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None }],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &[], rows: parts::nothing }),
    ..Type::bare("register", "register")
};
