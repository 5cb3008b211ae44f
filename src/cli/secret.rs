//! `stampede secret`: which cluster secret each host uses, and how another takes its place.

use super::client::Target;
use super::{table, trust};
use crate::environment::Environment;
use crate::host::config::{Config, DEFAULT_PATH};
use crate::membership::trust::ClusterSecret;
use crate::membership::trust::secret::write_private;
use anyhow::{Context, Result, bail};
use hyper::Method;
use serde_json::Value;
use std::io::Read;
use std::path::PathBuf;
use zeroize::Zeroizing;

#[derive(Debug, clap::Subcommand)]
pub enum SecretVerb {
    /// Lists which secrets each host has, by their names; how far a change is.
    Show(ShowOptions),
    /// Puts the secret that is to follow in its place on this host. When the last host has it, all use it.
    Next(NextOptions),
}

#[derive(Debug, clap::Args)]
pub struct ShowOptions {
    #[command(flatten)]
    target: Target,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub struct NextOptions {
    #[command(flatten)]
    target: Target,
    /// Makes a new one; else one is read from --file.
    #[arg(long, conflicts_with = "file")]
    new: bool,
    /// Where it is: 64 hexadecimal digits, as another host's `secret.next` has them; `-` is standard input.
    #[arg(long, required_unless_present = "new")]
    file: Option<PathBuf>,
    /// This host's configuration, which says where its secret lies.
    #[arg(long, env = "STAMPEDE_CONFIG", default_value = DEFAULT_PATH)]
    config: PathBuf,
}

pub async fn run(verb: SecretVerb) -> Result<()> {
    match verb {
        SecretVerb::Show(options) => {
            let found = options.target.ask(Method::GET, "/cluster/secret", None).await?;
            if options.json {
                println!("{found}");
            } else {
                show(&found);
            }
            Ok(())
        }
        SecretVerb::Next(options) => next(options).await,
    }
}

async fn next(options: NextOptions) -> Result<()> {
    let config = Config::read(&options.config, false)?;
    let place = trust::secret_place(&config);
    let before = place.find()?.with_context(|| {
        format!("this host has no cluster secret yet: join first, or put it into {}", place.own().display())
    })?;
    let secret = match &options.file {
        None => ClusterSecret::generate(&Environment::system().context("cannot tell which machine this is")?),
        Some(file) => read(file)?,
    };
    let at = place.next();
    if secret == before {
        bail!("that is the secret that this host uses already");
    }
    write_private(&at, format!("{}\n", secret.text().as_str()).as_bytes())?;
    println!("{}: the secret {}, to follow {}", at.display(), secret.name(), before.name());
    match options.target.ask(Method::POST, "/cluster/secret", None).await {
        Ok(found) => show(&found),
        Err(error) => eprintln!("the agent here was not told and will see it within a minute: {error:#}"),
    }
    if options.new {
        eprintln!(
            "Bring this file to all other hosts, over a way that nobody else reads, for instance: ssh OTHER stampede secret next \
             --file - < {}\nUntil the last one has it the old one is used. `stampede secret show` tells who is left.",
            at.display()
        );
    }
    Ok(())
}

fn read(file: &PathBuf) -> Result<ClusterSecret> {
    let mut text = Zeroizing::new(String::with_capacity(256));
    let from: Box<dyn Read> = match file.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(file).with_context(|| format!("cannot open {}", file.display()))?),
    };
    from.take(200).read_to_string(&mut text).with_context(|| format!("cannot read {}", file.display()))?;
    ClusterSecret::parse(&text).with_context(|| format!("{} holds no secret: 64 hexadecimal digits", file.display()))
}

fn show(found: &Value) {
    let hosts = found.get("hosts").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |row: &Value, field: &str| row.get(field).and_then(Value::as_str).unwrap_or("-").to_owned();
    let lines: Vec<Vec<String>> =
        hosts.iter().map(|row| ["host", "used", "next", "before"].map(|field| text(row, field)).to_vec()).collect();
    table::print(&["HOST", "USES", "NEXT", "BEFORE"], &lines);
    if let Some(message) = found.get("message").and_then(Value::as_str) {
        eprintln!("{message}");
    }
}
