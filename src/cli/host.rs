//! `stampede cordon`, `uncordon`, `drain`, and an operator's word about a host that is gone.

use super::client::Target;
use super::list::{rows, text};
use anyhow::{Context, Result, bail};
use hyper::Method;
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub struct HostOptions {
    #[command(flatten)]
    target: Target,
    /// Its name, or its id (1h5).
    host: String,
}

#[derive(Debug, clap::Args)]
pub struct DrainOptions {
    #[command(flatten)]
    host: HostOptions,
    /// As many instances are on their way at once; 4 unless told.
    #[arg(long)]
    at_once: Option<u32>,
    /// Stops those that stay (onHostLoss is `stay`) too; `uncordon` starts them again.
    #[arg(long)]
    stop_staying: bool,
    /// Returns at once; `stampede hosts` shows how far it is.
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, clap::Subcommand)]
pub enum HostVerb {
    /// Takes a host that is gone out of the cluster.
    Remove(RemoveOptions),
    /// Has what moves from a host that is gone moved now, whatever holds it back.
    Failover(HostOptions),
}

#[derive(Debug, clap::Args)]
pub struct RemoveOptions {
    #[command(flatten)]
    host: HostOptions,
    /// It still has instances, and never comes back: what moves is started elsewhere at once, the rest is stopped for good
    /// there and can be started anew. Be sure that it is off.
    #[arg(long)]
    force: bool,
}

pub async fn say(verb: HostVerb) -> Result<()> {
    let (options, action, input) = match verb {
        HostVerb::Remove(options) => (options.host, "remove", json!({ "force": options.force })),
        HostVerb::Failover(options) => (options, "failover", json!({})),
    };
    let row = options.act(action, Some(&input)).await?;
    println!("{}: {}", options.host, text(&row, "state"));
    Ok(())
}

/// Takes nothing new from now on.
pub async fn cordon(options: HostOptions) -> Result<()> {
    options.act("deactivate", None).await.map(drop)
}

/// Takes new instances again; a drain is over.
pub async fn uncordon(options: HostOptions) -> Result<()> {
    options.act("activate", None).await.map(drop)
}

pub async fn drain(options: DrainOptions) -> Result<()> {
    let mut input = json!({ "stopStaying": options.stop_staying });
    if let Some(at_once) = options.at_once {
        input["atOnce"] = at_once.into();
    }
    let mut row = options.host.act("drain", Some(&input)).await?;
    let mut told = String::new();
    loop {
        let now = format!("{}: {}", text(&row, "state"), text(&row, "transitioningMessage"));
        if now != told {
            println!("{now}");
            told = now;
        }
        if options.no_wait || text(&row, "state") != "draining" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        row = options.host.find().await?;
    }
}

impl HostOptions {
    async fn find(&self) -> Result<Value> {
        let mut found = rows(&self.target, "hosts").await?;
        found.retain(|row| text(row, "name") == self.host || text(row, "id") == self.host);
        found.pop().with_context(|| format!("there is no host {}; `stampede hosts` lists them", self.host))
    }

    async fn act(&self, action: &str, input: Option<&Value>) -> Result<Value> {
        let row = self.find().await?;
        let (id, state) = (text(&row, "id"), text(&row, "state"));
        let possible = row.pointer(&format!("/actions/{action}")).is_some();
        match (action, state.as_str()) {
            // As asked already.
            ("activate", "active") | ("deactivate", "inactive") | ("drain", "draining") => return Ok(row),
            _ if !possible => bail!("{} is {state}: that is not possible now", self.host),
            _ => {}
        }
        self.target.ask(Method::POST, &format!("/v1/hosts/{id}/?action={action}"), input).await
    }
}
