//! The API as an OpenAPI 3.1 document, from the same declarations as everything else.
//!
//! It describes what is canonical. Clients may be sloppier ([`super::validation`] says how far), and may send fields that
//! there are not.

mod streams;

use super::declaration::{Field, Form, LinkPath, Type};
use super::schema::may_use;
use super::types;
use super::validation::Writer;
use serde_json::{Map, Value, json};

const JSON: &str = "application/json";

/// The document for an account of this kind; `origin` is `http://h:9080`.
pub fn document(writer: Writer, origin: &str) -> Value {
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Stampede",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The same at every host of a cluster. docs/api.md tells it with examples.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": origin }],
        "security": [{ "apiKey": [] }],
        "paths": paths(writer),
        "components": {
            "schemas": schemas(writer),
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "an API key: its publicValue and secretValue",
                },
            },
        },
    })
}

fn listed() -> impl Iterator<Item = &'static Type> {
    types::ALL.iter().copied().filter(|declared| declared.listable && !matches!(declared.name, "schema" | "subscribe"))
}

fn paths(writer: Writer) -> Map<String, Value> {
    let mut paths = general();
    for declared in listed() {
        let list = format!("/v1/{}", declared.plural.to_ascii_lowercase());
        let one = format!("{list}/{{id}}");
        for link in declared.links {
            paths.insert(format!("{one}/{}", link.name.to_ascii_lowercase()), linked(declared, link.name));
        }
        paths.insert(list, collection(declared, writer));
        paths.insert(one, resource(declared, writer));
    }
    paths.extend(streams::paths());
    paths
}

/// What is no type's own.
fn general() -> Map<String, Value> {
    let get = |id: &str, what: &str, schema: Value| {
        let mut responses = errors();
        responses.insert("200".into(), answer(what, &schema));
        json!({ "get": { "operationId": id, "summary": what, "tags": ["api"], "responses": responses } })
    };
    let mut schema = get("getSchema", "one type: its fields, actions, filters and links", reference("schema"));
    schema["parameters"] = json!([path_parameter("id")]);
    let mut told = errors();
    let event = json!({ "text/plain": { "schema": { "type": "string" } } });
    told.insert("201".into(), json!({ "description": "one event a line, without an end", "content": event }));
    let names = json!({
        "type": "object",
        "required": ["eventNames"],
        "properties": {
            "eventNames": { "type": "array", "minItems": 1, "items": { "type": "string" } },
            "include": { "type": "array", "items": { "type": "string" } },
            "since": { "type": "integer", "minimum": 0 },
        },
    });
    let subscribe = json!({ "post": {
        "operationId": "subscribe",
        "summary": "events as they happen; a GET opens the same as a WebSocket",
        "tags": ["events"],
        "requestBody": body(&names),
        "responses": told,
    } });
    let mut published = errors();
    published.insert("201".into(), answer("what was said, and whether anything waited for it", &reference("publish")));
    let publish = json!({ "post": {
        "operationId": "publish",
        "summary": "an external handler's answer to an event",
        "tags": ["events"],
        "requestBody": body(&reference("publishCreate")),
        "responses": published,
    } });
    let named = [
        ("/", get("getVersions", "the versions there are", collection_of(&json!({ "type": "object" })))),
        ("/v1", get("getVersion", "an address for each list", json!({ "type": "object" }))),
        ("/v1/openapi.json", get("getOpenapi", "this document", json!({ "type": "object" }))),
        ("/v1/schemas", get("listSchemas", "all types", collection_of(&reference("schema")))),
        ("/v1/schemas/{id}", schema),
        ("/v1/publish", publish),
        ("/v1/subscribe", subscribe),
    ];
    named.into_iter().map(|(path, value)| (path.to_owned(), value)).collect()
}

fn collection(declared: &Type, writer: Writer) -> Value {
    let mut parameters = vec![
        query("limit", "rows of a page, at most 1000", json!({ "type": "integer", "minimum": 1, "maximum": 1000 })),
        query("marker", "where a page begins: from pagination.next", json!({ "type": "string" })),
        query("sort", "a field that it can be filtered by", json!({ "type": "string" })),
        query("order", "of the sorting", json!({ "type": "string", "enum": ["asc", "desc"] })),
        include(declared),
    ];
    for field in shown(declared, writer).filter(|field| !field.modifiers().is_empty()) {
        let modifiers = field.modifiers().join(", ");
        let what = format!("only rows with this value; also as {}_<one of {modifiers}>", field.name);
        parameters.push(query(field.name, &what, json!({ "type": "string" })));
    }
    let mut responses = errors();
    responses.insert("200".into(), answer("a page", &collection_of(&reference(declared.name))));
    let mut item = Map::new();
    item.insert(
        "get".into(),
        json!({
            "operationId": format!("list{}", capital(declared.plural)),
            "tags": [declared.plural],
            "parameters": parameters,
            "responses": responses,
        }),
    );
    if declared.collection_methods.contains(&"POST") && may_use(declared, "POST", writer) {
        let mut responses = errors();
        let made = json!({ "anyOf": [reference(declared.name), collection_of(&reference(declared.name))] });
        responses.insert("201".into(), answer("made", &made));
        responses
            .insert("200".into(), answer("made before, under the same Idempotency-Key", &reference(declared.name)));
        let key = json!({
            "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "pattern": "^[!-~]{1,255}$" },
            "description": "asked for again with the same key, it is not made again",
        });
        let mut parameters = waiting();
        parameters.push(key);
        item.insert(
            "post".into(),
            json!({
                "operationId": format!("create{}", capital(declared.name)),
                "tags": [declared.plural],
                "parameters": parameters,
                "requestBody": body(&reference(&format!("{}Create", declared.name))),
                "responses": responses,
            }),
        );
    }
    Value::Object(item)
}

fn resource(declared: &Type, writer: Writer) -> Value {
    let operation = |verb: &str, status: &str, mut parameters: Vec<Value>| {
        let mut responses = errors();
        responses.insert(status.to_owned(), answer("the resource", &reference(declared.name)));
        if verb == "get" {
            responses.insert("304".into(), json!({ "description": "nothing changed since If-None-Match" }));
            parameters.push(header("If-None-Match", "answer only where it is another version"));
        } else {
            parameters.push(header("If-Match", "only where it still is that version: its ETag"));
        }
        parameters.extend(waiting());
        json!({
            "operationId": format!("{verb}{}", capital(declared.name)),
            "tags": [declared.plural],
            "parameters": parameters,
            "responses": responses,
        })
    };
    let may = |method: &str| declared.resource_methods.contains(&method) && may_use(declared, method, writer);
    let mut item = Map::new();
    item.insert("parameters".into(), json!([path_parameter("id")]));
    item.insert("get".into(), operation("get", "200", vec![include(declared)]));
    if may("PUT") {
        let mut put = operation("update", "200", Vec::new());
        put["requestBody"] = body(&reference(&format!("{}Update", declared.name)));
        item.insert("put".into(), put);
    }
    if may("DELETE") {
        item.insert("delete".into(), operation("remove", "200", Vec::new()));
    }
    if !declared.actions.is_empty() && may_use(declared, "POST", writer) {
        let names: Vec<&str> = declared.actions.iter().map(|action| action.name).collect();
        let action = json!({
            "name": "action", "in": "query", "required": true, "schema": { "type": "string", "enum": names },
            "description": "what is to be done; the resource's actions say what is possible now",
        });
        let mut post = operation("act", "202", vec![action]);
        post["operationId"] = json!(format!("actOn{}", capital(declared.name)));
        let inputs: Vec<Value> = declared
            .actions
            .iter()
            .filter_map(|action| action.input)
            .map(|input| reference(&format!("{input}Create")))
            .chain([json!({ "type": "object" })])
            .collect();
        post["requestBody"] = json!({ "content": { JSON: { "schema": { "anyOf": inputs } } } });
        item.insert("post".into(), post);
    }
    Value::Object(item)
}

fn linked(declared: &Type, name: &str) -> Value {
    let Some(link) = declared.link(name) else { return json!({}) };
    let schema = match link.path {
        LinkPath::One(_) => reference(link.target),
        LinkPath::OneAsMany(_) | LinkPath::Many(_) => collection_of(&reference(link.target)),
    };
    let mut responses = errors();
    responses.insert("200".into(), answer("where the link leads", &schema));
    json!({
        "parameters": [path_parameter("id")],
        "get": {
            "operationId": format!("get{}{}", capital(declared.name), capital(link.name)),
            "tags": [declared.plural],
            "responses": responses,
        },
    })
}

fn schemas(writer: Writer) -> Map<String, Value> {
    let mut schemas = Map::new();
    for declared in types::ALL {
        let mut properties = Map::new();
        for (name, form) in [("id", "string"), ("type", "string"), ("links", "object"), ("actions", "object")] {
            properties.insert(name.into(), json!({ "type": form }));
        }
        for field in shown(declared, writer).filter(|field| field.name != "id" && !field.write_only) {
            properties.entry(field.name).or_insert_with(|| value(&field.form, field.options));
            if field.form == Form::Date {
                let millis = json!({ "type": "integer", "description": "the same in milliseconds since 1970" });
                properties.insert(format!("{}TS", field.name), millis);
            }
        }
        let required = if declared.listable { json!(["id", "type", "links", "actions"]) } else { json!([]) };
        let read = json!({ "type": "object", "required": required, "properties": properties });
        schemas.insert(declared.name.into(), read);
        let created = input(declared, writer, |field| field.create);
        let updated = input(declared, writer, |field| field.update);
        for (suffix, (properties, required)) in [("Create", created), ("Update", updated)] {
            let required = if suffix == "Create" { required } else { Vec::new() };
            let written = json!({ "type": "object", "required": required, "properties": properties });
            schemas.insert(format!("{}{suffix}", declared.name), written);
        }
    }
    schemas
}

/// The fields that may be written, and those that must be.
fn input(declared: &Type, writer: Writer, may: impl Fn(&Field) -> bool) -> (Map<String, Value>, Vec<&'static str>) {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    let fields = shown(declared, writer).filter(|field| may(field) && writer.may_write(field));
    for field in fields {
        let mut schema = value(&field.form, field.options);
        let limits = [
            ("minimum", field.min.map(Value::from)),
            ("maximum", field.max.map(Value::from)),
            ("default", field.default.map(super::declaration::Literal::value)),
        ];
        let text = matches!(field.form, Form::String | Form::Password | Form::Enum);
        let lengths = [
            ("minLength", field.min_length.filter(|_| text).map(Value::from)),
            ("maxLength", field.max_length.filter(|_| text).map(Value::from)),
        ];
        for (name, limit) in limits.into_iter().chain(lengths) {
            if let Some(limit) = limit {
                schema[name] = limit;
            }
        }
        properties.insert(field.name.into(), schema);
        if field.required {
            required.push(field.name);
        }
    }
    (properties, required)
}

fn shown(declared: &Type, writer: Writer) -> impl Iterator<Item = &'static Field> {
    declared.fields().filter(move |field| writer.sees(field))
}

/// A value of a form, or null.
fn value(form: &Form, options: &[&str]) -> Value {
    match form {
        Form::Enum => {
            let options: Vec<Value> = options.iter().map(|option| json!(option)).chain([Value::Null]).collect();
            json!({ "enum": options })
        }
        Form::Array(of) => json!({ "type": ["array", "null"], "items": part(of) }),
        Form::Map(of) => json!({ "type": ["object", "null"], "additionalProperties": part(of) }),
        Form::Json => json!({}),
        // Some are told of without being types of ours.
        Form::Type(name) if types::find(name).is_none() => json!({ "type": "object" }),
        Form::Type(name) => reference(name),
        _ => {
            let mut value = part(form);
            value["type"] = json!([value["type"], "null"]);
            value
        }
    }
}

/// A value of a form within a list or map.
fn part(form: &Form) -> Value {
    match form {
        Form::String | Form::Password | Form::Blob => json!({ "type": "string" }),
        Form::Int => json!({ "type": "integer" }),
        Form::Float => json!({ "type": "number" }),
        Form::Boolean => json!({ "type": "boolean" }),
        Form::Date => json!({ "type": "string", "format": "date-time" }),
        Form::Reference(to) => {
            let initials = super::identifier::initials(types::base_of(to));
            json!({ "type": "string", "description": format!("the id of a {to}: 1{initials}5") })
        }
        Form::Enum | Form::Array(_) | Form::Map(_) | Form::Json | Form::Type(_) => value(form, &[]),
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn collection_of(item: &Value) -> Value {
    let properties = json!({ "type": { "const": "collection" }, "data": { "type": "array", "items": item } });
    json!({ "type": "object", "required": ["type", "data"], "properties": properties })
}

fn answer(what: &str, schema: &Value) -> Value {
    json!({ "description": what, "content": { JSON: { "schema": schema } } })
}

fn errors() -> Map<String, Value> {
    let told = |what: &str| answer(what, &reference("error"));
    let errors = [
        ("4XX", told("what was asked cannot be done as it is: code and message say what to do")),
        ("503", told("the cluster's store cannot be reached; try again")),
    ];
    errors.into_iter().map(|(status, answer)| (status.to_owned(), answer)).collect()
}

fn body(schema: &Value) -> Value {
    json!({ "required": true, "content": { JSON: { "schema": schema } } })
}

fn query(name: &str, what: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "description": what, "schema": schema })
}

fn header(name: &str, what: &str) -> Value {
    json!({ "name": name, "in": "header", "description": what, "schema": { "type": "string", "pattern": "^[!-~]+$" } })
}

fn path_parameter(name: &str) -> Value {
    json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } })
}

fn include(declared: &Type) -> Value {
    let links: Vec<String> = declared.links.iter().map(|link| link.name.to_ascii_lowercase()).collect();
    let item = if links.is_empty() { json!({ "type": "string" }) } else { json!({ "type": "string", "enum": links }) };
    query("include", "links whose rows come inlined", json!({ "type": "array", "items": item }))
}

fn waiting() -> Vec<Value> {
    vec![
        query("wait", "answer when it is in this state, or in one of several", json!({ "type": "string" })),
        query("timeout", "seconds to wait", json!({ "type": "integer", "minimum": 0, "maximum": 50, "default": 30 })),
    ]
}

fn capital(name: &str) -> String {
    let mut letters = name.chars();
    letters.next().map(|first| first.to_ascii_uppercase().to_string() + letters.as_str()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn walk(value: &Value, found: &mut impl FnMut(&str, &Value)) {
        match value {
            Value::Object(map) => map.iter().for_each(|(name, value)| {
                found(name, value);
                walk(value, found);
            }),
            Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
            _ => {}
        }
    }

    #[test]
    fn it_holds_together() {
        for writer in [Writer::Admin, Writer::Reader, Writer::Other] {
            let document = document(writer, "http://h:9080");
            let mut ids = BTreeSet::new();
            walk(&document, &mut |name, value| match (name, value) {
                ("$ref", Value::String(to)) => {
                    let there = document.pointer(to.strip_prefix('#').unwrap());
                    assert!(there.is_some_and(Value::is_object), "{to}");
                }
                ("operationId", Value::String(id)) => assert!(ids.insert(id.clone()), "{id} twice"),
                ("responses", Value::Object(responses)) => assert!(responses.contains_key("4XX")),
                _ => {}
            });
            assert!(ids.len() > 40, "{}", ids.len());
            for (path, item) in document["paths"].as_object().unwrap() {
                let named = path.matches('{').count();
                assert_eq!(item["parameters"].as_array().map_or(0, Vec::len), named, "{path}");
            }
        }
    }

    #[test]
    fn accounts_are_shown_what_they_may_do() {
        let document = document(Writer::Other, "http://h:9080");
        assert!(document["paths"]["/v1/accounts"].get("post").is_none());
        assert!(document["paths"]["/v1/containers"].get("post").is_some());
        assert!(document["components"]["schemas"]["container"]["properties"].get("data").is_none());
        let create = &document["components"]["schemas"]["containerCreate"]["properties"];
        assert_eq!(create["memoryLimitMb"]["minimum"], 6);
        assert!(create.get("accountId").is_none());
    }
}
