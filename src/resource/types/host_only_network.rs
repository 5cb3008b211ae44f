//! A network that each host makes for itself; the seeded one is the managed network.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE};
use super::network;
use crate::resource::declaration::{Field, Literal, Type};

const OWN: &[Field] = &[
    Field::boolean("dynamicCreateVnet").create().not_null().default(Literal::Boolean(false)),
    Field::string("hostVnetUri").create(),
    // Of the managed one: its instances are reached by those of their own account alone.
    Field::boolean("accountsApart").create().update().not_null().default(Literal::Boolean(false)),
];

pub const TYPE: Type = Type {
    name: "hostOnlyNetwork",
    plural: "hostOnlyNetworks",
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC, network::OWN, OWN],
    ..network::TYPE
};
