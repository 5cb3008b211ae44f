//! An instance's interface on its network.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::int("deviceNumber").filtered(),
    Field::reference("instanceId", "instance").create().update().filtered(),
    Field::string("macAddress").max_length(128).filtered(),
    Field::reference("networkId", "network").create().update().filtered(),
    Field::reference("subnetId", "subnet").create().update().filtered(),
    Field::reference("vnetId", "vnet").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "instance", target: "instance", path: LinkPath::One("instanceId"), create_default: None },
        Link { name: "network", target: "network", path: LinkPath::One("networkId"), create_default: None },
        Link { name: "subnet", target: "subnet", path: LinkPath::One("subnetId"), create_default: None },
        Link {
            name: "ipAddressNicMaps",
            target: "ipAddressNicMap",
            path: LinkPath::Many("nicId"),
            create_default: None,
        },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["instance"], rows: parts::nic }),
    ..Type::bare("nic", "nics")
};
