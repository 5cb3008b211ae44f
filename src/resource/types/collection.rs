//! A list.

use crate::resource::declaration::{Field, Form, Type};

const FIELDS: &[Field] = &[
    Field::map("actions", &Form::Json).not_null(),
    Field::map("createDefaults", &Form::Json).not_null(),
    Field::map("createTypes", &Form::Json).not_null(),
    Field::array("data", &Form::Type("resource")).create().update().not_null(),
    Field::map("filters", &Form::Array(&Form::Json)).not_null(),
    Field::map("links", &Form::Json).not_null(),
    Field::json("pagination").not_null(),
    Field::string("resourceType").not_null(),
    Field::json("sort").not_null(),
    Field::map("sortLinks", &Form::Json).not_null(),
    Field::string("type").not_null(),
];

pub const TYPE: Type =
    Type { fields: &[FIELDS], resource_methods: &["GET"], ..Type::bare("collection", "collections") };
