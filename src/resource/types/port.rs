//! A port of an instance that its host opens. There are none yet.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("instanceId", "instance").filtered(),
    Field::reference("privateIpAddressId", "ipAddress").filtered(),
    Field::int("privatePort").filtered(),
    Field::string("protocol").max_length(128).filtered(),
    Field::reference("publicIpAddressId", "ipAddress").filtered(),
    Field::int("publicPort").update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "instance", target: "instance", path: LinkPath::One("instanceId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &[], rows: parts::nothing }),
    ..Type::bare("port", "ports")
};
