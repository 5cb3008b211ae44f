//! A network that instances are on. The seeded one of this type is Docker's own, the unmanaged one.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE, actions};
use crate::resource::declaration::{Field, Link, LinkPath, Type};

/// Of all networks.
pub const OWN: &[Field] = &[Field::string("domain").max_length(128).filtered(), Field::string("macPrefix").not_null()];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: actions!("network"),
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link {
            name: "networkServices",
            target: "networkService",
            path: LinkPath::Many("networkId"),
            create_default: None,
        },
        Link { name: "nics", target: "nic", path: LinkPath::Many("networkId"), create_default: None },
        Link { name: "subnets", target: "subnet", path: LinkPath::Many("networkId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    ..Type::bare("network", "networks")
};
