//! Public ports.

use super::network_service::kind;
use crate::resource::declaration::Type;

pub const TYPE: Type = kind("portService", "portServices");
