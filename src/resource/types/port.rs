//! A port of an instance that its host opens.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};
use crate::resource::{Resource, floating, instance, port};

const OWN: &[Field] = &[
    Field::reference("instanceId", "instance").filtered(),
    Field::reference("privateIpAddressId", "ipAddress").filtered(),
    Field::int("privatePort").filtered(),
    Field::string("protocol").max_length(128).filtered(),
    Field::reference("publicIpAddressId", "ipAddress").filtered(),
    Field::int(port::PUBLIC_PORT).update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET", "PUT"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "instance", target: "instance", path: LinkPath::One("instanceId"), create_default: None },
        Link {
            name: "privateIpAddress",
            target: "ipAddress",
            path: LinkPath::One("privateIpAddressId"),
            create_default: None,
        },
    ],
    listable: true,
    derived: Some(Derived { from: &["instance"], rows }),
    ..Type::bare("port", "ports")
};

/// The ports of an instance.
pub fn rows(_: &str, whole: &Resource) -> Vec<Resource> {
    // The lowest is also the one that it leaves under.
    let public = floating::of(whole).iter().min_by_key(|one| one.address).map(|one| floating::shown_id(one.id));
    let one = |port: port::Published| {
        let mut row = parts::of_instance(whole, "port");
        row.id = port::id(whole.id, port.number);
        row.uuid = format!("{}-port-{}", whole.uuid, port.number);
        (row.name, row.description, row.data) = (port.name, port.description, port.data);
        row.set("instanceId", whole.id);
        row.set("privateIpAddressId", whole.fields.contains_key(instance::ADDRESS).then_some(whole.id));
        row.set("privatePort", port.private);
        row.set("publicIpAddressId", public);
        row.set("protocol", port.protocol.to_string());
        row.set(port::PUBLIC_PORT, port.public);
        row
    };
    port::of(whole).into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_lowest_floating_address_is_named() {
        let whole: Resource = serde_json::from_value(json!({
            "id": 54, "kind": "container", "uuid": "u", "created": 1, "state": "running", "primaryIpAddress": "10.42.7.9",
            "publishedPorts": [{"number": 0, "private": 80, "public": 8080, "protocol": "tcp"}],
            "floatingAddresses": [{"id": 8, "address": "198.18.9.3", "pool": 1}, {"id": 9, "address": "198.18.9.2", "pool": 1}],
        }))
        .unwrap();
        let named = |whole: &Resource| rows("instance", whole)[0].get::<u64>("publicIpAddressId");
        assert_eq!(named(&whole), Some(floating::shown_id(9)));
        let mut without = whole;
        floating::set(&mut without, &[]);
        assert_eq!(named(&without), None);
    }
}
