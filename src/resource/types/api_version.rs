//! `/v1` itself.

use crate::resource::declaration::Type;

pub const TYPE: Type = Type { resource_methods: &["GET"], ..Type::bare("apiVersion", "apiVersions") };
