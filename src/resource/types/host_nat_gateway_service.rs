//! Translation to the host's address on the way out.

use super::network_service::kind;
use crate::resource::declaration::Type;

pub const TYPE: Type = kind("hostNatGatewayService", "hostNatGatewayServices");
