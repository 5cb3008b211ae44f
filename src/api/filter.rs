//! What a list's parameters let through, and in which order: `name_like=web%25&sort=created&order=desc`.

use crate::environment::Timestamp;
use crate::resource::declaration::{Field, Form, Type};
use crate::resource::validation::{stored, truth};
use crate::resource::{Resource, date, identifier, types};
use serde_json::Value;
use std::cmp::Ordering;

/// One `field_modifier=value`.
#[derive(Clone, Debug)]
pub struct Condition {
    pub field: &'static Field,
    pub modifier: &'static str,
    /// As it was given.
    pub given: String,
    /// What rows are compared with; `None` where it cannot be read: then nothing is equal to it.
    operand: Option<Value>,
}

/// Reads the conditions; unknown names are no conditions.
pub fn conditions(declared: &Type, query: &[(String, String)]) -> Vec<Condition> {
    query.iter().filter_map(|(name, value)| condition(declared, name, value)).collect()
}

fn condition(declared: &Type, name: &str, given: &str) -> Option<Condition> {
    let (field, modifier) = match declared.field(name) {
        Some(field) => (field, "eq"),
        None => {
            let (field, modifier) = name.rsplit_once('_')?;
            (declared.field(field)?, modifier)
        }
    };
    let modifier = field.modifiers().iter().find(|known| **known == modifier)?;
    Some(Condition { field, modifier, given: given.to_owned(), operand: operand(declared, field, given) })
}

fn operand(declared: &Type, field: &Field, given: &str) -> Option<Value> {
    Some(match field.form {
        _ if field.name == "id" => Value::from(identifier::parse(declared.base, given.trim())?),
        Form::Int | Form::Float => Value::from(given.trim().parse::<i64>().ok()?),
        Form::Date => {
            let moment = given.trim().parse().ok().map(Timestamp).or_else(|| date::parse(given))?;
            Value::from(moment.0)
        }
        Form::Boolean => Value::from(truth(&Value::from(given))?),
        Form::Reference(to) => Value::from(identifier::parse(types::base_of(to), given.trim())?),
        _ => Value::from(given),
    })
}

impl Condition {
    /// Whether a row passes. As in SQL, a null passes only `null`.
    pub fn holds(&self, resource: &Resource) -> bool {
        let value = stored(resource, self.field);
        let absent = value.is_null() && self.field.form != Form::Boolean;
        match self.modifier {
            "null" => return absent,
            "notnull" => return !absent,
            _ => {}
        }
        let Some(operand) = &self.operand else { return false };
        // A truth value that was never set is false.
        let value = match (value.as_ref(), self.field.form) {
            (Value::Null, Form::Boolean) => &Value::Bool(false),
            (Value::Null, _) => return false,
            (value, _) => value,
        };
        match self.modifier {
            "eq" => self.compare(value, operand) == Some(Ordering::Equal),
            "ne" => self.compare(value, operand).is_some_and(Ordering::is_ne),
            "lt" => self.compare(value, operand).is_some_and(Ordering::is_lt),
            "lte" => self.compare(value, operand).is_some_and(Ordering::is_le),
            "gt" => self.compare(value, operand).is_some_and(Ordering::is_gt),
            "gte" => self.compare(value, operand).is_some_and(Ordering::is_ge),
            "prefix" => both(value, operand).is_some_and(|(value, operand)| value.starts_with(operand)),
            "like" => both(value, operand).is_some_and(|(value, pattern)| like(value, pattern)),
            "notlike" => both(value, operand).is_some_and(|(value, pattern)| !like(value, pattern)),
            _ => false,
        }
    }

    fn compare(&self, value: &Value, operand: &Value) -> Option<Ordering> {
        match (value, operand) {
            (Value::Number(value), Value::Number(operand)) => {
                // Clients know dates to the second.
                let unit = if self.field.form == Form::Date { 1000 } else { 1 };
                Some(value.as_i64()?.div_euclid(unit).cmp(&operand.as_i64()?.div_euclid(unit)))
            }
            (Value::String(value), Value::String(operand)) => Some(value.cmp(operand)),
            (Value::Bool(value), Value::Bool(operand)) => Some(value.cmp(operand)),
            _ => None,
        }
    }
}

fn both<'a>(value: &'a Value, operand: &'a Value) -> Option<(&'a str, &'a str)> {
    Some((value.as_str()?, operand.as_str()?))
}

/// SQL's LIKE with `%` alone.
fn like(value: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('%');
    let Some(mut rest) = parts.next().and_then(|first| value.strip_prefix(first)) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    // Without any % the whole of it must be there.
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What rows are sorted by: the field that was asked for, or none; then the number.
#[derive(Clone, Debug)]
pub struct Order {
    pub field: Option<&'static Field>,
    pub descending: bool,
}

/// A row's place in an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub key: Value,
    pub id: u64,
}

impl Order {
    pub fn read(declared: &Type, sort: Option<&str>, order: Option<&str>) -> Self {
        let field = sort.and_then(|name| declared.field(name)).filter(|field| !field.modifiers().is_empty());
        let field = field.filter(|field| field.name != "id");
        Self { field, descending: order.is_some_and(|order| order.eq_ignore_ascii_case("desc")) }
    }

    pub fn place(&self, resource: &Resource) -> Place {
        let key = self.field.map_or(Value::Null, |field| stored(resource, field).into_owned());
        Place { key, id: resource.id }
    }

    pub fn compare(&self, left: &Place, right: &Place) -> Ordering {
        let order = rank(&left.key, &right.key).then(left.id.cmp(&right.id));
        if self.descending { order.reverse() } else { order }
    }
}

/// Nulls first, as the original's database had them.
fn rank(left: &Value, right: &Value) -> Ordering {
    let class = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        _ => 3,
    };
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
        (Value::Number(left), Value::Number(right)) => left.as_i64().cmp(&right.as_i64()),
        (Value::String(left), Value::String(right)) => left.cmp(right),
        _ => class(left).cmp(&class(right)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::types;
    use proptest::prelude::*;

    #[test]
    fn like_is_that_of_sql() {
        for (value, pattern, expected) in [
            ("web", "web", true),
            ("web1", "web", false),
            ("web1", "web%", true),
            ("aXbXc", "a%X%c", true),
            ("ab", "ab%b", false),
            ("", "%", true),
            ("abc", "%%", true),
            ("abc", "", false),
            ("aab", "%ab", true),
        ] {
            assert_eq!(like(value, pattern), expected, "{value} like {pattern}");
        }
    }

    #[test]
    fn names_that_are_no_filters_are_none() {
        let container = types::find("container").unwrap();
        let query = |name: &str| conditions(container, &[(name.to_owned(), "x".to_owned())]).len();
        assert_eq!(query("name"), 1);
        assert_eq!(query("name_like"), 1);
        for name in ["nameX", "name_sounds", "memoryMb_like", "ports", "", "_", "limit", "secretHash"] {
            assert_eq!(query(name), 0, "{name}");
        }
    }

    proptest! {
        #[test]
        fn like_without_percent_is_equality(value in "[ab]{0,4}", pattern in "[ab]{0,4}") {
            prop_assert_eq!(like(&value, &pattern), value == pattern);
        }

        #[test]
        fn like_finds_what_was_cut_out(head in "[a-c]{0,3}", middle in "[a-c]{0,3}", tail in "[a-c]{0,3}") {
            let value = format!("{head}{middle}{tail}");
            let pattern = format!("{head}%{tail}");
            prop_assert!(like(&value, &pattern));
        }
    }
}
