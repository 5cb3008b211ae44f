//! What can be said when a host is drained.

use crate::resource::declaration::{Field, Literal, Type};

pub const AT_ONCE: &str = "atOnce";
pub const STOP_STAYING: &str = "stopStaying";

const FIELDS: &[Field] = &[
    Field::int(AT_ONCE).create().range(1, 1000).default(Literal::Int(4)),
    Field::boolean(STOP_STAYING).create().not_null(),
];

pub const TYPE: Type = Type { fields: &[FIELDS], resource_methods: &["GET"], ..Type::bare("hostDrain", "hostDrains") };
