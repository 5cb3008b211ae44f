//! Addresses of a network. The managed one's is seeded.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE};
use crate::resource::declaration::{Field, Link, LinkPath, Literal, Type};

const OWN: &[Field] = &[
    Field::int("cidrSize").create().required().default(Literal::Int(24)).range(8, 28).filtered(),
    Field::string("endAddress").create().filtered(),
    Field::string("gateway").create().filtered(),
    Field::reference("ipPoolId", "ipPool").create().update().filtered(),
    Field::string("networkAddress").create().required().filtered(),
    Field::reference("networkId", "network").create().update().required().filtered(),
    Field::string("startAddress").create().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "network", target: "network", path: LinkPath::One("networkId"), create_default: None },
        Link { name: "ipAddresses", target: "ipAddress", path: LinkPath::Many("subnetId"), create_default: None },
        Link { name: "nics", target: "nic", path: LinkPath::Many("subnetId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    ..Type::bare("subnet", "subnets")
};
