//! What a container writes to: its own layer over its image.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::string("allocationState").filtered(),
    Field::string("attachedState").filtered(),
    Field::int("deviceNumber").filtered(),
    Field::string("format").filtered(),
    Field::reference("imageId", "image").create().update().filtered(),
    Field::reference("instanceId", "instance").create().update().filtered(),
    Field::int("virtualSizeMb").filtered(),
    Field::reference("zoneId", "zone").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "image", target: "image", path: LinkPath::One("imageId"), create_default: None },
        Link { name: "instance", target: "instance", path: LinkPath::One("instanceId"), create_default: None },
        Link {
            name: "volumeStoragePoolMaps",
            target: "volumeStoragePoolMap",
            path: LinkPath::Many("volumeId"),
            create_default: None,
        },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["instance"], rows: parts::volume }),
    ..Type::bare("volume", "volumes")
};
