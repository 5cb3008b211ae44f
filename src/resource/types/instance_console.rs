//! The way to an instance's console.

use crate::resource::declaration::{Field, Type};

const FIELDS: &[Field] =
    &[Field::string("kind").create().not_null(), Field::string("password").not_null(), Field::string("url").not_null()];

pub const TYPE: Type =
    Type { fields: &[FIELDS], resource_methods: &["GET"], ..Type::bare("instanceConsole", "instanceConsoles") };
