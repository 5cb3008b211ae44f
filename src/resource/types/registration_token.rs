//! A token of the original's for `register`. There are none.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use crate::resource::declaration::Type;

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    listable: true,
    admin_writes: true,
    base: "credential",
    ..Type::bare("registrationToken", "registrationTokens")
};
