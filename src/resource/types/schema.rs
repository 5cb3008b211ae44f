//! A type as the API tells it.

use crate::resource::declaration::{Field, Form, Type};

const FIELDS: &[Field] = &[
    Field::map("collectionActions", &Form::Json).not_null(),
    Field::map("collectionFields", &Form::Json).not_null(),
    Field::map("collectionFilters", &Form::Json).not_null(),
    Field::array("collectionMethods", &Form::String).not_null(),
    Field::array("includeableLinks", &Form::String).not_null(),
    Field::string("pluralName").not_null(),
    Field::map("resourceActions", &Form::Json).not_null(),
    Field::map("resourceFields", &Form::Json).not_null(),
    Field::array("resourceMethods", &Form::String).not_null(),
];

pub const TYPE: Type = Type {
    fields: &[FIELDS],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    listable: true,
    ..Type::bare("schema", "schemas")
};
