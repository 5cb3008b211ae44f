//! A virtual machine.

use super::columns::{COMMON, OWNER, action};
use super::instance::{self, ADDED, SHARED, STATE};
use crate::resource::declaration::{Action, Field, Form, Literal, Type};
use crate::resource::instance as names;
use crate::resource::validation::{Invalid, InvalidCode};
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// Its kind is its type.
const IDENTITY: &[Field] =
    &[Field::string("kind").filtered(), Field::string("uuid").create().max_length(128).filtered()];

/// What qemu takes: mebibytes of memory, and processors. Their schema has no limits, as the original's.
const MEMORY: RangeInclusive<i64> = 16..=1 << 30;
const PROCESSORS: RangeInclusive<i64> = 1..=255;

/// What changes while it is stopped.
pub const SIZES: &[&str] = &[names::MEMORY_MB, names::VCPU];

const OWN: &[Field] = &[
    Field::int("compute").create().filtered(),
    Field::string("hostname").filtered(),
    Field::reference("imageId", "image").create().filtered(),
    Field::string("imageUuid").create(),
    Field::string("libvirtVncAddress").not_null(),
    Field::string("libvirtVncPassword").not_null(),
    Field::int(names::MEMORY_MB).create().update().default(Literal::Int(256)).filtered(),
    Field::array("networkIds", &Form::Reference("network")).create().write_only(),
    Field::reference("publicIpAddressPoolId", "ipPool").create().update(),
    Field::boolean("startOnCreate").create().not_null().default(Literal::Boolean(true)),
    Field::array("subnetIds", &Form::Reference("subnet")).create().write_only(),
    Field::int(names::VCPU).create().update(),
];

/// The way to its screen, while it runs.
pub const CONSOLE: &str = "console";

const ACTIONS: &[Action] = &[
    Action { name: CONSOLE, input: Some("instanceConsoleInput"), output: "instanceConsole" },
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

pub const TYPE: Type = Type {
    name: "virtualMachine",
    plural: "virtualMachines",
    fields: &[COMMON, OWNER, IDENTITY, STATE, SHARED, ADDED, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: ACTIONS,
    check: Some(check),
    ..instance::TYPE
};

fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    let image = input.get(names::IMAGE_UUID).and_then(Value::as_str).unwrap_or_default();
    if image.trim().is_empty() && !input.contains_key(names::IMAGE_ID) {
        return Err(Invalid::new(
            InvalidCode::MissingRequired,
            names::IMAGE_ID,
            "say which image its disk is made from: imageId or imageUuid is one that was made with POST /v1/images and a url",
        ));
    }
    if input.get(names::ON_HOST_LOSS).and_then(Value::as_str) == Some("move") {
        return Err(Invalid::new(
            InvalidCode::InvalidOption,
            names::ON_HOST_LOSS,
            "a virtual machine stays with its host, whose disk it is on; leave onHostLoss out",
        ));
    }
    limit(input, names::MEMORY_MB, &MEMORY)?;
    limit(input, names::VCPU, &PROCESSORS)?;
    instance::check(input)
}

/// Of an update.
///
/// # Errors
/// The first that cannot be.
pub fn check_sizes(changes: &Map<String, Value>) -> Result<(), Invalid> {
    if let Some(field) = SIZES.iter().find(|field| changes.get(**field).is_some_and(Value::is_null)) {
        return Err(Invalid::new(InvalidCode::NotNullable, *field, "say how much it is to have, or leave this out"));
    }
    limit(changes, names::MEMORY_MB, &MEMORY)?;
    limit(changes, names::VCPU, &PROCESSORS)
}

fn limit(input: &Map<String, Value>, field: &str, range: &RangeInclusive<i64>) -> Result<(), Invalid> {
    let Some(number) = input.get(field).and_then(Value::as_i64) else { return Ok(()) };
    let code = match number {
        number if number < *range.start() => InvalidCode::MinLimitExceeded,
        number if number > *range.end() => InvalidCode::MaxLimitExceeded,
        _ => return Ok(()),
    };
    Err(Invalid::new(code, field, format!("from {} to {}", range.start(), range.end())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_it_is_made_from_and_what_is_not_there_yet() {
        let code = |input: Value| check(input.as_object().unwrap()).err().map(|invalid| invalid.code);
        assert_eq!(code(json!({})), Some(InvalidCode::MissingRequired));
        assert_eq!(code(json!({"imageUuid": " "})), Some(InvalidCode::MissingRequired));
        assert_eq!(code(json!({"imageId": 3, "onHostLoss": "stay"})), None);
        assert_eq!(code(json!({"imageId": 3, "onHostLoss": "move"})), Some(InvalidCode::InvalidOption));
        assert_eq!(code(json!({"imageId": 3, "memoryMb": 16, "vcpu": 255})), None);
        assert_eq!(code(json!({"imageId": 3, "memoryMb": 1})), Some(InvalidCode::MinLimitExceeded));
        assert_eq!(code(json!({"imageId": 3, "vcpu": 0})), Some(InvalidCode::MinLimitExceeded));
        assert_eq!(code(json!({"imageId": 3, "vcpu": 256})), Some(InvalidCode::MaxLimitExceeded));
        assert_eq!(code(json!({"imageId": 3, "count": 101})), Some(InvalidCode::MaxLimitExceeded));
        assert_eq!(code(json!({"imageId": 3, "ports": ["x"]})), Some(InvalidCode::PortWrongFormat));
    }
}
