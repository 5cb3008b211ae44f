//! The encrypted way between hosts.

use super::network_service::kind;
use crate::resource::declaration::Type;

pub const TYPE: Type = kind("ipsecTunnelService", "ipsecTunnelServices");
