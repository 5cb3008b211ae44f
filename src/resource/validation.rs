//! What a client sends, made into what is stored.
//!
//! Clients are sloppy and are to be understood all the same: text where numbers or truth values belong, one value for a
//! list, whole resources with their links and actions. What is unknown or may not be written is dropped without a word;
//! what cannot be understood is an error that says what would be.

use super::declaration::{Field, Form, Type};
use super::{Resource, date, identifier, types};
use crate::environment::Timestamp;
use serde_json::{Map, Number, Value};
use std::borrow::Cow;

macro_rules! codes {
    ($($name:ident,)+) => {
        /// The contract's codes for input that cannot be taken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum InvalidCode {
            $($name,)+
        }

        impl InvalidCode {
            /// As on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)+ }
            }
        }
    };
}

codes! {
    InvalidDateFormat,
    InvalidFormat,
    InvalidReference,
    NotNullable,
    NotUnique,
    MinLimitExceeded,
    MaxLimitExceeded,
    MinLengthExceeded,
    MaxLengthExceeded,
    InvalidOption,
    InvalidCharacters,
    MissingRequired,
    InvalidAction,
    ActionNotAvailable,
    InvalidBodyContent,
    NetworkIdsSubnetIdsMutuallyExclusive,
    PortWrongFormat,
    PortInvalidPublicPort,
    PortInvalidPrivatePort,
    PortInvalidProtocol,
}

/// Why an input was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Invalid {
    pub code: InvalidCode,
    pub field: String,
    /// In plain words, what to do.
    pub message: String,
}

impl Invalid {
    pub fn new(code: InvalidCode, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code, field: field.into(), message: message.into() }
    }
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// Sees and may write everything.
    Admin,
    /// Sees everything and writes nothing.
    Reader,
    Other,
}

impl Writer {
    /// Whether it is shown that field.
    pub fn sees(self, field: &Field) -> bool {
        self != Self::Other || !field.admin_only
    }

    /// Whether it may write that field.
    pub fn may_write(self, field: &Field) -> bool {
        match self {
            Self::Admin => true,
            Self::Reader => false,
            Self::Other => !(field.admin_only || field.admin_writes),
        }
    }
}

/// The input of a creation: known fields in their stored form, defaults filled in.
///
/// # Errors
/// For the first field that cannot be understood.
pub fn creation(declared: &Type, input: &Map<String, Value>, writer: Writer) -> Result<Map<String, Value>, Invalid> {
    let taken = fields(declared, input, |field| field.create && writer.may_write(field))?;
    if let Some(check) = declared.check {
        check(&taken)?;
    }
    Ok(taken)
}

/// The input of an action.
///
/// # Errors
/// For the first field that cannot be understood.
pub fn action(declared: &Type, input: &Map<String, Value>) -> Result<Map<String, Value>, Invalid> {
    fields(declared, input, |field| field.create)
}

fn fields(
    declared: &Type,
    input: &Map<String, Value>,
    writable: impl Fn(&Field) -> bool,
) -> Result<Map<String, Value>, Invalid> {
    let mut taken = Map::new();
    for field in declared.fields() {
        // What a client cannot choose is not chosen for it either: such a default is only shown.
        if !writable(field) {
            continue;
        }
        let given = input.get(field.name);
        let value = match given {
            None => Value::Null,
            Some(given) => read(field, given)?,
        };
        let value = match (value, field.default) {
            (Value::Null, Some(default)) => default.value(),
            (value, _) => value,
        };
        if !value.is_null() {
            taken.insert(field.name.to_owned(), value);
        } else if field.required {
            let message = format!("{} is needed: give {}", field.name, example(field));
            return Err(Invalid::new(InvalidCode::MissingRequired, field.name, message));
        } else if given.is_some() && !field.nullable && field.form != Form::Boolean {
            return Err(null(field));
        }
    }
    Ok(taken)
}

/// The input of an update: what may be written and is other than it was. Null takes a field away.
///
/// # Errors
/// For the first field that cannot be understood.
pub fn change(
    declared: &Type,
    resource: &Resource,
    input: &Map<String, Value>,
    writer: Writer,
) -> Result<Map<String, Value>, Invalid> {
    let mut changes = Map::new();
    for field in declared.fields().filter(|field| field.update && writer.may_write(field)) {
        let Some(given) = input.get(field.name) else { continue };
        let value = read(field, given)?;
        let known = stored(resource, field);
        let same = match (known.as_ref(), &value) {
            (Value::Null, Value::Bool(false)) => field.form == Form::Boolean,
            // Dates are shown to the second: one sent back is the one that was shown.
            (Value::Number(known), Value::Number(value)) if field.form == Form::Date => {
                known.as_i64().map(|at| at / 1000) == value.as_i64().map(|at| at / 1000)
            }
            (known, value) => known == value,
        };
        if same {
            continue;
        }
        if value.is_null() && !field.nullable {
            return Err(null(field));
        }
        changes.insert(field.name.to_owned(), value);
    }
    Ok(changes)
}

fn null(field: &Field) -> Invalid {
    Invalid::new(InvalidCode::NotNullable, field.name, format!("leave {} out, or give {}", field.name, example(field)))
}

/// A field as it is stored, wherever it is: in a column or among the type's own fields. A null where there is none.
pub fn stored<'a>(resource: &'a Resource, field: &Field) -> Cow<'a, Value> {
    let moment = |moment: Option<Timestamp>| moment.map_or(Value::Null, |at| Value::from(at.0));
    let text = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
    Cow::Owned(match field.name {
        "id" => Value::from(resource.id),
        "kind" => Value::from(resource.kind.as_str()),
        "uuid" => Value::from(resource.uuid.as_str()),
        "name" => text(&resource.name),
        "description" => text(&resource.description),
        "accountId" => resource.account_id.map_or(Value::Null, Value::from),
        "created" => Value::from(resource.created.0),
        "removed" => moment(resource.removed),
        "removeTime" => moment(resource.remove_time),
        "state" => Value::from(resource.state.name()),
        "transitioning" => serde_json::to_value(resource.transitioning).unwrap_or_default(),
        "transitioningMessage" => text(&resource.transitioning_message),
        "transitioningProgress" => resource.transitioning_progress.map_or(Value::Null, Value::from),
        "data" => Value::Object(resource.data.clone()),
        name => return Cow::Borrowed(resource.fields.get(name).unwrap_or(&Value::Null)),
    })
}

/// One value of a field in its stored form, within the field's limits.
fn read(field: &Field, given: &Value) -> Result<Value, Invalid> {
    let value = coerce(field, &field.form, given)?;
    limits(field, &value)?;
    Ok(value)
}

/// One value in the form that is stored.
fn coerce(field: &Field, form: &Form, given: &Value) -> Result<Value, Invalid> {
    let wrong = || {
        let shown: String = given.to_string().chars().take(60).collect();
        let code = if *form == Form::Date { InvalidCode::InvalidDateFormat } else { InvalidCode::InvalidFormat };
        Invalid::new(code, field.name, format!("{shown} is no {form}; give {}", example_of(form, field)))
    };
    if given.is_null() {
        return Ok(Value::Null);
    }
    Ok(match form {
        Form::String | Form::Password | Form::Blob | Form::Enum => match given {
            Value::String(_) => given.clone(),
            Value::Number(number) => Value::from(number.to_string()),
            Value::Bool(value) => Value::from(value.to_string()),
            _ => return Err(wrong()),
        },
        Form::Int => match given {
            Value::Number(number) => Value::from(whole(number).ok_or_else(wrong)?),
            // An empty field of a form.
            Value::String(text) if text.trim().is_empty() => Value::Null,
            Value::String(text) => Value::from(text.trim().parse::<i64>().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        },
        Form::Float => match given {
            Value::Number(_) => given.clone(),
            Value::String(text) if text.trim().is_empty() => Value::Null,
            Value::String(text) => {
                let number = text.trim().parse().ok().and_then(Number::from_f64);
                Value::Number(number.ok_or_else(wrong)?)
            }
            _ => return Err(wrong()),
        },
        Form::Boolean => Value::from(truth(given).ok_or_else(wrong)?),
        Form::Date => match given {
            Value::Number(number) => Value::from(whole(number).ok_or_else(wrong)?),
            Value::String(text) if text.trim().is_empty() => Value::Null,
            Value::String(text) => Value::from(date::parse(text).ok_or_else(wrong)?.0),
            _ => return Err(wrong()),
        },
        Form::Json | Form::Type(_) => given.clone(),
        Form::Reference(to) => match given {
            Value::String(text) if text.is_empty() => Value::Null,
            Value::String(text) if identifier::parse(types::base_of(to), text).is_some() => {
                identifier::parse(types::base_of(to), text).map_or(Value::Null, Value::from)
            }
            _ => {
                let shown: String = given.to_string().chars().take(60).collect();
                let message = format!("{shown} is no id of a {to}; give one like {}", example_of(form, field));
                return Err(Invalid::new(InvalidCode::InvalidReference, field.name, message));
            }
        },
        Form::Array(of) => {
            let one = std::slice::from_ref(given);
            let parsed: Value;
            let list = match given {
                Value::Array(list) => list.as_slice(),
                Value::String(text) if text.trim_start().starts_with('[') => {
                    parsed = serde_json::from_str(text).map_err(|_| wrong())?;
                    parsed.as_array().ok_or_else(wrong)?.as_slice()
                }
                Value::String(text) if text.is_empty() => &[],
                Value::Object(_) if !matches!(of, Form::Json | Form::Type(_) | Form::Map(_)) => return Err(wrong()),
                _ => one,
            };
            let items: Result<Vec<Value>, Invalid> = list
                .iter()
                .map(|item| match coerce(field, of, item)? {
                    Value::Null => Err(Invalid::new(
                        InvalidCode::NotNullable,
                        field.name,
                        format!("{} holds a null: take it out of the list", field.name),
                    )),
                    value => Ok(value),
                })
                .collect();
            Value::Array(items?)
        }
        Form::Map(of) => {
            let parsed: Value;
            let map = match given {
                Value::Object(map) => map,
                Value::String(text) => {
                    parsed = serde_json::from_str(text).map_err(|_| wrong())?;
                    parsed.as_object().ok_or_else(wrong)?
                }
                _ => return Err(wrong()),
            };
            let mut items = Map::new();
            for (key, item) in map {
                let value = coerce(field, of, item)?;
                if value.is_null() && !matches!(of, Form::Reference(_) | Form::Json) {
                    let message = format!("{}.{key} is null: leave it out or give it a value", field.name);
                    return Err(Invalid::new(InvalidCode::NotNullable, field.name, message));
                }
                items.insert(key.clone(), value);
            }
            Value::Object(items)
        }
    })
}

/// A number without a fraction.
fn whole(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        // Up to 2⁵³ a float is exact.
        number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15).map(|float| float as i64)
    })
}

/// A truth value in any of the ways in which clients write one.
pub fn truth(given: &Value) -> Option<bool> {
    match given {
        Value::Bool(value) => Some(*value),
        Value::Number(number) => match number.as_i64()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" | "" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn limits(field: &Field, value: &Value) -> Result<(), Invalid> {
    let invalid = |code, message: String| Err(Invalid::new(code, field.name, message));
    let length = match value {
        Value::String(text) => Some(text.chars().count()),
        Value::Object(_) if field.max_length.is_some() => Some(value.to_string().len()),
        _ => None,
    };
    if let (Some(length), Some(min)) = (length, field.min_length)
        && length < min
    {
        return invalid(InvalidCode::MinLengthExceeded, format!("at least {min} characters, or leave it out"));
    }
    if let (Some(length), Some(max)) = (length, field.max_length)
        && length > max
    {
        return invalid(InvalidCode::MaxLengthExceeded, format!("{length} characters; at most {max}"));
    }
    if let Some(class) = field.valid_chars
        && let Some(letter) = texts(value).flat_map(str::chars).find(|letter| !in_class(class, *letter))
    {
        return invalid(InvalidCode::InvalidCharacters, format!("{letter:?} is none of the characters {class}"));
    }
    if let (Some(number), Some(min)) = (value.as_i64(), field.min)
        && number < min
    {
        return invalid(InvalidCode::MinLimitExceeded, format!("{number} is too small; at least {min}"));
    }
    if let (Some(number), Some(max)) = (value.as_i64(), field.max)
        && number > max
    {
        return invalid(InvalidCode::MaxLimitExceeded, format!("{number} is too large; at most {max}"));
    }
    if let (Some(text), Form::Enum) = (value.as_str(), field.form)
        && !field.options.contains(&text)
    {
        return invalid(InvalidCode::InvalidOption, format!("{text:?} is none of {}", field.options.join(", ")));
    }
    Ok(())
}

/// A text, or those in a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
    value.as_str().into_iter().chain(list.iter().filter_map(Value::as_str))
}

/// Whether a class like `*._0-9a-z` has that letter. A hyphen at its end is one.
fn in_class(class: &str, letter: char) -> bool {
    let mut rest = class.chars();
    while let Some(first) = rest.next() {
        let mut ahead = rest.clone();
        match (ahead.next(), ahead.next()) {
            (Some('-'), Some(last)) => {
                rest = ahead;
                if (first..=last).contains(&letter) {
                    return true;
                }
            }
            _ if first == letter => return true,
            _ => {}
        }
    }
    false
}

fn example(field: &Field) -> String {
    example_of(&field.form, field)
}

/// What a value of a form looks like.
fn example_of(form: &Form, field: &Field) -> String {
    match form {
        Form::String | Form::Password | Form::Blob => "text".into(),
        Form::Int => "a whole number".into(),
        Form::Float => "a number".into(),
        Form::Date => "a date like \"2014-03-04T22:27:42Z\"".into(),
        Form::Boolean => "true or false".into(),
        Form::Enum => format!("one of {}", field.options.join(", ")),
        Form::Json | Form::Type(_) => "any JSON".into(),
        Form::Reference(to) => format!("\"{}\"", identifier::format(types::base_of(to), 5)),
        Form::Array(of) => format!("a list, each {}", example_of(of, field)),
        Form::Map(of) => format!("an object, each value {}", example_of(of, field)),
    }
}

/// The references in stored values of fields: field, the type that is referred to, number.
pub fn references(declared: &Type, values: &Map<String, Value>) -> Vec<(&'static str, &'static str, u64)> {
    fn collect(name: &'static str, form: &Form, value: &Value, found: &mut Vec<(&'static str, &'static str, u64)>) {
        match (form, value) {
            (Form::Reference(to), Value::Number(number)) => {
                found.extend(number.as_u64().map(|id| (name, *to, id)));
            }
            (Form::Array(of), Value::Array(items)) => items.iter().for_each(|item| collect(name, of, item, found)),
            (Form::Map(of), Value::Object(items)) => items.values().for_each(|item| collect(name, of, item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    for field in declared.fields() {
        if let Some(value) = values.get(field.name) {
            collect(field.name, &field.form, value, &mut found);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn character_classes_have_ranges() {
        let class = "*._0-9a-c;=-";
        assert!("*._059abc;=-".chars().all(|letter| in_class(class, letter)));
        assert!("dZ,+ é".chars().all(|letter| !in_class(class, letter)));
    }

    fn created(input: Value) -> Map<String, Value> {
        let container = types::find("container").unwrap();
        creation(container, input.as_object().unwrap(), Writer::Admin).unwrap()
    }

    #[test]
    fn what_is_stored_is_in_its_own_form() {
        let taken = created(json!({
            "imageUuid": "docker:x", "networkIds": "1n5", "environment": "{\"A\": 1}", "privileged": "1",
            "instanceLinks": {"db": "1i4", "other": null}, "primaryIpAddress": "10.42.0.9", "hostId": "1h1",
        }));
        assert_eq!(taken["networkIds"], json!([5]));
        assert_eq!(taken["environment"], json!({"A": "1"}));
        assert_eq!(taken["privileged"], true);
        assert_eq!(taken["instanceLinks"], json!({"db": 4, "other": null}));
        assert_eq!(taken["startOnCreate"], true);
        for never in ["primaryIpAddress", "hostId", "memoryMb"] {
            assert!(!taken.contains_key(never), "{never}");
        }
        let container = types::find("container").unwrap();
        assert_eq!(references(container, &taken), [("instanceLinks", "instance", 4), ("networkIds", "network", 5)]);
    }

    #[test]
    fn only_admins_choose_an_owner() {
        let container = types::find("container").unwrap();
        let input = json!({"imageUuid": "docker:x", "accountId": "1a9", "data": {"a": 1}});
        let of = |writer| creation(container, input.as_object().unwrap(), writer).unwrap();
        assert_eq!(of(Writer::Admin)["accountId"], 9);
        assert!(!of(Writer::Other).contains_key("accountId") && !of(Writer::Other).contains_key("data"));
    }

    #[test]
    fn numbers_without_a_fraction_are_whole() {
        for (text, expected) in [("5", Some(5)), ("5.0", Some(5)), ("5.5", None), ("1e30", None), ("-1", Some(-1))] {
            assert_eq!(whole(&serde_json::from_str(text).unwrap()), expected, "{text}");
        }
    }
}
