//! What an answer of 400 and above holds.

use crate::resource::declaration::{Field, Type};

const FIELDS: &[Field] = &[
    Field::string("code").not_null(),
    Field::string("detail").not_null(),
    Field::string("message").not_null(),
    Field::int("status").not_null(),
];

pub const TYPE: Type = Type { fields: &[FIELDS], resource_methods: &["GET"], ..Type::bare("error", "errors") };
