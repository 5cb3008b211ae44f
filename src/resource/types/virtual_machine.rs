//! A virtual machine. None can be made yet.

use super::columns::{COMMON, OWNER};
use super::instance::{self, ADDED, SHARED, STATE};
use crate::resource::declaration::{Field, Form, Literal, Type};

/// Its kind is its type.
const IDENTITY: &[Field] =
    &[Field::string("kind").filtered(), Field::string("uuid").create().max_length(128).filtered()];

const OWN: &[Field] = &[
    Field::int("compute").create().filtered(),
    Field::string("hostname").filtered(),
    Field::reference("imageId", "image").create().filtered(),
    Field::string("imageUuid").create(),
    Field::string("libvirtVncAddress").not_null(),
    Field::string("libvirtVncPassword").not_null(),
    Field::array("networkIds", &Form::Reference("network")).create().write_only(),
    Field::reference("publicIpAddressPoolId", "ipPool").create().update(),
    Field::boolean("startOnCreate").create().not_null().default(Literal::Boolean(true)),
    Field::array("subnetIds", &Form::Reference("subnet")).create().write_only(),
    Field::int("vcpu").create(),
];

pub const TYPE: Type = Type {
    name: "virtualMachine",
    plural: "virtualMachines",
    fields: &[COMMON, OWNER, IDENTITY, STATE, SHARED, ADDED, OWN],
    actions: &[],
    ..instance::TYPE
};
