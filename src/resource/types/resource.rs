//! What all resources have, as schemas name it.

use crate::resource::declaration::{Field, Form, Type};

const FIELDS: &[Field] = &[
    Field::map("actions", &Form::Json).not_null(),
    Field::string("id").not_null(),
    Field::map("links", &Form::Json).not_null(),
    Field::string("type").not_null(),
];

pub const TYPE: Type = Type { fields: &[FIELDS], resource_methods: &["GET"], ..Type::bare("resource", "resources") };
