//! The machine that a host is: of ours, each is one.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Link, LinkPath, Type};

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[Link { name: "hosts", target: "host", path: LinkPath::Many("physicalHostId"), create_default: None }],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["host"], rows: parts::physical_host }),
    ..Type::bare("physicalHost", "physicalHosts")
};
