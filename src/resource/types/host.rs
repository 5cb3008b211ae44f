//! A machine with an agent. Hosts make themselves known; nobody creates them over the API.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, action};
use crate::resource::declaration::{Action, Field, Form, Link, LinkPath, Type};

const STATE: &[Field] = &[Field::one_of(
    "state",
    &[
        "activating",
        "active",
        "deactivating",
        "disconnected",
        "draining",
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
.filtered()];

const OWN: &[Field] = &[
    Field::reference("agentId", "agent").create().update().filtered(),
    Field::int("computeFree").create().update().filtered(),
    Field::int("computeTotal").create().update().filtered(),
    Field::reference("physicalHostId", "physicalHost").create().update().filtered(),
    Field::string("uri").filtered(),
    Field::reference("zoneId", "zone").create().update().filtered(),
];

/// What the original did not have.
const ADDED: &[Field] = &[
    Field::string("agentAddress"),
    Field::array("capabilities", &Form::String),
    Field::string("hostname").filtered(),
    Field::map("labels", &Form::String).update(),
    Field::int("memoryMb").filtered(),
    Field::string("publicAddress"),
    Field::string("underlayAddress"),
    Field::map("versions", &Form::String),
    Field::array("warnings", &Form::String),
];

const ACTIONS: &[Action] = &[
    action("activate", "host"),
    action("create", "host"),
    action("deactivate", "host"),
    Action { name: "drain", input: Some("hostDrain"), output: "host" },
    action("failover", "host"),
    action("purge", "host"),
    Action { name: "remove", input: Some("hostRemove"), output: "host" },
    action("restore", "host"),
    action("update", "host"),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC, OWN, ADDED],
    collection_methods: &["GET"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: ACTIONS,
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "agent", target: "agent", path: LinkPath::One("agentId"), create_default: None },
        Link {
            name: "physicalHost",
            target: "physicalHost",
            path: LinkPath::One("physicalHostId"),
            create_default: None,
        },
        Link { name: "zone", target: "zone", path: LinkPath::One("zoneId"), create_default: None },
        Link {
            name: "storagePoolHostMaps",
            target: "storagePoolHostMap",
            path: LinkPath::Many("hostId"),
            create_default: None,
        },
        Link {
            name: "instanceHostMaps",
            target: "instanceHostMap",
            path: LinkPath::Many("hostId"),
            create_default: None,
        },
        Link {
            name: "instances",
            target: "instance",
            path: LinkPath::Many("hostId"),
            create_default: Some("requestedHostId"),
        },
    ],
    listable: true,
    admin_writes: true,
    ..Type::bare("host", "hosts")
};
