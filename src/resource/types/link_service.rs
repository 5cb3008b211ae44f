//! Links between instances.

use super::network_service::kind;
use crate::resource::declaration::Type;

pub const TYPE: Type = kind("linkService", "linkServices");
