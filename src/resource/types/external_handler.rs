//! A program outside that has a part in transitions: before them, in their place, or after them.

use super::columns::{COMMON, IDENTITY, STATE, actions};
use crate::resource::declaration::{Field, Form, Link, LinkPath, Literal, Type};
use crate::resource::process;
use crate::resource::validation::Invalid;
use serde_json::{Map, Value};

pub const PROCESS_NAMES: &str = "processNames";
pub const PRIORITY: &str = "priority";
pub const PRIORITY_NAME: &str = "priorityName";
pub const RETRIES: &str = "retries";
pub const TIMEOUT: &str = "timeoutMillis";

const OWN: &[Field] = &[
    Field::int(PRIORITY).create().update().filtered(),
    Field::one_of(PRIORITY_NAME, &["pre", "specific", "default_override"])
        .not_null()
        .default(Literal::Text("specific")),
    Field::array(PROCESS_NAMES, &Form::String).create().required().not_null(),
    Field { min: Some(1), ..Field::int(RETRIES).create().update() },
    Field { min: Some(1000), ..Field::int(TIMEOUT).create().update() },
];

pub const TYPE: Type = Type {
    fields: &[COMMON, IDENTITY, STATE, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: actions!("externalHandler"),
    links: &[Link {
        name: "externalHandlerExternalHandlerProcessMaps",
        target: "externalHandlerExternalHandlerProcessMap",
        path: LinkPath::Many("externalHandlerId"),
        create_default: None,
    }],
    listable: true,
    admin_writes: true,
    check: Some(check),
    ..Type::bare("externalHandler", "externalHandlers")
};

fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    let given = input.get(PROCESS_NAMES).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    process::names(given).map(drop)
}
