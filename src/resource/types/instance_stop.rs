//! What can be said when an instance is stopped.

use crate::resource::declaration::{Field, Type};

const FIELDS: &[Field] =
    &[Field::boolean("deallocateFromHost").create().not_null(), Field::boolean("remove").create().not_null()];

pub const TYPE: Type =
    Type { fields: &[FIELDS], resource_methods: &["GET"], ..Type::bare("instanceStop", "instanceStops") };
