//! A process that some handler has a part in. It follows from the handlers' `processNames`, and is made by nobody.

use super::columns::{COMMON, IDENTITY, STATE};
use super::external_handler::PROCESS_NAMES;
use crate::resource::declaration::{Derived, Link, LinkPath, Type};
use crate::resource::{Resource, derived};

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[Link {
        name: "externalHandlerExternalHandlerProcessMaps",
        target: "externalHandlerExternalHandlerProcessMap",
        path: LinkPath::Many("externalHandlerProcessId"),
        create_default: None,
    }],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["externalHandler"], rows }),
    ..Type::bare("externalHandlerProcess", "externalHandlerProcesses")
};

/// Handlers that name the same process share it.
fn rows(_: &str, handler: &Resource) -> Vec<Resource> {
    let names: Vec<String> = handler.get(PROCESS_NAMES).unwrap_or_default();
    let row = |name: String| {
        let mut row = derived::part(handler, "externalHandlerProcess", derived::number(&name));
        row.uuid = format!("process-{name}");
        row.description = None;
        row.account_id = None;
        row.name = Some(name);
        row
    };
    names.into_iter().map(row).collect()
}
