//! The way out of the network: the first address of each host's bridge.

use super::network_service::kind;
use crate::resource::declaration::Type;

pub const TYPE: Type = kind("gatewayService", "gatewayServices");
