//! A pool that is a whole subnet. There are none yet.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE};
use crate::resource::declaration::{Field, Link, LinkPath, Literal, Type};

const OWN: &[Field] = &[
    Field::int("cidrSize").create().required().default(Literal::Int(24)).range(8, 28),
    Field::string("endAddress").create(),
    Field::string("gateway").create(),
    Field::string("networkAddress").create().required(),
    Field::string("startAddress").create(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None }],
    listable: true,
    admin_writes: true,
    base: "ipPool",
    ..Type::bare("subnetIpPool", "subnetIpPools")
};
