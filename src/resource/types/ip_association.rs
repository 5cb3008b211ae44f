//! That a floating address stands for an instance's private one.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("childIpAddressId", "ipAddress").create().update().filtered(),
    Field::reference("ipAddressId", "ipAddress").create().update().filtered(),
    Field::string("role").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link {
            name: "childIpAddress",
            target: "ipAddress",
            path: LinkPath::One("childIpAddressId"),
            create_default: None,
        },
        Link { name: "ipAddress", target: "ipAddress", path: LinkPath::One("ipAddressId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["floatingAddress"], rows: parts::ip_association }),
    ..Type::bare("ipAssociation", "ipAssociations")
};
