//! What can be said when a host is removed.

use crate::resource::declaration::{Field, Type};

/// With `force`, one that still has instances and never comes back.
const FIELDS: &[Field] = &[Field::boolean("force").create().not_null()];

pub const TYPE: Type =
    Type { fields: &[FIELDS], resource_methods: &["GET"], ..Type::bare("hostRemove", "hostRemoves") };
