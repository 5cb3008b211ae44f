//! Containers and virtual machines alike: the base under which both are stored, listed together, and created by neither.

use super::columns::{COMMON, IDENTITY, OWNER, action};
use crate::resource::declaration::{Action, Field, Form, Link, LinkPath, Literal, Type};
use crate::resource::validation::{Invalid, InvalidCode};
use crate::resource::{constraint, instance as names, port};
use serde_json::{Map, Value};

/// As many as are made in one request.
pub const MOST_AT_ONCE: u64 = 100;

pub const STATE: &[Field] = &[Field::one_of(
    "state",
    &[
        "creating",
        "migrating",
        "purged",
        "purging",
        "removed",
        "removing",
        "requested",
        "restarting",
        "restoring",
        "running",
        "starting",
        "stopped",
        "stopping",
        "updating-running",
        "updating-stopped",
    ],
)
.not_null()
.max_length(128)
.filtered()];

/// Of instances of every kind.
pub const SHARED: &[Field] = &[
    Field::reference("agentId", "agent").create().update().filtered(),
    Field::string("allocationState").filtered(),
    Field::int("count").create().write_only(),
    Field::array("credentialIds", &Form::Reference("credential")).create().write_only(),
    Field::string("domain").max_length(128).filtered(),
    Field::date("firstRunning").filtered(),
    Field::one_of("instanceTriggeredStop", &["stop", "remove", "restart"])
        .create()
        .update()
        .default(Literal::Text("stop"))
        .max_length(128)
        .filtered_as_text(),
    Field::array("ports", &Form::String).create().write_only(),
    Field::string("primaryAssociatedIpAddress").not_null(),
    Field::string("primaryIpAddress").not_null(),
    Field::reference("requestedHostId", "host").create().update(),
    Field::string("token").filtered(),
    Field::string("userdata").create().update().max_length(65535).filtered(),
    Field::array("validHostIds", &Form::Reference("host")).create().update(),
    Field::array("vnetIds", &Form::Reference("vnet")).create().write_only(),
    Field::reference("zoneId", "zone").create().update().filtered(),
];

/// What the original did not have: the host, without asking for the link `hosts`; and what placement goes by.
pub const ADDED: &[Field] = &[
    Field::array(constraint::AFFINITY, &Form::String).create().update(),
    Field::array(constraint::ANTI_AFFINITY, &Form::String).create().update(),
    Field::array(constraint::CONSTRAINTS, &Form::String).create().update(),
    Field::int(names::DISK_MB).create().range(0, 1 << 40),
    Field::string(names::EXTERNAL_ID),
    Field::reference("hostId", "host").filtered(),
    Field::map(constraint::LABELS, &Form::String).create(),
    Field::int(names::MEMORY_RESERVATION_MB).create().range(0, 1 << 30),
    Field::one_of(constraint::POLICY, &["packing", "spreading"]).create().update(),
    Field::boolean(names::NATIVE).not_null().default(Literal::Boolean(false)).filtered(),
    Field::array(constraint::SPREAD_BY, &Form::String).create().update(),
    Field::one_of(names::ON_HOST_LOSS, &["stay", "move"]).create().default(Literal::Text("stay")).filtered_as_text(),
    Field::int(names::HOST_LOSS_GRACE).create().update().range(0, 7 * 24 * 3600),
];

const OWN: &[Field] = &[
    Field::int("compute").filtered(),
    Field::string("hostname").filtered(),
    Field::reference("imageId", "image").create().update().filtered(),
    Field::string("imageUuid"),
    Field::int(names::MEMORY_MB).default(Literal::Int(256)).filtered(),
    Field::array("networkIds", &Form::Reference("network")).write_only(),
    Field::boolean("startOnCreate").not_null().default(Literal::Boolean(true)),
    Field::array("subnetIds", &Form::Reference("subnet")).write_only(),
];

pub const ACTIONS: &[Action] = &[
    action("create", "instance"),
    action("migrate", "instance"),
    action("purge", "instance"),
    action("remove", "instance"),
    action("restart", "instance"),
    action("restore", "instance"),
    action("start", "instance"),
    Action { name: "stop", input: Some("instanceStop"), output: "instance" },
    action("update", "instance"),
];

pub const LINKS: &[Link] = &[
    Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
    Link { name: "hosts", target: "host", path: LinkPath::OneAsMany("hostId"), create_default: None },
    Link { name: "image", target: "image", path: LinkPath::One("imageId"), create_default: None },
    Link {
        name: "instanceHostMaps",
        target: "instanceHostMap",
        path: LinkPath::Many("instanceId"),
        create_default: None,
    },
    Link { name: "instanceLinks", target: "instanceLink", path: LinkPath::Many("instanceId"), create_default: None },
    Link { name: "nics", target: "nic", path: LinkPath::Many("instanceId"), create_default: None },
    Link { name: "ports", target: "port", path: LinkPath::Many("instanceId"), create_default: None },
    Link {
        name: "targetInstanceLinks",
        target: "instanceLink",
        path: LinkPath::Many("targetInstanceId"),
        create_default: None,
    },
    Link { name: "volumes", target: "volume", path: LinkPath::Many("instanceId"), create_default: None },
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, SHARED, ADDED, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    actions: ACTIONS,
    links: LINKS,
    listable: true,
    ..Type::bare("instance", "instances")
};

/// What is to hold of whatever kind is made.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    let chosen = |field: &str| input.get(field).and_then(Value::as_array).is_some_and(|ids| !ids.is_empty());
    if chosen(names::NETWORK_IDS) && chosen("subnetIds") {
        return Err(Invalid::new(
            InvalidCode::NetworkIdsSubnetIdsMutuallyExclusive,
            names::NETWORK_IDS,
            "give networkIds or subnetIds, not both",
        ));
    }
    constraint::check(input)?;
    port::asked(input)?;
    match input.get("count").and_then(Value::as_u64) {
        Some(count) if count > MOST_AT_ONCE => Err(Invalid::new(
            InvalidCode::MaxLimitExceeded,
            "count",
            format!("at most {MOST_AT_ONCE} are made at once; ask several times"),
        )),
        None | Some(0) if input.contains_key("count") => {
            Err(Invalid::new(InvalidCode::MinLimitExceeded, "count", "count is 1 or more"))
        }
        _ => Ok(()),
    }
}
