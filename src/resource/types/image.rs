//! What instances are made from: a Docker image or a disk.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE, actions};
use crate::resource::declaration::{Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::string("checksum").create().filtered(),
    Field::string("format").filtered(),
    Field::one_of("instanceKind", &["container", "virtualMachine"]).create().update().filtered_as_text(),
    Field::int("physicalSizeMb").filtered(),
    Field::string("url").create().filtered(),
    Field::int("virtualSizeMb").filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT"],
    actions: actions!("image"),
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link {
            name: "instances",
            target: "instance",
            path: LinkPath::Many("imageId"),
            create_default: Some("imageId"),
        },
    ],
    listable: true,
    ..Type::bare("image", "images")
};
