//! What users see: resources, their types, fields, states and rules.
//!
//! A [`Resource`] is what is stored for one thing that has an id: the columns that all have, and its type's own fields.
//! Each type is declared once ([`declaration`]); schemas, validation, defaults and what the API shows come from that.
//! Which state follows which is one table ([`transition`]).

pub mod assignment;
pub mod constraint;
pub mod date;
pub mod declaration;
pub mod derived;
pub mod dns_name;
pub mod floating;
pub mod identifier;
pub mod instance;
pub mod link;
pub mod native;
pub mod openapi;
pub mod port;
pub mod process;
mod record;
pub mod schema;
pub mod snapshot;
pub mod ssh_key;
mod state;
pub mod trail;
pub mod transition;
pub mod types;
pub mod validation;
pub mod volume;

pub use record::Resource;
pub use state::{State, Transitioning};
