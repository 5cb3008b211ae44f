//! Addresses by DHCP.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use crate::resource::declaration::{Field, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("networkId", "network").create().update().required().not_null().filtered(),
    Field::reference("networkServiceProviderId", "networkServiceProvider").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "network", target: "network", path: LinkPath::One("networkId"), create_default: None },
        Link {
            name: "networkServiceProvider",
            target: "networkServiceProvider",
            path: LinkPath::One("networkServiceProviderId"),
            create_default: None,
        },
    ],
    listable: true,
    admin_writes: true,
    base: "networkService",
    ..Type::bare("dhcpService", "dhcpServices")
};
