//! Where a host keeps images and volumes: of ours, each host that runs containers has one, Docker's.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("agentId", "agent").create().update().filtered(),
    Field::boolean("external").create().update().not_null().filtered(),
    Field::reference("zoneId", "zone").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "agent", target: "agent", path: LinkPath::One("agentId"), create_default: None },
        Link {
            name: "storagePoolHostMaps",
            target: "storagePoolHostMap",
            path: LinkPath::Many("storagePoolId"),
            create_default: None,
        },
        Link {
            name: "imageStoragePoolMaps",
            target: "imageStoragePoolMap",
            path: LinkPath::Many("storagePoolId"),
            create_default: None,
        },
        Link {
            name: "volumeStoragePoolMaps",
            target: "volumeStoragePoolMap",
            path: LinkPath::Many("storagePoolId"),
            create_default: None,
        },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["host"], rows: parts::storage_pool }),
    ..Type::bare("storagePool", "storagePools")
};
