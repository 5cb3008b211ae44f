//! That an address is an interface's.

use super::columns::{COMMON, IDENTITY, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("ipAddressId", "ipAddress").create().update().filtered(),
    Field::reference("nicId", "nic").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "ipAddress", target: "ipAddress", path: LinkPath::One("ipAddressId"), create_default: None },
        Link { name: "nic", target: "nic", path: LinkPath::One("nicId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["instance"], rows: parts::ip_address_nic_map }),
    ..Type::bare("ipAddressNicMap", "ipAddressNicMaps")
};
