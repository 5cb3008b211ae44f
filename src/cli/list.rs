//! `stampede ps` and `stampede hosts`.

use super::client::Target;
use super::table;
use anyhow::Result;
use hyper::Method;
use serde_json::Value;
use std::collections::HashMap;

#[derive(Debug, clap::Args)]
pub struct ListOptions {
    #[command(flatten)]
    target: Target,
    /// Prints the rows as the API has them.
    #[arg(long)]
    json: bool,
}

/// All rows of a collection, page by page.
pub async fn rows(target: &Target, collection: &str) -> Result<Vec<Value>> {
    let mut path = format!("/v1/{collection}?limit=1000");
    let mut all = Vec::new();
    loop {
        let mut page = target.ask(Method::GET, &path, None).await?;
        if let Some(Value::Array(data)) = page.get_mut("data").map(Value::take) {
            all.extend(data);
        }
        let next = page.pointer("/pagination/next").and_then(Value::as_str).map(str::to_owned);
        match next.as_deref().and_then(|next| next.find("/v1/").map(|at| next[at..].to_owned())) {
            Some(next) if next != path => path = next,
            _ => return Ok(all),
        }
    }
}

pub fn text(row: &Value, field: &str) -> String {
    match row.get(field) {
        Some(Value::String(text)) => text.clone(),
        None | Some(Value::Null) => "-".into(),
        Some(other) => other.to_string(),
    }
}

pub async fn instances(options: ListOptions) -> Result<()> {
    let rows = rows(&options.target, "instances").await?;
    if options.json {
        println!("{}", Value::Array(rows));
        return Ok(());
    }
    let hosts: HashMap<String, String> =
        self::rows(&options.target, "hosts").await?.iter().map(|host| (text(host, "id"), text(host, "name"))).collect();
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let host = text(row, "hostId");
            let mut state = text(row, "state");
            if text(row, "transitioning") == "error" {
                state = format!("{state}: {}", text(row, "transitioningMessage"));
            }
            vec![
                text(row, "id"),
                text(row, "name"),
                text(row, "imageUuid"),
                hosts.get(&host).cloned().unwrap_or(host),
                text(row, "primaryIpAddress"),
                state,
            ]
        })
        .collect();
    table::print(&["ID", "NAME", "IMAGE", "HOST", "ADDRESS", "STATE"], &lines);
    Ok(())
}

pub async fn hosts(options: ListOptions) -> Result<()> {
    let rows = rows(&options.target, "hosts").await?;
    if options.json {
        println!("{}", Value::Array(rows));
        return Ok(());
    }
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            let list = row.get("capabilities").and_then(Value::as_array).cloned().unwrap_or_default();
            let can: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
            let mut state = text(row, "state");
            if let Some(message) = row.get("transitioningMessage").and_then(Value::as_str) {
                state = format!("{state}: {message}");
            }
            vec![text(row, "id"), text(row, "name"), text(row, "agentAddress"), can.join(" "), state]
        })
        .collect();
    table::print(&["ID", "NAME", "ADDRESS", "CAN RUN", "STATE"], &lines);
    Ok(())
}
