//! A setting of the whole cluster. Ours are in files.

use super::parts;
use crate::resource::declaration::{Derived, Field, Type};

const OWN: &[Field] = &[
    Field::int("id").filtered(),
    Field::string("name").create().filtered(),
    Field::string("value").create().update().max_length(1024).filtered(),
];

pub const TYPE: Type = Type {
    fields: &[OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &[], rows: parts::nothing }),
    ..Type::bare("setting", "settings")
};
