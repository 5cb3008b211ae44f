//! The agent of a host: as old as the host, and as alive.

use super::columns::{COMMON, IDENTITY, OWNER};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Literal, Type};

const OWN: &[Field] = &[
    Field::reference("agentGroupId", "agentGroup").create().update().filtered(),
    Field::boolean("managedConfig").create().update().not_null().default(Literal::Boolean(true)).filtered(),
    Field::one_of(
        "state",
        &[
            "activating",
            "active",
            "deactivating",
            "inactive",
            "purged",
            "purging",
            "reconnecting",
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
    Field::string("uri").create().update().unique().filtered(),
    Field::string("user").create(),
    Field::reference("zoneId", "zone").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "DELETE"],
    links: &[
        Link { name: "hosts", target: "host", path: LinkPath::Many("agentId"), create_default: None },
        Link { name: "storagePools", target: "storagePool", path: LinkPath::Many("agentId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["host"], rows: parts::agent }),
    ..Type::bare("agent", "agents")
};
