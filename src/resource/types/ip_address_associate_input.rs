//! What can be said when an address is associated.

use crate::resource::declaration::{Field, Type};

const FIELDS: &[Field] = &[Field::reference("ipAddressId", "ipAddress").create().update().not_null()];

pub const TYPE: Type = Type {
    fields: &[FIELDS],
    resource_methods: &["GET"],
    ..Type::bare("ipAddressAssociateInput", "ipAddressAssociateInputs")
};
