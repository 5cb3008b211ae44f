//! A process that there is: `instance.start`, and the states that it leads through.

use crate::resource::declaration::{Field, Form, Type};

const FIELDS: &[Field] = &[
    Field::boolean("extensionBased").not_null(),
    Field::string("id").not_null(),
    Field::string("name").create().update().not_null(),
    Field::new("postProcessListeners", Form::Type("extensionPoint")).not_null(),
    Field::new("preProcessListeners", Form::Type("extensionPoint")).not_null(),
    Field::new("processHandlers", Form::Type("extensionPoint")).not_null(),
    Field::string("resourceType").not_null(),
    Field::array("stateTransitions", &Form::Type("stateTransition")).not_null(),
];

pub const TYPE: Type = Type {
    fields: &[FIELDS],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    listable: true,
    admin_writes: true,
    ..Type::bare("processDefinition", "processDefinitions")
};
