//! Processes: the transitions of resources by name, as handlers from outside ask for them.
//!
//! `instance.start` is what is done for a start; `pre.instance.start` comes before it, `post.instance.start` after it.
//! Names are those of types (a base or one of its subtypes) and of their actions, in any case.

use super::declaration::Type;
use super::transition;
use super::types;
use super::validation::{Invalid, InvalidCode};
use serde::{Deserialize, Serialize};

/// So many may be named at once.
pub const MOST: usize = 100;
const FIELD: &str = types::external_handler::PROCESS_NAMES;

/// Where in a process a handler has its part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Before anything is done.
    Pre,
    /// In the place of what we would do.
    Instead,
    /// After it is done.
    Post,
}

/// A name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub phase: Phase,
    /// As declared: `instance`, `container`.
    pub of: &'static str,
    pub action: &'static str,
}

/// The base types whose rows have transitions of their own. The order is part of the numbers of `processInstance`: new
/// ones come last.
pub const BASES: &[&str] = &["account", "credential", "externalHandler", "image", "instance", "network", "ipPool"];

/// Those types whose transitions handlers may have a part in. A host's states are its own; a handler has no part in
/// handlers.
pub fn has_processes(declared: &Type) -> bool {
    let excluded = matches!(declared.base, "host" | "externalHandler");
    !declared.actions.is_empty() && declared.listable && declared.derived.is_none() && !excluded
}

impl Name {
    /// `None` where there is no such process.
    pub fn parse(text: &str) -> Option<Self> {
        let (phase, rest) = match text.split_once('.')? {
            ("pre", rest) => (Phase::Pre, rest),
            ("post", rest) => (Phase::Post, rest),
            _ => (Phase::Instead, text),
        };
        let (of, action) = rest.split_once('.')?;
        let of =
            types::ALL.iter().find(|declared| has_processes(declared) && declared.name.eq_ignore_ascii_case(of))?;
        let action = of.actions.iter().find(|known| known.name.eq_ignore_ascii_case(action))?;
        Some(Self { phase, of: of.name, action: action.name })
    }

    /// Whether it is about that action of a row of `kind`, which is stored under `base`.
    pub fn concerns(&self, base: &str, kind: &str, action: &str) -> bool {
        self.action == action && (self.of == base || self.of == kind)
    }
}

/// Names as clients give them, each alone or several with commas between; sorted out, once each.
///
/// # Errors
/// Where one is none, there are none, or too many.
pub fn names<'a>(given: impl Iterator<Item = &'a str>) -> Result<Vec<String>, Invalid> {
    let mut names: Vec<String> = Vec::new();
    for name in given.flat_map(|text| text.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
        if Name::parse(name).is_none() {
            let message = format!(
                "there is no process {name:.60}: give instance.start, pre.instance.start or post.instance.start, for \
                 example; /v1/processdefinitions lists them"
            );
            return Err(Invalid::new(InvalidCode::InvalidOption, FIELD, message));
        }
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    if names.is_empty() {
        return Err(Invalid::new(InvalidCode::MissingRequired, FIELD, "say which: [\"instance.start\"], for example"));
    }
    if names.len() > MOST {
        let message = format!("{} processes; {MOST} are the most of one handler", names.len());
        return Err(Invalid::new(InvalidCode::MaxLimitExceeded, FIELD, message));
    }
    Ok(names)
}

/// All processes there are: a type's name and an action.
pub fn all() -> impl Iterator<Item = (&'static Type, &'static str)> {
    let of = types::ALL.iter().copied().filter(|declared| has_processes(declared) && !declared.is_subtype());
    of.flat_map(|declared| {
        let possible = move |action: &&str| transition::through(declared.base, action).is_some();
        declared.actions.iter().map(|action| action.name).filter(possible).map(move |action| (declared, action))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = |text| Name::parse(text).map(|name| (name.phase, name.of, name.action));
        assert_eq!(name("instance.start"), Some((Phase::Instead, "instance", "start")));
        assert_eq!(name("pre.Container.Stop"), Some((Phase::Pre, "container", "stop")));
        assert_eq!(name("post.account.deactivate"), Some((Phase::Post, "account", "deactivate")));
        for text in ["instance", "instance.fly", "host.drain", "externalhandler.remove", "pre.start", "a.b.c", ""] {
            assert_eq!(name(text), None, "{text}");
        }
        assert!(Name::parse("instance.start").unwrap().concerns("instance", "container", "start"));
        assert!(!Name::parse("container.start").unwrap().concerns("instance", "virtualMachine", "start"));
    }

    #[test]
    fn lists_are_sorted_out() {
        let read = |given: &[&str]| names(given.iter().copied());
        let two = read(&["instance.start, post.instance.stop,", "instance.start"]).unwrap();
        assert_eq!(two, ["instance.start", "post.instance.stop"]);
        assert_eq!(read(&["instance.fly"]).unwrap_err().code, InvalidCode::InvalidOption);
        assert_eq!(read(&[" ,"]).unwrap_err().code, InvalidCode::MissingRequired);
        assert!(all().any(|(of, action)| (of.name, action) == ("instance", "start")));
    }
}
