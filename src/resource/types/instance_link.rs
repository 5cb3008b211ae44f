//! A name in one instance for another's ports. There are none yet.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Form, Link, LinkPath, Type};

const OWN: &[Field] = &[
    Field::reference("instanceId", "instance").filtered(),
    Field::string("linkName").filtered(),
    Field::array("ports", &Form::Json).not_null(),
    Field::reference("targetInstanceId", "instance").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "instance", target: "instance", path: LinkPath::One("instanceId"), create_default: None },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &[], rows: parts::nothing }),
    ..Type::bare("instanceLink", "instanceLinks")
};
