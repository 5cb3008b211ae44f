//! `stampede api-key`: the first key is made by root on any host; all others can be made over the API.

use super::client::Target;
use anyhow::{Context, Result};
use hyper::Method;
use serde_json::{Value, json};

#[derive(Debug, clap::Subcommand)]
pub enum ApiKeyVerb {
    /// Makes a key and prints it; the secret is shown this once and kept only as a hash.
    Create(CreateOptions),
}

#[derive(Debug, clap::Args)]
pub struct CreateOptions {
    #[command(flatten)]
    target: Target,
    /// What it is for.
    #[arg(long)]
    name: Option<String>,
    /// The account that it is for: 1a5; the administrator's unless told.
    #[arg(long)]
    account: Option<String>,
    /// Prints JSON with `publicValue` and `secretValue`.
    #[arg(long)]
    json: bool,
}

pub async fn run(verb: ApiKeyVerb) -> Result<()> {
    let ApiKeyVerb::Create(options) = verb;
    let draft = json!({ "name": options.name, "accountId": options.account.as_deref().unwrap_or("1a1") });
    let key = options.target.ask(Method::POST, "/v1/apikeys", Some(&draft)).await?;
    let text = |field: &str| {
        key.get(field).and_then(Value::as_str).with_context(|| format!("the answer has no {field}")).map(str::to_owned)
    };
    let (public, secret) = (text("publicValue")?, text("secretValue")?);
    if options.json {
        println!("{}", json!({ "id": text("id")?, "publicValue": public, "secretValue": secret }));
    } else {
        println!("access key  {public}\nsecret key  {secret}");
        eprintln!(
            "The secret is shown this once. Use them as user and password: curl -u ACCESS:SECRET http://HOST:9080/v1"
        );
    }
    Ok(())
}
