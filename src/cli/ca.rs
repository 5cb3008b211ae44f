//! `stampede ca`: the cluster's certificate authority.

use super::client::Target;
use super::token::when;
use super::{span, table};
use anyhow::{Context, Result};
use hyper::Method;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;
use zeroize::Zeroizing;

#[derive(Debug, clap::Subcommand)]
pub enum CaVerb {
    /// Prints the certificates that are trusted, for `curl --cacert` and browsers.
    Show(ShowOptions),
    /// Has a new authority take over; the old one is trusted for a while beside it.
    Rotate(RotateOptions),
    /// Has an authority of your own take over.
    Import(ImportOptions),
}

#[derive(Debug, clap::Args)]
pub struct ShowOptions {
    #[command(flatten)]
    target: Target,
    /// Lists fingerprints and times in place of the certificates.
    #[arg(long, conflicts_with = "json")]
    list: bool,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct RotateOptions {
    #[command(flatten)]
    target: Target,
    /// For how long the old one is trusted beside the new one. Hosts that are away for longer come back all the same; users
    /// need the new certificate by then.
    #[arg(long, default_value = "8d", value_parser = span::parse)]
    overlap: Duration,
}

#[derive(Debug, clap::Args)]
pub struct ImportOptions {
    #[command(flatten)]
    rotate: RotateOptions,
    /// The authority's certificate, PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// Its key, PEM (PKCS #8); it is stored sealed with the cluster secret.
    #[arg(long)]
    key: PathBuf,
}

pub async fn run(verb: CaVerb) -> Result<()> {
    match verb {
        CaVerb::Show(options) => {
            let found = options.target.ask(Method::GET, "/cluster/authority", None).await?;
            match (options.json, options.list) {
                (true, _) => println!("{found}"),
                (_, true) => list(&found),
                _ => {
                    rows(&found).iter().filter_map(|row| row.get("certificate")?.as_str()).for_each(|it| print!("{it}"))
                }
            }
            Ok(())
        }
        CaVerb::Rotate(options) => change(&options, json!({})).await,
        CaVerb::Import(options) => {
            let read = |path: &PathBuf| {
                std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
            };
            let key = Zeroizing::new(read(&options.key)?);
            let draft = json!({ "certificate": read(&options.certificate)?, "key": key.as_str() });
            change(&options.rotate, draft).await
        }
    }
}

async fn change(options: &RotateOptions, mut draft: Value) -> Result<()> {
    draft["overlapSeconds"] = options.overlap.as_secs().into();
    let found = options.target.ask(Method::POST, "/cluster/authority", Some(&draft)).await?;
    list(&found);
    eprintln!("Agents renew their certificates by themselves. Give users both certificates now: stampede ca show");
    Ok(())
}

fn rows(found: &Value) -> Vec<Value> {
    found.get("authorities").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn list(found: &Value) {
    let lines: Vec<Vec<String>> = rows(found)
        .iter()
        .map(|row| {
            let signs = row.get("signs") == Some(&Value::Bool(true));
            vec![
                row.get("fingerprint").and_then(Value::as_str).unwrap_or("-").to_owned(),
                if signs { "signs".into() } else { "trusted".into() },
                when(row.get("signsFrom")),
                when(row.get("trustedUntil")),
            ]
        })
        .collect();
    table::print(&["SHA-256", "STATE", "SIGNS FROM", "TRUSTED UNTIL"], &lines);
}
