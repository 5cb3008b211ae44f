//! What can be said when a console is asked for.

use crate::resource::declaration::Type;

pub const TYPE: Type =
    Type { resource_methods: &["GET"], ..Type::bare("instanceConsoleInput", "instanceConsoleInputs") };
