//! That an address is a host's. There are none yet.

use super::columns::{COMMON, IDENTITY, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("hostId", "host").create().update().filtered(),
    Field::reference("ipAddressId", "ipAddress").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "host", target: "host", path: LinkPath::One("hostId"), create_default: None },
        Link { name: "ipAddress", target: "ipAddress", path: LinkPath::One("ipAddressId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &[], rows: parts::nothing }),
    ..Type::bare("hostIpAddressMap", "hostIpAddressMaps")
};
