//! Instances' output, commands and figures ([`crate::resource::types`] does not declare them: they are no resources).

use super::{answer, body, errors, path_parameter, query};
use serde_json::{Map, Value, json};

const COLLECTIONS: [(&str, &str); 2] = [("containers", "Container"), ("instances", "Instance")];

/// Of each list of instances that can have them.
pub fn paths() -> Map<String, Value> {
    let flag = |name: &str, what: &str| query(name, what, json!({ "type": "boolean" }));
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let number = json!({ "type": "integer", "minimum": 0, "maximum": 65535 });
    let mut command = query("command", "the program and each of its arguments", texts.clone());
    command["required"] = json!(true);
    let logs = vec![
        flag("follow", "also what comes"),
        query("since", "seconds since 1970, or a date", json!({ "type": "string" })),
        query("tail", "lines from the end", json!({ "type": "integer", "minimum": 0, "maximum": 4_294_967_295_u32 })),
        flag("stdout", "true unless told"),
        flag("stderr", "true unless told"),
        flag("timestamps", "each line begins with when it was written"),
    ];
    let exec = vec![
        command,
        flag("stdin", "input is passed on"),
        flag("tty", "with a terminal"),
        query("environment", "each as NAME=value", texts),
        query("directory", "that it runs in", json!({ "type": "string" })),
        query("user", "that it runs as", json!({ "type": "string" })),
        query("columns", "of the terminal", number.clone()),
        query("rows", "of the terminal", number),
    ];
    let text =
        json!({ "description": "as it was written", "content": { "text/plain": { "schema": { "type": "string" } } } });
    let figures = answer("what it uses now", &json!({ "type": "object" }));
    let mut paths = Map::new();
    for (collection, name) in COLLECTIONS {
        let mut add = |kind: &str, parameters: &[Value], good: Option<&Value>| {
            paths.insert(format!("/v1/{collection}/{{id}}/{kind}"), stream((collection, name), kind, parameters, good));
        };
        add("logs", &logs, Some(&text));
        add("exec", &exec, None);
        add("stats", &[], Some(&figures));
    }
    paths
}

fn stream((collection, name): (&str, &str), kind: &str, parameters: &[Value], good: Option<&Value>) -> Value {
    let mut told = errors();
    told.insert("101".into(), json!({ "description": "a WebSocket: docs/api.md says what its messages are" }));
    if let Some(good) = good {
        told.insert("200".into(), good.clone());
    }
    let mut made = errors();
    let access = json!({
        "type": "object",
        "required": ["url", "token", "expires"],
        "properties": { "url": { "type": "string" }, "token": { "type": "string" }, "expires": { "type": "string" } },
    });
    made.insert("201".into(), answer("an address that opens the stream without a key, for half a minute", &access));
    let capital = super::capital(kind);
    json!({
        "parameters": [path_parameter("id")],
        "get": {
            "operationId": format!("open{name}{capital}"),
            "summary": format!("{kind}, by a WebSocket; plain logs and one row of stats also without"),
            "tags": [collection],
            "parameters": parameters,
            "responses": told,
        },
        "post": {
            "operationId": format!("make{name}{capital}Address"),
            "summary": "an address with a token, with the parameters of the body",
            "tags": [collection],
            "requestBody": body(&json!({ "type": "object" })),
            "responses": made,
        },
    })
}
