//! What is known of a transition's run: its length, and what it said in the end.

use super::process_instance::{id, passages};
use crate::resource::declaration::{Derived, Field, Form, Link, LinkPath, Type};
use crate::resource::process::BASES;
use crate::resource::{Resource, derived};
use serde_json::json;

const INSTANCE: &str = "processInstanceId";

pub const TYPE: Type = Type {
    fields: &[FIELDS],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[Link {
        name: "processInstance",
        target: "processInstance",
        path: LinkPath::One(INSTANCE),
        create_default: None,
    }],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: BASES, rows }),
    ..Type::bare("processExecution", "processExecutions")
};

const FIELDS: &[Field] = &[
    Field::int("id").filtered(),
    Field { max_length: Some(16_777_215), ..Field::map("log", &Form::Json) },
    Field::reference(INSTANCE, "processInstance").create().update().not_null().filtered(),
    Field::string("uuid").create().max_length(128).filtered(),
];

fn rows(base: &'static str, row: &Resource) -> Vec<Resource> {
    let one = |(at, _, passage): (usize, &'static str, _)| {
        let id = id(at, row.id, &passage);
        let mut shown = derived::part(row, "processExecution", id);
        shown.uuid = format!("{}-{}", row.uuid, passage.number);
        shown.set(INSTANCE, id);
        shown.set(
            "log",
            json!({
                "durationMillis": passage.ended.map(|end| end.0 - passage.began.0),
                "message": passage.message.or_else(|| {
                    row.transitioning_message.clone().filter(|_| passage.ended.is_none())
                }),
                "outcome": passage.outcome,
            }),
        );
        shown
    };
    passages(base, row).into_iter().map(one).collect()
}
