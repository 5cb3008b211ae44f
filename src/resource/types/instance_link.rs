//! A name in one instance for another's ports.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Form, Link, LinkPath, Type};
use crate::resource::{Resource, link};
use serde_json::{Value, json};

const OWN: &[Field] = &[
    Field::reference("instanceId", "instance").filtered(),
    Field::string("linkName").filtered(),
    Field::array("ports", &Form::Json).not_null(),
    Field::reference(link::TARGET, "instance").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET", "PUT"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "instance", target: "instance", path: LinkPath::One("instanceId"), create_default: None },
        Link { name: "targetInstance", target: "instance", path: LinkPath::One(link::TARGET), create_default: None },
    ],
    listable: true,
    derived: Some(Derived { from: &["instance"], rows }),
    ..Type::bare(link::BASE, "instanceLinks")
};

/// The links of an instance.
pub fn rows(_: &str, whole: &Resource) -> Vec<Resource> {
    let address = link::address(whole);
    let one = |link: link::Link| {
        let mut row = parts::of_instance(whole, link::BASE);
        row.id = link::id(whole.id, link.number);
        row.uuid = format!("{}-link-{}", whole.uuid, link.number);
        (row.name, row.description, row.data) = (link.name, link.description, link.data);
        row.set("instanceId", whole.id);
        row.set("linkName", link.link_name);
        row.set(link::TARGET, link.target);
        let ports = link.ports.iter().map(|port| {
            json!({"publicPort": port.public, "privatePort": port.private, "protocol": port.protocol, "ipAddress": address})
        });
        row.set("ports", Value::from_iter(ports));
        row
    };
    link::of(whole).into_iter().map(one).collect()
}
