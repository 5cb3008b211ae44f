//! Addresses by DHCP.

use super::network_service::kind;
use crate::resource::declaration::Type;

pub const TYPE: Type = kind("dhcpService", "dhcpServices");
