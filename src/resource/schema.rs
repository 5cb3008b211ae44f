//! A type's declaration as `/v1/schemas` shows it.

use super::declaration::{Field, Type};
use super::validation::Writer;
use serde_json::{Map, Value, json};

/// The schema of `declared` for an account of this kind, with addresses below `base` (`http://h:9080/v1`).
pub fn schema(declared: &Type, writer: Writer, base: &str) -> Value {
    let mut fields = Map::new();
    let mut filters = Map::new();
    let mut shown: Vec<&Field> = declared.fields().filter(|field| writer.sees(field)).collect();
    shown.sort_by_key(|field| field.name);
    for field in shown {
        fields.insert(field.name.to_owned(), resource_field(field, writer));
        if !field.modifiers().is_empty() {
            filters.insert(field.name.to_owned(), json!({ "modifiers": field.modifiers() }));
        }
    }
    let mut actions = Map::new();
    for action in declared.actions.iter().filter(|_| may_use(declared, "POST", writer)) {
        actions.insert(action.name.to_owned(), json!({ "input": action.input, "output": action.output }));
    }
    let methods = |methods: &'static [&'static str]| -> Vec<&'static str> {
        methods.iter().copied().filter(|method| may_use(declared, method, writer)).collect()
    };
    let mut links = json!({ "self": format!("{base}/schemas/{}", declared.name) });
    if declared.listable {
        links["collection"] = Value::from(format!("{base}/{}", declared.plural.to_ascii_lowercase()));
    }
    json!({
        "id": declared.name,
        "type": "schema",
        "links": links,
        "actions": {},
        "pluralName": declared.plural,
        "resourceMethods": methods(declared.resource_methods),
        "collectionMethods": methods(declared.collection_methods),
        "resourceActions": actions,
        "collectionActions": {},
        "collectionFields": {},
        "collectionFilters": filters,
        "includeableLinks": declared.links.iter().map(|link| link.name.to_ascii_lowercase()).collect::<Vec<_>>(),
        "resourceFields": fields,
    })
}

/// Whether an account of this kind may use a method that the type has.
pub fn may_use(declared: &Type, method: &str, writer: Writer) -> bool {
    method == "GET"
        || match writer {
            Writer::Admin => true,
            // Who subscribes changes nothing.
            Writer::Reader => declared.name == "subscribe",
            Writer::Other => !declared.admin_writes,
        }
}

fn resource_field(field: &Field, writer: Writer) -> Value {
    let writes = writer.may_write(field);
    json!({
        "type": field.form.to_string(),
        "create": field.create && writes,
        "update": field.update && writes,
        "required": field.required,
        "unique": field.unique,
        "nullable": field.nullable,
        "default": field.default.map(super::declaration::Literal::value),
        "options": (!field.options.is_empty()).then_some(field.options),
        "min": field.min,
        "max": field.max,
        "minLength": field.min_length,
        "maxLength": field.max_length,
        "validChars": field.valid_chars,
        "invalidChars": null,
    })
}
