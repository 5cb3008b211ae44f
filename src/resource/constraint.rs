//! Labels, and what an instance asks of its host's labels and of its neighbours: `zone=eu`, `gpu!=true`, `disk~=ssd`.
//!
//! | written | means |
//! |---|---|
//! | `key=value` | must be so |
//! | `key!=value` | must not be so; also true where there is no such label |
//! | `key~=value`, `key~!=value` | as far as it can be had |
//!
//! The key `name` is the thing's own name, so that no label is called that.

use super::validation::{Invalid, InvalidCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// Fields of an instance.
pub const LABELS: &str = "labels";
pub const CONSTRAINTS: &str = "constraints";
pub const AFFINITY: &str = "affinity";
pub const ANTI_AFFINITY: &str = "antiAffinity";
pub const SPREAD_BY: &str = "spreadBy";
pub const POLICY: &str = "placementPolicy";

/// The key that stands for a host's or an instance's own name.
pub const NAME: &str = "name";
const MOST_LABELS: usize = 64;
const MOST_RULES: usize = 32;
const LONGEST: usize = 128;

/// One requirement or wish. As text on the wire and in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Constraint {
    pub key: String,
    pub value: String,
    /// Whether it asks for the value, or for any but it.
    pub equal: bool,
    /// A wish: what cannot be had does not keep the instance from being placed.
    pub soft: bool,
}

impl Constraint {
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(60).collect();
            format!(
                "{shown:?} {why}; write key=value, key!=value, or with ~ before the sign for a wish: key~=value, key~!=value"
            )
        };
        let at = text.find(['=', '!', '~']).ok_or_else(|| wrong("has no sign"))?;
        let (key, rest) = text.split_at(at);
        let signs = [
            ("~!=", false, true),
            ("~==", true, true),
            ("~=", true, true),
            ("!=", false, false),
            ("==", true, false),
            ("=", true, false),
        ];
        let (sign, equal, soft) =
            signs.into_iter().find(|(sign, ..)| rest.starts_with(sign)).ok_or_else(|| wrong("has no such sign"))?;
        let (key, value) = (key.trim(), rest[sign.len()..].trim());
        if !is_key(key) {
            return Err(wrong("has no key of letters, digits, . _ / -"));
        }
        if value.is_empty() || !is_value(value) {
            return Err(wrong("has no value of letters, digits, . _ / : @ + -"));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned(), equal, soft })
    }

    /// Whether something of this name and with these labels is as asked.
    pub fn holds(&self, name: Option<&str>, labels: &BTreeMap<String, String>) -> bool {
        let found = if self.key == NAME { name } else { labels.get(&self.key).map(String::as_str) };
        (found == Some(self.value.as_str())) == self.equal
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (soft, not) = (if self.soft { "~" } else { "" }, if self.equal { "" } else { "!" });
        write!(f, "{}{soft}{not}={}", self.key, self.value)
    }
}

impl TryFrom<String> for Constraint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Constraint> for String {
    fn from(constraint: Constraint) -> Self {
        constraint.to_string()
    }
}

fn is_key(text: &str) -> bool {
    (1..=LONGEST).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/-".contains(&byte))
}

fn is_value(text: &str) -> bool {
    text.len() <= LONGEST && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/:@+-".contains(&byte))
}

/// Labels as a client gave them.
///
/// # Errors
/// For the first that is none.
pub fn check_labels(labels: &Map<String, Value>) -> Result<(), Invalid> {
    let wrong = |message: String| Err(Invalid::new(InvalidCode::InvalidFormat, LABELS, message));
    if labels.len() > MOST_LABELS {
        return Err(Invalid::new(InvalidCode::MaxLimitExceeded, LABELS, format!("at most {MOST_LABELS} labels")));
    }
    for (key, value) in labels {
        if key == NAME {
            return wrong(
                "no label can be called name: in constraints that is the thing's own name; take another key".into(),
            );
        }
        if !is_key(key) {
            return wrong(format!("{key:.60?} is no key: letters, digits, . _ / -, at most {LONGEST}"));
        }
        if !value.as_str().is_some_and(is_value) {
            return wrong(format!("{key}: its value is text of letters, digits, . _ / : @ + -, at most {LONGEST}"));
        }
    }
    Ok(())
}

/// What an instance asks, as a client gave it; fields that are not there are fine.
///
/// # Errors
/// For the first that cannot be understood, or could never hold.
pub fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    if let Some(labels) = input.get(LABELS).and_then(Value::as_object) {
        check_labels(labels)?;
    }
    let mut wanted: BTreeMap<String, Constraint> = BTreeMap::new();
    for field in [CONSTRAINTS, AFFINITY, ANTI_AFFINITY] {
        for text in list(input, field)? {
            let wrong = |message: String| Invalid::new(InvalidCode::InvalidFormat, field, message);
            let constraint = Constraint::parse(text).map_err(wrong)?;
            if field == CONSTRAINTS {
                if constraint.soft || !constraint.equal {
                    continue;
                }
                if let Some(other) = wanted.get(&constraint.key).filter(|other| other.value != constraint.value) {
                    let message =
                        format!("{other} and {constraint} cannot both be; leave one out, or make one a wish (~=)");
                    return Err(Invalid::new(InvalidCode::InvalidOption, field, message));
                }
                wanted.insert(constraint.key.clone(), constraint);
            } else if !constraint.equal {
                let message = format!(
                    "{constraint}: affinity and antiAffinity name instances, with = or ~=; what is to be kept away from \
                     goes into antiAffinity"
                );
                return Err(wrong(message));
            }
        }
    }
    let spread = list(input, SPREAD_BY)?;
    if let Some(key) = spread.iter().find(|key| !is_key(key)) {
        let message = format!("{key:.60?} is no label's key; name those of hosts, like \"zone\" or \"rack\"");
        return Err(Invalid::new(InvalidCode::InvalidFormat, SPREAD_BY, message));
    }
    Ok(())
}

fn list<'a>(input: &'a Map<String, Value>, field: &'static str) -> Result<Vec<&'a str>, Invalid> {
    let texts: Vec<&str> =
        input.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    if texts.len() > MOST_RULES {
        return Err(Invalid::new(InvalidCode::MaxLimitExceeded, field, format!("at most {MOST_RULES} of them")));
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn fault(input: Value) -> Option<(InvalidCode, String)> {
        check(input.as_object().unwrap()).err().map(|invalid| (invalid.code, invalid.message))
    }

    #[test]
    fn what_is_meant() {
        let labels = BTreeMap::from([("zone".to_owned(), "eu".to_owned())]);
        let holds = |text: &str| Constraint::parse(text).unwrap().holds(Some("h1"), &labels);
        assert!(holds("zone=eu") && holds("zone == eu") && holds("zone!=us") && holds("gpu!=true") && holds("name=h1"));
        assert!(!holds("zone=us") && !holds("zone!=eu") && !holds("gpu=true") && !holds("name!=h1"));
        let soft = Constraint::parse("disk~!=ssd").unwrap();
        assert!(soft.soft && !soft.equal);
    }

    #[test]
    fn rubbish_is_told_what_would_be_right() {
        for text in ["", "zone", "=eu", "zone=", "zone<eu", "zone!eu", "zone~eu", "a b=c", "zone=e u", "zone=eu=us"] {
            let error = Constraint::parse(text).unwrap_err();
            assert!(error.contains("key=value"), "{text}: {error}");
        }
        let (code, message) = fault(json!({"constraints": ["zone=eu", "zone=us"]})).unwrap();
        assert_eq!(code, InvalidCode::InvalidOption);
        assert!(message.contains("zone=eu and zone=us"), "{message}");
        assert!(fault(json!({"constraints": ["zone=eu", "zone~=us"]})).is_none());
        assert!(fault(json!({"affinity": ["app!=web"]})).unwrap().1.contains("antiAffinity"));
        assert!(fault(json!({"labels": {"name": "x"}})).unwrap().1.contains("own name"));
        assert!(fault(json!({"labels": {"a": "b c"}})).is_some());
        assert!(fault(json!({"spreadBy": ["zo ne"]})).unwrap().1.contains("zone"));
        assert!(fault(json!({"constraints": vec!["a=b"; 33]})).is_some());
    }

    proptest! {
        #[test]
        fn written_and_read_it_is_the_same(key in "[a-z][a-z0-9._/-]{0,20}", value in "[a-z0-9._/:@+-]{1,20}", equal: bool, soft: bool) {
            let constraint = Constraint { key, value, equal, soft };
            prop_assert_eq!(Constraint::parse(&constraint.to_string()), Ok(constraint));
        }

        #[test]
        fn nothing_breaks_it(text in "\\PC{0,40}") {
            let _ = Constraint::parse(&text);
        }
    }
}
