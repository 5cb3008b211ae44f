//! Names.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::network_service::{SERVICE, kind};
use crate::resource::declaration::{Field, Form, Type};

const OWN: &[Field] = &[Field::array("dns", &Form::String).create().update().not_null()];

pub const TYPE: Type =
    Type { fields: &[COMMON, OWNER, IDENTITY, STATE, SERVICE, OWN], ..kind("dnsService", "dnsServices") };
