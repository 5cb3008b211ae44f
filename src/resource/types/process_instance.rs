//! A transition that a resource went through, or goes through: what, how long, and what came of it.

use crate::resource::declaration::{Derived, Field, Form, Link, LinkPath, Type};
use crate::resource::process::BASES;
use crate::resource::trail::{self, Outcome, Passage};
use crate::resource::{Resource, derived, identifier};

pub const TYPE: Type = Type {
    fields: &[FIELDS],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[Link {
        name: "processExecutions",
        target: "processExecution",
        path: LinkPath::Many("processInstanceId"),
        create_default: None,
    }],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: BASES, rows }),
    ..Type::bare("processInstance", "processInstances")
};

const FIELDS: &[Field] = &[
    Field::map("data", &Form::Json).create().update().max_length(65535).admin_only(),
    Field::date("endTime").filtered(),
    Field::string("exitReason").max_length(128).filtered(),
    Field::int("id").filtered(),
    Field::string("phase").max_length(128).filtered(),
    Field::int("priority").filtered(),
    Field::string("processName").max_length(128).filtered(),
    Field::string("resourceId").create().update().max_length(128).filtered(),
    Field::string("resourceType").max_length(128).filtered(),
    Field::string("result").max_length(128).filtered(),
    Field::string("runningProcessServerId").create().update().max_length(128).filtered(),
    Field::string("startProcessServerId").create().update().max_length(128).filtered(),
    Field::date("startTime").filtered(),
];

/// The number of one of a row's passages: of which row of which type it is lies in it.
pub fn id(base: usize, row: u64, passage: &Passage) -> u64 {
    (row * 4096 + passage.number % 4096) * BASES.len() as u64 + base as u64
}

/// A row's passages, with the place of its base type.
pub fn passages(base: &'static str, row: &Resource) -> Vec<(usize, &'static str, Passage)> {
    let Some(at) = BASES.iter().position(|known| *known == base) else { return Vec::new() };
    trail::of(row).into_iter().map(|passage| (at, base, passage)).collect()
}

fn rows(base: &'static str, row: &Resource) -> Vec<Resource> {
    let one = |(at, base, passage): (usize, &'static str, Passage)| {
        let mut shown = derived::part(row, "processInstance", id(at, row.id, &passage));
        let (phase, reason, result) = match passage.outcome {
            None => ("STARTED", None, None),
            Some(Outcome::Done) => ("DONE", Some("DONE"), Some("SUCCESS")),
            Some(Outcome::Failed) => ("DONE", Some("FAILED"), Some("FAILURE")),
            Some(Outcome::Overtaken) => ("DONE", Some("OVERTAKEN"), None),
        };
        shown.set("phase", phase);
        shown.set("exitReason", reason);
        shown.set("result", result);
        shown.set("processName", format!("{}.{}", base.to_ascii_lowercase(), passage.action));
        shown.set("resourceType", base);
        shown.set("resourceId", identifier::format(base, row.id));
        shown.set("startTime", passage.began.0);
        shown.set("endTime", passage.ended.map(|end| end.0));
        shown
    };
    passages(base, row).into_iter().map(one).collect()
}
