//! A place in a process where programs from outside can have a part.

use crate::resource::declaration::{Field, Form, Type};

const FIELDS: &[Field] = &[
    Field::string("excludeSetting").not_null(),
    Field::array("implementations", &Form::Type("extensionImplementation")).not_null(),
    Field::string("includeSetting").not_null(),
    Field::string("listSetting").not_null(),
    Field::string("name").create().update().not_null(),
];

pub const TYPE: Type = Type {
    fields: &[FIELDS],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    listable: true,
    admin_writes: true,
    ..Type::bare("extensionPoint", "extensionPoints")
};
