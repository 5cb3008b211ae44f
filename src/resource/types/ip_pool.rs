//! Addresses to be acquired one by one; each pool is a [`super::subnet_ip_pool`].

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE, action};
use crate::resource::declaration::{Action, Link, LinkPath, Type};

pub const ACTIONS: &[Action] = &[
    Action { name: "acquire", input: None, output: "ipAddress" },
    action("activate", "ipPool"),
    action("create", "ipPool"),
    action("deactivate", "ipPool"),
    action("purge", "ipPool"),
    action("remove", "ipPool"),
    action("restore", "ipPool"),
    action("update", "ipPool"),
];

pub const LINKS: &[Link] = &[
    Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
    Link { name: "ipAddresses", target: "ipAddress", path: LinkPath::Many("ipPoolId"), create_default: None },
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC],
    collection_methods: &["GET"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: ACTIONS,
    links: LINKS,
    listable: true,
    admin_writes: true,
    ..Type::bare("ipPool", "ipPools")
};
