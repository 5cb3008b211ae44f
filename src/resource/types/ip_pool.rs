//! Addresses to be taken one by one. There are none yet.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Link, LinkPath, Type};

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None }],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &[], rows: parts::nothing }),
    ..Type::bare("ipPool", "ipPools")
};
