//! Metadata at 169.254.169.254, and config drives.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::network_service::{SERVICE, kind};
use crate::resource::declaration::{Field, Literal, Type};

const OWN: &[Field] = &[Field::boolean("configDrive").create().update().not_null().default(Literal::Boolean(false))];

pub const TYPE: Type =
    Type { fields: &[COMMON, OWNER, IDENTITY, STATE, SERVICE, OWN], ..kind("metadataService", "metadataServices") };
