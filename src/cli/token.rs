//! `stampede token`: one line that lets a host into the cluster.

use super::client::Target;
use super::{span, table};
use anyhow::{Context, Result};
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, clap::Subcommand)]
pub enum TokenVerb {
    /// Makes a token and prints it: `stampede join TOKEN` on another host uses it.
    Create(CreateOptions),
    /// Lists the tokens that can still be used.
    List(ListOptions),
    /// Takes a token back.
    Remove(RemoveOptions),
}

#[derive(Debug, clap::Args)]
pub struct CreateOptions {
    #[command(flatten)]
    target: Target,
    /// For how long it is good.
    #[arg(long, default_value = "1h", value_parser = span::parse)]
    ttl: Duration,
    /// How many hosts may join with it.
    #[arg(long, default_value_t = 1)]
    uses: u32,
    /// An agent that the host is to ask, HOST:PORT; those that are alive unless told.
    #[arg(long = "address")]
    addresses: Vec<String>,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ListOptions {
    #[command(flatten)]
    target: Target,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RemoveOptions {
    #[command(flatten)]
    target: Target,
    /// As `list` and `create` show it.
    id: String,
}

pub async fn run(verb: TokenVerb) -> Result<()> {
    match verb {
        TokenVerb::Create(options) => create(options).await,
        TokenVerb::List(options) => list(options).await,
        TokenVerb::Remove(options) => {
            options.target.ask(Method::DELETE, &format!("/cluster/tokens/{}", options.id), None).await.map(drop)
        }
    }
}

async fn create(options: CreateOptions) -> Result<()> {
    let draft = json!({ "ttlSeconds": options.ttl.as_secs(), "uses": options.uses, "addresses": options.addresses });
    let made = options.target.ask(Method::POST, "/cluster/tokens", Some(&draft)).await?;
    if options.json {
        println!("{made}");
        return Ok(());
    }
    let text =
        |field: &str| made.get(field).and_then(Value::as_str).with_context(|| format!("the answer has no {field}"));
    println!("{}", text("token")?);
    eprintln!(
        "Whoever has this line can join the cluster ({} use{} within {} s) and learns its secret: pass it on as you would a \
         password. On the new host: stampede join TOKEN. To take it back: stampede token remove {}",
        options.uses,
        if options.uses == 1 { "" } else { "s" },
        options.ttl.as_secs(),
        text("id")?
    );
    Ok(())
}

async fn list(options: ListOptions) -> Result<()> {
    let found = options.target.ask(Method::GET, "/cluster/tokens", None).await?;
    if options.json {
        println!("{found}");
        return Ok(());
    }
    let rows = found.get("tokens").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |row: &Value, field: &str| match row.get(field) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".into(),
    };
    let lines: Vec<Vec<String>> =
        rows.iter().map(|row| vec![text(row, "id"), text(row, "usesLeft"), when(row.get("expires"))]).collect();
    table::print(&["ID", "USES LEFT", "UNTIL"], &lines);
    Ok(())
}

/// Milliseconds as a date that people read.
pub fn when(value: Option<&Value>) -> String {
    value
        .and_then(Value::as_i64)
        .map_or_else(|| "-".into(), |at| crate::resource::date::format(crate::environment::Timestamp(at)))
}
