//! That a handler has a part in a process.

use super::columns::{COMMON, IDENTITY, STATE};
use super::external_handler::PROCESS_NAMES;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};
use crate::resource::process::MOST;
use crate::resource::{Resource, derived};

const HANDLER: &str = "externalHandlerId";
const PROCESS: &str = "externalHandlerProcessId";

const OWN: &[Field] = &[
    Field::reference(HANDLER, "externalHandler").create().update().filtered(),
    Field::reference(PROCESS, "externalHandlerProcess").create().update().filtered(),
];

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "externalHandler", target: "externalHandler", path: LinkPath::One(HANDLER), create_default: None },
        Link {
            name: "externalHandlerProcess",
            target: "externalHandlerProcess",
            path: LinkPath::One(PROCESS),
            create_default: None,
        },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["externalHandler"], rows }),
    ..Type::bare("externalHandlerExternalHandlerProcessMap", "externalHandlerExternalHandlerProcessMaps")
};

fn rows(_: &str, handler: &Resource) -> Vec<Resource> {
    let names: Vec<String> = handler.get(PROCESS_NAMES).unwrap_or_default();
    let row = |(at, name): (u64, String)| {
        let id = handler.id * MOST as u64 + at;
        let mut row = derived::part(handler, "externalHandlerExternalHandlerProcessMap", id);
        row.name = Some(name.clone());
        row.set(HANDLER, handler.id);
        row.set(PROCESS, derived::number(&name));
        row
    };
    (0..).zip(names).map(row).collect()
}
