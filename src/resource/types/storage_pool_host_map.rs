//! That a host uses a storage pool.

use super::columns::{COMMON, IDENTITY, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("hostId", "host").create().update().filtered(),
    Field::reference("storagePoolId", "storagePool").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "host", target: "host", path: LinkPath::One("hostId"), create_default: None },
        Link { name: "storagePool", target: "storagePool", path: LinkPath::One("storagePoolId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["host"], rows: parts::storage_pool_host_map }),
    ..Type::bare("storagePoolHostMap", "storagePoolHostMaps")
};
