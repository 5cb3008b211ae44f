//! A Docker container.

use super::columns::{COMMON, OWNER};
use super::instance::{self, ADDED, SHARED, STATE};
use crate::resource::declaration::{Field, Form, Literal, Type};
use crate::resource::validation::{Invalid, InvalidCode};
use crate::resource::{floating, instance as names, link};
use serde_json::{Map, Value};

/// Its kind is its type, and its uuid is given by the cluster.
const IDENTITY: &[Field] = &[Field::string("kind").filtered(), Field::string("uuid").max_length(128).filtered()];

const OWN: &[Field] = &[
    Field::string("command").create().min_length(1),
    Field::array("commandArgs", &Form::String).create(),
    Field::int(names::COMPUTE).create().filtered(),
    Field::string("directory").create().min_length(1),
    Field::array("dockerVolumes", &Form::String).create(),
    Field::map("environment", &Form::String).create().not_null(),
    Field::string("hostname").create().min_length(1).filtered(),
    Field::reference("imageId", "image").create().filtered(),
    Field::string("imageUuid").create(),
    Field::map(link::INSTANCE_LINKS, &Form::Reference("instance")).create().write_only(),
    Field::int(names::MEMORY_MB).default(Literal::Int(256)).filtered(),
    Field::array("networkIds", &Form::Reference("network")).create().write_only(),
    Field::boolean("privileged").create().not_null().default(Literal::Boolean(false)),
    Field::boolean(names::PUBLISH_ALL).create().not_null().default(Literal::Boolean(false)),
    Field::boolean("startOnCreate").create().not_null().default(Literal::Boolean(true)),
    Field::array("subnetIds", &Form::Reference("subnet")).create().write_only(),
    Field::string("user").create().min_length(1),
];

/// What the original did not have. A limit that the host enforces, where it is asked for; Docker takes 6 MiB and more.
const LIMITS: &[Field] = &[
    Field::int(names::MEMORY_LIMIT_MB).create().range(6, 1 << 30),
    // Of the original, but of its virtual machines alone.
    Field::reference(floating::ON_CREATE, "ipPool").create(),
];

pub const TYPE: Type = Type {
    name: "container",
    plural: "containers",
    fields: &[COMMON, OWNER, IDENTITY, STATE, SHARED, ADDED, OWN, LIMITS],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT", "DELETE"],
    check: Some(check),
    ..instance::TYPE
};

fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    let image = input.get(names::IMAGE_UUID).and_then(Value::as_str).unwrap_or_default();
    if image.trim().is_empty() && !input.contains_key(names::IMAGE_ID) {
        return Err(Invalid::new(
            InvalidCode::MissingRequired,
            names::IMAGE_UUID,
            "say which image to run: imageUuid is \"docker:\" and what `docker pull` takes, like \"docker:busybox\"",
        ));
    }
    link::asked(input)?;
    instance::check(input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn code(input: Value) -> Option<InvalidCode> {
        check(input.as_object().unwrap()).err().map(|invalid| invalid.code)
    }

    #[test]
    fn an_image_is_needed() {
        assert_eq!(code(json!({})), Some(InvalidCode::MissingRequired));
        assert_eq!(code(json!({"imageUuid": " "})), Some(InvalidCode::MissingRequired));
        assert_eq!(code(json!({"imageUuid": "docker:busybox"})), None);
        assert_eq!(code(json!({"imageId": 3})), None);
    }

    #[test]
    fn networks_ports_and_count_are_checked() {
        let with = |key: &str, value: Value| {
            let mut input = json!({"imageId": 3, "networkIds": [1]});
            input[key] = value;
            code(input)
        };
        assert_eq!(with("subnetIds", json!([2])), Some(InvalidCode::NetworkIdsSubnetIdsMutuallyExclusive));
        assert_eq!(with("subnetIds", json!([])), None);
        assert_eq!(with("ports", json!(["80:80", "x"])), Some(InvalidCode::PortWrongFormat));
        assert_eq!(with("count", json!(0)), Some(InvalidCode::MinLimitExceeded));
        assert_eq!(with("count", json!(-1)), Some(InvalidCode::MinLimitExceeded));
        assert_eq!(with("count", json!(101)), Some(InvalidCode::MaxLimitExceeded));
        assert_eq!(with("count", json!(100)), None);
    }
}
