//! Processes and their extension points: what there is by declaration, and which handlers have a part in it.

use super::collection;
use super::error::ApiError;
use super::exchange::{Answer, Exchange, only_get};
use crate::orchestration::handlers::Handler;
use crate::resource::declaration::Type;
use crate::resource::process::{self, Phase};
use crate::resource::{transition, types};
use axum::http::StatusCode;
use serde_json::{Value, json};

const PHASES: &[(Phase, &str, &str)] = &[
    (Phase::Pre, "pre.", "preProcessListeners"),
    (Phase::Instead, "", "processHandlers"),
    (Phase::Post, "post.", "postProcessListeners"),
];

/// Whether a type is one of these.
pub fn is_defined(declared: &Type) -> bool {
    matches!(declared.name, "processDefinition" | "extensionPoint")
}

impl Exchange<'_> {
    pub async fn definitions(&self, declared: &'static Type, id: Option<&str>) -> Result<Answer, ApiError> {
        only_get(self.request)?;
        let handlers = types::find("externalHandler").ok_or_else(ApiError::internal)?;
        let rows = self.reader.all(handlers, |_| true).await?;
        let handlers: Vec<Handler> = rows.iter().filter_map(|row| Handler::of(row)).collect();
        let list = format!("{}/{}", self.request.base, declared.plural.to_ascii_lowercase());
        let all: Vec<Value> = match declared.name {
            "processDefinition" => {
                process::all().map(|(of, action)| definition(of, action, &list, &handlers)).collect()
            }
            _ => points(&list, &handlers).collect(),
        };
        match id {
            Some(id) => match all.into_iter().find(|one| one["id"] == id) {
                Some(one) => Answer::json(StatusCode::OK, &one),
                None => Err(ApiError::not_found(format!("there is no {} {id:.60}; {list} lists them", declared.name))),
            },
            None => {
                let mut envelope = collection::envelope(declared.name, &list);
                envelope.insert("data".into(), all.into());
                Answer::json(StatusCode::OK, &envelope)
            }
        }
    }
}

fn points(list: &str, handlers: &[Handler]) -> impl Iterator<Item = Value> {
    process::all().flat_map(move |(of, action)| {
        PHASES.iter().map(move |(phase, prefix, _)| point(of, action, *phase, prefix, list, handlers))
    })
}

fn name(of: &Type, action: &str) -> String {
    format!("{}.{action}", of.name.to_ascii_lowercase())
}

fn point(of: &Type, action: &str, phase: Phase, prefix: &str, list: &str, handlers: &[Handler]) -> Value {
    let id = format!("{prefix}{}", name(of, action));
    let taking_part = handlers.iter().filter(|handler| handler.has_part(of.base, action, phase));
    let implementations: Vec<Value> = taking_part.map(|handler| json!({ "name": handler.name })).collect();
    json!({
        "id": id,
        "type": "extensionPoint",
        "links": { "self": format!("{list}/{id}") },
        "actions": {},
        "name": id,
        "implementations": implementations,
        "excludeSetting": null,
        "includeSetting": null,
        "listSetting": null,
    })
}

fn definition(of: &Type, action: &str, list: &str, handlers: &[Handler]) -> Value {
    let id = name(of, action);
    let steps: Vec<Value> = transition::paths(of.base, action)
        .flat_map(|(from, through, to)| {
            let step = |from: &str, to: &str, kind: &str| json!({ "fromState": from, "toState": to, "field": "state", "type": kind });
            [step(from.name(), through.name(), "TRANSITIONING"), step(through.name(), to.name(), "DONE")]
        })
        .collect();
    let mut shown = json!({
        "id": id,
        "type": "processDefinition",
        "links": { "self": format!("{list}/{id}") },
        "actions": {},
        "name": id,
        "resourceType": of.name,
        "extensionBased": false,
        "stateTransitions": steps,
    });
    let points = list.replace("processdefinitions", "extensionpoints");
    for (phase, prefix, field) in PHASES {
        shown[*field] = point(of, action, *phase, prefix, &points, handlers);
    }
    shown
}
