//! That an image is in a storage pool: that a container was made of it there.

use super::columns::{COMMON, IDENTITY, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("imageId", "image").create().update().filtered(),
    Field::reference("storagePoolId", "storagePool").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "image", target: "image", path: LinkPath::One("imageId"), create_default: None },
        Link { name: "storagePool", target: "storagePool", path: LinkPath::One("storagePoolId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["instance"], rows: parts::image_storage_pool_map }),
    ..Type::bare("imageStoragePoolMap", "imageStoragePoolMaps")
};
