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

/// A number for a name: parts that several have in common are found by it.
pub fn number(name: &str) -> u64 {
    let hash = name.bytes().fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from(hash | 1)
}
