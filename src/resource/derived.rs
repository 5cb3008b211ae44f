//! Rows that are parts of others: made from what is stored, each time anew.

use super::Resource;

/// A part of `whole`: of its owner, age and state.
pub fn part(whole: &Resource, kind: &str, id: u64) -> Resource {
    let mut part = Resource {
        id,
        kind: kind.into(),
        uuid: format!("{}-{kind}", whole.uuid),
        name: None,
        description: None,
        data: serde_json::Map::new(),
        fields: serde_json::Map::new(),
        ..whole.clone()
    };
    part.enter(whole.state);
    part
}
