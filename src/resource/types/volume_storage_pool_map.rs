//! That a volume is in a storage pool.

use super::columns::{COMMON, IDENTITY, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("storagePoolId", "storagePool").create().update().filtered(),
    Field::reference("volumeId", "volume").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "storagePool", target: "storagePool", path: LinkPath::One("storagePoolId"), create_default: None },
        Link { name: "volume", target: "volume", path: LinkPath::One("volumeId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["instance", "dataVolume"], rows: parts::volume_storage_pool_map }),
    ..Type::bare("volumeStoragePoolMap", "volumeStoragePoolMaps")
};
