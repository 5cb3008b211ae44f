//! The fields that types share.

use crate::resource::declaration::{Action, Field, Form};

/// What nearly every type has.
pub const COMMON: &[Field] = &[
    Field::date("created").filtered(),
    Field::map("data", &Form::Json).create().update().max_length(65535).admin_only(),
    Field::string("description").create().update().max_length(1024).filtered(),
    Field::int("id").filtered(),
    Field::string("name").create().update().filtered(),
    Field::date("removeTime").update().filtered(),
    Field::date("removed").filtered(),
    Field::one_of("transitioning", &["yes", "no", "error"]).not_null(),
    Field::string("transitioningMessage"),
    Field::int("transitioningProgress"),
];

/// Whose it is.
pub const OWNER: &[Field] = &[Field::reference("accountId", "account").create().update().admin_writes().filtered()];

/// Of types that are made with a kind and a uuid of the client's choice.
pub const IDENTITY: &[Field] =
    &[Field::string("kind").create().filtered(), Field::string("uuid").create().max_length(128).filtered()];

/// The state of all but instances and hosts.
pub const STATE: &[Field] = &[Field::one_of(
    "state",
    &[
        "activating",
        "active",
        "deactivating",
        "inactive",
        "purged",
        "purging",
        "registering",
        "removed",
        "removing",
        "requested",
        "restoring",
        "updating-active",
        "updating-inactive",
    ],
)
.not_null()
.max_length(128)
.filtered()];

/// Whether accounts see it that do not own it.
pub const PUBLIC: &[Field] = &[Field::boolean("isPublic").create().update().not_null().admin_writes().filtered()];

/// The actions of all but instances.
macro_rules! actions {
    ($output:literal) => {
        actions!($output, "activate", "create", "deactivate", "purge", "remove", "restore", "update")
    };
    ($output:literal, $($name:literal),+) => {
        &[$(crate::resource::types::columns::action($name, $output)),+]
    };
}
pub(super) use actions;

pub const fn action(name: &'static str, output: &'static str) -> Action {
    Action { name, input: None, output }
}
