//! An instance's address on the managed network, and addresses that were acquired from pools.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, action};
use super::parts;
use crate::resource::declaration::{Action, Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::string("address").create().filtered(),
    Field::string("hostname").filtered(),
    Field::reference("ipPoolId", "ipPool").create().update().filtered(),
    Field::reference("networkId", "network").filtered(),
    Field::string("role").max_length(128).filtered(),
    Field::one_of(
        "state",
        &[
            "activating",
            "active",
            "associated",
            "associating",
            "deactivating",
            "disassociating",
            "inactive",
            "purged",
            "purging",
            "registering",
            "removed",
            "removing",
            "requested",
            "restoring",
            "updating-active",
            "updating-inactive",
        ],
    )
    .not_null()
    .max_length(128)
    .filtered(),
    Field::reference("subnetId", "subnet").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, PUBLIC, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: &[
        // As the original declares it; what is answered is the address.
        Action { name: "associate", input: Some("ipAddressAssociateInput"), output: "ipPool" },
        action("disassociate", "ipAddress"),
        action("purge", "ipAddress"),
        action("remove", "ipAddress"),
        action("restore", "ipAddress"),
    ],
    links: &[
        Link { name: "ipPool", target: "ipPool", path: LinkPath::One("ipPoolId"), create_default: None },
        Link {
            name: "ipAssociations",
            target: "ipAssociation",
            path: LinkPath::Many("ipAddressId"),
            create_default: None,
        },
        Link {
            name: "childIpAssociations",
            target: "ipAssociation",
            path: LinkPath::Many("childIpAddressId"),
            create_default: None,
        },
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "network", target: "network", path: LinkPath::One("networkId"), create_default: None },
        Link { name: "subnet", target: "subnet", path: LinkPath::One("subnetId"), create_default: None },
        Link {
            name: "ipAddressNicMaps",
            target: "ipAddressNicMap",
            path: LinkPath::Many("ipAddressId"),
            create_default: None,
        },
    ],
    listable: true,
    derived: Some(Derived { from: &["instance", "floatingAddress"], rows: parts::ip_address }),
    ..Type::bare("ipAddress", "ipAddresses")
};
