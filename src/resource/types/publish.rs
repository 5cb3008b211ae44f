//! The answer to an event: the address `/v1/publish`.

use crate::resource::declaration::{Field, Form, Type};

pub const NAME: &str = "name";
pub const DATA: &str = "data";
pub const PREVIOUS: &str = "previousIds";
pub const TRANSITIONING: &str = "transitioning";
pub const MESSAGE: &str = "transitioningMessage";
pub const INTERNAL: &str = "transitioningInternalMessage";
pub const PROGRESS: &str = "transitioningProgress";
/// Whether something had waited for it. The original did not say so.
pub const TAKEN: &str = "taken";

const FIELDS: &[Field] = &[
    Field::map(DATA, &Form::Json).create(),
    Field::string("id").create().not_null(),
    Field::string(NAME).create().required().not_null(),
    Field::array(PREVIOUS, &Form::String).create().not_null(),
    Field::string("publisher").create().not_null(),
    Field::string("resourceId").create(),
    Field::string("resourceType").create(),
    Field::boolean(TAKEN).not_null(),
    Field::int("time").create(),
    Field::string(TRANSITIONING).create().not_null(),
    Field::string(INTERNAL).create().not_null(),
    Field::string(MESSAGE).create().not_null(),
    Field::int(PROGRESS).create(),
];

pub const TYPE: Type = Type {
    fields: &[FIELDS],
    collection_methods: &["POST"],
    resource_methods: &[],
    admin_writes: true,
    ..Type::bare("publish", "publish")
};
