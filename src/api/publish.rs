//! `POST /v1/publish`: what an external handler says to an event.
//!
//! An answer that nothing waits for any more is no error: events are told again, and answers may cross. `taken` says so.

use super::body;
use super::error::ApiError;
use super::exchange::{Answer, Exchange};
use crate::orchestration::Publication;
use crate::resource::Transitioning;
use crate::resource::types::{self, publish as names};
use crate::resource::validation::{self, Invalid, InvalidCode, Writer};
use axum::body::Bytes;
use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// What an answer is called: `reply.<the event's id>`.
pub const REPLY: &str = "reply.";

impl Exchange<'_> {
    pub async fn publish(&self, bytes: Bytes) -> Result<Answer, ApiError> {
        if self.request.method != Method::POST {
            return Err(self.not_allowed(&["POST"]));
        }
        let principal = &self.request.principal;
        if principal.writer() != Writer::Admin || !principal.may_change() {
            return Err(ApiError::forbidden("only administrators and services publish: events are the cluster's own"));
        }
        let input = body::parse(&self.request.content_type, bytes).await?;
        let declared = types::find("publish").ok_or_else(ApiError::internal)?;
        let mut said = validation::action(declared, &input)?;
        let taken = self.context.service.publish(publication(&said)?).await?;
        said.insert(names::TAKEN.into(), taken.into());
        let mut shown = Map::new();
        shown.insert(
            "id".into(),
            said.remove("id").unwrap_or_else(|| self.context.environment.uuid().to_string().into()),
        );
        shown.insert("type".into(), declared.name.into());
        shown.insert("links".into(), json!({}));
        shown.insert("actions".into(), json!({}));
        for field in declared.fields().filter(|field| field.name != "id") {
            shown.insert(field.name.into(), said.remove(field.name).unwrap_or_default());
        }
        Answer::json(StatusCode::CREATED, &shown)
    }
}

fn publication(said: &Map<String, Value>) -> Result<Publication, ApiError> {
    let text = |field: &str| said.get(field).and_then(Value::as_str).filter(|text| !text.is_empty());
    let previous = said.get(names::PREVIOUS).and_then(Value::as_array).and_then(|ids| ids.first()?.as_str());
    let event =
        previous.or_else(|| text(names::NAME)?.strip_prefix(REPLY)).filter(|id| is_id(id)).ok_or_else(|| {
            let message = "name is the event's replyTo, and previousIds holds the event's id";
            Invalid::new(InvalidCode::MissingRequired, names::PREVIOUS, message)
        })?;
    let transitioning = match text(names::TRANSITIONING) {
        None | Some("no") => Transitioning::No,
        Some("yes") => Transitioning::Yes,
        Some("error") => Transitioning::Error,
        Some(_) => {
            let message = "\"yes\" for more time, \"error\" where it failed, \"no\" or nothing where it is done";
            return Err(Invalid::new(InvalidCode::InvalidOption, names::TRANSITIONING, message).into());
        }
    };
    let percent = said.get(names::PROGRESS).and_then(Value::as_i64);
    Ok(Publication {
        event: event.to_owned(),
        transitioning,
        message: text(names::INTERNAL).or_else(|| text(names::MESSAGE)).map(str::to_owned),
        progress: percent.map(|percent| u8::try_from(percent.clamp(0, 100)).unwrap_or(100)),
        data: said.get(names::DATA).and_then(Value::as_object).cloned().unwrap_or_default(),
    })
}

/// Ours are UUIDs. What is none is part of no key.
fn is_id(text: &str) -> bool {
    text.len() == 36 && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(said: Value) -> Result<Publication, String> {
        publication(said.as_object().unwrap()).map_err(|error| error.code.into_owned())
    }

    #[test]
    fn answers_are_understood() {
        let id = "77adc9a5-27dd-44be-b2b5-a0e1d4c9c5a2";
        let done = read(json!({"name": format!("reply.{id}"), "data": {"+data": {"a": 1}}})).unwrap();
        assert_eq!((done.event.as_str(), done.transitioning), (id, Transitioning::No));
        assert_eq!(done.data["+data"], json!({"a": 1}));
        let failed = read(json!({"name": "x", "previousIds": [id], "transitioning": "error",
            "transitioningInternalMessage": "no disk", "transitioningMessage": "oh"}));
        assert_eq!(failed.unwrap().message.as_deref(), Some("no disk"));
        let slow =
            read(json!({"name": "x", "previousIds": [id], "transitioning": "yes", "transitioningProgress": 700}));
        assert_eq!(slow.unwrap().progress, Some(100));
        assert_eq!(read(json!({"name": "reply"})), Err("MissingRequired".into()));
        assert_eq!(read(json!({"name": "x", "previousIds": ["../../cluster"]})), Err("MissingRequired".into()));
        assert_eq!(read(json!({"previousIds": [id], "transitioning": "maybe"})), Err("InvalidOption".into()));
    }
}
