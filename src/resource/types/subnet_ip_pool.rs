//! A pool that is a whole subnet.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE};
use super::ip_pool;
use crate::resource::declaration::{Field, Literal, Type};
use crate::resource::floating;

const OWN: &[Field] = &[
    Field::int("cidrSize").create().required().default(Literal::Int(24)).range(8, 28),
    Field::string("endAddress").create(),
    Field::string("gateway").create(),
    Field::string("networkAddress").create().required(),
    Field::string("startAddress").create(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: ip_pool::ACTIONS,
    links: ip_pool::LINKS,
    listable: true,
    admin_writes: true,
    check: Some(floating::check),
    base: "ipPool",
    ..Type::bare("subnetIpPool", "subnetIpPools")
};
