//! A resource as a client is shown it, written straight from what is in memory.

use super::authentication::Principal;
use super::streams;
use crate::environment::Timestamp;
use crate::resource::declaration::{Field, Form, LinkPath, Type};
use crate::resource::types::virtual_machine::CONSOLE;
use crate::resource::validation::stored;
use crate::resource::{Resource, State, date, floating, identifier, transition, types, volume};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// The rows of one link, by the number of the row that they belong to.
#[derive(Debug)]
pub struct Included {
    /// The link's name.
    pub name: &'static str,
    /// Whether it leads to one or to many.
    pub one: bool,
    pub target: &'static Type,
    pub rows: HashMap<u64, Vec<Arc<Resource>>>,
}

/// What all the resources of an answer have in common.
#[derive(Debug)]
pub struct Frame<'a> {
    /// `http://h:9080/v1`.
    pub base: &'a str,
    pub principal: &'a Principal,
    pub included: &'a [Included],
}

impl<'a> Frame<'a> {
    /// A row of `declared` or one of its subtypes.
    pub fn show(&'a self, declared: &'static Type, resource: &'a Resource) -> Shown<'a> {
        Shown { frame: self, declared: types::of(declared, resource), resource, secret: None }
    }
}

/// See the module's text.
#[derive(Debug)]
pub struct Shown<'a> {
    frame: &'a Frame<'a>,
    declared: &'static Type,
    resource: &'a Resource,
    /// Told once, in the answer to the creation.
    pub secret: Option<&'a str>,
}

impl Shown<'_> {
    fn address(&self) -> String {
        let id = identifier::format(self.declared.base, self.resource.id);
        format!("{}/{}/{id}", self.frame.base, self.declared.plural.to_ascii_lowercase())
    }

    fn included(&self, name: &str) -> Option<&Included> {
        self.frame.included.iter().find(|included| included.name == name)
    }
}

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (declared, resource, frame) = (self.declared, self.resource, self.frame);
        let address = self.address();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &identifier::format(declared.base, resource.id))?;
        map.serialize_entry("type", declared.name)?;
        map.serialize_entry("links", &Links { shown: self, address: &address })?;
        map.serialize_entry("actions", &Actions { shown: self, address: &address })?;
        for included in declared.links.iter().filter_map(|link| self.included(link.name)) {
            let rows = included.rows.get(&resource.id).map(Vec::as_slice).unwrap_or_default();
            // What is inlined has its own links, but nothing inlined in turn.
            let inner = Frame { base: frame.base, principal: frame.principal, included: &[] };
            if included.one {
                map.serialize_entry(included.name, &rows.first().map(|row| inner.show(included.target, row)))?;
            } else {
                let rows: Vec<_> = rows.iter().map(|row| inner.show(included.target, row)).collect();
                map.serialize_entry(included.name, &rows)?;
            }
        }
        for field in declared.fields() {
            if field.name == "id" || field.admin_only && !frame.principal.sees_all() {
                continue;
            }
            if field.write_only {
                // Instances never show theirs; a credential's secret is there, but empty once it was told.
                if field.name == "secretValue" {
                    map.serialize_entry(field.name, &self.secret)?;
                }
                continue;
            }
            let value = shown_value(resource, field);
            map.serialize_entry(field.name, &Wire { form: &field.form, value: &value })?;
            if field.form == Form::Date && !value.is_null() {
                map.serialize_entry(&format!("{}TS", field.name), value.as_ref())?;
            }
        }
        map.end()
    }
}

/// A field's stored value, or the default that it has where nothing is stored.
fn shown_value<'a>(resource: &'a Resource, field: &Field) -> std::borrow::Cow<'a, Value> {
    let value = stored(resource, field);
    if !value.is_null() {
        return value;
    }
    match field.default {
        Some(default) => std::borrow::Cow::Owned(default.value()),
        None if field.form == Form::Boolean && !field.nullable => std::borrow::Cow::Owned(Value::Bool(false)),
        None => value,
    }
}

struct Links<'a> {
    shown: &'a Shown<'a>,
    address: &'a str,
}

impl Serialize for Links<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("self", self.address)?;
        for link in self.shown.declared.links {
            let absent = match link.path {
                LinkPath::One(field) => {
                    self.shown.declared.field(field).is_none_or(|field| stored(self.shown.resource, field).is_null())
                }
                LinkPath::OneAsMany(_) | LinkPath::Many(_) => false,
            };
            if !absent && self.shown.included(link.name).is_none() {
                map.serialize_entry(link.name, &format!("{}/{}", self.address, link.name.to_ascii_lowercase()))?;
            }
        }
        for name in streams::links(self.shown.declared, self.shown.resource, self.shown.frame.principal) {
            map.serialize_entry(name, &format!("{}/{name}", self.address))?;
        }
        map.end()
    }
}

struct Actions<'a> {
    shown: &'a Shown<'a>,
    address: &'a str,
}

impl Serialize for Actions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Shown { declared, resource, frame, .. } = self.shown;
        let mut map = serializer.serialize_map(None)?;
        // What is a part of an instance is changed with that.
        let is_part = match declared.base {
            floating::SHOWN => floating::stored_id(resource.id).is_none(),
            volume::SHOWN => !volume::is_data(resource),
            _ => false,
        };
        if !is_part {
            for action in transition::actions_of(declared.base, resource.state) {
                if declared.action(action).is_some() && frame.principal.may_ask(declared, resource, action) {
                    map.serialize_entry(action, &format!("{}/?action={action}", self.address))?;
                }
            }
            // It changes nothing, and so is no transition.
            let shows = declared.action(CONSOLE).is_some() && resource.state == State::Running;
            if shows && frame.principal.may_ask(declared, resource, CONSOLE) {
                map.serialize_entry(CONSOLE, &format!("{}/?action={CONSOLE}", self.address))?;
            }
        }
        map.end()
    }
}

/// A stored value as on the wire: references and dates as text.
struct Wire<'a> {
    form: &'a Form,
    value: &'a Value,
}

impl Serialize for Wire<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.form, self.value) {
            (Form::Reference(to), Value::Number(number)) => match number.as_u64() {
                Some(id) => serializer.serialize_str(&identifier::format(types::base_of(to), id)),
                None => serializer.serialize_none(),
            },
            (Form::Date, Value::Number(number)) => {
                serializer.serialize_str(&date::format(Timestamp(number.as_i64().unwrap_or(0))))
            }
            (Form::Array(of), Value::Array(items)) if needs_wire(of) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for value in items {
                    list.serialize_element(&Wire { form: of, value })?;
                }
                list.end()
            }
            (Form::Map(of), Value::Object(items)) if needs_wire(of) => {
                let mut map = serializer.serialize_map(Some(items.len()))?;
                for (key, value) in items {
                    map.serialize_entry(key, &Wire { form: of, value })?;
                }
                map.end()
            }
            (_, value) => value.serialize(serializer),
        }
    }
}

fn needs_wire(form: &Form) -> bool {
    match form {
        Form::Reference(_) | Form::Date => true,
        Form::Array(of) | Form::Map(of) => needs_wire(of),
        _ => false,
    }
}
