//! A wish to be told of events: the address `/v1/subscribe`, which answers with a stream and not with a list.

use crate::resource::declaration::{Field, Form, Type};

/// The name of the field, also as a parameter.
pub const EVENT_NAMES: &str = "eventNames";

const FIELDS: &[Field] = &[
    Field::reference("agentId", "agent").create().update(),
    Field::array(EVENT_NAMES, &Form::String)
        .create()
        .not_null()
        .min_length(1)
        .valid_chars("*._0-9a-zA-Z;=-")
        .filtered_by_value(),
];

pub const TYPE: Type = Type {
    fields: &[FIELDS],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET"],
    listable: true,
    ..Type::bare("subscribe", "subscribe")
};
