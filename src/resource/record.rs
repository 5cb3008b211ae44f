//! The stored form of a resource.

use super::{State, Transitioning};
use crate::environment::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

/// What is stored at `resource/<base type>/<id>`.
///
/// Fields of the type lie beside the columns, by the names they have on the wire; references are plain numbers
/// (`"imageId": 7`, on the wire `1i7`). Unknown fields survive a read and a write, so that an older agent does not lose
/// what a newer one wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    pub id: u64,
    /// The type as on the wire: `container`, `apiKey`, `hostOnlyNetwork`; stored under its base type.
    pub kind: String,
    pub uuid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<u64>,
    pub created: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub removed: Option<Timestamp>,
    /// When it is to be purged by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remove_time: Option<Timestamp>,
    pub state: State,
    #[serde(default, skip_serializing_if = "is_no")]
    pub transitioning: Transitioning,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transitioning_message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transitioning_progress: Option<u8>,
    /// Grows with each change of what is wanted (not with status).
    #[serde(default)]
    pub generation: u64,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    /// The fields of its type.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

fn is_no(transitioning: &Transitioning) -> bool {
    *transitioning == Transitioning::No
}

impl Resource {
    /// A field of its type; `None` where it is absent, null or of another form.
    pub fn get<T: DeserializeOwned>(&self, field: &str) -> Option<T> {
        self.fields.get(field).and_then(|value| T::deserialize(value).ok())
    }

    /// Sets a field; null takes it away.
    pub fn set(&mut self, field: &str, value: impl Into<Value>) {
        match value.into() {
            Value::Null => {
                self.fields.remove(field);
            }
            value => {
                self.fields.insert(field.to_owned(), value);
            }
        }
    }

    /// Into `state`, with `transitioning` as the state says and no message.
    pub fn enter(&mut self, state: State) {
        self.state = state;
        self.transitioning = if state.in_transition() { Transitioning::Yes } else { Transitioning::No };
        self.transitioning_message = None;
        self.transitioning_progress = None;
    }

    /// Into `state` because of an error, which stays until the next success.
    pub fn fail(&mut self, state: State, message: impl Into<String>) {
        self.state = state;
        self.transitioning = Transitioning::Error;
        self.transitioning_message = Some(message.into());
        self.transitioning_progress = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_a_newer_version_survive() {
        let text = r#"{"id":7,"kind":"container","uuid":"u","created":5,"state":"running","generation":2,"imageId":3,"later":{"a":1}}"#;
        let resource: Resource = serde_json::from_str(text).unwrap();
        assert_eq!(resource.get::<u64>("imageId"), Some(3));
        let again: Value = serde_json::to_value(&resource).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
    }
}
