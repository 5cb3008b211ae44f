//! Which events a subscriber wants: `resource.change`, `*`, `*;handler=demo`.
//!
//! A name may be followed by qualifiers, all of which an event must have: `resource.change;account=1a3;type=container`. A `*`
//! stands for any text, in names and qualifiers alike. Names of events that there are not (clients of the original ask
//! for some) match nothing.

use crate::api::error::ApiError;
use crate::resource::types::subscribe::EVENT_NAMES;
use crate::resource::validation::{Invalid, InvalidCode};

/// So many can be asked for at once.
const MOST: usize = 100;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Names(Vec<Pattern>);

#[derive(Clone, Debug)]
struct Pattern {
    name: String,
    qualifiers: Vec<(String, String)>,
}

impl Names {
    /// From names that were checked for their letters; each may hold several, with commas between.
    pub fn read<'a>(given: impl Iterator<Item = &'a str>) -> Result<Self, ApiError> {
        let patterns: Vec<Pattern> = given
            .flat_map(|text| text.split(','))
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(pattern)
            .collect();
        if patterns.is_empty() {
            let message = "say which events: eventNames=resource.change, for example";
            return Err(Invalid::new(InvalidCode::MissingRequired, EVENT_NAMES, message).into());
        }
        if patterns.len() > MOST {
            let message = format!("{} names; {MOST} are the most: use * for many", patterns.len());
            return Err(Invalid::new(InvalidCode::MaxLimitExceeded, EVENT_NAMES, message).into());
        }
        Ok(Self(patterns))
    }

    /// Whether an event of that name is wanted; `qualifier` says what it has under a qualifier's name.
    pub fn want(&self, name: &str, qualifier: impl Fn(&str) -> Option<String>) -> bool {
        self.0.iter().any(|pattern| {
            let has = |(key, value): &(String, String)| qualifier(key).is_some_and(|has| like(value, &has));
            like(&pattern.name, name) && pattern.qualifiers.iter().all(has)
        })
    }
}

fn pattern(text: &str) -> Pattern {
    let mut parts = text.split(';');
    let name = parts.next().unwrap_or_default().to_owned();
    let qualifiers = parts.map(|part| part.split_once('=').unwrap_or((part, "*")));
    Pattern { name, qualifiers: qualifiers.map(|(key, value)| (key.to_owned(), value.to_owned())).collect() }
}

/// Whether `text` is like `pattern`, in which `*` stands for anything.
fn like(pattern: &str, text: &str) -> bool {
    let Some((head, mut rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    while let Some((middle, behind)) = rest.split_once('*') {
        let Some(at) = text.find(middle) else { return false };
        text = &text[at + middle.len()..];
        rest = behind;
    }
    text.len() >= rest.len() && text.ends_with(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wants(names: &str, name: &str) -> bool {
        let qualifier = |key: &str| match key {
            "handler" => Some("demo-1".to_owned()),
            "type" => Some("container".to_owned()),
            _ => None,
        };
        Names::read([names].into_iter()).unwrap().want(name, qualifier)
    }

    #[test]
    fn as_clients_write_them() {
        for (names, name, wanted) in [
            ("resource.change", "resource.change", true),
            ("instance.start, resource.change", "resource.change", true),
            ("*", "resource.change", true),
            ("resource.*", "resource.change", true),
            ("*.change", "resource.change", true),
            ("re*ce*ge", "resource.change", true),
            ("resource.chang", "resource.change", false),
            ("resource.change*e", "resource.change", false),
            ("*;handler=demo-1", "instance.start", true),
            ("*;handler=demo*", "instance.start", true),
            ("*;handler", "instance.start", true),
            ("*;handler=demo", "instance.start", false),
            ("*;agent=1", "instance.start", false),
            ("instance.start;handler=demo-1;type=container", "instance.start", true),
            ("instance.start;handler=demo-1;type=x", "instance.start", false),
        ] {
            assert_eq!(wants(names, name), wanted, "{names} {name}");
        }
    }

    #[test]
    fn none_and_too_many_are_refused() {
        let code = |text: &str| Names::read([text].into_iter()).err().map(|error| error.code.into_owned());
        assert_eq!(code(" ,"), Some("MissingRequired".into()));
        assert_eq!(code(&"a,".repeat(101)), Some("MaxLimitExceeded".into()));
        assert_eq!(code(&"a,".repeat(100)), None);
    }
}
